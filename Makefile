# Two commands for a fresh machine: `make serve` and `make test`. Python 3.11 or later is all they need.

PYTHON ?= python3
MODEL ?=
ARGS ?=
# Test processes; each runs torch on one thread.
TEST_PROCESSES ?= 2
TEST_ARGS ?=

# What is served is an installed copy; what is tested is the checkout itself.
SERVE_ENV := .venv
DEV_ENV := .venv-dev
SOURCES := $(shell find core server plugins -type f ! -path '*/__pycache__/*' ! -path '*.egg-info/*')

.PHONY: serve test lint lint-style lint-format lint-types lint-imports bench clean help

help:
	@echo 'make serve [MODEL=folder-or-hub-id] [ARGS="--port 8000"]   serve a model (default: the demo model)'
	@echo 'make test  [TEST_ARGS="-k scheduler"]                     run all tests'
	@echo 'make lint                                                ruff, mypy and the import rules'
	@echo 'make bench                                               measure the demo model, offline'
	@echo 'make clean                                               remove environments and caches'

serve: $(SERVE_ENV)/installed
	$(SERVE_ENV)/bin/windlass serve $(MODEL) $(ARGS)

test: $(DEV_ENV)/installed
	OMP_NUM_THREADS=1 $(DEV_ENV)/bin/python -m pytest -n $(TEST_PROCESSES) $(TEST_ARGS)

lint: lint-style lint-format lint-types lint-imports

lint-style: $(DEV_ENV)/installed
	$(DEV_ENV)/bin/ruff check .

lint-format: $(DEV_ENV)/installed
	$(DEV_ENV)/bin/ruff format --check .

lint-types: $(DEV_ENV)/installed
	$(DEV_ENV)/bin/mypy

lint-imports: $(DEV_ENV)/installed
	$(DEV_ENV)/bin/lint-imports

bench: $(SERVE_ENV)/installed
	$(SERVE_ENV)/bin/windlass bench latency $(MODEL) $(ARGS)
	$(SERVE_ENV)/bin/windlass bench throughput $(MODEL) $(ARGS)

clean:
	rm -rf $(SERVE_ENV) $(DEV_ENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SERVE_ENV)/bin/python $(DEV_ENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Windlass needs Python 3.11 or later: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(@D)/..

$(SERVE_ENV)/installed: pyproject.toml README.md $(SOURCES) | $(SERVE_ENV)/bin/python
	$(SERVE_ENV)/bin/python -m pip install --disable-pip-version-check '.[cpu]'
	touch $@

$(DEV_ENV)/installed: pyproject.toml | $(DEV_ENV)/bin/python
	$(DEV_ENV)/bin/python -m pip install --disable-pip-version-check -e '.[cpu,dev]'
	touch $@
