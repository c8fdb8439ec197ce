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
# The demo's students by method and size, as a bash array.
students = mapfile -t students < <(printf '%s\n' "$(DEMO)"/runs/*-*b | sort -V)
# More arguments for pytest or kit reproduce: make test ARGS="-k journal"
ARGS ?=
# Test processes at once; most tests wait for clocks and child processes, so more than there are cores pays.
JOBS ?= 4
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

.PHONY: $(shell sed -nE 's/^([a-z0-9-]+):.*## .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-24s %s\n", $$1, $$2 }'

demo: setup-train ## Reproduce Table 2 at pocket size here: nine students trained, measured and scored in minutes
	@echo "demo: Table 2 at pocket size; whatever is complete in $(DEMO) is kept"
	@kit reproduce table2 --profile pocket --yes --out "$(DEMO)" $(ARGS) || { code=$$?; \
	  echo "demo: stopped. Next: make demo goes on where it stopped; make demo DEMO=FOLDER starts from nothing"; exit $$code; }
	@echo "demo: checking the logs against the protocol, each by itself and against the others"
	@kit validate "$(DEMO)"/runs/* > "$(DEMO)"/validation.txt || { code=$$?; cat "$(DEMO)"/validation.txt; exit $$code; }
	@grep ' holds' "$(DEMO)"/validation.txt
	@echo "demo: drawing figures beside the published values, and the page"
	@$(students); kit report "$${students[@]}" --html "$(DEMO)"/report.html & page=$$!; code=0; \
	  kit figures "$${students[@]}" --published --out "$(DEMO)"/figures || code=$$?; wait "$$page"; exit "$$code"
	@printf '%s\n' "" \
	  "demo: done. In $(DEMO):" \
	  "  tables/table2.md       the measured table beside the published one; .csv and .json for programs" \
	  "  figures/               energy against quality, breakdown, amortization, serving, size; LaTeX tables" \
	  "  validation.txt         what was checked of every log, and the class it may be compared in" \
	  "  runs/shared/           log of data and teacher; runs/sft-1b/ and so on: one log a student" \
	  "  runs/*/work/, logs/    what the stages made and printed" \
	  "Next:" \
	  "  source .venv/bin/activate              once in each shell: finds kit" \
	  "  kit report $(DEMO)/runs/kd-1b --amortize 3   where one student's joules went, its teacher's share included" \
	  "  make audit-example                     audit a pipeline of your own kind, without torch" \
	  "  kit doctor                             what this machine can measure, and how to get more" \
	  "The page, for any browser: $(DEMO)/report.html"

audit-example: setup ## Audit examples/minimal.yaml on this machine, report it and validate the log; no torch
	@echo "audit-example: auditing examples/minimal.yaml (about a minute, more on a busy machine)"
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
	@$(PY) -m compileall -q -j 0 harness  # or each of some hundred kits that the tests start would do it
	@$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS) || { code=$$?; \
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

schemas: setup-dev ## Write what follows from protocol/: schemas, parts of PROTOCOL.md; ARGS=--freeze its digests too
	@$(PY) scripts/make_schemas.py $(ARGS)

lock: setup-dev ## Write requirements/*.lock again; UPGRADE=1 moves every pin
	@$(PY) scripts/lock.py $(if $(UPGRADE),--upgrade)

web: ## Build the page's code from web/ (needs Node); CHECK=1 compares with what is here
	@npm ci --prefix web --ignore-scripts --silent
	@node web/build.js $(if $(CHECK),--check)

figures: setup-train ## Draw RUNS (the demo's students by default) beside the published values into OUT
	@$(if $(RUNS),students=($(RUNS)),$(students)); kit figures "$${students[@]}" --published --out "$(or $(OUT),$(DEMO)/figures)"

pictures: setup-test ## Make the pictures of docs/pictures from what is recorded; those of pages need Node and Chromium
	@$(PY) scripts/make_pictures.py $(ARGS)

test-pages: setup-test ## Open pages in a real Chromium: axe, keys, widths, print, nine hours of eight GPUs
	@$(PY) scripts/test_pages.py $(ARGS)

verify-claims: setup ## Derive every claim of artifacts/claims.yaml that needs no GPU again; exit code 1 where one differs
	@$(PY) scripts/verify_claims.py $(ARGS)

record: setup ## Keep the logs of the finished demo in artifacts/runs/pocket, for verify-claims
	@$(PY) scripts/record_runs.py "$(DEMO)" $(ARGS)

trace: setup-train ## Memory, bytes a weight and operations of one step of every stage, on meta tensors; no GPU
	@$(PY) scripts/trace_steps.py

families: setup-test ## Families of models at tiny size, compared with docs/models.md; sums against allocator and trace
	@$(PY) scripts/families.py $(ARGS)
	@$(PY) -m pytest -q -m models tests/planning tests/distill/test_step_trace.py

fuzz: setup-test ## Mutated pipeline files, journals and bundles: none ends in what no reader foresaw
	@$(PY) scripts/fuzz.py $(or $(ARGS),--yaml 500 --bundles 500 --journals 500 --seed ci)
	@$(PY) -m pytest -q -m fuzz tests/audit

gpu-check: ## Run what only a real GPU can show (needs torch, no network, eight minutes)
	@$(GPU_PYTHON) scripts/gpu_check.py

teacher: setup-train ## Train the pocket teacher again and keep it in artifacts/pocket_teacher; ARGS="--out DIR"
	@$(PY) scripts/make_teacher.py $(ARGS)

# One target a result of the paper; all take what is complete in the folder. PROFILE=pocket|paper; ARGS="--out DIR --yes".
reproduce-table2: setup-train ## Energy, J/token and Q of every pipeline and size; PROFILE=pocket|paper
reproduce-table3: setup-train ## Energy by stage, from the same runs
reproduce-frontier: setup-train ## Energy against quality with its frontier, from the same runs
reproduce-breakdown: setup-train ## Energy by stage as figures, from the same runs
reproduce-amortization: setup-train ## Energy over reuses of the teacher's output, and N*, from the same runs
reproduce-serving: setup-train ## Served tokens from which a student has paid, T*, from the same runs
reproduce-stopping: setup-train ## When each student's training ended, and what that took, from the same runs
reproduce-design-rules: setup-train ## The paper's design rules put to the figures, from the same runs
reproduce-datasets: setup-train ## Table 2 on each data set by itself, three repeats, with averages
reproduce-sweep-kd-grid: setup-train ## Temperature and alpha of the 1B's KD, three seeds each
reproduce-sweep-length: setup-train ## Length of the teacher's answers, three seeds each
reproduce-sweep-prompts: setup-train ## Number of prompts, three seeds each
reproduce-sweeps: setup-train ## The three sweeps
reproduce-all: setup-train ## Everything but reproduce-datasets
REPRODUCED := $(shell sed -nE 's/^(reproduce-[a-z0-9-]+):.*/\1/p' $(firstword $(MAKEFILE_LIST)))
$(REPRODUCED):
	@kit reproduce $(@:reproduce-%=%) --profile $(PROFILE) $(ARGS)

evidence: setup-train ## Score a real 135 M model on distill-5-mini, and distil it; minutes to an hour on a CPU
	@$(PY) scripts/evidence.py $(ARGS)
	@$(PY) scripts/own_models.py
	@$(PY) scripts/kept_mass.py

image: setup-dev ## Build the image kit (CUDA, torch, vLLM; 10 GB) with docker or buildah
	@$(PY) scripts/image.py cuda $(ARGS)

image-cpu: setup-dev ## Build the image kit:cpu, without CUDA (2 GB)
	@$(PY) scripts/image.py cpu $(ARGS)

image-bundle: setup-dev ## Write the built image as one archive with digests and bill of materials; VARIANT=cuda|cpu
	@$(PY) scripts/image_bundle.py $(or $(VARIANT),cuda) $(ARGS)

image-test: setup-dev ## Build and use kit:cpu, with an engine started here; needs root, no registry; ARGS=--full
	@$(PY) scripts/image_test.py $(ARGS)

wheel: setup-dev ## Build wheel and sdist into dist/ without a network
	@$(PY) -m hatchling build -d dist

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
