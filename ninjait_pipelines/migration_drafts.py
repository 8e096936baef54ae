"""Drafts of migrations, from what the code declares. Read one before it is committed: it is never edited afterwards."""

from collections.abc import Iterator
from pathlib import Path

from ninjait_pipelines.errors import UserError
from ninjait_pipelines.metrics.model import AGGREGATES, FIELDS, Tier
from ninjait_pipelines.paths import SQL

_WORDS = {"sum": "Sum", "min": "Least", "max": "Greatest", "last": "Last"}
_HOURLY = {"mean": "Mean", "count": "Samples that carry it", **_WORDS}


def new_migration(name: str, field: str | None = None, folder: Path = SQL / "clickhouse") -> Path:
    """Writes the next migration of ClickHouse: an empty one, or one that adds the columns of a metric of FIELDS."""
    newest = max((int(path.name[:4]) for path in folder.glob("*.sql")), default=0)
    path = folder / f"{newest + 1:04}_{name}.sql"
    up, down = _field(field) if field else ("", "")
    why = f"The metric {field}: {FIELDS[field].unit}." if field else "Why."
    path.write_text(f"-- {why}\n\n-- migrate: up\n{up}-- migrate: down\n{down}")
    return path


def _field(field: str) -> tuple[str, str]:
    """The statements that add its columns, and those that drop them."""
    if field not in FIELDS:
        raise UserError(f"there is no metric {field}: add it to FIELDS in ninjait_pipelines/metrics/model.py first")
    up, down = "", ""
    before = dict(_columns(list(FIELDS)[list(FIELDS).index(field) - 1]))
    for table, columns in _columns(field):
        place, added = next(reversed(before.get(table, {})), ""), []
        for name, (type_, text) in columns.items():
            after = f" AFTER {place}" if place else ""  # in the order of the stores' schemas
            added.append(f"    ADD COLUMN IF NOT EXISTS {name} {type_} COMMENT '{text}'{after}")
            place = name
        dropped = [f"DROP COLUMN IF EXISTS {name}" for name in columns]
        up += f"ALTER TABLE {table}\n" + ",\n".join(added) + ";\n\n"
        down = f"ALTER TABLE {table} {', '.join(dropped)};\n{down}"
    return up, down


def _columns(field: str) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Table -> column -> type and comment, of every table that a metric has columns in."""
    unit, absent = FIELDS[field].unit, "null where the sample did not carry it"
    raw = ("SimpleAggregateFunction(anyLast, Nullable(Float64))", f"{unit[0].upper()}{unit[1:]}; {absent}")
    yield Tier.RAW, {field: raw}
    for tier in (Tier.FIVE_MINUTES, Tier.ONE_HOUR):
        comments = {aggregate: f"{_WORDS[aggregate]} of {field} values ({unit})" for aggregate in _WORDS}
        comments["count"] = f"Number of {field} values"
        yield tier, {f"{field}_{name}": ("Nullable(Float64)", comments[name]) for name in AGGREGATES}
    seen = f"Time of the newest reading of {field}"
    yield "device_sightings", {f"{field}_at": ("SimpleAggregateFunction(max, DateTime64(3, 'UTC'))", seen)}
    types = {"count": "Nullable(UInt32)"}
    hourly = {
        column: (types.get(aggregate, "Nullable(Float64)"), f"{_HOURLY[aggregate]} of {field} in the hour: {unit}")
        for column, aggregate in FIELDS[field].hourly.items()
    }
    if hourly:
        yield "device_metrics_hourly_versions", hourly
