# Every target makes .venv by itself when it is missing. PYTHON names the interpreter to make it with.
PYTHON ?= python3
BIN := .venv/bin
# What is imported is compiled then; pip would compile thousands of files that never are.
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

.PHONY: setup simulate test test-slow test-gpu check bench-merge bench-train clean

setup: .venv/ready

# torch first and alone, by the exact version of constraints.txt: whatever build the package index has of it is taken.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	$(INSTALL) --editable '.[formats,simulation]'
	touch $@

# What tests and checks need besides: a newcomer's first run does not wait for it.
.venv/dev: .venv/ready
	$(INSTALL) --editable '.[dev]'
	touch $@

simulate: .venv/ready
	$(BIN)/cogen simulate configs/quickstart.toml --overwrite

# Three at a time: many tests wait for processes of their own.
test: .venv/dev
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-slow: .venv/dev
	$(BIN)/python -m pytest -m 'slow or network'

# On a machine with an NVIDIA GPU; some tests need two.
test-gpu: .venv/dev
	$(INSTALL) --editable '.[gpu]'
	$(BIN)/python -m pytest -m gpu

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# ARGS goes to the script: make bench-merge ARGS="--cases 135m --json merge.json"
bench-merge: .venv/dev
	$(BIN)/python benchmarks/merge.py $(ARGS)

bench-train: .venv/dev
	$(BIN)/python benchmarks/train.py $(ARGS)

clean:
	rm -rf .venv build dist
