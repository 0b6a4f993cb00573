# Two commands do everything: `make serve` and `make test`. Both set up what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
MODEL := .cache/models/smollm2-135m-kv4
TP ?= 2
PORT ?= 30000
ARGS ?=

.PHONY: setup model serve test lint bench

setup: $(VENV)/.patched

# pip's resolver gets the pins that matter as requirements; requirements.txt says why for each.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar off -r requirements.txt
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

# A changed patch set cannot be applied over the old one: put the pristine sglang back first.
$(VENV)/.patched: $(VENV)/.installed $(wildcard patches/sglang-0.5.23/*)
	$(BIN)/python -m amoeba_sglang.patch check || $(BIN)/python -m amoeba_sglang.patch apply || \
	  ($(BIN)/pip install --quiet --no-deps --force-reinstall sglang==0.5.23 && \
	   $(BIN)/python -m amoeba_sglang.patch apply)
	touch $@

model: setup $(MODEL)/config.json

$(MODEL)/config.json: | $(VENV)/.installed
	$(BIN)/python -m amoeba_sglang.bundled_model $(MODEL)

serve: setup model
	$(BIN)/python -m amoeba_sglang.launch_server --model-path $(MODEL) --tp-size $(TP) \
	  --dtype float32 --max-total-tokens 16384 --host 127.0.0.1 --port $(PORT) $(ARGS)

test: setup model lint
	AMOEBA_TEST_MODEL=$(MODEL) $(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: setup model
	$(BIN)/python -m bench
