# `make` lists the targets; the first two are what the README shows.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11, 5) <= v < (3, 12) else "error: $(PYTHON) is Python " + sys.version.split()[0] + "; the locked versions need 3.11.5 or newer of 3.11: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: .venv/.ready ## make .venv with the locked versions

repro: .venv/.ready ## run the whole pipeline on the real model (about 40 minutes on two cores)
	$(BIN)/dvc repro
	@echo && echo "Results: reports/index.html, reports/pages/, and these numbers:" && $(BIN)/python -m fgaa_utils.summary

test: .venv/.ready ## run the tests, fetching the model if need be
	$(BIN)/dvc repro --quiet model
	$(BIN)/python -m pytest

quick: .venv/.ready ## run every stage at small sizes in .quick/, touching no result
	$(BIN)/python -m fgaa_utils.quick

lab: .venv/.ready ## open the notebooks in JupyterLab with the parameters of params.yaml
	$(BIN)/python -m fgaa_utils.run --sync
	$(BIN)/jupyter lab --notebook-dir=notebooks

check: .venv/.ready ## what CI checks: style, stripped notebooks, tests, the quick pipeline
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --extra-keys "metadata.language_info metadata.papermill cell.metadata.papermill" notebooks/*.ipynb
	$(MAKE) test
	$(MAKE) quick

.PHONY: help setup repro test quick lab check
