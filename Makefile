# Two commands do it all in a fresh clone: `make demo` and `make test`. Both keep their packages in .venv.

# The first interpreter of at least 3.11; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LAB_READY := $(VENV)/.notebooks
TEST_THREADS := OMP_NUM_THREADS=1
# One process a core; `make TEST_WORKERS=0` runs them one after the other.
TEST_WORKERS ?= auto
PYTEST = $(TEST_THREADS) $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal

# Engines of other people: built or fetched once, kept here, and used wherever they are found.
ENGINES := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/parity-lab
WHEELS := $(ENGINES)/wheels
LLAMA := $(shell sed -n 's/^llama-cpp-python==\([^ ]*\) .*/\1/p' engines/llama.txt)
LLAMA_WHEEL = $(firstword $(wildcard $(WHEELS)/llama_cpp_python-$(LLAMA)-*.whl))
# A wheel for any machine of this kind: no instruction set of the one that built it, no downloads, no vision models.
LLAMA_BUILD := -DGGML_NATIVE=OFF -DLLAMA_CURL=OFF -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF

.PHONY: install demo test test-long lint clean engines engines-llama engines-vllm use-engines notebook

# Sets up .venv, and nothing else.
install: $(READY)

demo: $(READY)
	$(BIN)/parity demo --out demo-report

test: $(READY) lint use-engines
	$(PYTEST) -m "not long"

test-long: $(LAB_READY) use-engines
	$(PYTEST) -m long

# Builds what is missing: five to eight minutes for llama.cpp on two cores, once for each version; vLLM is fetched.
engines: engines-llama engines-vllm

engines-llama: $(READY)
	@mkdir -p $(WHEELS)
	@test -n "$(LLAMA_WHEEL)" || CMAKE_ARGS="$(LLAMA_BUILD)" $(BIN)/python -m pip wheel --no-deps --no-binary llama-cpp-python \
		--require-hashes --requirement engines/llama.txt --wheel-dir $(WHEELS)
	@$(MAKE) --no-print-directory use-engines

# vLLM's build for CPUs is one for Python 3.11 and its own packages: an environment apart, every file pinned by its hash.
engines-vllm: .engines/vllm/.ready

ENGINE_PYTHON ?= python3.11
.engines/vllm/.ready: engines/vllm.txt
	rm -rf .engines/vllm
	$(ENGINE_PYTHON) -m venv .engines/vllm
	.engines/vllm/bin/python -m pip install --quiet --no-deps --require-hashes --requirement $<
	.engines/vllm/bin/python -c "import vllm"
	@touch $@

# Nothing is built here: an engine that is not there is a skip, which the tests count with its reason.
use-engines: $(READY)
	@if test -n "$(LLAMA_WHEEL)"; then $(BIN)/python -m pip install --quiet --no-deps --no-index "$(LLAMA_WHEEL)"; fi

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/pyright

# Made anew whenever the declared dependencies or the tested versions change.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: install one, or run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[hf,triton,http,llama_cpp,plots,dev]"
	@touch $@

# JupyterLab and what the notebooks show beside figures; the other targets do without.
$(LAB_READY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[notebooks]"
	@touch $@

# The notebooks as JupyterLab opens them, made from their sources; a change there is written back by jupytext.
# On a machine without a screen, or as root: make notebook LAB="--no-browser --allow-root".
LAB ?=
notebook: $(LAB_READY)
	cd notebooks && ../$(BIN)/jupytext --quiet --update --to ipynb *.py && ../$(BIN)/jupyter lab $(LAB)

clean:
	rm -rf $(VENV) demo-report notebooks/*.ipynb
