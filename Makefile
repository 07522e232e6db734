# Everything runs inside .venv; `make demo` and `make test` work from nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow recipes test-ray setup check format slurm parity bench bench-asr bench-augment bench-index bench-llm bench-loading bench-losses bench-nemo-opens bench-plan docs clean

demo: setup  ## train on recorded speech commands, evaluate, save, reload, classify
	$(BIN)/python recipes/telephone_words/demo.py

test: setup check  ## gates and the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "not slow and not ray" --ignore tests/house

test-slow: setup  ## runs that need downloads or minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests

recipes: setup  ## fetch the recorded data of each recipe and train on it for a little; needs apt-get and dpkg
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/recipes

test-ray: setup  ## augmentation and tars on a local Ray cluster; installs Ray
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m ray tests/data

setup: $(VENV)/.done  ## make .venv with the tested versions

$(VENV)/.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "anemone needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

check: setup  ## format, lint, types, house gates
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/house

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

slurm: setup  ## submit, preempt, requeue and finish on a SLURM cluster of one node; needs root and slurm-wlm
	$(BIN)/python tests/cluster/slurm.py

parity: setup  ## prove every layout against one process, and write the table of docs/parallelism.md
	OMP_NUM_THREADS=1 $(BIN)/python -m anemone parity --all --write docs/parallelism.md

bench: setup  ## measure us and the peer in one run; the peer goes into an environment of its own
	$(MAKE) -C benchmarks PYTHON=$(abspath $(BIN)/python)

bench-asr: setup  ## time training and inference of recognisers by us and by NeMo, from the same archives
	$(MAKE) -C benchmarks asr PYTHON=$(abspath $(BIN)/python)

bench-augment: setup  ## time augmentation on disk by us, NeMo, Lhotse and sox, if it is installed
	$(MAKE) -C benchmarks augment PYTHON=$(abspath $(BIN)/python)

bench-index: setup  ## time the index of a million rows, by format
	$(BIN)/python benchmarks/data/index.py

bench-llm: setup  ## time the training of a Llama by us, by hand, by transformers' Trainer and by litgpt
	$(MAKE) -C benchmarks llm PYTHON=$(abspath $(BIN)/python)

bench-loading: setup  ## time how fast utterances reach a model by us and by NeMo's dataset
	$(MAKE) -C benchmarks loading PYTHON=$(abspath $(BIN)/python)

bench-losses: setup  ## time transducer losses, and their memory, by us and by NeMo
	$(MAKE) -C benchmarks losses PYTHON=$(abspath $(BIN)/python)

bench-nemo-opens: setup  ## let NeMo open archives that we wrote, and compare what both give
	$(MAKE) -C benchmarks nemo-opens PYTHON=$(abspath $(BIN)/python)

bench-plan: setup  ## time batch plans by us and by Lhotse
	$(MAKE) -C benchmarks plan PYTHON=$(abspath $(BIN)/python)

docs: setup  ## run every snippet and notebook of the docs
	$(BIN)/python -m pytest -q tests/docs

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
