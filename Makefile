# Every target does its own set-up; `make venv` is that part alone.
PYTHON ?= python3
# The folder that holds emodb/, emovo/, ravdess/, cremad/ and nemo/, and the one that holds EmoFilm.
CORPORA ?= corpora
EMOFILM ?= $(CORPORA)/emofilm
RUN = .venv/bin/python -m
COMMA = ,

.PHONY: venv new_venv web docs encoder demo test test_all lint public_data descriptors campplus emofilm paper starts

venv: .venv/installed

# It holds what is installed: a file that is newer, but says the same, changes nothing.
.venv/installed: requirements.txt
	@if cmp -s $< $@; then touch $@; else $(MAKE) --no-print-directory new_venv; fi

new_venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed; name one, such as make PYTHON=python3.12"; exit 2; }
	@test ! -L .venv || { \
	  echo "error: .venv is a link, and what it points to would be emptied; remove the link"; exit 2; }
	@$(PYTHON) -m venv --clear .venv >/dev/null 2>&1 || { \
	  echo "The venv module is missing; installing Debian's package python3-venv"; \
	  as_root=; test "$$(id -u)" = 0 || as_root=sudo; \
	  $$as_root apt-get update -qq && $$as_root apt-get install -y -qq python3-venv && \
	  $(PYTHON) -m venv --clear .venv; } || { \
	  echo "error: no virtual environment could be made; install python3-venv"; exit 2; }
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	@cp requirements.txt .venv/installed

# What the web page needs beside the rest.
web: .venv/web

.venv/web: requirements-web.txt | venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# The documents as a web site: open site/docs/index.html, which needs no network.
docs: .venv/docs
	$(RUN) sphinx -q -aE -W --keep-going -c docs . site

.venv/docs: requirements-docs.txt | venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# The weights of the pretrained speech encoder.
encoder: data/encoder/campplus.npz

data/encoder/campplus.npz: | venv
	$(RUN) fmaml_jax.fetch_encoder --out=$@

# The whole path on synthetic speech, in about two minutes on two cores: a start is trained and tested beside
# a support vector machine, and then the start that comes with the package is enrolled from.
DEMO = data/demo/descriptors
DEMO_DATA = $(addprefix $(DEMO)/,emotions.npz neutral.npz silence.npz)
demo: $(DEMO_DATA) | data/demo/clips
	@echo; echo "1. F-MAML learns from English and Italian, and adapts to 5 clips of each Spanish emotion."
	@echo "The emotions are settings of a speech synthesiser, and each language expresses four of them in its own way,"
	@echo "so that a start alone cannot know them. These figures say nothing about real speech."
	$(RUN) fmaml_jax.main --flagfile=experiments/demo.cfg
	@echo; echo "The first row is after adaptation, the second before it."
	@echo; echo "2. A support vector machine (SVM) learns from the same clips."
	$(RUN) fmaml_jax.main --method=functionals_fixed --data=$(subst $() ,$(COMMA),$(DEMO_DATA)) --target=es --run_dir=runs/demo/svm
	@echo; echo "3. A recogniser is made of 25 Spanish clips, and labels five new ones by another voice. It begins with the"
	@echo "start that comes with the package. That is trained on real speech, and so it warns of these clips."
	$(RUN) fmaml_jax.enrol --support=data/demo/clips --out=data/demo/demo.model
	$(RUN) fmaml_jax.predict --model=data/demo/demo.model data/demo/new
	@echo; echo "Pictures: runs/demo/fmaml/convergence.png shows how the loss falls, in training and in adaptation;"
	@echo "runs/demo/fmaml/confusion.png shows which emotions are taken for which."
	@echo "Next: put five clips or more of each emotion into clips/EMOTION/, and run"
	@echo "  $(RUN) fmaml_jax.enrol --support=clips --out=my.model"
	@echo "The tutorials are docs/linguist.md, docs/researchers.md and docs/engineer.md."

data/demo/emotions: | venv
	$(RUN) data_prep.synthesise --kind=emofilm --own_ways --out_dir=$@

# As few as the tests of 25 clips a class leave enough of for training.
data/demo/neutral: CLIPS = 60
data/demo/silence: CLIPS = 150
data/demo/neutral data/demo/silence: | venv
	$(RUN) data_prep.synthesise --kind=$(@F) --clips_per_class=$(CLIPS) --out_dir=$@

