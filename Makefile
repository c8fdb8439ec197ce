# `make` alone lists the targets. Every target that needs Python makes .venv itself (scripts/setup.sh).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

BIN := $(CURDIR)/.venv/bin
PY := $(BIN)/python
# Not from the environment, where such names mean something else: make demo DEMO=FOLDER
DEMO := runs/demo
EXAMPLE := runs/example
# $(call remove,FOLDER): remove a folder with a run of ours, or an empty one; what else there is stays.
remove = for sign in manifest.json reproduction.json journal; do [ ! -e "$(1)/$$sign" ] || rm -rf -- "$(1)"; done; \
  [ ! -e "$(1)" ] || rmdir -- "$(1)" 2>/dev/null || \
  { echo "make: $(1) holds no run, so it is not removed. Next: name another folder, or remove it yourself"; exit 2; }
# More arguments for pytest or kit reproduce: make test ARGS="-k journal"
ARGS ?=
# Test processes at once; most tests wait for clocks and child processes, so more than there are cores pays.
JOBS ?= 3
# Which build of torch to install: auto, cpu, cuda or none (scripts/setup.sh).
export TORCH ?= auto
# How to reproduce: auto, pocket or paper; ARGS="--yes --out DIR" and so on go to kit reproduce.
PROFILE ?= auto
# The interpreter of the GPU check: the environment's own if it has torch, else the machine's.
GPU_PYTHON ?= $(shell $(PY) -c 'import torch' 2>/dev/null && echo $(PY) || echo python3)

# Stages call `python`; it must be the one with our packages. Spinning OpenMP threads ruin timings on few cores.
export PATH := $(BIN):$(PATH)
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo audit-example test lint format schemas lock gpu-check image image-cpu image-test wheel reproduce-table2 reproduce-table3 reproduce-sweeps reproduce-all setup setup-dev setup-train setup-test clean clean-all

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-17s %s\n", $$1, $$2 }'

demo: setup-train ## Reproduce Table 2 at pocket size here: nine students trained, measured and scored in minutes
	@echo "demo: Table 2 at pocket size; whatever is complete in $(DEMO) is kept"
	@kit reproduce table2 --profile pocket --yes --out "$(DEMO)" $(ARGS) || { code=$$?; \
	  echo "demo: stopped. Next: make demo goes on where it stopped; make demo DEMO=FOLDER starts from nothing"; exit $$code; }
	@echo "demo: checking the ten logs against the protocol, each by itself and against the others"
	@kit validate "$(DEMO)"/runs/* > "$(DEMO)"/validation.txt || { code=$$?; cat "$(DEMO)"/validation.txt; exit $$code; }
	@grep ' holds' "$(DEMO)"/validation.txt
	@printf '%s\n' "" \
	  "demo: done. In $(DEMO):" \
	  "  tables/table2.md       the measured table beside the published one; .csv and .json for programs" \
	  "  tables/frontier.svg    energy against quality" \
	  "  validation.txt         what was checked of every log, and the class it may be compared in" \
	  "  runs/shared/           log of data and teacher; runs/sft-1b/ and so on: one log a student" \
	  "  runs/*/work/, logs/    what the stages made and printed" \
	  "Next:" \
	  "  source .venv/bin/activate              once in each shell: finds kit" \
	  "  kit report $(DEMO)/runs/kd-1b --amortize 3   where one student's joules went, its teacher's share included" \
	  "  make audit-example                     audit a pipeline of your own kind, without torch" \
	  "  kit doctor                             what this machine can measure, and how to get more"

audit-example: setup ## Audit examples/minimal.yaml on this machine, report it and validate the log; no torch
	@echo "audit-example: auditing examples/minimal.yaml (under a minute)"
	@$(call remove,$(EXAMPLE))
	@kit audit examples/minimal.yaml --out "$(EXAMPLE)"
	@echo && echo "audit-example: checking the log against the protocol"
	@kit validate "$(EXAMPLE)"
	@printf '%s\n' "" \
	  "audit-example: done. $(EXAMPLE) holds the log:" \
	  "  manifest.json          what ran, on what hardware and software" \
	  "  stages.parquet         joules, tokens and intervals of every stage" \
	  "  power.parquet, counters.parquet, events.parquet, artifacts.parquet   the raw record behind them" \
	  "  work/, logs/           what the stages made and printed" \
	  "Next:" \
	  "  source .venv/bin/activate                 once in each shell: finds kit" \
	  "  kit report $(EXAMPLE) --format markdown   the same table for a paper or an issue" \
	  "  examples/minimal.yaml                     copy it and put your own commands in"

