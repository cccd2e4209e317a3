# Two commands: `make run` and `make test`.  `make help` lists the rest.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run manage test test-slow chaos mutants test-load test-model check format format-check lint types imports \
	migrations migrations-check openapi openapi-check bench bench-agents bench-calls bench-fairness bench-growth bench-incidents bench-profile bench-recovery \
	load-approvals lock hooks clean python install-local install-test

VENV := .venv
PY := $(VENV)/bin/python
SETTINGS_TEST := DJANGO_SETTINGS_MODULE=config.settings.test
PACKAGES := agentflow templates_app executions approvals monitoring demo config bench tests
ARGS ?=
TESTERS ?= 2
PLAN ?= c0

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  ARGS=... is passed on, as in: make test ARGS='tests/workflow -x'"

run: install-local ## Run the whole product here; HOST, PORT, WORKERS, AGENTFLOW_HOME
	@$(PY) -m config.supervisor

manage: install-local ## A command of manage.py beside `make run`: make manage ARGS=createsuperuser
	@$(PY) -m config.supervisor $(ARGS)

test: install-test ## Run the tests on engines of their own; TESTERS=4 uses four processes
	$(PY) -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: install-test ## Break things under load, look what is lost; PLAN=c1 for an hour, cc no fault, named
	$(PY) -m tests.chaos $(PLAN) $(ARGS)

mutants: install-test ## Take each guard of the engine away, see that a test misses it; ARGS=word for some
	$(PY) -m tests.mutants $(ARGS)

test-load: install-test ## Measure under load
	$(PY) -m pytest -m load $(ARGS)

test-model: install-test ## The engine's state machine, long: EXAMPLES, STEPS, SECONDS bound it
	MODEL_EXAMPLES=$(or $(EXAMPLES),5000) MODEL_STEPS=$(or $(STEPS),80) MODEL_SECONDS=$(or $(SECONDS),14400) \
	  $(PY) -m pytest tests/executions/test_model.py -s $(ARGS)

check: install-test ## What must be green before a commit: format to tests
	@$(MAKE) --no-print-directory format-check lint types imports migrations-check openapi-check
	@$(MAKE) --no-print-directory test

format: install-test ## Format the code, fix what can be fixed
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

format-check: install-test
	$(PY) -m ruff format --check .

lint: install-test ## Look for mistakes
	$(PY) -m ruff check .

types: install-test ## Check types, strictly
	$(PY) -m mypy $(PACKAGES:%=-p %)

imports: install-test ## Check who imports whom
	$(VENV)/bin/lint-imports

migrations: install-test ## Write the migrations the models ask for
	$(SETTINGS_TEST) PYTHONWARNINGS=ignore::RuntimeWarning $(PY) manage.py makemigrations $(ARGS)

migrations-check: install-test
	$(SETTINGS_TEST) PYTHONWARNINGS=ignore::RuntimeWarning $(PY) manage.py makemigrations --check --dry-run

openapi: install-test ## Write docs/openapi.yaml anew
	$(SETTINGS_TEST) $(PY) manage.py spectacular --validate --fail-on-warn --file docs/openapi.yaml

openapi-check: install-test
	@fresh=$$(mktemp) && trap 'rm -f "$$fresh"' EXIT && \
	$(SETTINGS_TEST) $(PY) manage.py spectacular --validate --fail-on-warn --file "$$fresh" && \
	{ diff -u docs/openapi.yaml "$$fresh" || { echo "docs/openapi.yaml is stale: make openapi"; exit 1; }; }

bench: install-test ## Measure the engine beside raw Celery; PEERS=1: and beside LangGraph and DBOS
	$(PY) -m bench $(ARGS)

bench-agents: install-test ## Compare choosing agents with naming them, on simulated agents
	$(PY) -m bench.agents

bench-calls: install-test ## Measure warm calls beside the bare clients', and 200 slow ones at once in one worker
	$(PY) -m bench.calls

bench-recovery: install-test ## Recover from faults, with policies and without; ARGS="--executions 60" for less
	$(PY) -m bench.recovery $(ARGS)

bench-growth: install-test ## Measure what size, width and open executions cost
	$(PY) -m bench growth $(ARGS)

bench-fairness: install-test ## Measure what a small workspace waits beside one with 10,000 executions
	$(PY) -m bench fairness $(ARGS)

bench-incidents: install-test ## Measure an incident of 10,000 failures; ARGS="--failures 200" for less
	$(PY) -m bench incidents $(ARGS)

bench-profile: install-test ## Show where a block's time goes: statements, commits, processor time by layer
	$(PY) -m bench profile $(ARGS)

load-approvals: install-test ## Measure the inbox; ARGS="--pending 10000 --sockets 200 --rate 10" for less
	$(PY) -m bench inbox $(ARGS)

lock: install-test ## Pin requirements/*.in anew; LOCK_FLAGS=--upgrade takes newer versions
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	@for name in base local production test; do \
	  echo "requirements/$$name.txt" && \
	  $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	    --no-emit-index-url $(LOCK_FLAGS) requirements/$$name.in -o requirements/$$name.txt || exit 1; \
	done
	@for name in langgraph dbos; do \
	  $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	    --no-emit-index-url $(LOCK_FLAGS) bench/peers/$$name.in -o bench/peers/$$name.txt || exit 1; \
	done

hooks: install-test ## Install the pre-commit hooks
	$(VENV)/bin/pre-commit install

clean: ## Remove what can be made again (never .agentflow, the data of make run)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis staticfiles test-artifacts

# The newest Python from 3.11 on that can make a virtual environment.
python:
	@$(PY) -m pip --version >/dev/null 2>&1 && exit 0; \
	for name in "$${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do \
	  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	  if "$$name" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	    echo "Making $(VENV) with $$($$name --version)"; exec "$$name" -m venv --clear $(VENV); \
	  fi; \
	  found=$$name; \
	done; \
	if [ -n "$$found" ]; then \
	  echo "$$found has no venv module. Debian, Ubuntu: apt-get install python3-venv. Then make again." >&2; \
	else \
	  echo "Python 3.11 or newer is needed and was not found. Debian, Ubuntu: apt-get install python3 python3-venv;" >&2; \
	  echo "macOS: brew install python; or name one: make run PYTHON=/path/to/python3" >&2; \
	fi; exit 1

# Installs only when the list of pinned versions is not the one installed last.
define install
@wanted="$(1) $$(cksum <requirements/$(1).txt)"; \
if ! grep -qsxF "$$wanted" $(VENV)/installed; then \
  echo "Installing requirements/$(1).txt (once, about half a minute)"; \
  $(PY) -m pip install --quiet --disable-pip-version-check --no-input -r requirements/$(1).txt || \
    { echo "The requirements could not be installed. Is the package index reachable?" >&2; exit 1; }; \
  kept=$$(grep -sv -e "^$(1) " $(VENV)/installed); \
  printf '%s\n' $${kept:+"$$kept"} "$$wanted" >$(VENV)/installed.new && mv $(VENV)/installed.new $(VENV)/installed; \
fi
endef

export PYTHON

install-local: python
	$(call install,local)

install-test: python
	$(call install,test)
