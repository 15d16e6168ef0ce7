# `make demo` and `make test` each set up a virtual environment from the lock and do their work.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint setup lock clean

demo: setup
	$(BIN)/marker-lm demo --workdir=.demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar=off --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@

lock:  # needs uv
	uv pip compile --universal --python-version=3.11 --extra=dev --no-header --no-annotate --build-isolation \
		--output-file=requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .demo
