# `make` lists the targets; the first two are what the README shows.
.DEFAULT_GOAL := help
# The newest Python here that runs, is of a locked version and can make environments.
FITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
ifndef PYTHON
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do $$p -c "$(FITS)" 2> /dev/null && echo $$p && break; done)
endif
TORCH := torch==2.13.0# not in the lock: which build, for which accelerator, is for the machine's index to say
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
export PATH := $(CURDIR)/$(BIN):$(PATH)
SETTING ?= gemma-3-270m
ifeq ($(SETTING),gemma-3-270m)
export HF_HUB_OFFLINE ?= 1
endif
export TOKENIZERS_PARALLELISM := false

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c "$(FITS)" 2> /dev/null || { echo "error: '$(PYTHON)' is no Python 3.11, 3.12 or 3.13 with venv; on Debian and Ubuntu, as root: apt-get install python3-venv; else: make PYTHON=/path/to/python3.13"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@$(PIP) --require-hashes --no-deps --use-pep517 -r requirements.lock && $(PIP) $(TORCH) && \
		$(PIP) --no-deps --no-build-isolation --editable . || \
		{ echo "error: packages could not be installed, see above; without a network, or behind a proxy, set HTTPS_PROXY or PIP_INDEX_URL; then the same command goes on"; exit 1; }
	@touch $@

lock: .venv/.ready ## write requirements.lock anew, with the versions that it has where they fit; UVFLAGS=--upgrade: the newest
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes --no-annotate \
		--no-emit-package torch --custom-compile-command "make lock" $(UVFLAGS) --output-file requirements.lock pyproject.toml
	sed "s/ ; python_full_version < '3.14' and (sys_platform == 'darwin' or sys_platform == 'linux')//" requirements.lock > .venv/lock
	mv .venv/lock requirements.lock

setup: .venv/.ready ## make .venv with the locked versions

doctor: .venv/.ready ## say whether this machine can run the pipeline, and how long that takes
	@$(BIN)/python -m fgaa_utils.pipeline.doctor

repro: .venv/.ready ## run the whole pipeline on the real model (README: how long); SETTING=<file of settings/> for another
	$(BIN)/python -m fgaa_utils.pipeline.settings $(SETTING)
ifeq ($(SETTING),gemma-3-270m)
	@echo && echo "Results: reports/index.html, reports/pages/, and these numbers:" && $(BIN)/python -m fgaa_utils.pipeline.summary
endif

verify: .venv/.ready ## compare a finished run with the committed one; SETTING=<file of settings/> for a setting's
	$(BIN)/python -m fgaa_utils.pipeline.verify $(filter-out gemma-3-270m,$(SETTING))

test: .venv/.ready ## run the tests, fetching the model if need be
	$(BIN)/dvc repro --quiet model
	$(BIN)/python -m pytest

quick: .venv/.ready ## run every stage at small sizes in .settings/quick/, touching no result
	$(BIN)/python -m fgaa_utils.pipeline.settings quick

BEFORE_sae := data
BEFORE_effects := features
BEFORE_gradients := data
BEFORE_ablation_samples := samples
BEFORE_ablations := ablation_samples
again: .venv/.ready ## run a frozen stage again, resuming from its shards: STAGE=sae, effects, gradients, ablation_samples or ablations
	@test -n "$(BEFORE_$(STAGE))" || { echo "error: STAGE is '$(STAGE)'; it must be sae, effects, gradients, ablation_samples or ablations"; exit 1; }
	$(BIN)/dvc repro $(BEFORE_$(STAGE))
	$(BIN)/python -m fgaa_utils.pipeline.run $(STAGE)
	$(BIN)/dvc commit --force $(STAGE)

ablations: .venv/.ready ## change one thing of FGAA at a time, SETTING=<file of settings/> for another than the default
ifeq ($(SETTING),gemma-3-270m)
	$(MAKE) again STAGE=ablation_samples
	$(MAKE) again STAGE=ablations
	$(BIN)/dvc repro
else
	$(BIN)/python -m fgaa_utils.pipeline.settings $(SETTING) --ablations
endif

check-paper: .venv/.ready ## recompute numbers that the paper prints: SETTING=gemma-2-2b TEXTS=<file of contrastive texts>
	$(BIN)/python -m fgaa_utils.pipeline.check_paper $(SETTING) $(TEXTS)

check-exports: .venv/.ready ## load exported vectors in llama.cpp, repeng, steering-vectors and lm-eval, in environments of their own
	$(BIN)/dvc repro --quiet model
	$(BIN)/python -m pytest -m exports

check-ray: .venv/.ready ## compare what workers of Ray make with what is made here, in an environment of its own
	$(BIN)/dvc repro --quiet model
	$$($(BIN)/python tests/environments.py ray) -m pytest -m ray

lab: .venv/.ready ## open the notebooks in JupyterLab with the parameters of params.yaml
	$(BIN)/python -m fgaa_utils.pipeline.run --sync
	$(BIN)/jupyter lab --notebook-dir=notebooks

check: .venv/.ready ## what CI checks: style, types, stripped notebooks, tests, the quick pipeline, the paper's setting on a tiny model, two exports
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify --extra-keys "metadata.language_info metadata.papermill cell.metadata.papermill" notebooks/*.ipynb
	$(MAKE) test
	$(MAKE) quick
	$(BIN)/python -m fgaa_utils.pipeline.verify quick
	$(BIN)/python -m pytest -m pipeline
	$(BIN)/python -m pytest -m exports -k "llama_cpp or lm-eval"

bench: .venv/.ready ## time steered generation against other programs' on this machine, turn by turn
	@$(BIN)/dvc repro --quiet model
	@$(BIN)/python benchmarks/peers.py

faults: .venv/.ready ## break the quick pipeline 60 times and compare what it leaves: an hour, Linux, best as root; in PLACE
	@test -n "$(PLACE)" || { echo "error: PLACE is empty; it must be a folder with some GB, such as PLACE=/tmp/faults"; exit 1; }
	@$(BIN)/python benchmarks/faults.py --place $(PLACE)

nightly: check check-exports check-ray ## check, check-exports, check-ray, and the whole pipeline of the paper's larger model on a stand-in
	$(BIN)/python -m pytest -m nightly

.PHONY: help setup doctor repro verify test quick again ablations check-paper check-exports check-ray lab check bench faults nightly lock
