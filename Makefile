# Two commands do all: `make demo` and `make test`. They create .venv and install what they need from the package index.

# Any Python from 3.11 on; choose another with `make PYTHON=python3.12 …`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Never ask pip to look for a newer pip, and keep its output short.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help setup demo test tools lint unit results clean
.DELETE_ON_ERROR:

help:
	@echo "make demo     the main job from end to end on real data (creates .venv first)"
	@echo "make test     lint and all tests"
	@echo "make setup    .venv with the command .venv/bin/popshift"
	@echo "make tools    place and route, and the loader of boards: popshift build, popshift deploy"
	@echo "make lint     ruff and pyright;  make unit: the tests alone"
	@echo "make results  measure again what docs/results.md reports (places and routes for hours)"
	@echo "make clean    remove .venv and everything built"

setup: $(VENV)/.installed-test

demo: setup
	$(BIN)/popshift demo

test: lint unit

unit: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 20

tools: $(VENV)/.installed-build

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

results: setup $(VENV)/.installed-build
	mkdir -p results
	$(BIN)/popshift bench -c a8 --speed --json > results/bench-a8.json
	$(BIN)/popshift bench -c a16 --speed --area --json > results/bench-a16.json
	$(BIN)/popshift bench -c a32 --speed --json > results/bench-a32.json
	$(BIN)/popshift bench dscnn -c icebreaker --json > results/bench-icebreaker.json
	$(BIN)/popshift bench --decompose --json > results/decompose.json
	$(BIN)/popshift bench --smartdeal -c a8 --json > results/smartdeal-a8.json
	$(BIN)/popshift bench --smartdeal -c a16 --area --json > results/smartdeal-a16.json
	$(BIN)/popshift bench --binary -c a16 --json > results/binary-a16.json
	$(BIN)/popshift bench --training --json > results/binary-training.json
	$(BIN)/popshift bench --link -c tiny -c a16 --json > results/link.json
	$(BIN)/popshift build --board icebreaker --seeds 3 --json -o results > results/build-icebreaker.json
	$(BIN)/popshift build --board ulx3s-12f --seeds 3 --json -o results > results/build-ulx3s-12f.json
	$(BIN)/popshift build --board ulx3s-85f --json -o results > results/build-ulx3s-85f.json
	$(BIN)/popshift build --board tangnano-20k --seeds 3 --json -o results > results/build-tangnano-20k.json
	$(BIN)/popshift build --board tangnano-9k --json -o results > results/build-tangnano-9k.json
	$(BIN)/popshift build --board orangecrab-25f --json -o results > results/build-orangecrab-25f.json
	$(BIN)/popshift build --board colorlight-i5 --json -o results > results/build-colorlight-i5.json
	$(BIN)/popshift build --board colorlight-i9 --json -o results > results/build-colorlight-i9.json
	$(BIN)/popshift build shift512 --device lfe5u-85f --unit mesh --seeds 1 --json > results/build-shift512.json
	$(BIN)/python -m popshift.gen.bench.document results docs/results.md

clean:
	rm -rf $(VENV) build results src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find hw boards firmware_py sim gen tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is missing or older than 3.11; install a newer one and run: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: cannot create $(VENV); on Debian and Ubuntu run: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# One stamp per set of extras: .installed-test, .installed-lint, .installed-build. A change of pyproject.toml installs again.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/.python
	$(PIP) install -e '.[$*]'
	@touch $@
