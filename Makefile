# Each target makes .venv and installs what it needs when that is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-deployment lint docs dist figures soak clean

demo: $(VENV)/.installed
	$(BIN)/mfscsn demo

test: $(VENV)/.installed lint
	$(BIN)/python -P -m pytest -n 2 --dist loadfile --ignore tests/deployment

# Real servers and sites on loopback; they are killed, and wait for heartbeats that do not come.
test-deployment: $(VENV)/.installed
	$(BIN)/python -P -m pytest -n 2 --dist loadscope tests/deployment

# 200 rounds while something breaks every minute; about forty minutes
soak: $(VENV)/.installed
	$(BIN)/python -P tests/soak.py

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir dist/docs

# The wheel and the source; the wheel alone, in an empty folder, simulates; what came with it: an SBOM (CycloneDX)
dist: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[dist]'
	$(BIN)/python -m build --outdir dist
	rm -rf dist/environment && $(BIN)/python -m venv dist/environment
	dist/environment/bin/pip install --quiet dist/*.whl
	cd $$(mktemp -d) && $(CURDIR)/dist/environment/bin/mfscsn demo --rounds 2
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-file dist/mfscsn.cdx.json dist/environment
	rm -rf dist/environment

figures: $(VENV)/.installed
	$(BIN)/python -P docs/figures.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $$(command -v $(PYTHON) || echo python3) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV)