# A folder for each emotion, of five speakers; and a clip of each by the sixth, to be labelled.
data/demo/clips: | data/demo/emotions
	@rm -rf $@ data/demo/new; mkdir -p $@.tmp data/demo/new
	@for emotion in anger:rab disgust:dis fear:ans happiness:gio sadness:tri; do \
	  name=$${emotion%:*} code=$${emotion#*:}; mkdir -p $@.tmp/$$name && \
	  cp data/demo/emotions/?_$${code}00[1-5]aes.wav $@.tmp/$$name && \
	  cp data/demo/emotions/?_$${code}006aes.wav data/demo/new/$$name.wav || exit 1; \
	done; mv $@.tmp $@

$(DEMO)/emotions.npz: | data/demo/emotions
	$(RUN) data_prep.prepare --features=descriptors --corpus=emofilm --audio_dir=data/demo/emotions --out=$@

$(DEMO)/neutral.npz $(DEMO)/silence.npz: $(DEMO)/%.npz: | data/demo/%
	$(RUN) data_prep.prepare --features=descriptors --corpus=manifest --audio_dir=data/demo/$* --out=$@

# $(call need,FOLDER,VARIABLE): stops where the corpus is not there, in a sentence.
need = @test -d "$(1)" || { echo "error: there is no folder $(1); say where it is: make $(MAKECMDGOALS) $(2)=DIR"; exit 2; }

# Features of the public corpora and of silence.
public_data: $(addprefix data/,emodb.npz emovo.npz ravdess.npz cremad.npz silence.npz)

data/silence: | venv
	$(RUN) data_prep.synthesise --kind=silence --out_dir=$@

data/silence.npz: | data/silence
	$(RUN) data_prep.prepare --corpus=manifest --audio_dir=data/silence --out=$@

data/emodb.npz data/emovo.npz data/ravdess.npz data/cremad.npz: data/%.npz: | venv
	$(call need,$(CORPORA)/$*,CORPORA)
	$(RUN) data_prep.prepare --corpus=$* --audio_dir=$(CORPORA)/$* --out=$@

# The same corpora and nemo/ described by one vector a clip.
descriptors: $(addprefix data/descriptors/,emodb.npz emovo.npz ravdess.npz cremad.npz nemo.npz silence.npz)

data/descriptors/silence.npz: | data/silence
	$(RUN) data_prep.prepare --corpus=manifest --audio_dir=data/silence --features=descriptors --out=$@

data/descriptors/%.npz: | venv
	$(call need,$(CORPORA)/$*,CORPORA)
	$(RUN) data_prep.prepare --corpus=$* --audio_dir=$(CORPORA)/$* --features=descriptors --out=$@

# The same corpora heard by the encoder; the first time, its weights are downloaded.
campplus: $(addprefix data/campplus/,emodb.npz emovo.npz ravdess.npz cremad.npz nemo.npz silence.npz)

data/campplus/silence.npz: data/encoder/campplus.npz | data/silence
	$(RUN) data_prep.prepare --corpus=manifest --audio_dir=data/silence --features=campplus --out=$@

data/campplus/%.npz: data/encoder/campplus.npz | venv
	$(call need,$(CORPORA)/$*,CORPORA)
	$(RUN) data_prep.prepare --corpus=$* --audio_dir=$(CORPORA)/$* --features=campplus --out=$@

# The starts that come with the package, of the two corpora whose licences allow it.
starts: fmaml_jax/starts/descriptors.npz fmaml_jax/starts/encoder.npz

fmaml_jax/starts/%.npz: runs/starts/%/results.json
	$(RUN) experiments.starts --checkpoint=$(<D) --out=$@

# Each clip has a degraded view beside it.
data/views/descriptors/%.npz: | venv
	$(call need,$(CORPORA)/$*,CORPORA)
	$(RUN) data_prep.prepare --corpus=$* --audio_dir=$(CORPORA)/$* --features=descriptors --views=1 --out=$@

WITH = --target=none --run_dir=$(@D) --data=$(subst $() ,$(COMMA),$^)

runs/starts/descriptors/results.json: $(addprefix data/,$(addprefix views/descriptors/,cremad.npz emodb.npz) descriptors/silence.npz)
	$(RUN) fmaml_jax.main --flagfile=experiments/best.cfg $(WITH)

runs/starts/encoder/results.json: $(addprefix data/campplus/,cremad.npz emodb.npz silence.npz)
	$(RUN) fmaml_jax.main --flagfile=experiments/encoder.cfg $(WITH)

# EmoFilm, and what it lacks: neutral speech and silence, as the paper's authors made them themselves.
emofilm: $(addprefix data/,emofilm.npz neutral.npz silence.npz)

data/emofilm.npz: | venv
	$(call need,$(EMOFILM),EMOFILM)
	$(RUN) data_prep.prepare --corpus=emofilm --audio_dir=$(EMOFILM) --out=$@

data/neutral: | venv
	$(RUN) data_prep.synthesise --kind=neutral --languages=en,it,es --out_dir=$@

data/neutral.npz: | data/neutral
	$(RUN) data_prep.prepare --corpus=manifest --audio_dir=data/neutral --out=$@

# Tables 2 to 4 of the paper: three methods, three languages, three numbers of shots. The same command goes
# on where it was stopped; PAPER_FLAGS are flags of every run, such as --seeds=0,1,2.
PAPER ?= runs/paper
PAPER_SWEEP = $(RUN) fmaml_jax.sweep --flagfile=experiments/emofilm.cfg --out=$(PAPER) --targets=en,es,it \
  --all_shots=5,10,20
paper: emofilm
	$(PAPER_SWEEP) --methods=fmaml,metaser $(PAPER_FLAGS)
	$(PAPER_SWEEP) --methods=supervised --network=cnn_lstm $(PAPER_FLAGS)
	$(RUN) fmaml_jax.report $(PAPER) --out=$(PAPER)/report

test: venv
	.venv/bin/pytest -m "not slow"

# With the slow ones, a worker on each of two cores; in the order of names, since the longest files are
# not those with most tests.
test_all: venv
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The web page's libraries are there for the types that they declare.
lint: venv web
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/lint-imports --no-cache --no-logo
	.venv/bin/basedpyright
