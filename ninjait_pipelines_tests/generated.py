"""What is written from declarations: sql/clickhouse/schema.json, docs/schemas, and tables of docs/contracts.md.

`make generated` writes them, on a ClickHouse of its own; tests compare.
"""

import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import annotated_types
import dagster as dg
import msgspec
from pydantic.fields import FieldInfo

from ninjait_pipelines.billing.rating.agreement import Agreement
from ninjait_pipelines.billing.rating.document import Document
from ninjait_pipelines.billing.rating.usage import Usage
from ninjait_pipelines.cache.assets import DeviceCachesConfig
from ninjait_pipelines.contract import choice, decimal_text
from ninjait_pipelines.ingest.assets import DrainConfig
from ninjait_pipelines.ingest.checks import DrainChecksConfig
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.operations.assets import HealthConfig
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources.clickhouse_schema import STORAGE, snapshot, write_snapshot
from ninjait_pipelines.settings import Between, Thresholds
from ninjait_pipelines.streams import STREAMS, Stream

PAGE = ROOT / "docs" / "contracts.md"
SCHEMAS = {"agreement": Agreement, "usage": Usage, "invoice": Document}
CONFIGS: dict[type[dg.Config], str] = {
    DrainConfig: "every drain",
    DrainChecksConfig: "every drain's checks",
    HealthConfig: "`store_health`",
    DeviceCachesConfig: "`device_caches`",
}
_BLOCK = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.S)


def page(text: str) -> str:
    """The page with its generated blocks."""
    tables = partial(_tables, _BLOCK.sub("", text))
    blocks = {"thresholds": _thresholds, "queues": _queues, "fields": _fields, "tables": tables}

    def block(found: re.Match[str]) -> str:
        return f"<!-- generated: {found[1]} -->\n" + "\n".join(blocks[found[1]]()) + "\n<!-- end -->"

    return _BLOCK.sub(block, text)


def _thresholds() -> Iterator[str]:
    yield "| what | where | default | bounds | meaning |"
    yield "|---|---|---|---|---|"
    for name, field in Thresholds.model_fields.items():
        yield _threshold(name.upper(), "environment", field)
    for config, where in CONFIGS.items():
        for name, field in config.model_fields.items():
            yield _threshold(name, f"config of {where}", field)


def _threshold(name: str, where: str, field: FieldInfo) -> str:
    meaning = field.description or ""
    return f"| `{name}` | {where} | {field.default:g} | {_bounds(field)} | {meaning[:1].lower()}{meaning[1:]} |"


def _bounds(field: FieldInfo) -> str:
    words = []
    for bound in field.metadata:
        match bound:
            case Between(lowest, highest):
                words.append(f"{lowest} to {highest}")
            case annotated_types.Ge(value) | annotated_types.Gt(value):
                words.append(f"{'above' if isinstance(bound, annotated_types.Gt) else 'from'} {value}")
            case annotated_types.Le(value) | annotated_types.Lt(value):
                words.append(f"{'below' if isinstance(bound, annotated_types.Lt) else 'to'} {value}")
    return " ".join(words)


def _queues() -> Iterator[str]:
    yield "| queue | routing key | asset | body: its `schema`, and the other fields; those with ? may be absent |"
    yield "|---|---|---|---|"
    for stream in STREAMS:
        key = f"{stream.contract.topic}.{{{stream.contract.routed_by}}}"
        body = f'"{stream.contract.schema}": {", ".join(_body(stream))}'
        yield f"| `{stream.queue}` | `{key}` | `{stream.asset}` | {body} |"


def _body(stream: Stream) -> Iterator[str]:
    yield "`organization_id`"
    if device := stream.contract.device:
        yield f"`device_id`{'' if device.required else '?'}"
    if stream.store == "metrics":
        yield "`agent_version`?, `samples` (1 to 1,000)"
        return
    yield "`timestamp`"
    for name, field in stream.contract.fields.items():
        rule = field.rule
        words = ", ".join(rule.keywords["allowed"]) if isinstance(rule, partial) and rule.func is choice else ""
        words = "a decimal as text" if rule is decimal_text else words
        yield f"`{name}`{'' if field.required else '?'}" + (f" ({words})" if words else "")


def _fields() -> Iterator[str]:
    yield "| field | unit | by the hour |"
    yield "|---|---|---|"
    for name, metric in FIELDS.items():
        hourly = ", ".join(f"`{column}` ({aggregate})" for column, aggregate in metric.hourly.items())
        yield f"| `{name}` | {metric.unit} | {hourly} |"


def _tables(rest: str) -> Iterator[str]:
    """Tables and views that the page does not name elsewhere."""
    unnamed = [name for name in snapshot() if not name.endswith(STORAGE) and f"`{name}`" not in rest]
    if unnamed:
        yield "| table | what it has |"
        yield "|---|---|"
    for name in unnamed:
        yield f"| `{name}` | {snapshot()[name].comment} |"


def schema_file(name: str) -> Path:
    return ROOT / "docs" / "schemas" / f"{name}.json"


def schema(name: str) -> str:
    """The JSON Schema of what `ninjait billing rate` reads or prints."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(SCHEMAS[name]), order="sorted")).decode() + "\n"


def write() -> None:
    """Writes all of it."""
    from ninjait_pipelines.local.stack.engines import ClickHouse as Engine
    from ninjait_pipelines.migrations import migrated_schema
    from ninjait_pipelines.resources.clickhouse import ClickHouse
    from ninjait_pipelines_tests.local.stack.standalone_engine import Alone

    with tempfile.TemporaryDirectory() as folder:
        server = Alone(Engine, Path(folder) / "clickhouse")
        try:
            server.start()
            names = ("url", "user", "password")
            login = {name: server.settings[f"CLICKHOUSE_{name.upper()}"] for name in names}
            with ClickHouse(**login, database="default").open() as clickhouse:
                write_snapshot(migrated_schema(clickhouse))
        finally:
            server.stop()
    snapshot.cache_clear()
    PAGE.write_text(page(PAGE.read_text()))
    for name in SCHEMAS:
        schema_file(name).parent.mkdir(exist_ok=True)
        schema_file(name).write_text(schema(name))


if __name__ == "__main__":
    write()