test: setup-test ## Run the tests; ARGS="-k journal" selects some
	@$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS) || { code=$$?; \
	  echo "test: failed. Next: make test ARGS=\"--last-failed -x -vv\" shows the first failure alone"; exit $$code; }
	@echo "test: passed. Next: make lint checks style and types; make demo reproduces a table here"

lint: setup-dev ## Check style (ruff), types (mypy --strict) and the arrows between packages (import-linter)
	@failed=""; \
	  $(PY) -m ruff check . || failed="$$failed style"; \
	  $(PY) -m ruff format --check . || failed="$$failed format"; \
	  $(PY) -m mypy || failed="$$failed types"; \
  $(BIN)/lint-imports --no-cache > .venv/imports.log || { cat .venv/imports.log; failed="$$failed imports"; }; \
	  [ -z "$$failed" ] || { echo "lint: failed:$$failed. Next: make format mends most of style and format"; exit 1; }
	@echo "lint: style, format, types and imports are fine"

format: setup-dev ## Let ruff rewrite what `make lint` would complain about
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

schemas: setup-dev ## Write what follows from protocol/: JSON Schemas, table of columns, parts of PROTOCOL.md
	@$(PY) scripts/make_schemas.py

lock: setup-dev ## Write requirements/*.lock again; UPGRADE=1 moves every pin
	@$(PY) scripts/lock.py $(if $(UPGRADE),--upgrade)

gpu-check: ## Run what only a real GPU can show (needs torch, no network, under ten minutes)
	@$(GPU_PYTHON) scripts/gpu_check.py

reproduce-table2: setup-train ## Energy, J/token and Q of every pipeline and size; PROFILE=pocket|paper
	@kit reproduce table2 --profile $(PROFILE) $(ARGS)

reproduce-table3: setup-train ## Energy by stage, from the same runs
	@kit reproduce table3 --profile $(PROFILE) $(ARGS)

reproduce-sweeps: setup-train ## The sweeps around the 1B students, three seeds each
	@kit reproduce sweeps --profile $(PROFILE) $(ARGS)

reproduce-all: setup-train ## Everything
	@kit reproduce all --profile $(PROFILE) $(ARGS)

image: setup-dev ## Build the image kit (CUDA, torch, vLLM; 10 GB) with docker or buildah
	@$(PY) scripts/image.py cuda $(ARGS)

image-cpu: setup-dev ## Build the image kit:cpu, without CUDA (2 GB)
	@$(PY) scripts/image.py cpu $(ARGS)

image-test: setup-dev ## Build and use kit:cpu, with an engine started here; needs root, no registry; ARGS=--full
	@$(PY) scripts/image_test.py $(ARGS)

wheel: setup-dev ## Build the wheel into dist/ without a network
	@$(PY) -m pip wheel --disable-pip-version-check --quiet --no-index --no-deps --no-build-isolation -w dist .
	@ls dist/*.whl

setup: ## Make .venv with what `kit` needs
	@scripts/setup.sh base

setup-dev: ## Make .venv with tests and linters too
	@scripts/setup.sh dev

setup-train: ## Make .venv with torch, training and evaluation; TORCH=cpu|cuda chooses the build of torch
	@scripts/setup.sh train

setup-test: ## Make .venv with everything the tests use; TORCH=none leaves torch out
	@scripts/setup.sh test

clean: ## Remove caches and build products; keeps .venv and runs/
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

clean-all: clean ## Remove .venv and the runs of demo and audit-example as well
	@rm -rf .venv
	@$(call remove,$(DEMO))
	@$(call remove,$(EXAMPLE))
