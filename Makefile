# One target per thing a person wants; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
UPSTREAM ?=

.PHONY: help venv install demo test check bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: .venv/.stamp ## create the virtual environment with everything the project uses

# Keyed on pyproject.toml alone: a second run of any target starts at once.
.venv/.stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --group dev
	mkdir -p gateway && $(BIN)/python -m pip install --quiet ".[timescale,influxdb,demo]"
	rm -rf build edgedepot.egg-info
	touch $@

install: venv ## put the working tree into the environment, as an installed package
	@scripts/reinstall
