# What one can do here; `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
JOBS ?= 2
TRACES ?= ../shared/traces
OUT ?= out

# Everything that the extension module is made from.
RUST_SOURCES := $(shell find twin_core -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock

.PHONY: help setup dev demo test test-rust test-python lint conformance conformance-latest validate \
	calibrate calibrate-cpu bench bench-grid wheel docs lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 24

setup: $(BIN)/pytwin ## make .venv with pytwin in it (release build); nothing to do when up to date

dev: $(VENV)/.dev ## setup, plus the locked tools of a contributor

demo: setup ## the main job: a sweep of one-hour configurations, its table and its plot in out/demo
	$(BIN)/python experiments/demo/run.py -o $(OUT)/demo

test: dev lint test-rust test-python ## what a contributor needs: lints, Rust tests, Python tests

test-rust: ## Rust tests
	cargo test --locked --workspace --quiet

test-python: dev ## Python tests
	$(BIN)/python -m pytest -n $(JOBS) tests

lint: dev ## clippy, rustfmt, ruff, mypy, import-linter
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

conformance: dev ## long: the twin's decisions against vLLM's own code, both versions
	for version in 0.8.5 0.32; do \
	  $(BIN)/pytwin conformance fuzz --engine-version $$version --seeds 80 \
	    --update docs/conformance.md; done

conformance-latest: dev ## the newest vLLM that pip finds: reported, never failing
	-$(BIN)/pytwin conformance latest --seeds 20

validate: setup ## long: the twin against the real runs in TRACES
	mkdir -p $(OUT)
	$(BIN)/pytwin validate --traces $(TRACES) --families dt_real,ml_test --condition arrivals \
	  --interval 0.9 --rows $(OUT)/validate-rows.parquet --out $(OUT)/validate.json

calibrate: dev ## refit the shipped profiles from the traces in TRACES
	$(BIN)/python -m calibration.refit --traces $(TRACES)
	$(BIN)/python -m calibration.crossval --traces $(TRACES) --out $(OUT)/crossval
	$(BIN)/python -m calibration.uncertainty --traces $(TRACES) --held-out $(OUT)/crossval

calibrate-cpu: dev ## long: CPU vLLM and a tiny model, recorded, fitted and judged in OUT/calibrate-cpu
	$(BIN)/python -m calibration.campaign --cpu -o $(OUT)/calibrate-cpu \
	  --update experiments/cpu-campaign/README.md

bench: dev ## long: speed case by case: the core alone, then `pt.simulate` and a sweep
	cargo bench --locked --workspace
	mkdir -p $(OUT)
	$(BIN)/python experiments/speed/bench.py --json $(OUT)/bench.json

bench-grid: setup ## long: CPU-hours of the authors' training grid in TRACES, from a 2 % sample; then with early stop
	$(BIN)/python experiments/speed/grid.py $(TRACES)/paper_twin_simdataset.parquet
	$(BIN)/python experiments/speed/grid.py $(TRACES)/paper_twin_simdataset.parquet --set stop_starving=true

wheel: $(VENV)/.tools ## an abi3 wheel in dist/
	$(BIN)/maturin build --release --locked --strip --out dist

docs: dev ## HTML documentation in out/docs
	$(PIP) install --quiet -r requirements/docs.txt
	$(BIN)/sphinx-build -W -b html docs $(OUT)/docs

lock: $(VENV)/.tools ## write requirements/*.txt anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-find-links \
	  pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-find-links \
	  --group build -o requirements/build.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-find-links \
	  -c requirements/runtime.txt --group dev -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-find-links \
	  -c requirements/runtime.txt -c requirements/dev.txt --extra docs pyproject.toml -o requirements/docs.txt

clean: ## remove what was built (not .venv)
	rm -rf target dist $(OUT) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f pytwin/_core*.so

# -- what the targets above are made of ---------------------------------------------------------

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.tools: requirements/build.txt | $(BIN)/python
	$(PIP) install --quiet -r requirements/build.txt
	touch $@

$(BIN)/pytwin: pyproject.toml requirements/runtime.txt $(VENV)/.tools $(RUST_SOURCES)
	@command -v cargo >/dev/null || { echo "a Rust toolchain is needed: https://rustup.rs" >&2; exit 1; }
	$(PIP) install --quiet -r requirements/runtime.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements/dev.txt $(BIN)/pytwin
	$(PIP) install --quiet -r requirements/dev.txt
	touch $@
