# What can be run here. `make` alone prints this list.
#
#   make demo    set up what running needs, then show the proxy at work on an embedded runtime
#                (a real one: make demo RUNTIME=unix:///run/containerd/containerd.sock)
#   make test    set up, then run every test, several side by side (WORKERS=4);
#                end-to-end tests are skipped where containerd is missing, unless
#                CRIPROXY_E2E=required
#   make test-compiled  compile a copy of the tree in build/compiled, then run the tests there
#                (TESTS="tests/wire tests/properties")
#   make coverage  the same as make test with the coverage of every process
#                measured, which takes up to twice the time
#   make test-busy  every test five times, beside four busy loops (RUNS=5, LOOPS=4)
#   make lint    ruff, mypy, import-linter, and the documentation's links and anchors
#   make fmt     format the code
#   make proto   regenerate the Python modules of proto/
#   make dist    build the sdist, and from it a wheel, in dist/: the same bytes for the same commit
#   make wheels  a compiled wheel in dist/ for each Python that is installed here (WHEELS="3.11 3.12 3.13"),
#                each of which is run in a new environment
#   make package a Debian package in dist/, for the Python that runs this
#   make package-check
#                the same, then install, run and remove it in a new Debian 12 (as root, with
#                Debian's package mmdebstrap)
#   make systemd-check
#                the same in a Debian 12 that systemd boots, under a stand-in kubelet (as root, with
#                Debian's packages mmdebstrap and systemd-container)
#   make image-check
#                build the image on a base of its own, without a registry, and run criproxy in it
#                (as root, with Debian's packages buildah and mmdebstrap)
#   make image-requirements
#                pin again by hash what is in the image, after a change of constraints.txt
#   make sbom    the bill of materials, in SPDX, of each wheel and Debian package in dist/
#   make charts  set up Helm's SDK, without which the tests of the chart are skipped
#   make browser  set up what drives a browser, without which the tests of the page are skipped
#   make screenshots
#                draw the pictures of the page in docs/ anew (with Debian's package chromium)
#   make fleet   set up ClickHouse's engine (chdb, 850 MB), without which tests of deploy/fleet
#                are skipped
#   make kustomize
#                render deploy/helm/criproxy to deploy/kustomize
#   make dashboard-picture
#                draw the dashboard's panels with the data of a real Prometheus (Debian's package
#                prometheus) in docs/how-to/dashboard.svg
#   make docs    regenerate the reference, and build the documentation in site/
#   make docs-reference
#                regenerate the reference pages and the manual page in docs/
#   make bench   compare with other proxies, minutes; writes bench/RESULTS.md
#   make fleet-bench
#                ask a made fleet the questions of deploy/fleet; writes bench/FLEET.md. 100 million
#                calls need 10 GB of disk (FLEET="--nodes 1000 --calls 10000" for a tenth)
#   make chaos   restart, upgrade, kill and attack criproxy under load, over an hour; writes
#                bench/RELIABILITY.md (CHAOS="--section kills --quick", CHAOS_RESTARTS=20, ...)
#   make fuzz    fuzz what reads bytes of others with atheris (FUZZ_SECONDS=60 for each
#                target, or FUZZ_RUNS; FUZZ_TARGETS="frames hpack")
#   make fuzz-properties
#                try every property on many random examples (FUZZ_EXAMPLES=20000,
#                FUZZ_TESTS=tests/properties)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.run
SETUP  := $(VENV)/.installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The variable turns off the theme's notice of its own future.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
RUNTIME ?=
# Many tests wait rather than compute.
WORKERS ?= $(shell echo $$((2 * $$(nproc))))
# The tests start hundreds of interpreters, each of which would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE
RUNS ?= 5
LOOPS ?= 4
TESTS ?=
WHEELS ?= 3.11 3.12 3.13
FUZZ_EXAMPLES ?= 20000
FUZZ_TESTS ?= tests

COMPILED := build/compiled

.PHONY: help dashboard-picture package package-check systemd-check image-check image-requirements wheels sbom \
	charts browser screenshots fleet fleet-bench kustomize demo dist test test-compiled coverage test-busy lint fmt proto proto-check docs \
	docs-reference bench chaos fuzz fuzz-properties clean
help:
	@sed -n 's/^# \{0,1\}//p' Makefile

# An editable installation has nothing compiled: CRIPROXY_COMPILE=0 spares it the compilers.
$(RUN) $(SETUP) $(VENV)/.charts $(VENV)/.browser $(VENV)/.fleet $(VENV)/.bench $(VENV)/.fuzz $(VENV)/.image: export CRIPROXY_COMPILE := 0
$(RUN): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(SETUP): $(RUN)
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.charts: $(SETUP)
	$(INSTALL) -e '.[charts]'
	@touch $@

$(VENV)/.browser: $(SETUP)
	$(INSTALL) -e '.[browser]'
	@touch $@

$(VENV)/.fleet: $(SETUP)
	$(INSTALL) -e '.[fleet]'
	@touch $@

$(VENV)/.bench: $(SETUP)
	$(INSTALL) -e '.[bench]'
	@touch $@

demo: $(RUN)
	$(BIN)/criproxy demo $(if $(RUNTIME),--runtime-endpoint $(RUNTIME))

test: $(SETUP)
	$(BIN)/python -m pytest -n $(WORKERS)

test-compiled: $(SETUP)
	$(BIN)/python -m tests.support.compiled_tree $(COMPILED)
	cd $(COMPILED) && CRIPROXY_TEST_COMPILED=1 PYTHONPATH="$$PWD" \
		$(CURDIR)/$(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

coverage: $(SETUP)
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term:skip-covered

test-busy: $(SETUP)
	$(BIN)/python -m tests.support.busy --runs $(RUNS) --loops $(LOOPS) -- -n $(WORKERS)

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS) build --strict --quiet --site-dir $(VENV)/site

# The time of the commit is that of the files in the archives.
dist package sbom wheels: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)
dist: $(SETUP)
	rm -rf dist
	$(BIN)/python -m build

charts: $(VENV)/.charts

browser: $(VENV)/.browser

screenshots: $(VENV)/.browser
	$(BIN)/python -m tests.support.screenshots

fleet: $(VENV)/.fleet

kustomize: $(VENV)/.charts
	$(BIN)/python -m tests.support.chart

package: $(RUN)
	$(BIN)/python deploy/deb/build.py dist

package-check: package
	deploy/deb/check.sh dist/criproxy_*.deb

systemd-check: package
	$(BIN)/python -m tests.booted dist/criproxy_*.deb

image-check: $(SETUP)
	deploy/image/check.sh

$(VENV)/.image: $(SETUP)
	$(INSTALL) -e '.[image]'
	@touch $@

image-requirements: $(VENV)/.image
	$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make image-requirements" --extra otlp -c constraints.txt \
		-o deploy/image/requirements.txt pyproject.toml

wheels: $(VENV)/.image
	deploy/wheels.sh $(BIN)/uv $(WHEELS)

sbom: $(SETUP)
	$(BIN)/python deploy/sbom.py $(wildcard dist/*.whl dist/*.deb)

fmt: $(SETUP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(SETUP)
	$(BIN)/python proto/generate.py

proto-check: $(SETUP)
	$(BIN)/python proto/generate.py --check

docs: docs-reference
	$(MKDOCS) build --strict

dashboard-picture: $(SETUP)
	$(BIN)/python -m tests.support.dashboard_picture docs/how-to/dashboard.svg

docs-reference: $(SETUP)
	$(BIN)/python -m docs.generate
	$(BIN)/python -m tests.install.failure_table

bench: $(VENV)/.bench
	$(BIN)/python -m bench

fleet-bench: $(VENV)/.fleet
	$(BIN)/python -m bench.fleet $(FLEET)

chaos: $(SETUP)
	$(BIN)/python -m bench.chaos $(CHAOS)

$(VENV)/.fuzz: $(SETUP)
	$(INSTALL) -e '.[fuzz]'
	@touch $@

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz $(FUZZ_TARGETS)

fuzz-properties: $(SETUP)
	CRIPROXY_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -n $(WORKERS) -m hypothesis \
		--timeout=0 $(FUZZ_TESTS)

clean:
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
