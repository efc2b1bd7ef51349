# Needs Python 3.11 or newer and make; everything else goes into .venv.
#   make quickstart   the study in six minutes, and the path of its report
#   make test         every quick test (10 minutes at most on 2 cores)
#   make test-slow    the tests of minutes
#   make lint         ruff and pyright
#   make clean        remove .venv and caches; runs/ stays

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# One thread per process: two thread pools on the same cores collapse under load.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: quickstart test test-slow lint install clean

quickstart: install
	$(BIN)/flowlab study run quickstart --budget 6m
	@echo "$(CURDIR)/runs/quickstart/report.html"

test: install
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow" --numprocesses 2

test-slow: install
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow --timeout 1800

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("flowlab needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[study,zoo,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
