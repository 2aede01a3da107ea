# One command each: `make demo` and `make test` set up everything they need; Windows without make: see README, "With pip".
PYTHON ?= python3
# A file's tests stay in one process: they share what they have made. conftest.py says which file comes first.
PYTEST = $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# The suite starts thousands of processes: without bytecode each compiles for half a second what it imports.
export PYTHONDONTWRITEBYTECODE =
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check lint bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'slmops needs Python 3.11 or newer: make PYTHON=python3.12 ...')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first and pinned: nothing that follows may pull another build of it.
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/slmops demo

test: setup lint
	$(PYTEST)

check: setup
	$(BIN)/ruff check .
	@# One process more than processors: many of these tests wait for a while.
	$(PYTEST) -q -m "not slow" -n $$($(BIN)/python -c "import os; print(min(4, os.cpu_count() + 1))")

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	@# Nothing runs the benchmarks when what they call changes. What they import of tests/ has the names of their own files.
	MYPYPATH=src:bench $(BIN)/mypy --disable-error-code import-not-found --disable-error-code attr-defined \
		--disable-error-code no-any-return bench/*.py

bench: setup
	@echo "see bench/README.md: the peers are installed into an environment of their own"

clean:
	rm -rf $(VENV) build dist slmops-demo
