# Needs Python 3.11 to 3.14, git and make; everything else is installed into .venv from requirements.lock.

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python
LOCKED := $(VENV)/.lock
READY := $(VENV)/.ready
UV_LOCK := $(RUN) -m uv pip compile --universal --python-version 3.11 --fork-strategy fewest \
	--only-binary :all: --no-emit-index-url --custom-compile-command "make lock" --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo check test coverage test-lowest lock evidence bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv, once, and again when the lock or pyproject.toml has changed

demo: setup  ## take a poisoned toy model through the gate: fail, clean, pass, ONNX, verify
	$(RUN) examples/demo.py

check: setup  ## format, lint, types, import contracts, workflows
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) .ci/lint_workflows.py

# One thread per worker: the models are tiny, and more threads only wait for each other. A worker that has ended takes tests
# from the other: the longest come last otherwise, on one core.
test: setup  ## all tests that this machine can run
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist worksteal

# Apart from `test`, which it makes a fifth to a half slower.
coverage: setup  ## the same with branch coverage, to see what no test reaches
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term

test-lowest: setup tests/lowest.txt  ## the same tests on the oldest dependencies we allow
	$(RUN) -m venv --clear .venv-lowest
	$(RUN) -m uv pip install --python .venv-lowest/bin/python --constraint tests/lowest.txt --group test --editable .
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n $(WORKERS) --dist worksteal

# What the Action installs and what a release is built with are parts of the lock, at the same versions.
lock: setup  ## resolve again: requirements.lock at the newest versions, tests/lowest.txt at the oldest
	$(UV_LOCK) --upgrade --generate-hashes --group dev --output-file requirements.lock pyproject.toml
	cp requirements.lock requirements-action.lock
	$(UV_LOCK) --generate-hashes --extra diffusers --extra parquet --extra screen --output-file requirements-action.lock pyproject.toml
	cp requirements.lock requirements-build.lock
	echo hatchling | $(UV_LOCK) --generate-hashes --output-file requirements-build.lock -
	$(UV_LOCK) --upgrade --resolution lowest-direct --output-file tests/lowest.txt pyproject.toml

evidence: setup bench  ## measure again what the documentation claims
	$(RUN) -m benchmarks.coverage --out docs/evidence/coverage.md
	$(RUN) benchmarks/evidence.py
	$(RUN) benchmarks/reports.py
	$(RUN) -m benchmarks.page

bench: setup  ## how long a scan takes, and where
	$(RUN) benchmarks/scan.py

clean:  ## remove what builds and tools leave behind; .venv stays
	rm -rf build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
		.ruff_cache .venv-lowest
	find pargate tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock is complete, and `--no-deps` says so: left to resolve, pip took the extra of a package (coverage[toml]) at its
# newest release, for which no hash is known. The upper end is that of the lock: ONNX Runtime has no build for 3.15 yet. The stamp is a copy of the lock, so that a
# new date alone does not cost a new environment.
$(LOCKED): requirements.lock
	@if cmp -s requirements.lock $@; then touch $@; else set -e; \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
			echo "The environment of pargate needs Python 3.11 to 3.14, and '$(PYTHON)' is none of these." >&2; \
			echo "Name one that is: make setup PYTHON=/path/to/python3.11" >&2; \
			exit 1; }; \
		echo "Making $(VENV): a download of several gigabytes, once."; \
		$(PYTHON) -m venv --clear $(VENV); \
		$(RUN) -m pip install --quiet --no-deps --require-hashes --only-binary :all: --requirement requirements.lock; \
		cp requirements.lock $@; \
	fi

$(READY): $(LOCKED) pyproject.toml
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
