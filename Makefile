# The menu: `make` prints it. Every verb makes .venv from requirements.lock if it is not there, and needs no network after that.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := menu
.PHONY: menu reproduce test test-slow lab bench trials publish clean

SEEDS ?= 0
PROFILE ?= tiny
CORES ?= all
# other settings, as JSON: make reproduce OVERRIDES='{"steps": 5}'
OVERRIDES ?= {}
# where pip looks for torch besides its usual index; a machine without a GPU saves gigabytes with
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# the Python that .venv is made of: 3.11 if it is there
PYTHON ?=
VENV := .venv
PY := $(VENV)/bin/python
GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU ')

menu:
	@echo "make reproduce [SEEDS=0,1,2] [PROFILE=tiny]   collect failures, train, evaluate, print the table; goes on where it was stopped"
	@echo "make test                                     the fast tests (a few minutes)"
	@echo "make test-slow                                end to end, kills, and GPU tests where there is a GPU"
	@echo "make lab                                      the notebooks in JupyterLab"
	@echo "make bench                                    what a training step costs, beside trl's own"
	@echo "make trials [PROFILE=tiny]                    what data/trials.yaml tries on dev before a recipe is fixed; 20 minutes"
	@echo "make publish [PROFILE=tiny]                   copy finished runs to results/<profile>/, to be committed"
	@echo "make clean                                    remove .venv and caches; results stay"

$(VENV)/stamp: requirements.lock pyproject.toml
	@python=""; for each in $(PYTHON) $(if $(PYTHON),,python3.11 python3.12 python3.13 python3); do \
	  if "$$each" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then python="$$each"; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11, 3.12 or 3.13 is needed and was not found: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	echo "Installing into $(VENV) from requirements.lock, once, with $$("$$python" --version)"; \
	[ -x $(PY) ] || "$$python" -m venv $(VENV)
	@$(PY) -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# the options are those of workflow/profiles/default, which a bare `snakemake` takes: runs.done decides, not locks, marks or file times
SNAKEMAKE = $(VENV)/bin/snakemake --workflow-profile none --nolock --ignore-incomplete --rerun-triggers mtime --quiet all --cores $(CORES) \
  $(if $(filter-out 0,$(GPUS)),--resources gpu=$(GPUS))
NOT_FINISHED = { [ $$? -eq 2 ] || echo "Not finished: the lines above say why. What was computed stays; the same command goes on from there." >&2; exit 1; }

reproduce: $(VENV)/stamp
	@$(SNAKEMAKE) --config profile='$(PROFILE)' seeds='$(SEEDS)' overrides='$(OVERRIDES)' || $(NOT_FINISHED)
	@$(PY) -c 'import json, sys; from rrr_utils import runs, settings; \
	print((runs.stage_dir(settings.load(sys.argv[1], json.loads(sys.argv[2])), "tables") / "report.md").read_text())' \
	  '$(PROFILE)' '$(OVERRIDES)'
	@echo "All is done: profile $(PROFILE), seeds $(SEEDS)."

test: $(VENV)/stamp
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q --doctest-modules rrr_utils tests

test-slow: $(VENV)/stamp
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "slow or gpu" tests

lab: $(VENV)/stamp
	@$(VENV)/bin/jupyter lab $(ARGS)

bench: $(VENV)/stamp
	@$(PY) tests/benchmarks/bench.py

trials: $(VENV)/stamp
	@$(SNAKEMAKE) --config profile='$(PROFILE)' trials=1 -- trials || $(NOT_FINISHED)
	@$(PY) -m rrr_utils.report.trials --profile '$(PROFILE)'

publish: $(VENV)/stamp
	@$(PY) -m rrr_utils.report.publish --profile '$(PROFILE)'

constraints-colab.txt: requirements.lock
	@{ echo "# Made from requirements.lock by: make $@. The same pins without torch, which Colab brings along."; \
	  grep -E '^[A-Za-z]' $< | grep -v '^torch=='; } > $@

clean:
	rm -rf $(VENV) *.egg-info .snakemake .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "results/ stays; runs that are no longer wanted: rm -r results/runs"
