# One stage of a run:   make sft RECIPE=demo ACCELERATE=cpu
# RECIPE is a folder in recipes/, ACCELERATE a file in accelerate_configs/; empty for a plain process.
RECIPE ?= demo
ACCELERATE ?=
PYTHON ?= python3

BIN := .venv/bin
STAMP := .venv/.installed
PIPELINE = $(BIN)/python -m pipeline
LAUNCH = $(if $(ACCELERATE),$(BIN)/accelerate launch --config_file accelerate_configs/$(ACCELERATE).yaml -m pipeline,$(PIPELINE))
PREPARE := world corpus tokenizer sample report
TRAIN := pretrain sft reward rlhf dpo grpo distill evaluate
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export GOMP_SPINCOUNT ?= 10000

.PHONY: help setup demo chapters test test-fast lint format benchmark clean $(PREPARE) $(TRAIN)

help:
	@echo "make demo        raw pages to a small reasoning model, in runs/demo"
	@echo "make chapters    what each stage really did: the experiments of recipes/chapters, in runs/chapters"
	@echo "make STAGE       one of: $(PREPARE) $(TRAIN)   with RECIPE=$(RECIPE) ACCELERATE=$(ACCELERATE)"
	@echo "make test        every check and test; make test-fast in under two minutes; make lint; make format"
	@echo "make benchmark   pretraining speed against a bare PyTorch loop and stock TRL"
	@echo "make setup       only the installation (every target does it when it is missing)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	PYTHON=$(PYTHON) bash scripts/setup.sh
	@touch $@

demo: $(STAMP)
	$(PIPELINE) run recipes/demo

chapters: demo
	$(PIPELINE) run recipes/chapters --jobs 2

$(PREPARE): $(STAMP)
	$(PIPELINE) $@ --config recipes/$(RECIPE)/$@.yaml

$(TRAIN): $(STAMP)
	$(LAUNCH) $@ --config recipes/$(RECIPE)/$@.yaml

test: lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-fast: $(STAMP)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(STAMP)
	$(BIN)/python benchmarks/pretrain.py
	$(BIN)/python benchmarks/commands.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info
