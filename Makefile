# Each target makes .venv and installs what it needs when that is missing: the versions in locks/, with their hashes.
PYTHON ?= python3.11
FOUND = $$(command -v $(PYTHON) || echo python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-deployment lint docs dist figures soak lock audit clean

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

# Exact versions for today's ranges of pyproject.toml: all that is installed here, and what the container holds
LOCK = $(VENV)-lock/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-header --upgrade
lock:
	test -x $(VENV)-lock/bin/uv || ($(FOUND) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet 'uv>=0.9,<1')
	$(LOCK) --extra test --extra dist --output-file locks/all.txt
	$(LOCK) --extra deployment --extra privacy --extra build --constraint locks/all.txt --output-file locks/container.txt

# Known faults in what the lock installs; wants a database from outside, so it is run before a release and never in CI
audit: $(VENV)/.installed
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement locks/all.txt

$(VENV)/.installed: pyproject.toml locks/all.txt
	test -x $(BIN)/python || $(FOUND) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement locks/all.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/pip check
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lock
