"""What metrics are: the fields of the contract, the tiers and how long each keeps them, the schemas of the tables."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

import msgspec
import pyarrow as pa

Aggregate = Literal["mean", "count", "min", "max", "sum", "last"]


class Metric(msgspec.Struct, frozen=True):
    """A metric of the contract. `rule`: what values it may have; `hourly`: its columns of device_metrics_hourly.

    The contract, the schemas below, the queries of the stores and the roll-up follow from it. The columns of ClickHouse
    are a migration's, which `ninjait migrate new NAME --field FIELD` drafts.
    """

    unit: str
    rule: Literal["number", "percent"] = "number"
    hourly: Mapping[str, Aggregate] = {}


# Others are counted and left out. New ones stand at the end: the stamps of late samples have their numbers.
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
    """The tiers, finest first; the value is the name of the bucket or table."""

    RAW = "metrics"
    FIVE_MINUTES = "metrics_5m"
    ONE_HOUR = "metrics_1h"


# How far back a tier takes points. The stores themselves delete MARGIN later, so that nothing expires while the next
# tier is still being made from it.
RETENTION = {Tier.RAW: timedelta(days=7), Tier.FIVE_MINUTES: timedelta(days=90), Tier.ONE_HOUR: timedelta(days=730)}
RETENTION_GRACE = timedelta(days=1)
# Which times are accepted, relative to now. Device clocks are off by minutes, not by hours.
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
# One row a sample: what `write` takes and `read` gives.
POINTS = pa.schema([*_KEY, *(pa.field(name, pa.float64()) for name in FIELDS)])
# One row a device and window, `time` being the window's start: what `aggregate` gives and `write_aggregates` takes.
# `samples` counts the samples whatever fields they carry; `<field>_count` those that carry the field. `covered` is the
# minutes that samples cover (see coverage.py); `several_senders` is 1 where several machines or agents write as this
# device in the hour (see counters.py), else 0.
WINDOWS = pa.schema(
    [
        *_KEY,
        pa.field("samples", pa.float64(), nullable=False),
        pa.field("covered", pa.float64(), nullable=False),
        pa.field("several_senders", pa.float64(), nullable=False),
        *(pa.field(f"{name}_{aggregate}", pa.float64()) for name in FIELDS for aggregate in AGGREGATES),
    ]
)
# Which agent a reading came from: two agents on one device read one counter at different moments. "" in rows that were
# written before 0.4.0.
_SOURCE = pa.field("source", pa.string(), nullable=False)
SAMPLE = ["organization_id", "device_id", "time"]
# One row a reading of an interface: bytes received and sent since its device booted. Full resolution only.
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
# One row a reading of a fixed local volume, in MiB. `disk` is the disk or partition that it lies on, "" where the agent
# does not say: mounted twice, it is one; `volume` is the mount point, drive letter or name. Full resolution only.
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
# A reading increases the one before it where that is not older than this; else nobody knows what lies between, and it
# only begins a new series. So a reading that comes late changes its own hour and the next one, and no other.
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
    """The finest tier that still takes a point of this moment; None where even the last is too young for it."""
    age = now - moment
    return next((tier for tier, kept in RETENTION.items() if age <= kept), None)
