# `make` alone lists the targets. Each target installs what it needs.

PORT ?= 8000
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Processes that run tests. One more than there are processors: most tests wait.
TESTERS ?= $(shell expr $$(nproc) + 1)
VENV := .venv
IN_VENV := $(VENV)/bin/
PIP := $(IN_VENV)python -m pip install --disable-pip-version-check --no-input --retries 10 --prefer-binary
# A command that signs nothing needs no real key. Commands of the site use their own.
CHECKING := DJANGO_SECRET_KEY=only-for-checking

.DEFAULT_GOAL := help
.PHONY: help run test proof e2e check bench clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: $(VENV)/.ready ## run the whole chat on PORT (8000); Ctrl-C stops everything
	@exec $(IN_VENV)python manage.py serve --port $(PORT) $(ARGS)

test: $(VENV)/.ready-dev ## the tests, in minutes; ARGS go to pytest
	$(IN_VENV)python -m pytest -n $(TESTERS) -m "not proof" $(ARGS)
	@if command -v node >/dev/null; then echo "node --test"; node --test tests/js/*.test.mjs; \
	else echo "No node here: the tests of the page's scripts (tests/js) did not run."; fi

proof: $(VENV)/.ready-dev ## the tests that need minutes of real time
	$(IN_VENV)python -m pytest -n $(TESTERS) -m proof $(ARGS)

e2e: $(VENV)/.ready-dev ## the browser tests; they need chromium
	@command -v chromium >/dev/null || { echo "The browser tests need chromium: apt-get install chromium"; exit 1; }
	$(IN_VENV)python -m pytest tests/e2e $(ARGS)

check: $(VENV)/.ready-dev ## format, lint, English, types, import contract, migrations
	$(IN_VENV)ruff format --check
	$(IN_VENV)ruff check
	$(IN_VENV)typos
	$(IN_VENV)python tools/prose.py
	$(CHECKING) $(IN_VENV)mypy
	$(CHECKING) $(IN_VENV)lint-imports
	$(CHECKING) $(IN_VENV)python manage.py makemigrations --check --dry-run

bench: $(VENV)/.ready-dev ## compare this server with others
	@exec bench/run $(ARGS)

clean: ## delete generated files (never var/, which holds the messages)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.ready: requirements.txt
	@echo "Making the environment in $(VENV): once, and again when requirements change."
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed (python3.11 on PATH, or make PYTHON=/path/to/it)."; exit 1; }
	@$(IN_VENV)python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } \
		|| { rm -rf $(VENV); echo "Python's venv is missing: apt-get install python3-venv"; exit 1; }
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	@echo "Adding what development needs."
	$(PIP) -r requirements-dev.txt
	@touch $@
