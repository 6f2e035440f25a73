# Everything sets itself up: `make test` and `make demo` need Python 3.11 or later, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# set up anew where the dependencies or the version change
STAMP := $(VENV)/.installed-$(shell { cat pyproject.toml; grep '^__version__' mmembed/__init__.py; } | cksum | cut -d' ' -f1)
OFFLINE := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
# What `make lowest` runs: nearly all that does not start the command line, the service or a browser
FAST := tests/batching tests/classification tests/collection tests/documents tests/encoders tests/evaluation/formats \
	tests/evaluation/test_measures.py tests/retrieval tests/service/test_settings.py tests/sources tests/stores \
	tests/testing tests/images tests/test_statistics.py tests/test_vectors.py

.PHONY: check test drills test-server coverage wheel lowest demo bench docs format clean

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmembed needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --editable '.[offline,dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

check: $(STAMP)  ## format, lint, spelling, types, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/typos
	$(BIN)/mypy mmembed plugins bench tests
	$(BIN)/python docs/generate.py --check

test: $(STAMP)  ## all tests; MMEMBED_TEST_DATA and MMEMBED_TEST_QDRANT_URL add those on real data and a real server
	$(OFFLINE) $(BIN)/pytest $(PARALLEL)

test-server: $(STAMP)  ## the tests that a real server has, one after another: MMEMBED_TEST_QDRANT_URL names it
	@test -n "$(MMEMBED_TEST_QDRANT_URL)" || { echo "MMEMBED_TEST_QDRANT_URL is not set: it names a Qdrant server"; exit 2; }
	$(OFFLINE) $(BIN)/pytest -k server

drills: $(STAMP)  ## kills and damaged files by the hundred, held against what was acknowledged, in minutes
	$(OFFLINE) $(BIN)/pytest -o python_files='drill_*.py' -v tests/drills

coverage: $(STAMP)  ## all tests, and which lines they run; fails below the share in pyproject.toml
	rm -f .coverage .coverage.*
	$(OFFLINE) $(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

wheel: $(STAMP)  ## build what is published, and run the README's Python on it in an environment of its own
	rm -rf dist build/wheel build/readme
	$(BIN)/uv build --quiet
	$(BIN)/uv venv --quiet --python $(BIN)/python build/wheel
	$(BIN)/uv pip install --quiet --python build/wheel "$$(echo dist/*.whl)[offline]"
	mkdir -p build/readme
	cd build/readme && HF_HUB_OFFLINE=1 ../wheel/bin/python -P ../../.ci/readme_on_wheel.py

# libraries of different years warn of each other's deprecations, which is no fault here
lowest: $(STAMP)  ## the fast half of the tests on the lowest version of every direct dependency
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest --resolution lowest-direct --editable '.[offline,dev]'
	$(OFFLINE) build/lowest/bin/pytest $(PARALLEL) -W ignore::DeprecationWarning $(FAST)

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
	rm -rf $(VENV) build dist demo.html demo.mm .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
