# Two commands do all their own set-up:  make quickstart   and   make test
# The first interpreter that runs and is new enough; version managers leave names on PATH that do not run.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test check comparison clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; run: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Installing into $(VENV): about 1.6 GB, a minute or more without a word"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

# Train No-CoT, Coconut and SIM-CoT on generated problems, compare them, read the thoughts.
quickstart: $(VENV)/.installed
	$(BIN)/unspoken quickstart

# Lint and all tests, two at a time; offline once installed.
test: $(VENV)/.installed
	$(BIN)/ruff check src tests
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist worksteal

# What a change must pass besides: formatting and types.
check: test
	$(BIN)/ruff format --check src tests
	$(BIN)/pyright

# The table in comparison/tiny: 15 methods, 3 seeds, some two hours on 2 free cores.
comparison: $(VENV)/.installed
	$(BIN)/python comparison/tiny/run.py

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
