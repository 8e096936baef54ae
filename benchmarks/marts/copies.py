"""The hourly copy of PostgreSQL's devices into ClickHouse, beside COPY of the same query, received and thrown away."""

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from benchmarks.marts.engines import Engines, started
from benchmarks.marts.figure import Figure, figure, in_turn
from ninjait_pipelines.reference.copies import copy
from ninjait_pipelines.resources.clickhouse import sql

SIZES = (10_000, 100_000)
ORGANIZATIONS = 1_000
ADD_ORGANIZATIONS = """
INSERT INTO organizations (id, name, slug, time_zone, created_at)
SELECT gen_random_uuid(), 'Organization ' || n, 'organization-' || n, 'Europe/Berlin', now()
FROM generate_series(1, %(organizations)s) AS n
"""
ADD_DEVICES = """
INSERT INTO devices (id, organization_id, name, kind, os_version, created_at, retired_at)
SELECT
    gen_random_uuid(), o.id, 'host-' || n, (ARRAY['server', 'workstation', 'laptop'])[1 + n %% 3],
    (ARRAY['Debian GNU/Linux 12 (bookworm)', 'Windows 11 Pro', 'macOS 15.1', NULL])[1 + n %% 4],
    now() - n * interval '1 second', CASE WHEN n %% 20 = 0 THEN now() END
FROM generate_series(%(first)s::integer, %(last)s::integer) AS n, organizations AS o
"""


def measure(rounds: int) -> list[Figure]:
    """A tenth of the devices, then all of them."""
    figures = []
    with started() as engines:
        postgres = engines.stores.postgres
        with postgres.transaction() as connection:
            connection.execute(ADD_ORGANIZATIONS, {"organizations": ORGANIZATIONS})
        of_each = 0
        for devices in SIZES:
            first, of_each = of_each + 1, devices // ORGANIZATIONS
            with postgres.transaction() as connection:
                connection.execute(ADD_DEVICES, {"first": first, "last": of_each})
                connection.execute("ANALYZE devices")
            figures += _of(engines, devices, rounds)
    return figures


def _of(engines: Engines, devices: int, rounds: int) -> list[Figure]:
    postgres, clickhouse = engines.stores.postgres, engines.stores.clickhouse
    connection = psycopg.connect(engines.settings["DATABASE_URL"], autocommit=True)  # psycopg as it is
    last: dict[str, Any] = copy("devices", postgres, clickhouse, {}).metadata

    def changed() -> None:
        last.update(copy("devices", postgres, clickhouse, last | {"fingerprint": "another"}).metadata)
        assert not last["unchanged"], last
        assert last["dagster/row_count"] == devices, last

    def unchanged() -> None:
        assert copy("devices", postgres, clickhouse, last).metadata["unchanged"]

    calls: dict[str, Callable[[], object]] = {
        "copy": changed,
        "discard": partial(_discard, connection),
        "unchanged": unchanged,
    }
    servers = [engines.processes[name] for name in ("postgres", "clickhouse")]
    costs = in_turn(rounds, calls, servers)
    connection.close()
    of = f"{devices:,} devices"
    full = {"bound": 1 / 0.3, "aim": 1 / 0.44} if devices == max(SIZES) else {}  # 0.3 and 0.44 of COPY's rate
    return [
        figure(
            "copy",
            f"copy of {of} from PostgreSQL to ClickHouse",
            [cost.wall for cost in costs["copy"]],
            "COPY out",
            [cost.wall for cost in costs["discard"]],
            size=devices,
            **full,
        ),
        figure(
            "copy-cpu",
            f"... of {of}: processor time, servers' included",
            [cost.all_cpu for cost in costs["copy"]],
            "COPY out",
            [cost.all_cpu for cost in costs["discard"]],
            size=devices,
            **full,
        ),
        figure(
            "copy-unchanged",
            f"... of {of}, where nothing changed since the last hour",
            [cost.wall for cost in costs["unchanged"]],
            bound=0.1,
            size=devices,
        ),
        figure(
            "copy-unchanged-cpu",
            f"... of {of}, unchanged: processor time, servers' included",
            [cost.all_cpu for cost in costs["unchanged"]],
            bound=0.1,
            size=devices,
        ),
    ]


def _discard(connection: psycopg.Connection[Any]) -> None:
    statement = f"COPY ({sql('reference/devices').rstrip()}) TO STDOUT (FORMAT csv)"
    with connection.cursor().copy(statement.encode()) as rows:
        for _ in rows:
            pass
