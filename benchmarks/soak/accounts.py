"""The accounts: what was published against the ledger, the points in the store and the quarantine.

`Book` is kept by whoever publishes; `account` compares it with every store. The tests of faults keep it, too.
"""

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ninjait_pipelines.ingest.quarantine.documents import COLLECTION
from ninjait_pipelines.ingest.quarantine.hold import move_spooled
from ninjait_pipelines.local.fleet import simulate
from ninjait_pipelines.metrics.model import FIELDS, Tier
from ninjait_pipelines.resources import Stores

QUEUE = "agent.metrics"
HOUR = timedelta(hours=1)
SENT = pa.schema(
    dict.fromkeys(("message_id", "outcome"), pa.string())
    | dict.fromkeys(("row", "confirmed", "unconfirmed", "points", "bad_points"), pa.uint64())
)
POINTS = pa.schema(
    dict.fromkeys(("tier", "organization_id", "device_id"), pa.string())
    | {"hour": pa.timestamp("s", "UTC"), "points": pa.int64(), "total": pa.float64()}
)
# The ledger against the publishers, message by message.
UNBALANCED = """
SELECT multiIf(
    confirmed = 0, 'in the ledger, and never published',
    copies = 0, 'published, and not in the ledger',
    copies < confirmed, 'with copies missing from the ledger',
    copies > confirmed + unconfirmed, 'with more copies in the ledger than were published',
    counted != 1, 'counted other than once',
    became = 'dead_lettered', '',
    became != meant, concat(became, ' instead of ', meant),
    written != points, 'with another number of points written',
    meant = 'partly_quarantined' AND refused != bad, 'with another number of points quarantined',
    '') AS problem, count() AS messages, toString(any(if(confirmed > 0, sent.message_id, had.message_id))) AS example
FROM (
    SELECT message_id, anyIf(outcome, outcome != 'duplicate') AS meant, sum(soak_sent.confirmed) AS confirmed,
        sum(soak_sent.unconfirmed) AS unconfirmed, max(soak_sent.points) AS points, max(bad_points) AS bad
    FROM soak_sent FINAL GROUP BY message_id
) AS sent
FULL OUTER JOIN (
    SELECT message_id, count() AS copies, countIf(outcome != 'duplicate') AS counted,
        anyIf(outcome, outcome != 'duplicate') AS became, anyIf(points_written, outcome != 'duplicate') AS written,
        anyIf(points_quarantined, outcome != 'duplicate') AS refused
    FROM message_ledger WHERE queue = {queue:String} GROUP BY message_id
) AS had ON had.message_id = sent.message_id
GROUP BY problem HAVING problem != ''
"""
as_dict = msgspec.json.Decoder(dict[str, Any]).decode


