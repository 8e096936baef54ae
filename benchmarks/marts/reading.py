"""Reading: the hours of 90 days of a fleet, some of them computed again.

The limit of each query is the same query on a table of the same rows and sort key without versions. Counted is
ClickHouse's processor time. That table is asked without the index by device, which came with reading without FINAL: a
device's month is asked of it with the index, too.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import psutil
import pyarrow as pa

from benchmarks.marts.engines import started
from benchmarks.marts.figure import Figure, figure, in_turn
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_schema import mart_columns, mart_rows
from ninjait_pipelines.resources.clickhouse_versions import token, with_markers

SIZES, HOURS, RERUNS = (1_000, 10_000), 90 * 24, 24
MART, PLAIN = "device_metrics_hourly", "device_metrics_hourly_plain"
HOUR = timedelta(hours=1)
ORGANIZATION, DEVICE = "reinterpretAsUUID(sipHash128(intDiv(n, 10)))", "reinterpretAsUUID(sipHash128(n + 1000000))"
QUERIES = {
    "a device's month by its id alone": (
        "SELECT timestamp, cpu_avg, cpu_max, memory_avg FROM {} "
        "WHERE device_id = (SELECT reinterpretAsUUID(sipHash128(toUInt64(1000321)))) "
        "AND timestamp >= now() - INTERVAL 30 DAY ORDER BY timestamp",
        20,
    ),
    "the fleet's top ten of 7 days": (
        "SELECT device_id, avg(cpu_avg) AS mean FROM {} WHERE timestamp >= now() - INTERVAL 7 DAY "
        "GROUP BY device_id ORDER BY mean DESC LIMIT 10",
        1,
    ),
    "the last 24 hours by hour": (
        "SELECT timestamp, avg(cpu_avg), max(cpu_max), sum(sample_count) FROM {} "
        "WHERE timestamp >= now() - INTERVAL 24 HOUR GROUP BY timestamp ORDER BY timestamp",
        1,
    ),
    "the published query of 30 days": (
        "SELECT device_id, avg(cpu_avg) AS avg_cpu, max(cpu_max) AS peak_cpu FROM {} "
        "WHERE timestamp >= now() - INTERVAL 30 DAY GROUP BY device_id ORDER BY peak_cpu DESC",
        1,
    ),
}  # and how many of it are one measurement: a server's processor time is counted in hundredths of a second
LIMITS = (
    ("a table without versions", " SETTINGS use_skip_indexes = 0"),
    ("a table without versions, with the index by device", ""),
)


def measure(rounds: int) -> list[Figure]:
    """The mart's queries after reruns, and while an hour is replaced.

    Of the smaller fleet, for the chart, some; a query costs some ten milliseconds whatever it reads, so that its ratios
    say nothing, and have no bound.
    """
    return [one for devices in SIZES for one in _of(devices, rounds)]


def _of(devices: int, rounds: int) -> list[Figure]:
    with started() as engines:
        clickhouse, server = engines.stores.clickhouse, engines.processes["clickhouse"]
        first = fill(clickhouse, devices)
        hours = [first + number * HOUR for number in range(HOURS)]
        reruns = hours[-30 * 24 :: 30 * 24 // RERUNS]
        for hour in reruns:
            clickhouse.replace_slice(MART, of_hour(clickhouse, hour), clickhouse.now(), [hour])
        measured = partial(_figures, clickhouse, server, rounds, devices)
        found = measured(_queries("after reruns"))
        if devices < SIZES[-1]:
            return found
        version = with_markers(MART, of_hour(clickhouse, reruns[-1]), as_of := clickhouse.now(), [reruns[-1]])
        clickhouse.insert(f"{MART}_versions", version, once=token(MART, as_of, [reruns[-1]]))
        return found + measured(_queries("while an hour is replaced"))


def fill(clickhouse: ClickHouse, devices: int) -> datetime:
    """The hours of all devices, a table without versions beside the mart's; the first hour."""
    storage = f"{MART}_versions"
    key = "PARTITION BY toYYYYMM(timestamp) ORDER BY (organization_id, device_id, timestamp)"
    clickhouse.command(f"CREATE TABLE {PLAIN} AS {storage} ENGINE = MergeTree {key}")
    as_of = clickhouse.now()
    first = as_of.replace(minute=0, second=0, microsecond=0) - HOURS * HOUR
    for day in range(HOURS // 24):
        clickhouse.command(
            f"INSERT INTO {PLAIN} (organization_id, device_id, timestamp, cpu_avg, cpu_max, cpu_count, memory_avg, "  # noqa: S608
            "memory_max, memory_count, sample_count, sample_share, source_tier, as_of) "
            f"SELECT {ORGANIZATION}, {DEVICE}, {{start:DateTime('UTC')}} + toIntervalHour(number % 24), "
            "rand(1) % 100, 50 + rand(2) % 50, 120, 1000 + rand(3) % 1000, 3000 + rand(4) % 100, 120, 120, 1, "
            "'metrics', {as_of:DateTime64(6, 'UTC')} "
            f"FROM (SELECT number, intDiv(number, 24) AS n FROM numbers({devices * 24}))",
            start=first + day * 24 * HOUR,
            as_of=as_of,
        )
    clickhouse.command(f"OPTIMIZE TABLE {PLAIN} FINAL")
    clickhouse.command(f"ALTER TABLE {storage} ATTACH PARTITION ALL FROM {PLAIN}")
    # The markers of these rows' version, as if each hour's run had written both.
    clickhouse.replace_slice(MART, mart_rows(MART, []), as_of, [first + number * HOUR for number in range(HOURS)])
    return first


def of_hour(clickhouse: ClickHouse, hour: datetime) -> pa.Table:
    """The rows of an hour, as its rerun writes them."""
    query = (
        "SELECT * EXCEPT (as_of) REPLACE (toDateTime64(timestamp, 3, 'UTC') AS timestamp) "  # noqa: S608
        f"FROM {PLAIN} AS p WHERE p.timestamp = {{hour:DateTime('UTC')}}"
    )
    return mart_columns(MART, clickhouse.arrow(query, hour=hour))


class Contest(NamedTuple):
    """A query of ours and its limit; `times` of them are one measurement of the largest fleet."""

    name: str
    ours: str
    limit: str
    limit_name: str
    times: int
    bound: float
    aim: float | None


def _queries(state: str) -> list[Contest]:
    return [
        Contest(f"{name}, {state}", query.format(MART), query.format(PLAIN) + settings, limit, times, 1.5, 1.1)
        for name, (query, times) in QUERIES.items()
        for limit, settings in LIMITS[: 1 + (times > 1)]
    ]


def _figures(
    clickhouse: ClickHouse, server: psutil.Process, rounds: int, devices: int, contests: Iterable[Contest]
) -> list[Figure]:
    return [_figure(clickhouse, server, rounds, devices, one) for one in contests]


def asking(clickhouse: ClickHouse, query: str, times: int) -> Callable[[], None]:
    """Asks so many times."""

    def ask() -> None:
        for _ in range(times):
            clickhouse.client.query(query)

    return ask


def _figure(clickhouse: ClickHouse, server: psutil.Process, rounds: int, devices: int, one: Contest) -> Figure:
    times = one.times * (SIZES[-1] // devices)
    calls = {which: asking(clickhouse, query, times) for which, query in (("ours", one.ours), ("limit", one.limit))}
    costs = in_turn(rounds, calls, [server])
    seconds = {which: [cost.servers / times for cost in found] for which, found in costs.items()}
    return figure(
        one.name,
        f"{devices:,} devices, {devices * HOURS:,} hours of them",
        seconds["ours"],
        one.limit_name,
        seconds["limit"],
        bound=one.bound if devices == SIZES[-1] else None,
        aim=one.aim if devices == SIZES[-1] else None,
        size=devices,
    )
