# `make demo` and `make test` first set up all they need, once.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
# What `make quick` tests, and what it skips (pyproject.toml explains the markers).
PART := tests
QUICK := not slow and not processes and not browser and not slurm
# Compile the libraries' Python once and not in every process.
unexport PYTHONDONTWRITEBYTECODE

# Any warning is an error: a link that leads nowhere, a page that is not in the navigation.
DOCS := runs/docs

.PHONY: demo test quick check setup gpu-check docs
.DEFAULT_GOAL := help
help:
	@echo "make demo   draw a small data set, run a whole study on it, end with a verdict and a report (4 minutes, 2 cores)"
	@echo "make quick  lint and the quick tests, of one part with PART=tests/prune/methods (a minute)"
	@echo "make test   run all tests;  make check  lint and types only;  make setup  environment only"
	@echo "make docs   build the documentation as a site that opens without a network: runs/docs/index.html"
	@echo "make gpu-check   check on this machine's GPU what only a GPU can show (5 minutes)"

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt prune/index/version.py $(wildcard install/* install/ffcv_shim/*)
	@PYTHON=$(PYTHON) install/system.sh build
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@if [ -e /usr/include/opencv4/opencv2/core.hpp ]; then \
	  export PKG_CONFIG_PATH="$(CURDIR)/install/ffcv_shim:$$PKG_CONFIG_PATH"; \
	fi; $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group dev --editable .
	@touch $@

demo: .venv/ready
	@$(BIN)/prune generate --world lanterns --irrelevant 16 --per-class 240 --target-train 60 --target-test 300 \
	  --duplicates 0 --mislabelled 0 --out $(DEMO)/data
	@WINNOW_DEVICE=$${WINNOW_DEVICE:-cpu} $(BIN)/transfer study --source $(DEMO)/data/source/train --targets signs=$(DEMO)/data/signs \
	  --recipe lanterns --surrogate-recipe lanterns-surrogate --surrogate-sample 0.5 --gate auto --loader torch \
	  --methods full random full-equal-compute winnow --keeps 0.2 --full-lengths 0.2 0.4 --seeds 0 1 2 3 4 5 6 7 8 9 \
	  --margin 3 --jobs 2 --out $(DEMO)/study

check: .venv/ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/mypy

quick: .venv/ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "$(QUICK)" $(PART)

gpu-check: .venv/ready
	@$(BIN)/python -m tests.gpu_check --out runs/gpu-check

docs: .venv/ready
	@$(BIN)/properdocs build --strict --quiet --config-file mkdocs.yml --site-dir $(DOCS)
	@echo "$(DOCS)/index.html (to search all pages: python3 -m http.server --directory $(DOCS))"

test: .venv/ready
	@PYTHON=$(PYTHON) install/system.sh test
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest -n 2 --dist loadfile