def table_of(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Rows as a table."""
    columns: list[Any] = list(zip(*rows, strict=True)) or [[] for _ in schema]
    return pa.table([pa.array(column, one.type) for column, one in zip(columns, schema, strict=True)], schema=schema)


class Book:
    """What was published, as the ledger and the stores must have it afterwards. The product's decoder is not asked.

    now: decides which tier a sample goes to; first_row: of the rows' numbers, for which no two books may have the same.
    """

    def __init__(self, now: datetime, first_row: int = 0) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self._now = now.timestamp()
        self._numbers = itertools.count(first_row)
        # (tier, organization, device, hour) -> points, and the sum of all their fields
        self._points: dict[tuple[str, str, str, int], list[float]] = defaultdict(lambda: [0, 0.0])

    def add(self, published: simulate.Published, unconfirmed: int = 0) -> None:
        """One confirmed copy, and the number of attempts of which the broker may have taken some."""
        message, points = published.message, published.points + published.resent_points
        number = next(self._numbers)
        self.rows.append((message.message_id, published.outcome, number, 1, unconfirmed, points, published.bad_points))
        if published.points:
            self._count_points(published)

    def _count_points(self, published: simulate.Published) -> None:
        body = published.message.body
        if published.kind in ("nan", "infinite"):
            body = body.replace(b":NaN", b":null").replace(b":1e999", b":null")
        envelope = as_dict(body)
        good = envelope["samples"]
        if published.kind in simulate.BAD_SAMPLES:
            changed, bad = simulate.BAD_SAMPLES[published.kind]
            bad = None if isinstance(bad, msgspec.Raw) else bad
            good = [one for one in good if type(one[changed]) is not type(bad) or one[changed] != bad]
        assert len(good) == published.points, published.kind
        for sample in good:
            at = sample["timestamp"]
            second = at / 1000 if isinstance(at, int) else datetime.fromisoformat(at).timestamp()
            tier = Tier.RAW if self._now - second < 7 * 86_400 else Tier.FIVE_MINUTES
            key = (str(tier), envelope["organization_id"], envelope["device_id"], int(second // 3600) * 3600)
            counted = self._points[key]
            counted[0] += 1
            counted[1] += sum(sample.get(name, 0) for name in FIELDS)

    def write_sent(self, path: Path) -> None:
        """The copies since the last call, to a file."""
        pq.write_table(table_of(self.rows, SENT), path)
        self.rows = []

    def write_points(self, path: Path) -> None:
        """All good samples by tier, device and hour, to a file."""
        rows = [(*key[:3], datetime.fromtimestamp(key[3], UTC), *value) for key, value in self._points.items()]
        pq.write_table(table_of(rows, POINTS), path)


@dataclass
class Accounts:
    """What was published against what is there; `problems` is empty where it balances."""

    published: dict[str, int]  # confirmed copies
    unconfirmed: int  # copies beside them that the broker may have taken
    ledger: dict[str, int]
    problems: list[str]


def account(stores: Stores, folder: Path) -> Accounts:
    """Compares the files that books wrote, `sent-*` and `points-*.parquet`, with every store. May be repeated."""
    move_spooled(stores.mongodb, datetime.now(UTC))
    load_sent(stores, folder)
    problems = [
        f"{row['messages']} messages {row['problem']}, such as {row['example']}"
        for row in stores.clickhouse.rows(UNBALANCED, queue=QUEUE)
    ]
    depth = stores.message_queue.depth(QUEUE)
    if depth.outstanding or depth.dead:
        problems.append(f"{depth.outstanding} messages are still queued, and {depth.dead} dead letters")
    expected = pa.concat_tables(pq.read_table(file) for file in folder.glob("points-*.parquet"))
    problems += [*wrong_points(stores, expected), *wrong_hours(stores, expected), *wrong_quarantine(stores)]
    ledger = stores.clickhouse.rows(
        "SELECT outcome, count() AS n FROM message_ledger WHERE queue = {queue:String} GROUP BY outcome", queue=QUEUE
    )
    sent = stores.clickhouse.rows(
        "SELECT outcome, sum(confirmed) AS n, sum(unconfirmed) AS u FROM soak_sent FINAL GROUP BY outcome"
    )
    published = {row["outcome"]: row["n"] for row in sent}
    became = {row["outcome"]: row["n"] for row in ledger}
    return Accounts(published, sum(row["u"] for row in sent), became, problems)


def load_sent(stores: Stores, folder: Path) -> None:
    """The publishers' rows into ClickHouse, where they are joined with the ledger; loaded again, they replace
    themselves."""
    stores.clickhouse.command(
        "CREATE TABLE IF NOT EXISTS soak_sent (message_id UUID, outcome String, row UInt64, confirmed UInt32, "
        "unconfirmed UInt32, points UInt32, bad_points UInt32) ENGINE = ReplacingMergeTree ORDER BY (message_id, row)"
    )
    for file in sorted(folder.glob("sent-*.parquet")):
        stores.clickhouse.insert("soak_sent", pq.read_table(file))


def wrong_points(stores: Stores, expected: pa.Table) -> Iterator[str]:
    """Every good sample once, and no other: points by device and hour, and the sum of all their fields.

    The points of a dead letter may be in the store or not: its drains died somewhere between.
    """
    dead = stores.clickhouse.scalar(
        "SELECT sum(points) FROM (SELECT message_id, max(points) AS points FROM soak_sent FINAL GROUP BY message_id) "
        "WHERE message_id IN (SELECT message_id FROM message_ledger WHERE outcome = 'dead_lettered')"
    )
    missing = 0
    for tier in (Tier.RAW, Tier.FIVE_MINUTES):
        rows = [row for row in expected.to_pylist() if row["tier"] == tier]
        want = {(row["organization_id"], row["device_id"], row["hour"]): (row["points"], row["total"]) for row in rows}
        hours = [row["hour"] for row in rows]
        have = {key: value for hour in set(hours) for key, value in stored(stores, tier, hour).items()}
        for key in sorted(want.keys() | have.keys()):
            (points, total), (there, sum_there) = want.get(key, (0, 0.0)), have.get(key, (0, 0.0))
            missing += max(points - there, 0)
            if there > points or (points > there and not dead):
                yield f"{tier}: {there} points instead of {points} of device {key[1]} in the hour {key[2]:%d %H:%M}"
            elif there == points and not math.isclose(total, sum_there, rel_tol=1e-11):
                yield f"{tier}: other values of device {key[1]} in the hour {key[2]:%d %H:%M}: {sum_there} for {total}"
    if missing > dead > 0:
        yield f"{missing} points are missing, of which {dead} may be in dead letters"


def stored(stores: Stores, tier: Tier, hour: datetime) -> dict[tuple[str, str, datetime], Any]:
    """(organization, device, hour) -> points, and the sum of all their fields."""
    windows = stores.metrics_store.aggregate(tier, hour, hour + HOUR, HOUR)
    total = functools.reduce(pc.add, (pc.fill_null(windows[f"{name}_sum"], 0.0) for name in FIELDS)).to_pylist()
    keys = zip(*(windows[name].to_pylist() for name in ("organization_id", "device_id", "time")), strict=True)
    samples = map(int, windows["samples"].to_pylist())
    return dict(zip(keys, zip(samples, total, strict=True), strict=True))


def wrong_hours(stores: Stores, expected: pa.Table) -> Iterator[str]:
    """The hours that ingest says it touched are those that have points."""
    rows = stores.clickhouse.rows("SELECT DISTINCT toString(organization_id) AS organization, hour FROM touched_hours")
    have = {(row["organization"], row["hour"]) for row in rows}
    want = {(row["organization_id"], row["hour"]) for row in expected.to_pylist()}
    if have != want:
        yield f"{len(want - have)} hours have points and were not touched, {len(have - want)} the other way round"


def wrong_quarantine(stores: Stores) -> Iterator[str]:
    """What the ledger calls bad is what is held, copy by copy."""
    bad = "outcome NOT IN ('written', 'not_understood')"
    rows = stores.clickhouse.rows(f"SELECT queue, delivery_id FROM message_deliveries FINAL WHERE {bad}")  # noqa: S608
    want = {f"{row['queue']}/{row['delivery_id']}" for row in rows}
    have = {document["_id"] for document in stores.mongodb.database[COLLECTION].find({}, {"_id": 1})}
    if want - have:
        yield f"{len(want - have)} copies are not in quarantine, such as {min(want - have)}"
    if have - want:
        yield f"{len(have - want)} copies are in quarantine without a row of the ledger, such as {min(have - want)}"
