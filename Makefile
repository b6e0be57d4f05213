# Two commands on a fresh machine with Python 3.11 or later: make demo, make test.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev

.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

demo: $(RUNTIME)  ## install, attack embedded photographs, write out/demo/report.html
	@$(RUN) -m experiments.demo --out=out/demo

test: lint  ## install, check the code, run all tests
	@$(RUN) -m pytest -n 2 --dist loadgroup

test-full: $(DEV)  ## parity of all full-width networks with PyTorch, and the longest runs
	@XLA_FLAGS=--xla_backend_optimization_level=3 $(RUN) -m pytest -n 2 --dist loadgroup -m full

lint: $(DEV)  ## check style, format and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

bench: $(RUNTIME)  ## measure throughput of scoring and of attack steps
	@$(RUN) -m experiments.bench_speed

clean:  ## remove what make created
	rm -rf $(VENV) out

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; this is " + sys.version.split()[0] + "; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the library and the demo's photographs into $(VENV)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[demo]"
	@touch $@

$(DEV): requirements-dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the pinned development environment into $(VENV)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
