# energax. `make` alone lists what can be done.
# Needs only Python >= 3.11 (PYTHON=/path/to/python picks one); everything else goes into .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test bench lint types docs clean

WORKERS ?= 2
RUN := .venv/bin
# Stamps: touched when an install is complete, so that it isn't repeated.
USER_READY := .venv/.ready-all
DEV_READY := .venv/.ready-dev
BENCH_READY := .venv-bench/.ready

help:  ## this list
	@echo "energax: make TARGET"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile

demo: $(USER_READY)  ## train a model on handwritten digits and write a report
	$(RUN)/energax demo

test: $(DEV_READY)  ## the whole test suite, slow tests too
	$(RUN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(DEV_READY)  ## ruff
	$(RUN)/ruff check .

types: $(DEV_READY)  ## pyright on energax/
	$(RUN)/pyright --pythonpath $(RUN)/python

docs: $(DEV_READY)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict --quiet

bench: $(BENCH_READY)  ## time energax beside its peers (an environment of its own, several GB)
	.venv-bench/bin/python -m benchmarks $(ARGS)

clean:  ## remove what make built (not your runs)
	rm -rf .venv .venv-bench site dist build .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(USER_READY): pyproject.toml scripts/install.sh
	@sh scripts/install.sh .venv -e '.[all]'
	@touch $@

# One install, so that `make demo` after `make test` needs none.
$(DEV_READY): pyproject.toml scripts/install.sh
	@sh scripts/install.sh .venv -e '.[dev]'
	@touch $(USER_READY) $@

# torch first and pinned: a plain `torch` pulled in by a peer brings gigabytes of CUDA.
$(BENCH_READY): pyproject.toml scripts/install.sh benchmarks/requirements.txt
	@sh scripts/install.sh .venv-bench torch==2.13.0
	@sh scripts/install.sh .venv-bench -e '.[all]' -r benchmarks/requirements.txt
	@touch $@
