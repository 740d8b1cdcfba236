# make demo   install into .venv, quantize and compile the demo model, segment the demo photograph
# make test   install into .venv, lint, type-check, run the tests
# Two commands at once would fight over the cores and over .venv.
.NOTPARALLEL:
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
OUT := out/demo
DEMO_TARGET ?= native

.PHONY: help install lint test demo clean
help:
	@sed -n 's/^# make /make /p' Makefile

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py requirements.lock
	@test -n "$(PYTHON)" || { echo "error: no python3 found; install Python 3.11 or newer" >&2; exit 2; }
	@test -x $(PY) || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing into $(VENV) (first time: a few minutes)" >&2
	@# The tested versions; some of them need Python 3.11.
	lock=$$($(PY) -c 'import sys; print("-c requirements.lock" if sys.version_info >= (3, 11) else "")'); \
	$(PY) -m pip install -q --disable-pip-version-check $$lock -e '.[host,test]'
	@touch $@

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m vulture

test: lint
	$(PY) -m pytest

demo: $(INSTALLED)
	@mkdir -p $(OUT)
	$(PY) -m iseg_tvm.quantize --checkpoint demo/checkpoint --calibration demo/calibration.png \
	    --classes demo/classes.json -o $(OUT)/model.safetensors
	$(PY) -m iseg_tvm.compile --model $(OUT)/model.safetensors --target $(DEMO_TARGET) -o $(OUT)/bundle
	$(PY) -m iseg_tvm.segment demo/photo.jpg --bundle $(OUT)/bundle -o $(OUT)/overlay.png \
	    --mask $(OUT)/mask.png --repeat 20
	@echo "Look at $(OUT)/overlay.png"

clean:
	rm -rf out build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
