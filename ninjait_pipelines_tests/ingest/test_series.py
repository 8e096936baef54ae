"""How many series a device may create: across messages, drains and restarts, and while a store fails."""

from datetime import date, timedelta
from typing import Any

import pytest

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Period
from ninjait_pipelines.ingest.series import MAX_NAMES, admit
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.metrics_store import Refusal
from ninjait_pipelines_tests.ingest.conftest import drained, ledger_row, sink_of
from ninjait_pipelines_tests.ingest.drains import Faulty, sink_with
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    ORG,
    REGISTRY,
    SECOND_DEVICE,
    as_published,
    line,
    telegraf,
)

PERIOD = Period.at(NOW)


def interfaces(*names: str, seconds_ago: float = 60, host: str = "lap-2", body: str = "bytes_recv=1i") -> Any:
    return telegraf(*(line("net", body, seconds_ago, host, interface=name) for name in names), organization=ORG)


def counted(stores: Stores, device: str = SECOND_DEVICE) -> list[str]:
    """The interfaces that the metrics store has of a device."""
    store: Any = stores.metrics_store
    parts = store._counters(NOW - timedelta(hours=1), NOW + timedelta(minutes=5))
    rows = (row for part in parts for row in part.to_pylist())
    return sorted({row["interface"] for row in rows if row["device_id"] == device})


def device_series(stores: Stores) -> dict[str, int]:
    rows = stores.clickhouse.rows("SELECT device_id, count() AS n FROM device_series FINAL GROUP BY device_id")
    return {str(row["device_id"]): row["n"] for row in rows}


def test_a_device_may_make_so_many_series_and_no_more(fleet: Stores) -> None:
    """526 kB of messages became 198,000 points with as many interface names, and took influxd to 763 MiB."""
    eth0 = line("net", "bytes_recv=1i", 60, interface="eth0")
    mem = line("mem", "used=1048576i", 60)
    bodies = []
    for first in range(0, 300, 100):
        names = [line("net", "bytes_recv=1i", 60, interface=f"if{first + n}") for n in range(100)]
        bodies.append(telegraf(eth0, *names, mem, organization=ORG))
    fleet.message_queue.publish(list(map(as_published, bodies[:2])))
    fleet.message_queue.publish([as_published(interfaces("eth0", host="lap-1"))])
    first = drained(fleet)
    assert (first.points, first.points_quarantined) == (205, 200 - MAX_NAMES + 1)
    fleet.message_queue.publish([as_published(bodies[2]), as_published(interfaces("eth0", "new", seconds_ago=30))])
    second = drained(fleet)
    assert (second.points, second.points_quarantined) == (104, 101)
    names = counted(fleet)
    assert (len(names), "eth0" in names, "if0" in names, "if62" in names) == (MAX_NAMES, True, True, True)
    assert counted(fleet, DEVICE) == ["eth0"], "and harms nobody else"
    assert device_series(fleet) == {SECOND_DEVICE: MAX_NAMES, DEVICE: 1}
    points = fleet.metrics_store.read(NOW - timedelta(hours=1), NOW)
    assert {row["device_id"] for row in points.to_pylist()} == {SECOND_DEVICE}, "its other readings are there"
    reasons = fleet.clickhouse.rows("SELECT DISTINCT reason FROM quarantined_by_reason")
    assert {row["reason"] for row in reasons} == {"too_many_interfaces", "kept_once_a_day"}
    [balance] = fleet.clickhouse.rows(
        "SELECT sum(balance) AS balance, sum(points_written) AS written FROM conservation"
    )
    assert balance == {"balance": 0, "written": MAX_NAMES + 7}
    ledger = fleet.clickhouse.rows("SELECT sum(length(counter_instants)) AS n FROM message_deliveries FINAL")
    assert ledger == [{"n": MAX_NAMES + 4}]


def test_the_same_message_again_is_taken_in_the_same_way(fleet: Stores) -> None:
    """Delivered again after a drain died, in a batch in another order: what was let in has its place."""
    names = [f"if{number}" for number in range(MAX_NAMES + 10)]
    one, two = (as_published(interfaces(*names[at::2])) for at in (0, 1))
    fleet.message_queue.publish([one, two])
    drained(fleet)
    before = counted(fleet)
    fleet.message_queue.publish([two, one])
    again = drained(fleet)
    assert (counted(fleet), again.points_quarantined) == (before, 10)


def test_names_that_are_not_used_make_room(fleet: Stores) -> None:
    """A host of containers has new interfaces each day; those in use stay, and it recovers from a bad week."""

    def send(days_ago: float, *names: str) -> int:
        decoded = decode(interfaces(*names), REGISTRY, PERIOD)
        sink_of(fleet, "agent.metrics").write([decoded], "run", NOW - timedelta(days=days_ago))
        return len(decoded.rejections)

    assert send(12, "eth0", *(f"old{number}" for number in range(MAX_NAMES - 1))) == 0
    assert send(11, "eth0", "other") == 1
    assert send(6, "eth0") == 0
    assert send(2, *(f"new{number}" for number in range(MAX_NAMES))) == 1, "eth0 is in use"
    assert send(0, "eth0", "new0") == 0


