# Every target sets up what it needs. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
CACHE := $(or $(RAG_INFER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rag_infer)
KERNELS := $(wildcard csrc/*.cpp csrc/*.hpp)
PYTHON_CODE := rag_infer export tests benchmarks setup.py

export RAG_INFER_CACHE := $(CACHE)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-images test models unit lint types sanitize bench bench-peers wheel format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## make .venv, build the kernels, install everything

# hnswlib comes as source; without the switch its wheel would run only on processors like this one.
$(VENV)/.installed: pyproject.toml setup.py .ci/constraints.txt $(KERNELS)
	@echo "[setup] $(VENV), with $$($(PYTHON) --version); the first time takes a few minutes"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rag_infer needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@HNSWLIB_NO_NATIVE=1 $(BIN)/pip install --quiet --disable-pip-version-check \
		--constraint .ci/constraints.txt --editable '.[export,dev]'
	@touch $@

demo: setup  ## export real models, index 10,033 articles, answer five questions
	@$(BIN)/python -m rag_infer.export.demo

demo-images: setup  ## train on easy-VQA (some minutes), export, index, answer its test questions
	@$(BIN)/python -m rag_infer.export.demo.images

test: lint types models unit sanitize  ## run everything that CI runs

models: setup  ## make the models, the bundle and the knowledge base that tests and demo use
	@$(BIN)/python -m rag_infer.export.demo --until kb
	@$(BIN)/python -m rag_infer.export.demo.images --until sources

unit: models  ## run the tests
	CI=1 $(BIN)/python -m pytest --durations=25 --durations-min=5

lint: setup  ## check formatting and style
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/clang-format --dry-run -Werror $(KERNELS)

types: setup  ## check types, strictly
	$(BIN)/python tests/run_types.py

sanitize: setup  ## run the kernel tests under ASan and UBSan
	$(BIN)/python tests/run_sanitizers.py

bench: models  ## run the quick benchmarks; `rag-infer bench --all` runs all of them
	$(BIN)/python -m benchmarks.suite

bench-peers: $(PEERS)/.installed  ## make the environment of the libraries that are compared with

$(PEERS)/.installed: benchmarks/peers.txt
	@echo "[peers] $(PEERS); some minutes"
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
	@touch $@

wheel: setup  ## build a wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

format: setup  ## format the code
	$(BIN)/ruff format $(PYTHON_CODE)
	$(BIN)/ruff check --fix $(PYTHON_CODE)
	$(BIN)/clang-format -i $(KERNELS)

clean:  ## remove what was built, but not the cache
	rm -rf $(VENV) $(PEERS) build dist *.egg-info rag_infer/*.so
