"""A month of measured days, of 1,000 organizations with 100 devices each on plan standard, beside plain SQL that counts
the same in the raw tables.

The days are the last thirty that are over. The plain SQL knows no agreement, stores nothing, and counts by UTC days.
"""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from benchmarks.marts.copies import ADD_DEVICES, ADD_ORGANIZATIONS, ORGANIZATIONS
from benchmarks.marts.engines import Engines, started
from benchmarks.marts.figure import Figure, figure, in_turn
from ninjait_pipelines.billing.assets import measure_windows
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.marts import Window
from ninjait_pipelines.reference.copies import copy
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse

DEVICES_EACH, CALLS_A_DAY = 100, 144
# Days that are measured, and those before them that calls and reports are looked for in.
DAYS, BEFORE = 30, 9
DAY = timedelta(days=1)
AGREE = """
INSERT INTO billing.agreements (organization_id, currency, time_zone, term)
SELECT id, 'USD', time_zone, '[2020-01-01,)' FROM organizations
"""
SUBSCRIBE = "SELECT sum(billing.subscribe(id, 'standard', term)) FROM billing.agreements"
SAMPLES = """
INSERT INTO device_metrics_hourly_versions (
    organization_id, device_id, timestamp, sample_count, sample_share, source_tier, first_sample, last_sample, as_of
)
SELECT
    organization_id, id, {day:DateTime('UTC')} + toIntervalHour(n.number) AS hour, 120, 1, 'metrics', hour,
    hour + INTERVAL 55 MINUTE, {day:DateTime('UTC')}
FROM devices CROSS JOIN numbers(24) AS n
"""
CALLS = """
INSERT INTO api_calls_versions (organization_id, timestamp, endpoint, method, status_code, message_id)
SELECT
    id, {day:DateTime('UTC')} + toIntervalSecond(n.number * 600), '/v1/devices', 'GET', if(n.number % 50 = 0, 500, 200),
    generateUUIDv4()
FROM organizations CROSS JOIN numbers({calls:UInt32}) AS n
"""
REPORTS = """
INSERT INTO usage_reports_versions (organization_id, timestamp, storage_gb, backup_gb, message_id)
SELECT id, {day:DateTime('UTC')} + toIntervalHour(n.number), 100 + n.number, 50, generateUUIDv4()
FROM organizations CROSS JOIN numbers(24) AS n
"""
PLAIN = (
    "SELECT uniqExact(device_id) FROM device_metrics_hourly WHERE timestamp >= {start:DateTime('UTC')} "
    "AND timestamp < {end:DateTime('UTC')} GROUP BY organization_id, toDate(timestamp)",
    "SELECT uniqExact(message_id) FROM api_calls WHERE timestamp >= {start:DateTime('UTC')} "
    "AND timestamp < {end:DateTime('UTC')} AND status_code < 500 GROUP BY organization_id, toDate(timestamp)",
    "SELECT avg(storage_gb) FROM usage_reports WHERE timestamp >= {start:DateTime('UTC')} "
    "AND timestamp < {end:DateTime('UTC')} GROUP BY organization_id, toDate(timestamp)",
)


def measure(rounds: int) -> list[Figure]:
    """All days together, and one day alone."""
    with started() as engines:
        end = datetime.combine(datetime.now(UTC).date() - DAY, datetime.min.time(), UTC)
        _fill(engines.stores, end - DAYS * DAY, end)
        return _of(engines, end, rounds)


def _fill(stores: Stores, start: datetime, end: datetime) -> None:
    with stores.postgres.transaction() as connection:
        connection.execute(ADD_ORGANIZATIONS, {"organizations": ORGANIZATIONS})
        connection.execute(ADD_DEVICES, {"first": 1, "last": DEVICES_EACH})
        connection.execute("UPDATE billing.device_terms SET term = '[2020-01-01Z,)'")
        connection.execute(AGREE)
        connection.execute(SUBSCRIBE)
    for table in ("organizations", "devices"):
        copy(table, stores.postgres, stores.clickhouse, {})
    for number in range(-BEFORE, (end - start).days + 1):
        day = start + number * DAY
        stores.clickhouse.command(CALLS, day=day, calls=CALLS_A_DAY)
        stores.clickhouse.command(REPORTS, day=day)
        if number >= -1:
            stores.clickhouse.command(SAMPLES, day=day)


def _of(engines: Engines, end: datetime, rounds: int) -> list[Figure]:
    postgres, clickhouse = engines.stores.postgres, engines.stores.clickhouse
    days = [Window(end - number * DAY, end - (number - 1) * DAY) for number in range(DAYS, 0, -1)]

    def measured(windows: list[Window]) -> None:
        counts = measure_windows(postgres, clickhouse, windows, LeftOut())
        assert sum(rows for rows, _ in counts.values()) == 3 * ORGANIZATIONS * len(windows), counts

    calls: dict[str, Any] = {
        "month": partial(measured, days),
        "plain": partial(_plain, clickhouse, days[0].start, days[-1].end),
        "day": partial(measured, days[-1:]),
    }
    costs = in_turn(rounds, calls, [engines.processes[name] for name in ("postgres", "clickhouse")])
    cpu = {name: [cost.all_cpu for cost in of] for name, of in costs.items()}
    of = f"{ORGANIZATIONS:,} organizations x {DEVICES_EACH} devices"
    month = f"{DAYS} days of billing_events, {of}"
    return [
        figure("billing-month", f"{month}: processor time, servers' included", cpu["month"], bound=15),
        figure("billing-month-plain", f"... {month}", cpu["month"], "plain SQL", cpu["plain"]),
        figure("billing-day", f"... of one day, {of}", cpu["day"]),
    ]


def _plain(clickhouse: ClickHouse, start: datetime, end: datetime) -> None:
    for query in PLAIN:
        clickhouse.rows(query, start=start, end=end)
