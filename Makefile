# Every target does its own set-up; `make venv` is that part alone.
PYTHON ?= python3
CORPORA ?= corpora
RUN = .venv/bin/python -m

.PHONY: venv web encoder demo test test_all lint public_data descriptors campplus

venv: .venv/installed

.venv/installed: requirements.txt
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
	@touch $@

# What the web page needs beside the rest.
web: .venv/web

.venv/web: requirements-web.txt | venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# The weights of the pretrained speech encoder.
encoder: data/encoder/campplus.npz

data/encoder/campplus.npz: | venv
	$(RUN) fmaml_jax.fetch_encoder --out=$@

# The whole path on synthetic speech, in under five minutes on two cores.
DEMO = data/demo/descriptors
demo: $(addprefix $(DEMO)/,emofilm.npz neutral.npz silence.npz)
	$(RUN) fmaml_jax.main --flagfile=experiments/demo.cfg

data/demo/emofilm data/demo/neutral data/demo/silence: | venv
	$(RUN) data_prep.synthesise --kind=$(@F) --out_dir=$@

$(DEMO)/emofilm.npz: | data/demo/emofilm
	$(RUN) data_prep.prepare --features=descriptors --corpus=emofilm --audio_dir=data/demo/emofilm --out=$@

$(DEMO)/neutral.npz $(DEMO)/silence.npz: $(DEMO)/%.npz: | data/demo/%
	$(RUN) data_prep.prepare --features=descriptors --corpus=manifest --audio_dir=data/demo/$* --out=$@

# Features of the public corpora and of silence; CORPORA is the folder that holds
# emodb/, emovo/, ravdess/ and cremad/.
public_data: $(addprefix data/,emodb.npz emovo.npz ravdess.npz cremad.npz silence.npz)

data/silence: | venv
	$(RUN) data_prep.synthesise --kind=silence --out_dir=$@

data/silence.npz: | data/silence
	$(RUN) data_prep.prepare --corpus=manifest --audio_dir=data/silence --out=$@

data/emodb.npz data/emovo.npz data/ravdess.npz data/cremad.npz: data/%.npz: | venv
	$(RUN) data_prep.prepare --corpus=$* --audio_dir=$(CORPORA)/$* --out=$@

# The same corpora and nemo/ described by one vector a clip.
descriptors: $(addprefix data/descriptors/,emodb.npz emovo.npz ravdess.npz cremad.npz nemo.npz silence.npz)

data/descriptors/silence.npz: | data/silence
	$(RUN) data_prep.prepare --corpus=manifest --audio_dir=data/silence --features=descriptors --out=$@

data/descriptors/%.npz: | venv
	$(RUN) data_prep.prepare --corpus=$* --audio_dir=$(CORPORA)/$* --features=descriptors --out=$@

# The same corpora heard by the encoder; the first time, its weights are downloaded.
campplus: $(addprefix data/campplus/,emodb.npz emovo.npz ravdess.npz cremad.npz nemo.npz silence.npz)

data/campplus/silence.npz: data/encoder/campplus.npz | data/silence
	$(RUN) data_prep.prepare --corpus=manifest --audio_dir=data/silence --features=campplus --out=$@

data/campplus/%.npz: data/encoder/campplus.npz | venv
	$(RUN) data_prep.prepare --corpus=$* --audio_dir=$(CORPORA)/$* --features=campplus --out=$@

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
