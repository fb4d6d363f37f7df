# Each target works on a fresh machine: it makes .venv first. PYTHON is any Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: reproduce test lint bench docs clean
.DEFAULT_GOAL := reproduce

reproduce: $(INSTALLED)  ## Figure 1 in full and the small image comparison; ends with where the report is
	$(BIN)/linear-backprop reproduce

test: $(INSTALLED) lint  ## The whole suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(INSTALLED)  ## Every benchmark; minutes, on an otherwise idle machine
	$(BIN)/python benchmarks/bench_rules.py --compiled
	$(BIN)/python benchmarks/bench_ensemble.py
	$(BIN)/python benchmarks/bench_training.py
	$(BIN)/python benchmarks/bench_collapse.py
	$(BIN)/python benchmarks/bench_memory.py
	$(BIN)/python benchmarks/bench_bytes.py
	$(BIN)/python benchmarks/bench_growth.py --plot benchmarks/growth.svg
	$(BIN)/python benchmarks/bench_engine.py
	$(BIN)/python benchmarks/bench_attribution.py
	$(BIN)/python benchmarks/bench_attacks.py

docs: $(INSTALLED)  ## The documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "linear-backprop needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[lab,docs,dev]"
	# A peer in the tests; they do without the torchvision that it asks for.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps zennit
	@touch $@

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache .hypothesis