def test_volumes_are_bounded_too(fleet: Stores) -> None:
    decoded = decode(telegraf(line("mem", "used=1i"), organization=ORG), REGISTRY, PERIOD)
    count = MAX_NAMES + 3
    names = [f"/mnt/{number}" for number in range(count)]
    decoded.volumes = {
        "organization_id": [ORG] * count,
        "device_id": [SECOND_DEVICE] * count,
        "source": ["telegraf"] * count,
        "disk": [""] * count,
        "volume": names,
        "time": [int(NOW.timestamp() * 1000)] * count,
        **{name: [1.0] * count for name in ("used", "total", "free")},
    }
    decoded.volume_rows, decoded.points = list(range(1, count + 1)), count + 1
    sink_of(fleet, "agent.metrics").write([decoded], "run", NOW)
    assert {rejection.reason for rejection in decoded.rejections} == {"too_many_volumes"}
    assert [rejection.index for rejection in decoded.rejections] == [count - 2, count - 1, count]
    assert decoded.rejections[0].value == repr(names[-3])
    row = ledger_row(telegraf(organization=ORG), decoded)
    assert (row["points_written"], row["points_quarantined"]) == (MAX_NAMES + 1, 3)


def test_a_batch_that_is_written_once_more_is_refused_the_same(fleet: Stores) -> None:
    """A store fails under way, and the drain tries the same batch again, without the rejections of its first try."""
    names = [f"if{number}" for number in range(MAX_NAMES + 2)]
    store = Faulty(fleet.metrics_store, write_counters=lambda _: 1 / 0)
    decoded, sink = decode(interfaces(*names), REGISTRY, PERIOD), sink_with(fleet, metrics_store=store)
    with pytest.raises(ZeroDivisionError):
        sink.write([decoded], "run", NOW)
    del store.write_counters
    rows = []
    for _ in range(2):
        decoded.rejections = []
        sink.write([decoded], "run", NOW)
        rows.append(ledger_row(interfaces(*names), decoded))
    assert rows[0] == rows[1]
    assert (rows[0]["points_written"], rows[0]["points_quarantined"]) == (MAX_NAMES, 2)


def test_names_that_could_not_be_read_are_read_again(fleet: Stores) -> None:
    """ClickHouse fails under way: a device must not count as one without names, which would double its room."""
    store = Faulty(fleet.clickhouse, rows=lambda *_, **__: 1 / 0)
    sink = sink_with(fleet, clickhouse=store)
    sink_of(fleet, "agent.metrics").write([decode(interfaces("eth0"), REGISTRY, PERIOD)], "run", NOW)
    decoded = decode(interfaces(*(f"if{number}" for number in range(MAX_NAMES))), REGISTRY, PERIOD)
    with pytest.raises(ZeroDivisionError):
        sink.write([decoded], "run", NOW)
    del store.rows
    sink.write([decoded], "run", NOW)
    assert [rejection.value for rejection in decoded.rejections] == [repr(f"if{MAX_NAMES - 1}")]


def test_refusals_of_the_store_are_of_their_own_rows_beside_series_that_are_too_many(
    fleet: Stores,
) -> None:
    """The store refuses by row of what it was given, which is less than what was sent."""
    names = [f"if{number}" for number in range(MAX_NAMES + 2)]
    first, second = (decode(interfaces(*some), REGISTRY, PERIOD) for some in (names, names[-3:]))
    store = Faulty(fleet.metrics_store, write_counters=lambda _: [Refusal(MAX_NAMES, "no room")])
    sink_with(fleet, metrics_store=store).write([first, second], "run", NOW)
    assert {(one.index, one.reason) for one in first.rejections} == {
        (MAX_NAMES, "too_many_interfaces"),
        (MAX_NAMES + 1, "too_many_interfaces"),
    }
    assert [(one.index, one.reason) for one in second.rejections] == [
        (1, "too_many_interfaces"),
        (2, "too_many_interfaces"),
        (0, "refused_by_store"),
    ]
    assert second.points_accepted == 0


ONE, TWO = ("o", "one"), ("o", "two")
TODAY = date(2026, 3, 10)


def admitted(names: list[tuple[tuple[str, str], str]], known: dict[Any, dict[str, date]]) -> list[tuple[str, str]]:
    """(device, name) of the interfaces that are recorded."""
    with_kind = {one: {("counters", name): day for name, day in found.items()} for one, found in known.items()}
    found = admit([(one, ("counters", name)) for one, name in names], with_kind, TODAY)
    return [(one[1], name) for one, (_, name) in found]


def test_names_are_admitted_in_order_of_arrival_while_there_is_room() -> None:
    used = {f"if{number}": TODAY for number in range(MAX_NAMES - 1)}
    names = [(ONE, "a"), (TWO, "b"), (ONE, "c"), (TWO, "d")]
    assert admitted(names, {ONE: used, TWO: {}}) == [("one", "a"), ("two", "b"), ("two", "d")]
    assert admitted([(ONE, "a"), (ONE, "if0")], {ONE: used | {"x": TODAY}}) == []


def test_a_known_name_is_recorded_once_a_day_and_takes_no_room() -> None:
    used = {f"if{number}": TODAY - timedelta(days=1) for number in range(MAX_NAMES)}
    assert admitted([(ONE, "if0"), (ONE, "new"), (ONE, "if1")], {ONE: used}) == [("one", "if0"), ("one", "if1")]
    assert admitted([(ONE, "if0")], {ONE: {"if0": TODAY}}) == []


def test_a_name_of_a_volume_takes_no_room_of_an_interface() -> None:
    known = {ONE: {("volumes", f"/{number}"): TODAY for number in range(MAX_NAMES)}}
    assert len(list(admit([(ONE, ("counters", "eth0"))], known, TODAY))) == 1
