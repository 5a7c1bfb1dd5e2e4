# The interface of this repository. `make demo` and `make test` do all the set-up they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BENCH_READY := .venv/.bench-ready
CALLERS_READY := .venv/.callers-ready
ASSURANCE_READY := .venv/.assurance-ready
NPM := PATH="$(CURDIR)/$(BIN):$$PATH" npm --loglevel=error --no-audit --no-fund --ignore-scripts
BENCH = REDIS_SERVER="$$(scripts/redis-server)" && REDIS_SERVER="$$REDIS_SERVER" $(BIN)/python -m benchmarks

.PHONY: help setup demo stack test simulate mutants fuzz audit licences sbom check format proto lock clean bench bench-quick bench-gate bench-report

help:  ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

setup: $(READY)  ## Create the virtual environment from the lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ndoo needs Python 3.11 or newer; name one with 'make PYTHON=python3.12 ...'." >&2; exit 1; }
	@echo "Setting up .venv from requirements.lock ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import ndoo.register.kernel'  # compiles the kernel once, into its cache
	@touch $@

demo: $(READY)  ## Run the main job once, at full size, against the real server
	@$(BIN)/ndoo demo

stack: $(READY)  ## Start a service with Redis, Prometheus, its rules and traffic, until Ctrl-C
	@$(BIN)/python scripts/stack.py

test: $(CALLERS_READY)  ## Run all tests, against a real Redis
	@REDIS_SERVER="$$(scripts/redis-server)" && REDIS_SERVER="$$REDIS_SERVER" $(BIN)/pytest

SEEDS ?= 2000
simulate: $(READY)  ## Simulate SEEDS=2000 courses of faults, or show the one of SEED=1234
	@PYTHONPATH=tests $(BIN)/python -m simulator $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

mutants: $(READY)  ## Plant each fault of tests/mutants, or ONLY="name ...", and show which test catches it
	@REDIS_SERVER="$$(scripts/redis-server)" && PROMETHEUS_BIN="$$(scripts/prometheus)" && \
	  REDIS_SERVER="$$REDIS_SERVER" PROMETHEUS_BIN="$$PROMETHEUS_BIN" $(BIN)/python scripts/mutants.py $(ONLY)

FUZZ_S ?= 60
fuzz: $(ASSURANCE_READY)  ## Fuzz each reader of foreign bytes for FUZZ_S=60 seconds, or ONLY="target ..."
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(FUZZ_S) $(ONLY)

audit: $(ASSURANCE_READY)  ## Ask the Python Package Index for known faults in what is locked (needs the network)
	@for lock in requirements*.lock; do echo "$$lock:"; $(BIN)/pip-audit --strict --require-hashes --disable-pip -r $$lock || exit 1; done

licences: $(READY)  ## Write docs/licences.md from the lock
	@$(BIN)/python scripts/supply.py licences

sbom: $(READY)  ## Write the bill of materials (CycloneDX) of the lock to dist
	@$(BIN)/python scripts/supply.py sbom

$(CALLERS_READY): $(READY) requirements-callers.lock tests/languages/package-lock.json
	@echo "Adding what the tests of callers run in to .venv: Spark, Java and Node ..."
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes --use-pep517 --no-build-isolation \
	  -r requirements-callers.lock
	@mkdir -p .venv/node && cp tests/languages/package*.json .venv/node && $(NPM) --prefix .venv/node ci --silent
	@touch $@

$(ASSURANCE_READY): $(READY) requirements-assurance.lock
	@echo "Adding what fuzzes and audits to .venv ..."
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements-assurance.lock
	@touch $@

$(BENCH_READY): $(READY) requirements-bench.lock
	@echo "Adding what the benchmarks need to .venv ..."
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

bench: $(BENCH_READY)  ## Measure everything and write the pages of it, in about ten minutes
	@$(BENCH) run
	@$(BIN)/python -m benchmarks report

bench-quick: $(BENCH_READY)  ## Measure a little of everything into .venv, in under two minutes
	@$(BENCH) run --scale quick --results .venv/bench-quick
	@$(BIN)/python -m benchmarks report --results .venv/bench-quick --docs .venv/bench-quick
	@echo "See .venv/bench-quick/performance.md."

bench-gate: $(BENCH_READY)  ## Fail if the service has become slow beside its transport and its peers
	@$(BIN)/python -m benchmarks gate

bench-report: $(BENCH_READY)  ## Write docs/performance.md and docs/capacity.md from benchmarks/results
	@$(BIN)/python -m benchmarks report

check: $(READY)  ## Formatting, lint, types, layers
	@$(BIN)/ruff format --check --quiet src tests benchmarks
	@$(BIN)/ruff check --quiet src tests benchmarks
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }

format: $(READY)  ## Format the code
	@$(BIN)/ruff format src tests benchmarks
	@$(BIN)/ruff check --fix src tests benchmarks

proto: $(READY)  ## Generate src/ndoo/v1 from the proto
	@$(BIN)/python scripts/generate_proto.py src

lock: $(CALLERS_READY)  ## Renew all locks, from pyproject.toml and tests/languages/package.json
	@$(BIN)/uv pip compile pyproject.toml --extra server --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade --quiet -o requirements.lock
	@$(BIN)/uv pip compile --group bench -c requirements.lock --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade --quiet \
	  -o requirements-bench.lock
	@$(BIN)/uv pip compile --group callers -c requirements.lock --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade --quiet \
	  -o requirements-callers.lock
	@$(BIN)/uv pip compile --group assurance -c requirements.lock --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade --quiet \
	  -o requirements-assurance.lock
	@$(NPM) --prefix tests/languages update --package-lock-only --omit-lockfile-registry-resolved --silent

clean:  ## Remove everything that was made
	@rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
