# Two commands for everybody: `make demo` and `make test`. Both do all the set-up they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.set-up

.PHONY: help setup demo test check format clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(SETUP) ## Make the virtual environment

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "moe_ray needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(SETUP) ## Train four tiny models on a synthetic world and evaluate them, end to end, on this machine
	$(BIN)/moe-ray demo

test: $(SETUP) ## Run the fast tests on two processes; `pytest -m slow` runs the others
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(SETUP) ## Lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(SETUP) ## Reformat
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the tests and the demo left
	rm -rf results .pytest_cache .mypy_cache .ruff_cache
