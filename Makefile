# Two commands: `make demo` shows what Stratoscope does, `make test` checks that it does it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
REPORT ?= stratoscope-report-resnet50.html

.PHONY: help demo test lint docs clean
help:
	@echo "make demo   install and diagnose ResNet-50; writes $(REPORT)"
	@echo "make test   lint, type check, layers and tests"
	@echo "make docs   build the documentation into site/"

$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core requirements-dev.txt
	$(PIP) install -c constraints.txt -e '.[torch,train,postgres]' -r requirements-dev.txt
	touch $@

demo: $(VENV)/.core
	$(BIN)/stratoscope diagnose resnet50 --html $(REPORT)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict --quiet

test: lint
	$(BIN)/python -m pytest
	$(MAKE) --no-print-directory docs

clean:
	rm -rf $(VENV) site build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
