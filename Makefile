# Two commands: `make demo` shows what Stratoscope does, `make test` checks that it does it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
REPORT ?= stratoscope-report-resnet50.html

.PHONY: help demo test lint docs peers clean
help:
	@echo "make demo   install and diagnose ResNet-50; writes $(REPORT)"
	@echo "make test   lint, type check, layers and tests"
	@echo "make docs   build the documentation into site/"
	@echo "make peers  install the peers of the benchmarks"

$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core requirements-dev.txt
	$(PIP) install -c constraints.txt -e '.[torch,openvino,train,postgres]' -r requirements-dev.txt
	touch $@

demo: $(VENV)/.core
	$(BIN)/stratoscope diagnose resnet50 --html $(REPORT)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: lint
	$(BIN)/python -m pytest
	$(MAKE) --no-print-directory docs

# The peers that the benchmarks run beside ours, each in an environment of its own: their pins contradict ours.
peers: .venv-peers/.done .venv-hta/.done
.venv-peers/.done: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r benchmarks/peers/requirements.txt
	touch $@

.venv-hta/.done: benchmarks/peers/hta-requirements.txt
	$(PYTHON) -m venv .venv-hta
	.venv-hta/bin/python -m pip install --quiet -r benchmarks/peers/hta-requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-peers .venv-hta site build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
