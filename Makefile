# Two commands on a fresh machine with Python >= 3.11 and make: `make demo` and `make test`.
# While editing: `make test-quick`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM_VENV := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready
DOCS_VENV := .venv-docs
DOCS_READY := $(DOCS_VENV)/.ready
# how many processes share the tests; each takes about 1 GB
TEST_PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES)

.PHONY: demo test test-quick test-vllm lint docs clean

demo: $(READY)
	$(BIN)/forkpoint demo --out runs/demo

# a file's tests in one process, so that its fixtures are made once
test: $(READY) lint
	$(PYTEST) --dist loadfile --no-loadscope-reorder

test-quick: $(READY)
	$(PYTEST) --dist worksteal -m 'not slow'

test-vllm: $(VLLM_READY)
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests_vllm

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# fails at a dead link, a dead anchor, or a page that the navigation lacks
docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build
	@echo 'Written: site/index.html'

# torch first and pinned: a looser requirement may take a build for GPUs, several gigabytes of it
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "forkpoint needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

# an environment of its own, since vLLM wants other versions; the CPU build of torch comes from its own index
$(VLLM_READY): pyproject.toml requirements-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-vllm.txt
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(VLLM_READY)

# an environment of its own, so that `make test` does without the site's packages
$(DOCS_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt mkdocs mkdocs-material
	touch $(DOCS_READY)

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(DOCS_VENV) runs site
