# Two commands: make demo, make test. The rest is what CI and developers use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint train bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime  ## Install the runtime and play the shipped simulated drive on Ray
	$(BIN)/chiasm run driving

test: $(VENV)/.dev  ## Install what tests need and run them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: $(VENV)/.dev  ## Style, spelling, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

train: $(VENV)/.train  ## Retrain the shipped driving networks from nothing (half an hour on 2 cores)
	$(BIN)/chiasm train driving

bench: $(VENV)/.dev  ## Measure latency, alone and beside other runtimes, into benchmarks/results/ (half an hour)
	$(BIN)/chiasm bench

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "chiasm needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing the runtime into $(VENV) (once; about 300 MB)"
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing what tests need into $(VENV) (once)"
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing torch and the simulator into $(VENV) (once)"
	$(PIP) torch==2.13.0
	$(PIP) -e '.[train]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
