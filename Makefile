# What a person types. Everything needs only Python 3.11 or newer with its venv module, and make.
# PYTHON=/path/to/python3.12 make test    uses that interpreter for the environment.

PYTHON ?= $(firstword $(foreach v,python3 python3.14 python3.13 python3.12 python3.11,$(shell $(v) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(v))))
READY := .venv/.ready
RUN := .venv/bin/python -m
# Where a shell sets it, every worker of pytest rewrites each test's assertions again: twice the time to collect.
unexport PYTHONDONTWRITEBYTECODE
# Several on each core: many tests wait for an engine or a time-out. A file's tests share databases; the files that conftest.py
# names come first.
BY_FILE := --dist loadfile --no-loadscope-reorder
IN_PARALLEL := -n 3 $(BY_FILE)
# What an older ClickHouse may do in another way
ON_OLDER := test_migrations.py test_migrations_stopped.py cli/test_migrate.py resources/test_store.py resources/test_clickhouse.py resources/test_clickhouse_metrics.py \
	ingest/test_ledger.py ingest/test_repaired_ids.py ingest/test_drain.py ingest/test_sinks.py rollup archive
ON_SERVERS := resources local/stack/test_servers.py ingest cli/quarantine cli/test_fleet.py cli/test_queue.py cli/test_status.py rollup archive cache reports operations metrics benchmarks local/fleet faults local/demo

.DEFAULT_GOAL := help
.PHONY: help demo servers test test-fast test-servers test-faults check generated bench bench-marts bench-peers soak format lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(READY) ## a fleet's day through every stage, on real engines
	@$(RUN) ninjait_pipelines.cli demo

servers: ## real RabbitMQ, InfluxDB and S3 into .servers, and older ClickHouses; seven minutes the first time
	@"$(or $(PYTHON),python3)" servers/build.py
	@"$(or $(PYTHON),python3)" servers/engines.py

test: $(READY) ## all tests that need no servers, on real engines from wheels
	@$(RUN) pytest -n 4 $(BY_FILE)

test-fast: $(READY) ## the pure tests, which start no engine: half a minute
	@$(RUN) pytest -n 2 $(BY_FILE) --hypothesis-profile fast -m "not engines and not large and not servers and not faults"

# What can go another way on RabbitMQ, InfluxDB and S3. On those of `make servers`, or of RABBITMQ_URL, INFLUXDB_URL, ...
test-servers: $(READY) ## the contracts, the whole graph and the faults, on RabbitMQ, InfluxDB and S3, and older ClickHouses
	@$(RUN) pytest $(IN_PARALLEL) --servers -m "not faults" $(addprefix ninjait_pipelines_tests/,$(ON_SERVERS))
	@$(RUN) pytest $(IN_PARALLEL) --clickhouse 25.8 $(addprefix ninjait_pipelines_tests/,$(ON_OLDER))
	@$(RUN) pytest $(IN_PARALLEL) --clickhouse 26.3 $(addprefix ninjait_pipelines_tests/,$(ON_OLDER))

test-faults: $(READY) ## a hundred random cuts and kills, on RabbitMQ, InfluxDB and S3
	@$(RUN) pytest -n 3 --servers -m faults

# Settings with which the definitions load: they open no connection.
NOWHERE := DRAGONFLY_URL=redis://nowhere CLICKHOUSE_URL=http://nowhere CLICKHOUSE_USER=x CLICKHOUSE_PASSWORD=x CLICKHOUSE_DATABASE=x \
	DATABASE_URL=postgresql://nowhere/x MONGODB_URL=mongodb://nowhere/x ARCHIVE_URL=file:///nowhere

check: $(READY) ## lint, format, types, definitions, and known vulnerabilities of what is pinned
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@DAGSTER_HOME=$(CURDIR)/.venv $(NOWHERE) PYTHONWARNINGS=ignore $(RUN) dagster definitions validate --log-level error -m ninjait_pipelines.definitions
	@.venv/bin/python .ci/audit.py

bench: $(READY) ## ingest against Telegraf and others, and the roll-up, on real servers; half an hour
	@$(RUN) ninjait_pipelines.cli bench
	@$(RUN) benchmarks.rollup

bench-marts: $(READY) ## what comes after ingest, each piece of work beside its limit; half an hour
	@$(RUN) benchmarks.marts

bench-peers: ## Telegraf into .servers, which make servers builds as well
	@"$(or $(PYTHON),python3)" servers/build.py telegraf

soak: $(READY) ## ingest under load for ten minutes, with restarts and kills: nothing may be lost; 16 minutes in all
	@$(RUN) benchmarks.soak --chart docs/soak.svg $(SOAK)

generated: $(READY) ## writes what follows from declarations: sql/clickhouse/schema.json, tables of docs/contracts.md
	@$(RUN) ninjait_pipelines_tests.generated

format: $(READY) ## mends what ruff can mend
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

lock: $(READY) ## newest versions that pyproject.toml allows -> requirements.txt, and the image's part of them
	@$(RUN) pip install -q uv
	@$(RUN) uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-strip-extras --all-extras --no-emit-index-url pyproject.toml -o requirements.txt
	@$(RUN) uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-strip-extras --extra build --no-emit-index-url -c requirements.txt pyproject.toml -o requirements-image.txt

clean: ## stops the local stack, removes the environment; keeps .ninjait (ninjait down --delete removes that)
	@if [ -x .venv/bin/python ]; then $(RUN) ninjait_pipelines.cli down; fi
	@rm -rf .venv

# An environment made in another folder (the checkout was moved) is made anew: its scripts name that folder.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

$(READY): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found: install it, or name it: PYTHON=/path/to/python3.11 make" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "$(PYTHON) is not Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Installing into .venv (a minute, once) ..."
	@rm -rf .venv && "$(PYTHON)" -m venv .venv
	@{ $(RUN) pip install --require-hashes -r requirements.txt \
		&& $(RUN) pip install --no-deps --no-build-isolation -e . ; } > .venv/install.log 2>&1 || { \
		if grep -qE 'NewConnectionError|ConnectionError|ProxyError|ReadTimeout|ConnectTimeout|name resolution|is unreachable' .venv/install.log; \
		then echo "The packages could not be fetched: is there a network, and does pip reach its index? Details: .venv/install.log" >&2; \
		elif grep -q 'No matching distribution found' .venv/install.log; \
		then echo "$$(sed -n 's/^ERROR: No matching distribution found for \([^ ]*\).*/\1/p' .venv/install.log) does not come for $$(.venv/bin/python -V): name another Python, 3.11 to 3.14: PYTHON=/path/to/python3.12 make" >&2; \
		else echo "The packages could not be installed; the reason is at the end of .venv/install.log" >&2; fi; exit 1; }
	@$(RUN) compileall -q ninjait_pipelines
	@printf '%s\n' "$(CURDIR)" > $(READY)
