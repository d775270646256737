# Four doors: dev, test, check, bench. Everything else hangs behind them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help dev docs test test-full screenshots quickstart journeys guards check format bench lock

help:  ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

dev: $(VENV)/.run app/web/site/index.html  ## everything in one command; ARGS="--port 9000" passes arguments on
	@exec $(BIN)/punchconnect dev $(ARGS)

test: $(VENV)/.dev  ## the test suite, against a real PostgreSQL and a real Redis-protocol server
	$(PYTEST) $(ARGS)

test-full: $(VENV)/.dev  ## adds what is long: browsers, client libraries, the fault matrix at full size
	$(PYTEST) --full $(ARGS)

screenshots: $(VENV)/.dev  ## a picture of every page of the dashboard, into build/screenshots
	$(PYTEST) --full tests/app/web/test_screens.py

quickstart: $(VENV)/.dev  ## the quickstart from a clean clone, with a clock
	$(BIN)/python -m tests.docs.quickstart

journeys: $(VENV)/.dev  ## the journey tests N times in a row
	@n=$(or $(N),1); i=1; while [ $$i -le $$n ]; do echo "journeys, round $$i of $$n"; $(PYTEST) tests/journeys || exit 1; i=$$((i+1)); done

guards: $(VENV)/.dev  ## take each guard away and show that its tests fail
	$(BIN)/python -m tests.guards $(ARGS)

check: $(VENV)/.dev  ## format, lint, strict types, import rules, schema snapshot, guards stand where they say, migrations match tables
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.checks

docs: app/web/site/index.html  ## build the documentation site, which the server serves at /docs/

app/web/site/index.html: mkdocs.yml tests/docs/site.py $(shell find docs frontend-examples \( -name '*.md' -o -name '*.svg' \) -not -path '*/node_modules/*') | $(VENV)/.run
	@$(BIN)/python -m tests.docs.site || echo "The documentation site was not built: /docs/ serves the pages as they were written."

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## every benchmark, short form, with a table at the end
	$(BIN)/python -m bench $(ARGS)

lock:  ## resolve the locks anew (needs uv); names, versions and hashes only
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra embedded --extra docs pyproject.toml -o requirements.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra embedded --extra docs --extra test pyproject.toml -c requirements.txt -o requirements-dev.txt
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 bench/peers/requirements.in -c requirements.txt -o bench/peers/requirements.txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PunchConnect needs Python 3.11 or newer (PYTHON=... names another)."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing. On Debian and Ubuntu: apt install git make python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
