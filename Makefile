# The interface of this repository. `make demo` and `make test` do all the set-up they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BENCH_READY := .venv/.bench-ready
CALLERS_READY := .venv/.callers-ready
DELIVERY_READY := .venv/.delivery-ready
ASSURANCE_READY := .venv/.assurance-ready
NPM := PATH="$(CURDIR)/$(BIN):$$PATH" npm --loglevel=error --no-audit --no-fund --ignore-scripts
COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade --quiet \
  --no-emit-index-url --no-header --no-annotate
BENCH = REDIS_SERVER="$$(scripts/redis-server)" && REDIS_SERVER="$$REDIS_SERVER" $(BIN)/python -m benchmarks

.PHONY: help setup demo stack test simulate mutants fuzz audit licences chart release image check format hooks proto lock clean bench bench-quick bench-gate bench-report

help:  ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

setup: $(READY)  ## Create the virtual environment from the lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ndoo needs Python 3.11 or newer; name one with 'make PYTHON=python3.12 ...'." >&2; exit 1; }
	@echo "Setting up .venv from requirements.lock ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import ndoo.register.sets'  # compiles all loops once, into their cache
	@touch $@

demo: $(READY)  ## Run the main job once, at full size, against the real server
	@$(BIN)/ndoo demo

stack: $(READY)  ## Start a service with Redis, Prometheus, its rules and traffic, until Ctrl-C
	@$(BIN)/python scripts/stack.py

test: $(CALLERS_READY) $(DELIVERY_READY)  ## Run all tests, against a real Redis
	@REDIS_SERVER="$$(scripts/redis-server)" && REDIS_SERVER="$$REDIS_SERVER" $(BIN)/pytest

SEEDS ?= 2000
simulate: $(READY)  ## Simulate SEEDS=2000 courses of faults, or show the one of SEED=1234
	@PYTHONPATH=tests $(BIN)/python -m simulator $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

mutants: $(DELIVERY_READY)  ## Plant each fault of tests/mutants, or ONLY="name ...", and show which test catches it
	@REDIS_SERVER="$$(scripts/redis-server)" && PROMETHEUS_BIN="$$(scripts/prometheus)" && HELM="$$(scripts/helm)" && \
	  REDIS_SERVER="$$REDIS_SERVER" PROMETHEUS_BIN="$$PROMETHEUS_BIN" HELM="$$HELM" $(BIN)/python scripts/mutants.py $(ONLY)

FUZZ_S ?= 60
fuzz: $(ASSURANCE_READY)  ## Fuzz each reader of foreign bytes for FUZZ_S=60 seconds, or ONLY="target ..."
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(FUZZ_S) $(ONLY)

audit: $(ASSURANCE_READY)  ## Ask the Python Package Index for known faults in what is locked (needs the network)
	@for lock in requirements*.lock; do echo "$$lock:"; $(BIN)/pip-audit --strict --require-hashes --disable-pip -r $$lock || exit 1; done

licences: $(CALLERS_READY) $(DELIVERY_READY)  ## Write docs/licences.md from the locks
	@$(BIN)/python scripts/supply.py

chart: $(DELIVERY_READY)  ## Write what follows from others in the chart: versions, schema, tables, golden files
	@$(BIN)/python scripts/chart.py

release: $(DELIVERY_READY)  ## Build wheel, sdist, chart, bill of materials and checksums into dist
	@$(BIN)/python scripts/release.py

IMAGE ?= ndoo
image:  ## Build the image with Docker, or for PLATFORMS=linux/amd64,linux/arm64 and push it to IMAGE=...
	@VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" && \
	  SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct)" docker buildx build --tag "$(IMAGE):$$VERSION" \
	  --build-arg VERSION="$$VERSION" --build-arg REVISION="$$(git rev-parse HEAD)" \
	  --build-arg CREATED="$$(git log -1 --format=%cI)" \
	  $(if $(PLATFORMS),--platform $(PLATFORMS) --provenance=mode=max --sbom=true --push,--tag $(IMAGE) --load) .

$(CALLERS_READY): $(READY) requirements-callers.lock tests/languages/package-lock.json
	@echo "Adding what the tests of callers run in to .venv: Spark, Java and Node ..."
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes --use-pep517 --no-build-isolation \
	  -r requirements-callers.lock
	@mkdir -p .venv/node && cp tests/languages/package*.json .venv/node && $(NPM) --prefix .venv/node ci --silent
	@touch $@

$(DELIVERY_READY): $(READY) requirements-delivery.lock
	@echo "Adding what proves image, chart and release to .venv ..."
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements-delivery.lock
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

check: $(READY)  ## Formatting, lint, types, layers, the contract beside each released one
	@$(BIN)/ruff format --check --quiet src tests benchmarks scripts
	@$(BIN)/ruff check --quiet src tests benchmarks scripts
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@$(BIN)/buf lint
	@for released in tests/golden/*/proto; do $(BIN)/buf breaking --against $$released || exit 1; done

hooks: $(DELIVERY_READY)  ## Look at each commit for NHS numbers, secrets, format and lint
	@$(BIN)/pre-commit install

format: $(READY)  ## Format the code
	@$(BIN)/ruff format src tests benchmarks scripts
	@$(BIN)/ruff check --fix src tests benchmarks scripts

proto: $(READY)  ## Generate src/ndoo/v1 from the proto
	@$(BIN)/python scripts/generate_proto.py src

lock: $(CALLERS_READY)  ## Renew all locks, from pyproject.toml and tests/languages/package.json
	@$(COMPILE) pyproject.toml --extra server --group dev -o requirements.lock
	@$(COMPILE) pyproject.toml --extra server --extra otel -c requirements.lock -o requirements-server.lock
	@for group in assurance bench build callers delivery; do \
	  $(COMPILE) --group $$group -c requirements.lock -o requirements-$$group.lock || exit 1; done
	@$(NPM) --prefix tests/languages update --package-lock-only --omit-lockfile-registry-resolved --silent

clean:  ## Remove everything that was made
	@rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
