# `make help` lists the targets. Nothing here needs an account, a GPU or a cluster.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

.PHONY: help
help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what the lock file names into $(VENV) (once; some minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: setup
setup: $(READY)  ## Make the virtual environment

.PHONY: run
run: $(READY)  ## Release a real model twice on this machine: fp32, then int4 by canary
	@$(BIN)/kfp-trtllm run release_llm_cpu --local --params pipelines/params/baseline.yaml --if-absent
	@$(BIN)/kfp-trtllm run release_llm_cpu --local --params pipelines/params/int4.yaml

.PHONY: stop
stop: $(READY)  ## Stop what `make run` left serving
	@$(BIN)/kfp-trtllm local stop

.PHONY: test
test: $(READY)  ## Run all tests
	@# Two at a time, each file in one process: much of it waits for servers. Threads that wait must not spin meanwhile.
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n 2 --dist loadfile

.PHONY: check
check: $(READY)  ## Look for faults without changing anything: style, types, compiled pipelines
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pipelines.compile --check
	@$(BIN)/python -m pipelines.document --check

.PHONY: fix
fix: $(READY)  ## Mend style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: compile
compile: $(READY)  ## Compile pipelines and components into compiled/, and the tables of the READMEs
	@$(BIN)/python -m pipelines.compile
	@$(BIN)/python -m pipelines.document

.PHONY: golden
golden: $(READY)  ## Write the plans that tests compare with
	@PYTHONPATH=tests/core/backends/trtllm $(BIN)/python tests/core/backends/trtllm/plans.py

.PHONY: bench
bench: $(READY)  ## Measure speeds, as ratios, into docs/benchmarks.md
	@$(BIN)/python -m tests.bench

.PHONY: lock
lock: $(READY)  ## Write requirements.lock from what is installed
	@$(BIN)/python -m pip freeze --exclude-editable | grep -v '^kfp-trtllm' | sed -E 's/\+cpu$$//' > requirements.lock

.PHONY: clean
clean:  ## Remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist
