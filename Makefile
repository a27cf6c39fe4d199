# The one entry point. Every target sets up what it needs; the second call is quick.
#
#   make demo        programs on greenlet and multiprocessing, on these and on weft
#   make test        all tests, long ones in their short version, one interpreter
#   make check       format, lints, types, stubs, dependency direction
#   make bench       weft beside greenlet, multiprocessing and others, interleaved; writes the README's tables and charts
#   make test-all    make test for every CPython found
#   make soak        the long tests
#   make miri        the engine's unsafe code over shared memory under Miri; needs a nightly toolchain with it
#   make bench-engine, test-rust, test-python, test-peers, update-pins, clean: parts of these, and upkeep
#
# PYTHON chooses the interpreter (default: python3, or the newest supported one) of an environment that does not exist
# yet, VENV the environment: for another interpreter, name another one.

PYTHON ?= $(shell ci/interpreters.sh --default)
VENV ?= .venv
SOAK_SECONDS ?= 600
SOAK_KILLS ?= 9000
SOAK_KILLS_EACH ?= 2000
# How much longer than in the short version the faults of the hub are.
SOAK_HUB_TIMES ?= 20
# Each of the engine's random tests, of which there are several, one after the other.
ENGINE_SOAK_SECONDS ?= 60

# Builds for different interpreters would evict each other from one target directory.
export CARGO_TARGET_DIR ?= $(CURDIR)/target/$(notdir $(abspath $(VENV)))
export PYO3_PYTHON = $(abspath $(VENV))/bin/python
BIN = $(VENV)/bin
PY = $(BIN)/python

SOURCES = $(shell find crates python Cargo.toml Cargo.lock pyproject.toml -type f \
	-not -name '*.pyc' -not -path '*/tests/*' -not -path '*/benches/*')

.PHONY: help demo test test-rust test-python test-peers check bench bench-engine miri soak test-all clean update-pins

help:
	@sed -n 's/^#   //p' Makefile

# --- set-up -------------------------------------------------------------------------------------------------

$(VENV)/.tools: pyproject.toml requirements/constraints.txt ci/tools.sh
	ci/tools.sh "$(PYTHON)" "$(VENV)"
	touch $@

$(VENV)/.built: $(VENV)/.tools $(SOURCES)
	ci/build.sh "$(VENV)"
	touch $@

# --- the README's two commands ------------------------------------------------------------------------------

demo: $(VENV)/.built
	$(PY) demo/run.py

test: test-rust test-python test-peers

test-rust: $(VENV)/.tools
	ci/test-rust.sh

test-python: $(VENV)/.built
	$(PY) -m pytest

test-peers: $(VENV)/.built
	$(PY) -m unittest discover -s tests/peers
	$(PY) tests/peers/run.py greenlet --retries 1
	$(PY) tests/peers/run.py gevent --part --retries 1
	$(PY) tests/peers/run.py hub --part --retries 1
	$(PY) tests/peers/run.py multiprocessing --part --retries 1
	$(PY) tests/peers/run.py concurrent_futures --part --retries 1

# --- more ---------------------------------------------------------------------------------------------------

check: $(VENV)/.built
	ci/check.sh "$(VENV)"

bench: $(VENV)/.built
	$(PY) benches/compare/run.py
	$(PY) benches/compare/readme.py

bench-engine: $(VENV)/.tools
	cargo bench -p weft-coroutine

miri:
	ci/miri.sh

soak: $(VENV)/.built
	WEFT_SOAK_SECONDS=$(ENGINE_SOAK_SECONDS) ci/test-rust.sh
	ci/miri.sh
	$(PY) tests/soak/stress.py --seconds $(SOAK_SECONDS)
	$(PY) tests/peers/run.py greenlet --retries 1
	$(PY) tests/peers/run.py gevent --retries 1
	$(PY) tests/peers/run.py hub --part --retries 1
	$(PY) tests/peers/run.py multiprocessing --retries 1
	$(PY) tests/peers/run.py concurrent_futures --retries 1
	$(PY) tests/faults/processes/soak.py --only queues --kills $(SOAK_KILLS)
	$(PY) tests/faults/processes/soak.py --only pipes --kills $(SOAK_KILLS_EACH)
	$(PY) tests/faults/processes/soak.py --only locks --kills $(SOAK_KILLS_EACH)
	$(PY) tests/faults/processes/soak.py --only shared --kills $(SOAK_KILLS_EACH)
	$(PY) tests/faults/processes/soak.py --only pools --kills $(SOAK_KILLS_EACH)
	WEFT_FAULTS_HITS=$(SOAK_KILLS_EACH) $(PY) -m pytest -q tests/faults/processes/test_shared_memory.py
	WEFT_HUB_FAULTS_TIMES=$(SOAK_HUB_TIMES) $(PY) -m pytest -q tests/faults/hub

test-all:
	ci/test-all.sh

update-pins:
	ci/update-pins.sh "$(PYTHON)"

clean:
	rm -rf target .venv .venvs
