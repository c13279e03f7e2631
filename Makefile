# Two commands on a fresh machine: `make serve` and `make test`. Both set everything up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests run one process a core; thread pools inside them would only fight each other.
ONE_THREAD := OMP_NUM_THREADS=1

# Set by `make serve HOST=… PORT=…` only: shells have a HOST of their own.
HOST := 127.0.0.1
PORT := 8000

.DEFAULT_GOAL := help

.PHONY: help
help:  ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: $(STAMP)  ## Create .venv and install everything from the pinned constraints

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "coe needs Python 3.11 or newer; run make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

.PHONY: serve
serve: $(STAMP)  ## Serve the default pool on http://127.0.0.1:8000; HOST=… PORT=… elsewhere
	$(BIN)/coe serve --host $(HOST) --port $(PORT)

# Not reordered: files of many tests would come first, and the few tests that take long at the end,
# on one process.
.PHONY: test
test: $(STAMP)  ## Run the fast tests
	$(ONE_THREAD) $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: test-slow
test-slow: $(STAMP)  ## Run the slow tests, with a real vLLM in an environment of its own
	$(BIN)/python tests/install.py vllm
	$(BIN)/python tests/install.py clients
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m slow

.PHONY: conformance
conformance: $(STAMP)  ## Ask the gateway 20,000 things its description allows and forbids; run other clients
	$(BIN)/python tests/install.py clients
	$(ONE_THREAD) $(BIN)/python -m pytest -q tests/conformance -m "slow or not slow"

.PHONY: check
check: $(STAMP)  ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: format
format: $(STAMP)  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: zoo
zoo: $(STAMP)  ## Train the six tiny experts again, record their outcomes, fit the router
	for name in arithmetic geography chemistry vocabulary text generalist; do \
	  $(BIN)/python -m coe.zoo.train $$name || exit 1; done
	$(BIN)/coe eval zoo --split all --record coe/zoo/outcomes.parquet
	$(BIN)/coe fit

.PHONY: bench
bench: $(STAMP)  ## Run the benchmarks and write bench/results/
	$(BIN)/python -m bench.serving
	$(BIN)/python -m bench.encoders
	$(BIN)/python -m bench.gateway

.PHONY: clean
clean:  ## Remove the environments and caches
	rm -rf $(VENV) .venv-vllm .venv-clients .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
