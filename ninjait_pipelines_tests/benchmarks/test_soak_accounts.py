"""The accounts of `make soak` balance where nothing was lost, and name whatever is missing, changed or too much."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing import Array, Value
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.soak.__main__ import prepare
from benchmarks.soak.accounts import HOUR, QUEUE, account
from benchmarks.soak.load import Publisher, Shared, streams
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION
from ninjait_pipelines.metrics.model import POINTS, Tier
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import drained
from ninjait_pipelines_tests.ingest.samples import metrics, outgoing
from ninjait_pipelines_tests.resources.queue_contract import eventually

MESSAGES = {"singles": 2000, "late": 300}  # no batches, which take long to fill
OUTCOMES = ["duplicate", "partly_quarantined", "quarantined", "written"]


@pytest.fixture
def soaked(stores: Stores, tmp_path: Path) -> Stores:
    """Stores that the soak's publishers have filled, drained; enough messages are bad to have every outcome."""
    prepare(stores)
    moment, event = Value("d", 0.0), threading.Event()
    shared = Shared(moment, moment, Array("Q", 3), Array("Q", 3), filled=event, go=event, stop=event)
    for number, stream in enumerate(streams(datetime.now(UTC))):
        if stream.name in MESSAGES:
            publisher = Publisher(stores, number, stream, tmp_path, 1, shared, broken=0.3, duplicates=1)
            publisher.send(MESSAGES[stream.name])
            publisher.close()
    drained(stores)
    assert eventually(lambda: stores.message_queue.depth(QUEUE).outstanding == 0)
    return stores


def test_the_accounts_balance_and_name_each_damage(soaked: Stores, tmp_path: Path) -> None:
    accounts = account(soaked, tmp_path)
    assert accounts.problems == []
    assert accounts.published == accounts.ledger
    assert sorted(accounts.ledger) == OUTCOMES
    named: list[str] = []
    for problem in damages(soaked, tmp_path):
        assert not any(problem in one for one in named)
        named = account(soaked, tmp_path).problems
        assert any(problem in one for one in named), (problem, named)


def damages(stores: Stores, folder: Path) -> Iterator[str]:
    """Damages one thing after the other, and says what the accounts have to say of it."""
    yield from damages_of_quarantine(stores)
    expected = pa.concat_tables(map(pq.read_table, folder.glob("points-*.parquet"))).to_pylist()
    yield from damages_of_points(stores, expected)
    yield from damages_of_the_ledger(stores)
    stores.message_queue.publish([outgoing(QUEUE, metrics())])
    assert eventually(lambda: stores.message_queue.depth(QUEUE).outstanding == 1)
    yield "1 messages are still queued"


def damages_of_quarantine(stores: Stores) -> Iterator[str]:
    quarantine = stores.mongodb.database[COLLECTION]
    held, *_ = quarantine.find()
    quarantine.delete_one({"_id": held["_id"]})
    yield f"1 copies are not in quarantine, such as {held['_id']}"
    quarantine.insert_one(held | {"_id": "x"})
    yield "1 copies are in quarantine without a row of the ledger, such as x"


def damages_of_points(stores: Stores, expected: list[dict[str, Any]]) -> Iterator[str]:
    late = next(row for row in expected if row["tier"] == Tier.FIVE_MINUTES)
    recent = sorted((row for row in expected if row["tier"] == Tier.RAW), key=lambda row: row["hour"])
    *_, lost, other, more = {row["device_id"]: row for row in recent}.values()

    def has(there: int, row: dict[str, Any]) -> str:
        return f"{row['tier']}: {there} points instead of {row['points']} of device {row['device_id']} in"

    for row in (late, lost):
        stores.metrics_store.delete([row["device_id"]])
        yield has(0, row)
    for row, changes, problem in (
        (other, {"uptime": 0.5}, f"metrics: other values of device {other['device_id']}"),
        (more, {"time": more["hour"] + timedelta(minutes=59, seconds=59.999)}, has(more["points"] + 1, more)),
    ):
        point, *_ = stores.metrics_store.read(row["hour"], row["hour"] + HOUR, [row["device_id"]]).to_pylist()
        stores.metrics_store.write(pa.Table.from_pylist([point | changes], POINTS))
        yield problem
    delete(stores, "touched_hours", f"hour = '{late['hour']:%Y-%m-%d %H:%M:%S}'")
    yield "hours have points and were not touched"


def damages_of_the_ledger(stores: Stores) -> Iterator[str]:
    copies = "SELECT toString(message_id) AS id, max(delivery_id) AS copy FROM message_ledger GROUP BY message_id"
    twice, *_ = stores.clickhouse.rows(f"{copies} HAVING count() = 2 LIMIT 1")
    once = stores.clickhouse.rows(f"{copies} HAVING count() = 1 AND any(outcome) = 'written' LIMIT 6")
    delete(stores, "message_deliveries", f"message_id = '{once.pop()['id']}'")
    yield "1 messages published, and not in the ledger"
    delete(stores, "message_deliveries", f"message_id = '{twice['id']}' AND delivery_id = '{twice['copy']}'")
    yield "1 messages with copies missing"
    for otherwise, problem in (
        ("generateUUIDv4() AS message_id", "in the ledger, and never published"),
        ("'x' AS delivery_id", "with more copies in the ledger"),
        ("'quarantined' AS outcome", "quarantined instead of written"),
        ("points_written + 1 AS points_written", "with another number of points written"),
    ):
        row = f"(SELECT * FROM message_deliveries WHERE message_id = '{once.pop()['id']}')"
        changed = f"SELECT * REPLACE (now64(6) AS recorded_at, {otherwise}) FROM {row}"
        stores.clickhouse.command(f"INSERT INTO message_deliveries {changed}")
        yield f"1 messages {problem}"


def delete(stores: Stores, table: str, which: str) -> None:
    stores.clickhouse.command(f"ALTER TABLE {table} DELETE WHERE {which} SETTINGS mutations_sync = 2")
