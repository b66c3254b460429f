# The commands of the README. Each sets up what it needs: a virtual environment in this folder, with pinned versions.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test lint clean
demo: $(STAMP)
	$(RUN) tools/compress_model.py tools/recipes/demo.toml

test: $(STAMP)
	$(RUN) -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

clean:
	rm -rf $(VENV) runs

$(STAMP): pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)
