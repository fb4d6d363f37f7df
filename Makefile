# Each target works on a fresh machine: it makes .venv first, with the packages it needs. PYTHON is any Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: reproduce test lint bench docs clean
.DEFAULT_GOAL := reproduce

reproduce: $(VENV)/.lab  ## Figure 1 in full and the small image comparison; ends with where the report is
	$(BIN)/linear-backprop reproduce

test: lint  ## The whole suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.dev  ## Every benchmark; minutes, on an otherwise idle machine
	$(BIN)/python benchmarks/bench_rules.py --compiled
	$(BIN)/python benchmarks/bench_ensemble.py
	$(BIN)/python benchmarks/bench_training.py
	$(BIN)/python benchmarks/bench_collapse.py
	$(BIN)/python benchmarks/bench_memory.py
	$(BIN)/python benchmarks/bench_bytes.py
	$(BIN)/python benchmarks/bench_growth.py --plot benchmarks/growth.svg
	$(BIN)/python benchmarks/bench_engine.py
	$(BIN)/python benchmarks/bench_attribution.py
	$(BIN)/python benchmarks/bench_little_memory.py draw --plot benchmarks/little_memory.svg
	$(BIN)/python benchmarks/bench_attacks.py

docs: $(VENV)/.docs  ## The documentation, into site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "linear-backprop needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.lab: pyproject.toml constraints.txt | $(VENV)/.python
	@echo "Installing the lab into $(VENV): PyTorch, and 0.4 GB of other packages. It takes minutes, and shows nothing meanwhile."
	@$(PIP) --editable ".[lab]"
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.python
	@echo "Installing what makes the documentation into $(VENV): PyTorch, and 0.2 GB of other packages."
	@$(PIP) --editable ".[docs]"
	@touch $@

# zennit is a peer in the tests; they do without the torchvision that it asks for.
$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.python
	@echo "Installing what the tests need into $(VENV): PyTorch, and 1 GB of other packages. It takes minutes."
	@$(PIP) --editable ".[lab,docs,dev]"
	@$(PIP) --no-deps zennit
	@touch $@

clean:  ## Whatever make made, but for the records in runs/
	rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
