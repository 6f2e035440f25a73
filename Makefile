# Everything sets itself up: `make test` and `make demo` need Python 3.11 or later, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cksum pyproject.toml | cut -d' ' -f1)

.PHONY: check test demo bench docs format clean

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmembed needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[offline,dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

check: $(STAMP)  ## format, lint, types, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy mmembed
	$(BIN)/python docs/generate.py --check

test: $(STAMP)  ## all tests; MMEMBED_TEST_DATA and MMEMBED_TEST_QDRANT_URL add those on real data and a real server
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

demo: $(STAMP)  ## index what ships with mmembed, search it in every way, write demo.html
	HF_HUB_OFFLINE=1 $(BIN)/mmembed demo --output demo.html

bench: $(STAMP)  ## measurements, as ratios within one run
	HF_HUB_OFFLINE=1 $(BIN)/python -m bench

docs: $(STAMP)  ## write anew what docs/ has from the code
	$(BIN)/python docs/generate.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo.html demo.mm .mypy_cache .ruff_cache .pytest_cache
