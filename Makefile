# Two commands do it all in a fresh clone: `make demo` and `make test`. Both keep their packages in .venv.

# The first interpreter of at least 3.11; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_THREADS := OMP_NUM_THREADS=1
# One process a core; `make TEST_WORKERS=0` runs them one after the other.
TEST_WORKERS ?= auto
PYTEST = $(TEST_THREADS) $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal

.PHONY: demo test test-long lint clean

demo: $(READY)
	$(BIN)/parity demo --out demo-report

test: $(READY) lint
	$(PYTEST) -m "not long"

test-long: $(READY)
	$(PYTEST) -m long

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/pyright

# Made anew whenever the declared dependencies or the tested versions change.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: install one, or run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[hf,triton,http,plots,dev]"
	@touch $@

clean:
	rm -rf $(VENV) demo-report
