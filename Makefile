# One target per thing a person wants; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
UPSTREAM ?=
WORKERS ?= 2

.PHONY: help venv install demo test test-influxdb states crash fuzz check servers peers bench bench-long comparison bench-small clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

venv: .venv/.stamp ## create the virtual environment with everything the project uses

# Keyed on pyproject.toml alone: a second run of any target starts at once.
.venv/.stamp: .venv/.product
	@echo "adding what the tests and checks use (about a minute)"
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

.venv/.product: pyproject.toml
	@echo "creating the virtual environment"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet ".[timescale,influxdb,demo]"
	@rm -rf build edgedepot.egg-info
	@touch $@

install: venv ## put the working tree into the environment, as an installed package
	@echo "installing the working tree into .venv"
	@scripts/reinstall

demo: .venv/.product ## run a whole gateway on simulated devices; UPSTREAM=postgresql://... sends to that TimescaleDB
	@scripts/reinstall
	$(BIN)/edgedepot demo $(if $(UPSTREAM),--upstream "$(UPSTREAM)")

servers: install ## fetch the real servers that the tests use into .servers/
	$(BIN)/python -m tests.servers fetch

test: servers ## run all tests, against the installed package and real servers, WORKERS (2) at a time
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST)

test-influxdb: install ## run the storage contract against a real InfluxDB 2: INFLUXDB_URL, _TOKEN, _ORG, _BUCKET
	EDGEDEPOT_TEST_INFLUXDB=1 $(BIN)/python -m pytest tests/storage/conformance/test_influxdb.py $(PYTEST)

states: install ## compare the local store and sync with models in random states; STATES=1500, SEED=n repeats a run
	STATES=$(or $(STATES),1500) $(BIN)/python -m pytest tests/storage/sqlite/test_states.py tests/storage/sqlite/test_room_states.py \
		tests/sync/test_states.py tests/sync/test_scarce_states.py \
		--hypothesis-seed=$(or $(SEED),$(shell date +%s))

crash: install ## rebuild 20,000 states that power cuts may leave of the store, and open each (minutes)
	$(BIN)/python -m tests.crash $(CRASH)

fuzz: install ## open stores whose files atheris changes, for FUZZ seconds (600)
	$(BIN)/python -m tests.storage.sqlite.fuzz -max_total_time=$(or $(FUZZ),600)

check: install ## linter, types, and the rule that imports point downward
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p edgedepot
	$(BIN)/mypy tests examples
	$(BIN)/pyright
	$(BIN)/lint-imports

comparison: install ## ask django-devicehub the same calls, and write docs/comparison.md
	$(BIN)/python -m tests.comparison

# Other libraries, which stand beside ours there and nowhere else. Of ThingsBoard's gateway its storage alone is used.
peers: venv .venv/.peers
.venv/.peers: pyproject.toml
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m pip install --quiet --no-deps thingsboard-gateway==3.8.5
	@touch $@

bench: servers peers ## run the benchmarks at full size, each beside its floor (about 15 minutes)
	$(BIN)/python -m tests.benchmarks

bench-long: servers peers ## the local store's benchmarks with ten times the rows, draining 5 million too (about half an hour)
	$(BIN)/python -m tests.benchmarks.store_ingest --long
	$(BIN)/python -m tests.benchmarks.store_open --long
	$(BIN)/python -m tests.benchmarks.store_aggregate --long
	$(BIN)/python -m tests.benchmarks.sync_drain --long --rounds 1

bench-small: servers ## run the benchmarks at a twentieth, to see that they run; two of them with a million rows
	$(BIN)/python -m tests.benchmarks --scale 0.05
	$(BIN)/python -m tests.benchmarks.store_ingest --rounds 1
	$(BIN)/python -m tests.benchmarks.sync_drain --rounds 1

clean: ## remove everything that was made or fetched
	rm -rf .venv .servers build dist edgedepot.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
