"""The metric model: the contract's fields, the tiers and their retention, the schemas of the tables."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

import msgspec
import pyarrow as pa

Aggregate = Literal["mean", "count", "min", "max", "sum", "last"]


class Metric(msgspec.Struct, frozen=True):
    """A metric of the contract. `rule`: which values are valid; `hourly`: its columns in device_metrics_hourly.

    The contract, the schemas below, the stores' queries and the roll-up are derived from it. ClickHouse's columns need
    a migration: `ninjait migrate new NAME --field FIELD` drafts it.
    """

    unit: str
    rule: Literal["number", "percent"] = "number"
    hourly: Mapping[str, Aggregate] = {}


# Other fields are counted and dropped. Append new ones at the end: the stamps of late samples depend on the order.
FIELDS: dict[str, Metric] = {
    "cpu": Metric(
        "percent of all cores, 0 to 100", "percent", {"cpu_avg": "mean", "cpu_max": "max", "cpu_count": "count"}
    ),
    "memory": Metric("MiB in use", hourly={"memory_avg": "mean", "memory_max": "max", "memory_count": "count"}),
    "disk_used": Metric("MiB in use"),  # disk_usage: rollup/hours.py
    "network_in": Metric("bytes received since the previous sample", hourly={"network_in": "sum"}),
    "network_out": Metric("bytes sent since the previous sample", hourly={"network_out": "sum"}),
    "uptime": Metric("seconds since the last boot", hourly={"uptime": "last"}),
    "memory_total": Metric("MiB that the device has", hourly={"memory_total": "last"}),
    "disk_total": Metric("MiB that all fixed local volumes have", hourly={"disk_total": "last"}),
    "disk_free": Metric("MiB free on all fixed local volumes", hourly={"disk_free": "last"}),
}
HOUR = timedelta(hours=1)
AGGREGATES = ("sum", "count", "min", "max", "last")


class Tier(StrEnum):
    """The tiers, finest first; the value names the bucket or table."""

    RAW = "metrics"
    FIVE_MINUTES = "metrics_5m"
    ONE_HOUR = "metrics_1h"


# How far back a tier accepts points. The stores delete RETENTION_GRACE later, so that nothing expires while the next
# tier is still being computed from it.
RETENTION = {Tier.RAW: timedelta(days=7), Tier.FIVE_MINUTES: timedelta(days=90), Tier.ONE_HOUR: timedelta(days=730)}
RETENTION_GRACE = timedelta(days=1)
# The accepted times, relative to now. Device clocks are off by minutes, not by hours.
MAX_CLOCK_SKEW = timedelta(minutes=5)
MAX_AGE = RETENTION[Tier.ONE_HOUR]
# Only the raw tier holds counters: an older reading could no longer be turned into an increase.
MAX_COUNTER_AGE = RETENTION[Tier.RAW]
WIDTH = {Tier.FIVE_MINUTES: timedelta(minutes=5), Tier.ONE_HOUR: timedelta(hours=1)}

_KEY = [
    pa.field("organization_id", pa.string(), nullable=False),
    pa.field("device_id", pa.string(), nullable=False),
    pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
]
# One row per sample: what `write` takes and `read` returns.
POINTS = pa.schema([*_KEY, *(pa.field(name, pa.float64()) for name in FIELDS)])
# One row per device and window, `time` being the window's start: what `aggregate` returns and `write_aggregates` takes.
# `samples` counts all samples, `<field>_count` those that carry the field. `covered` is the number of minutes that
# samples cover (see coverage.py); `several_senders` is 1 if several machines or agents write as this device in the hour
# (see counters.py), else 0.
WINDOWS = pa.schema(
    [
        *_KEY,
        pa.field("samples", pa.float64(), nullable=False),
        pa.field("covered", pa.float64(), nullable=False),
        pa.field("several_senders", pa.float64(), nullable=False),
        *(pa.field(f"{name}_{aggregate}", pa.float64()) for name in FIELDS for aggregate in AGGREGATES),
    ]
)
# The agent that sent the reading: two agents on one device read the same counter at different moments. "" in rows
# written before 0.4.0.
_SOURCE = pa.field("source", pa.string(), nullable=False)
SAMPLE = ["organization_id", "device_id", "time"]
# One row per reading of an interface: bytes received and sent since the device booted. Full resolution only.
COUNTERS = pa.schema(
    [
        *_KEY[:2],
        _SOURCE,
        pa.field("interface", pa.string(), nullable=False),
        _KEY[2],
        pa.field("network_in", pa.float64()),
        pa.field("network_out", pa.float64()),
    ]
)
# One row per reading of a fixed local volume, in MiB. `disk` is its disk or partition, "" if the agent does not report
# it; `volume` is the mount point, drive letter or name. Full resolution only.
VOLUMES = pa.schema(
    [
        *_KEY[:2],
        _SOURCE,
        pa.field("disk", pa.string(), nullable=False),
        pa.field("volume", pa.string(), nullable=False),
        _KEY[2],
        *(pa.field(name, pa.float64()) for name in ("used", "total", "free")),
    ]
)
# A reading is compared to the previous one only if that is no older than this; otherwise a reset in between would go
# unnoticed, and it starts a new series. So a late reading changes its own hour and the next one, and no other.
COUNTER_GAP = timedelta(hours=1)


def check_window(start: datetime, stop: datetime, every: timedelta) -> None:
    """Raises ValueError for a window that is not UTC, not aligned to `every`, or empty."""
    for name, moment in (("start", start), ("stop", stop)):
        if moment.utcoffset() != timedelta(0):
            raise ValueError(f"{name}={moment.isoformat()} is not in UTC")
        if moment.timestamp() % every.total_seconds():
            raise ValueError(f"{name}={moment.isoformat()} is not a multiple of {every}")
    if start >= stop:
        raise ValueError(f"start={start.isoformat()} is not before stop={stop.isoformat()}")


def tier_of(moment: datetime, now: datetime) -> Tier | None:
    """The finest tier that still accepts a point of this time; None if it is too old for all of them."""
    age = now - moment
    return next((tier for tier, kept in RETENTION.items() if age <= kept), None)
