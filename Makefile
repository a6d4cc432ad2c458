# The two commands a newcomer needs:
#   make quickstart   install everything into .venv and run the whole job on handwritten digits
#   make test         the whole test suite in the same environment

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

MINUTES ?= 30

.PHONY: quickstart test fuzz benchmarks docs check install clean

quickstart: install
	$(BIN)/ofa run digits --out runs/digits

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The long form of tests/hostile: every parser and every file of a run, damaged; writes the table
# of docs/hostile-input.md.
fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.hostile.fuzz --minutes $(MINUTES) --table docs/hostile-input.md

# Every performance claim that this machine can check; writes docs/results and docs/benchmarks.md.
benchmarks: install
	$(BIN)/python -m benchmarks.everything

# The site, into build/site: no network, no warning.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $(VENV)/.docs

check: install
	$(BIN)/ruff format --check src tests benchmarks docs examples
	$(BIN)/ruff check src tests benchmarks docs examples
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[onnx,jpeg,quickstart,dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs
