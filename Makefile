# make          what there is to make
# make PYTHON=python3.12 test    with another interpreter (3.11 or newer)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
PEERS := $(VENV)/installed-peers
INSTALL := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types imports check docs bench accuracy clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(INSTALL) --editable ".[dev,docs,diffusers,hub,likelihood,tensorboard,text,transport,video]"
	@touch $@

$(PEERS): $(INSTALLED)
	@$(INSTALL) --editable ".[peers]"
	@$(INSTALL) --no-deps k-diffusion azula smalldiffusion denoising-diffusion-pytorch  # what else they ask for contradicts numpy 2, or torch without CUDA
	@touch $@

install: $(INSTALLED) ## Make .venv with ornstein and all that its tests need.

demo: $(INSTALLED) ## Train on real digits, sample in ten steps, write demo/report.md (5 minutes).
	@$(BIN)/ornstein demo --out demo

lint: $(INSTALLED) ## Style and format.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Types; core/ strictly.
	$(BIN)/mypy

imports: $(INSTALLED) ## The order of the rooms.
	$(BIN)/lint-imports --no-cache

check: $(INSTALLED) ## The tests alone.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

docs: $(INSTALLED) ## Build the site into site/, warnings are errors.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: lint types imports docs check ## All of the above; what CI runs (under 10 minutes on 2 cores).

bench: $(PEERS) ## Speed beside the peers, in one run.
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.overhead
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.noise
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.likelihood
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.experts
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.blocks
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.training speed

accuracy: $(PEERS) ## Error per network call beside the peers; prints ratios, draws the curves (half an hour).
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.accuracy --tables docs/solvers/accuracy-table.md \
		--figure docs/images/accuracy.png

clean: ## Remove what make made, but not your runs.
	rm -rf $(VENV) site demo build dist
