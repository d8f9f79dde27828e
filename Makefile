# What can be run here. `make` alone prints this list.
#
#   make demo    set up, then show the proxy at work on an embedded runtime
#                (a real one: make demo RUNTIME=unix:///run/containerd/containerd.sock)
#   make test    set up, then run every test; end-to-end tests are skipped where
#                containerd is missing, unless CRIPROXY_E2E=required
#   make lint    ruff, mypy and import-linter
#   make fmt     format the code
#   make proto   regenerate the Python modules of proto/
#   make bench   compare with other proxies, minutes; writes bench/RESULTS.md
#   make fuzz    a long fuzz of the wire core (FUZZ_EXAMPLES=20000)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SETUP  := $(VENV)/.installed
RUNTIME ?=
FUZZ_EXAMPLES ?= 20000

.PHONY: help demo test lint fmt proto proto-check bench fuzz clean
help:
	@sed -n 's/^# \{0,1\}//p' Makefile

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.bench: $(SETUP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

demo: $(SETUP)
	$(BIN)/criproxy demo $(if $(RUNTIME),--runtime-endpoint $(RUNTIME))

test: $(SETUP)
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(SETUP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(SETUP)
	$(BIN)/python proto/generate.py

proto-check: $(SETUP)
	$(BIN)/python proto/generate.py --check

bench: $(VENV)/.bench
	$(BIN)/python -m bench

fuzz: $(SETUP)
	CRIPROXY_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/properties --timeout=0

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
