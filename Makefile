# Everything runs in .venv, which the first target that needs it makes. Python 3.11 or newer and make are all it takes.
PYTHON ?= python3
BIN := .venv/bin

# Tests start many interpreters, and two of them collect all tests: that takes half the time from bytecode.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check format docs site bench clean

help: ## say what the targets do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/core ## train, evaluate and film the cart-pole's swing-up
	$(BIN)/gantry demo

test: .venv/dev ## run the tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: .venv/dev ## run the tests, and the longer learning checks
	$(BIN)/python -m pytest -m ''

check: .venv/dev ## lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev ## put the code into its canonical format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev ## write the generated tables of README.md and docs/
	$(BIN)/python -m scripts.docs

site: .venv/docs ## build the documentation site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/peers ## measure speed and learning against other suites
	$(BIN)/gantry bench envs
	$(BIN)/gantry bench train
	$(BIN)/gantry bench optimizers
	$(BIN)/gantry bench planner
	$(BIN)/gantry bench parity

clean: ## remove the environment and what was built
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Gantry needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …' >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { \
		echo 'no virtual environment could be made: install the venv module (Debian: python3-venv)' >&2; exit 1; }
	@touch $@

.venv/core: .venv/made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/dev: .venv/made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,baselines,tensorboard]'
	@touch $@ .venv/core

# A suite that cannot be installed here is a row that says so.
.venv/peers: .venv/dev pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]' || true
	@touch $@

.venv/docs: .venv/made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@ .venv/core
