# Commands for development. `make demo` and `make test` need only python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE := .venv-engine
CLIENTS := .venv-clients
AGENTS := .venv-agents
NODE_CLIENTS := tests/clients/node
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-kill soak cancel floods fuzz drill cluster-drill chaos large-store stalls lint format format-check typecheck check build smoke bench store-costs throughput test-engine test-clients clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Dependencies of the running program only: no development tools, no package build, and no byte-compilation of modules
# that are never imported.
$(VENV)/.run-ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > $(VENV)/run.txt
	$(PIP_INSTALL) --no-compile -r $(VENV)/run.txt -c constraints.txt
	@touch $@

$(VENV)/.ready: $(VENV)/.run-ready
	$(PIP_INSTALL) -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(VENV)/.run-ready ## Start a mock upstream and a sidecar on port 8787
	@$(BIN)/python -m sidecar demo

test: $(VENV)/.ready ## Run the tests, and list skipped ones with the reason
	$(BIN)/python -m pytest -q -rs

test-kill: $(VENV)/.ready ## Kill the sidecar 100 times under load, on each store, and check the counters (minutes)
	ROUNDS=$${ROUNDS:-100} $(BIN)/python -m pytest -q -s tests/conformance/test_kill.py

soak: $(VENV)/.ready ## Look for leaks and long steps in 10,000 failures and aborts (MINUTES=10: then under full load)
	SOAK=$${SOAK:-10000} $(BIN)/python -m pytest -q -s tests/conformance/test_soak.py
	$(if $(MINUTES),PYTHONPATH=tests/doubles $(BIN)/python bench/soak.py --minutes $(MINUTES))

cancel: $(VENV)/.ready ## Measure how soon the upstream request is closed after its client has disconnected
	PYTHONPATH=tests/doubles $(BIN)/python bench/cancel.py

floods: $(VENV)/.ready ## Measure memory under floods of unfinished heads and bodies, and how many clients read the refusal
	PYTHONPATH=tests/doubles $(BIN)/python bench/floods.py

drill: $(VENV)/.ready ## Send 1,000 calls to a failing upstream, and count the requests that reach it
	PYTHONPATH=tests/doubles $(BIN)/python bench/outage.py

cluster-drill: $(VENV)/.ready ## Kill, suspend and move the nodes of a Redis cluster under load, and check the counters (ROUNDS=3)
	PYTHONPATH=tests/doubles $(BIN)/python bench/cluster_drill.py $(CLUSTER_DRILL)

chaos: $(VENV)/.ready ## Kill and suspend three sidecars on one SQLite file under load, lock the file, and audit (SECONDS=120 SEED=1)
	PYTHONPATH=tests/doubles $(BIN)/python bench/chaos.py

large-store: $(VENV)/.ready ## Measure waits for the lock of a SQLite store with 1,000,000 counters (ROWS=1000000)
	PYTHONPATH=tests/doubles $(BIN)/python bench/large_store.py

stalls: $(VENV)/.ready ## Print the longest step of the event loop for each hostile request and answer (STALLS=--only=models)
	PYTHONPATH=tests/doubles $(BIN)/python bench/stalls.py $(STALLS)

fuzz: $(VENV)/.ready ## Send mutated requests and answers until it is interrupted (FUZZ_SEED=1 FUZZ_CASES=10000 FUZZ_WIRE=client)
	PYTHONPATH=tests/doubles $(BIN)/python tests/fuzz/fuzz.py $(if $(FUZZ_WIRE),--wire $(FUZZ_WIRE))

lint: $(VENV)/.ready ## Lint with ruff, all rules
	$(BIN)/ruff check .

format: $(VENV)/.ready ## Format the code
	$(BIN)/ruff format .

format-check: $(VENV)/.ready ## Check the format
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.ready ## Check the types with mypy --strict
	$(BIN)/mypy

check: lint format-check typecheck ## Run lint, format-check and typecheck

build: $(VENV)/.ready ## Build the wheel into dist/
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m build --wheel --outdir dist

smoke: build ## Install the wheel into a clean environment, and run it
	rm -rf .venv-smoke
	$(PYTHON) -m venv .venv-smoke
	.venv-smoke/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl -c constraints.txt
	.venv-smoke/bin/python -I .ci/smoke.py .venv-smoke/bin/sidecar
	rm -rf .venv-smoke

bench: $(VENV)/.ready ## Measure the overhead, compared with nginx if it is installed (5 minutes; BENCH=--quick)
	@mkdir -p build
	$(BIN)/python bench/run.py --json build/bench.json $(BENCH)
	$(BIN)/python bench/ledger.py

store-costs: $(VENV)/.ready ## Print the CPU and the bytes of a call in each store (2 minutes; COSTS=--runs=3)
	@mkdir -p build
	$(BIN)/python bench/store_costs.py --json build/store-costs.json $(COSTS)

throughput: $(VENV)/.ready ## Print the calls per second of one Redis core and of one sidecar process (2 minutes)
	@mkdir -p build
	$(BIN)/python bench/throughput.py --json build/throughput.json $(THROUGHPUT)

$(ENGINE)/.ready: constraints-engine.txt
	$(PYTHON) -m venv $(ENGINE)
	$(ENGINE)/bin/python -m pip install --quiet --disable-pip-version-check 'llama-cpp-python[server]' xllamacpp gguf numpy -c constraints-engine.txt
	@touch $@

test-engine: $(VENV)/.ready $(ENGINE)/.ready ## Test against a real engine, llama.cpp (builds it first, which takes minutes)
	ENGINE_PYTHON=$(ENGINE)/bin/python $(BIN)/python -m pytest -q -rs tests/real_engine -o addopts=

$(CLIENTS)/.ready: constraints-clients.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-clients.txt
	@touch $@

# Clients that need openai 3, which others do not accept yet.
$(AGENTS)/.ready: constraints-agents.txt
	$(PYTHON) -m venv $(AGENTS)
	$(AGENTS)/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-agents.txt
	@touch $@

# No scripts of packages run, and no lock file is written: package.json pins exact versions.
$(NODE_CLIENTS)/node_modules/.ready: $(NODE_CLIENTS)/package.json
	cd $(NODE_CLIENTS) && npm install --silent --no-package-lock --ignore-scripts
	@touch $@

test-clients: $(VENV)/.ready $(CLIENTS)/.ready $(AGENTS)/.ready ## Compare what unmodified client libraries see direct and through the sidecar (installs them first)
	@if command -v node >/dev/null && command -v npm >/dev/null; then $(MAKE) --no-print-directory $(NODE_CLIENTS)/node_modules/.ready; \
	else echo "node and npm are not both installed: the npm clients (openai, the AI SDK) are skipped"; fi
	CLIENTS_PYTHON=$(CLIENTS)/bin/python AGENTS_PYTHON=$(AGENTS)/bin/python $(BIN)/python -m pytest -q -rs tests/clients -o addopts= -p no:cacheprovider

clean: ## Remove the files that other targets create
	rm -rf $(VENV) $(ENGINE) $(CLIENTS) $(AGENTS) tests/*/node/node_modules .venv-smoke dist build .mypy_cache .ruff_cache .hypothesis *.egg-info
