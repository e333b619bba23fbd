# `make` alone lists the targets. Each target installs what it needs.

PORT ?= 8000
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Processes that run tests. Two for each processor: most tests wait.
TESTERS ?= $(shell expr $$(nproc) \* 2)
# pytest rewrites every assertion: five seconds in each process unless the result is kept.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
IN_VENV := $(VENV)/bin/
PYTEST := $(IN_VENV)python -m pytest -n $(TESTERS)
PIP := $(IN_VENV)python -m pip install --disable-pip-version-check --no-input --retries 10 --prefer-binary
# A command that signs nothing needs no real key. Commands of the site use their own.
CHECKING := DJANGO_SECRET_KEY=only-for-checking

.DEFAULT_GOAL := help
.PHONY: help run test proof faults abuse e2e coverage check scripts bench clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: $(VENV)/.ready ## run the whole chat on PORT (8000); Ctrl-C stops everything
	@exec $(IN_VENV)python manage.py serve --port $(PORT) $(ARGS)

test: $(VENV)/.ready-dev ## the tests that need no browser and no minutes of real time; ARGS go to pytest
	$(PYTEST) -m "not proof" $(ARGS)
	@if command -v node >/dev/null; then echo "node --test"; node --test tests/js/*.test.mjs; \
	else echo "No node here: the tests of the page's scripts (tests/js) did not run."; fi

proof: $(VENV)/.ready-dev ## the tests that need minutes of real time
	$(PYTEST) -m "proof and not alone" $(ARGS)
	$(IN_VENV)python -m pytest -m alone $(ARGS)
	$(IN_VENV)python -m tests.faults --quick

faults: $(VENV)/.ready-dev ## the site under one fault after another; QUICK=1 a few, MUTATE=1 without single rules
	$(IN_VENV)python -m tests.faults $(if $(QUICK),--quick) $(if $(MUTATE),--mutate) $(ARGS)

abuse: $(VENV)/.ready-dev ## the test files named in docs/explanation/security.md
	$(PYTEST) $$(grep -o 'tests/[a-z_/]*\.py' docs/explanation/security.md | sort -u) $(ARGS)

e2e: $(VENV)/.ready-dev ## the browser tests; they need chromium
	@command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null \
		|| { echo "The browser tests need chromium: apt-get install chromium-headless-shell"; exit 1; }
	$(PYTEST) tests/e2e $(ARGS)

coverage: $(VENV)/.ready-dev ## the lines and branches that the tests of make test run, in all processes
	rm -f .coverage .coverage.*
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml $(PYTEST) -m "not proof" $(ARGS)
	@$(IN_VENV)coverage combine --quiet
	@$(IN_VENV)coverage report

check: $(VENV)/.ready-dev ## format, lint, English, types, import contract, migrations
	$(IN_VENV)ruff format --check
	$(IN_VENV)ruff check
	$(IN_VENV)typos
	$(IN_VENV)python tools/prose.py
	$(CHECKING) $(IN_VENV)mypy
	$(CHECKING) $(IN_VENV)lint-imports
	$(CHECKING) $(IN_VENV)python manage.py makemigrations --check --dry-run
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory scripts; \
	else echo "No node here: the page's scripts (static/js) were not checked."; fi

scripts: node_modules/.package-lock.json ## check the page's scripts: format, types, order of imports; part of check
	node_modules/.bin/prettier --check static/js tests/js
	node_modules/.bin/tsc
	node --test tests/js/layers.test.mjs

bench: $(VENV)/.ready-dev ## compare this server with others
	@exec bench/run $(ARGS)

clean: ## delete generated files (never var/, which holds the messages)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage node_modules bench/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@

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
