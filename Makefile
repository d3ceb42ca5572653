# Two commands: `make run` (everything, with the UI) and `make test`. Paths are relative: the checkout's may hold a space.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := .venv/bin/python
NEXUS := $(PYTHON) -m nexus_assets

.PHONY: help run demo down test fuzz lint lock clean

help:
	@echo "make run    install, start the servers and Dagster, load a market, serve the UI on http://127.0.0.1:3000"
	@echo "make demo   the same without serving; ends with a summary"
	@echo "make down   stop the servers"
	@echo "make test   install and run the test suite against real servers"
	@echo "make fuzz   damaged answers of every market-data service, 100,000 each and for hours; FUZZ_RUNS=1000 for fewer"
	@echo "make lint   ruff, format, pyright"
	@echo "make lock   compile the locked requirements anew"
	@echo "make clean  remove the virtual environments"

run: .venv/installed
	@$(NEXUS) run

demo: .venv/installed
	@$(NEXUS) demo

down: .venv/installed
	@$(NEXUS) down

test: .venv/installed
	$(PYTHON) -m pytest $(PYTEST_ARGS)

# Nightly. Damaged answers are drawn by hypothesis, and then steered by the lines that they reach (atheris; Linux only).
FUZZ_RUNS ?= 100000
fuzz: .venv/installed .venv-fuzz/installed
	FUZZ_MUTATIONS=$(FUZZ_RUNS) $(PYTHON) -m pytest -q --timeout=0 nexus_assets_tests/providers/test_parser_fuzzing.py
	@for service in oanda eodhd yahoo alpha_vantage twelve_data polygon; do echo "$$service"; \
	    PYTHONPATH=.venv-fuzz $(PYTHON) -m nexus_assets_tests.providers.coverage_fuzzing $$service \
	    -runs=$(FUZZ_RUNS) -max_len=4096 -verbosity=0 -print_final_stats=1 || exit 1; done

.venv-fuzz/installed: requirements-fuzz.lock .venv/installed
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade --target .venv-fuzz \
	    -r requirements-fuzz.lock
	@touch $@

# A lock that is newer than the mark installs again; a .venv whose making was interrupted is made again.
.venv/installed: requirements.lock pyproject.toml
	@python=$$(for p in python3.11 python3.12 python3; do \
	    command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	    && echo $$p && break; done); \
	if [ -z "$$python" ]; then echo "Python 3.11 or 3.12 is needed; none was found on PATH." >&2; exit 1; fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$python cannot make virtual environments: install its venv package (on Debian and Ubuntu: apt install python3-venv)." >&2; \
	    exit 1; fi; \
	$(PYTHON) -m pip --version >/dev/null 2>&1 || \
	    { echo "Making .venv with $$($$python --version)"; $$python -m venv --clear .venv; }
	@echo "Installing the locked requirements (about a minute the first time)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv-lint/installed: requirements-lint.lock .venv/installed
	@[ -x .venv-lint/bin/python ] || $(PYTHON) -m venv .venv-lint
	@.venv-lint/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-lint.lock
	@touch $@

lint: .venv-lint/installed
	.venv-lint/bin/python -m ruff check .
	.venv-lint/bin/python -m ruff format --check .
	.venv-lint/bin/python -m pyright

# Universal for Python 3.11 and 3.12, with hashes and without the address of an index.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock"
lock:
	python3 -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	.venv-lock/bin/$(LOCK) --extra test pyproject.toml -o requirements.lock
	.venv-lock/bin/$(LOCK) requirements-lint.in -o requirements-lint.lock
	.venv-lock/bin/$(LOCK) requirements-fuzz.in -o requirements-fuzz.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lint .venv-fuzz .venv-lock
