# Every target does its own set-up; `make venv` is that part alone.
PYTHON ?= python3
CORPORA ?= corpora
RUN = .venv/bin/python -m

.PHONY: venv demo test lint public_data

venv: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; name one with PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv --clear .venv 2>/dev/null || .ci/install_venv_module
	@test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: venv
	$(RUN) experiments.demo

test: venv
	.venv/bin/pytest

lint: venv
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .

# Features of the public corpora and of silence; CORPORA is the folder that holds
# emodb/, emovo/, ravdess/ and cremad/.
public_data: $(addprefix data/,emodb.npz emovo.npz ravdess.npz cremad.npz silence.npz)

data/silence.npz: | venv
	$(RUN) data_prep.synthesise --kind=silence --out_dir=data/silence
	$(RUN) data_prep.prepare --corpus=manifest --audio_dir=data/silence --out=$@

data/%.npz: | venv
	$(RUN) data_prep.prepare --corpus=$* --audio_dir=$(CORPORA)/$* --out=$@
