"""Versions of a slice are fenced: two runs of one slice, however their steps interleave and wherever they die."""

import itertools
import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import OperationalError

from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines.resources.clickhouse_versions import sliced_marts, slices_from
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines_tests.interleaved import Paused
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores  # noqa: F401

DAY = date(2026, 11, 1)
ORGANIZATION = uuid.UUID(int=7)
BEFORE = datetime(2026, 11, 2, tzinfo=UTC)


def facts(*tickets: int, day: date = DAY) -> pa.Table:
    """Facts of these tickets, in ClickHouse's columns."""
    row = {"organization_id": ORGANIZATION, "number": 1, "priority": "low", "status": "open", "assignee_id": None}
    row |= {"created_at": BEFORE, "first_response_breached": False, "resolution_breached": False}
    row |= dict.fromkeys(
        (
            "first_responded_at",
            "closed_at",
            "closed_assignee_id",
            "first_response_minutes",
            "hours_to_close",
            "first_response_target_minutes",
            "resolution_target_minutes",
        )
    )
    return mart_rows("ticket_facts", [row | {"day": day, "ticket_id": uuid.UUID(int=one)} for one in tickets])


def seen(clickhouse: ClickHouse, day: date = DAY) -> tuple[int, ...]:
    rows = clickhouse.rows("SELECT ticket_id FROM ticket_facts WHERE day = {day:Date} ORDER BY ticket_id", day=day)
    return tuple(row["ticket_id"].int for row in rows)


class Run(Paused):
    """A run that replaces the slice, step by step."""

    def __init__(self, clickhouse: ClickHouse, day: date, as_of: datetime, tickets: Sequence[int]) -> None:
        super().__init__(self._replace)
        self.clickhouse = clickhouse
        self.day = day
        self.tickets = tickets
        self.as_of = as_of
        self.written = False

    def _replace(self, run: Paused) -> None:
        clickhouse = run.pausing(self.clickhouse, "insert", "rows", "_delete")
        clickhouse.replace_slice("ticket_facts", facts(*self.tickets, day=self.day), self.as_of, [self.day])

    def step(self, alive: bool = True) -> None:
        super().step(alive)
        self.written |= self.last == "insert"


STEPS = 3  # the block, what is hidden, the deletion
ORDERS = [tuple(int(at not in first) for at in range(6)) for first in itertools.combinations(range(6), STEPS)]
DAYS = [DAY - timedelta(days=number) for number in range(len(ORDERS))]
FIRST = (1, 2, 3, 4)


@pytest.fixture
def clickhouse(shared_stores: Stores) -> ClickHouse:  # noqa: F811
    """With four facts on each day."""
    clickhouse = shared_stores.clickhouse
    clickhouse.replace_slice("ticket_facts", pa.concat_tables([facts(*FIRST, day=day) for day in DAYS]), BEFORE, DAYS)
    return clickhouse


def two_runs(clickhouse: ClickHouse, day: date) -> tuple[Run, Run]:
    """An older one and a newer one."""
    older, newer = (BEFORE + timedelta(seconds=second) for second in (1, 2))
    return Run(clickhouse, day, older, (3, 4, 5, 6)), Run(clickhouse, day, newer, (5, 6, 7, 8))


def newest(runs: Sequence[Run]) -> tuple[int, ...]:
    """What readers have to see: the newest version that is there."""
    return next((tuple(run.tickets) for run in reversed(runs) if run.written), FIRST)


def test_however_two_runs_interleave_readers_see_one_whole_version_and_never_an_older_one(
    clickhouse: ClickHouse,
) -> None:
    """A run that was slow brought back four rows that had ended, beside the four of a newer run."""
    for day, order in zip(DAYS, ORDERS, strict=True):
        runs = two_runs(clickhouse, day)
        for which in order:
            runs[which].step()
            assert runs[which].last == "rows" or seen(clickhouse, day) == newest(runs), order
        assert all(run.over for run in runs), "a run has more steps than the test interleaves"


@pytest.mark.parametrize("dies", range(2))
def test_wherever_one_of_two_runs_dies_the_other_ones_version_stands(clickhouse: ClickHouse, dies: int) -> None:
    for at, day in enumerate(DAYS[:STEPS]):
        runs = two_runs(clickhouse, day)
        for step, which in itertools.product(range(STEPS), (0, 1)):
            runs[which].step(alive=which != dies or step < at)
            assert runs[which].last == "rows" or seen(clickhouse, day) == newest(runs), at
        clickhouse.replace_slice("ticket_facts", facts(9, day=day), clickhouse.now(), [day])
        assert seen(clickhouse, day) == (9,), "a rerun heals it"


def test_an_empty_version_hides_the_rows_of_an_older_run(clickhouse: ClickHouse) -> None:
    clickhouse.replace_slice("ticket_facts", facts(), BEFORE + timedelta(seconds=2), [DAY])
    clickhouse.replace_slice("ticket_facts", facts(1, 2), BEFORE + timedelta(seconds=1), [DAY])
    assert seen(clickhouse) == ()


def test_of_a_range_only_what_a_newer_run_wrote_is_hidden(clickhouse: ClickHouse) -> None:
    """A month is computed again while one of its days is repaired: the other days are the month's."""
    other = DAY + timedelta(days=1)
    clickhouse.replace_slice("ticket_facts", facts(3), BEFORE + timedelta(seconds=2), [DAY])
    both = pa.concat_tables([facts(1, 2), facts(1, 2, day=other)])
    clickhouse.replace_slice("ticket_facts", both, BEFORE + timedelta(seconds=1), [DAY, other])
    assert (seen(clickhouse), seen(clickhouse, other)) == ((3,), (1, 2))


def test_rows_of_before_the_fences_are_seen_until_their_slice_is_computed_again(clickhouse: ClickHouse) -> None:
    old = facts(1, 2, day=DAY + timedelta(days=1)).append_column(
        "as_of", pa.array([BEFORE] * 2, pa.timestamp("us", "UTC"))
    )
    before = DAY + timedelta(days=1)
    clickhouse.insert("ticket_facts_versions", old)
    assert seen(clickhouse, before) == (1, 2)
    clickhouse.replace_slice("ticket_facts", facts(2, day=before), clickhouse.now(), [before])
    assert seen(clickhouse, before) == (2,)


@pytest.mark.parametrize("days", [8, 400])
def test_a_version_of_the_future_is_named_by_whoever_it_hides(clickhouse: ClickHouse, days: int) -> None:
    """ClickHouse's clock was days ahead for a minute: no later version was ever seen, and nothing said so."""
    clickhouse.replace_slice("ticket_facts", facts(1), clickhouse.now() + timedelta(days=days), [DAY])
    for _ in range(2):
        with pytest.raises(StoreFailed, match=r"ticket_facts has a version of .*, which hides all others"):
            clickhouse.replace_slice("ticket_facts", facts(2), clickhouse.now(), [DAY])
    clickhouse.command("DELETE FROM ticket_facts_versions WHERE as_of > now() + 60")
    assert seen(clickhouse) == (2,)
    clickhouse.replace_slice("ticket_facts", facts(3), clickhouse.now(), [DAY])
    assert seen(clickhouse) == (3,)


@pytest.mark.parametrize("days", [-400, -1, 8])
def test_no_version_is_made_by_a_wrong_clock(
    clickhouse: ClickHouse, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Ahead, it hides all that come after it; behind, it is hidden itself: caches and reports stood still unnoticed."""
    monkeypatch.setattr(
        "ninjait_pipelines.resources.clickhouse.clock", lambda: datetime.now(UTC) + timedelta(days=days)
    )
    with pytest.raises(StoreFailed, match=r"its clock shows .*, this machine"):
        clickhouse.now()


def test_a_version_whose_insert_is_repeated_after_it_succeeded_is_there_once(
    clickhouse: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server had written it and the answer was lost: readers use no FINAL, and would see each row twice."""
    insert = clickhouse.client.insert_arrow
    lost = iter([OperationalError("timed out")])

    def answerless(*arguments: Any, **keywords: Any) -> None:
        insert(*arguments, **keywords)
        for error in lost:
            raise error

    monkeypatch.setattr(clickhouse.client, "insert_arrow", answerless)
    clickhouse.replace_slice("ticket_facts", facts(5, 6), clickhouse.now(), [DAY])
    assert next(lost, None) is None
    assert seen(clickhouse) == (5, 6)
    stored = "SELECT count() FROM ticket_facts_versions WHERE day = {day:Date} AND organization_id = {id:UUID}"
    assert [clickhouse.scalar(stored, day=DAY, id=id_) for id_ in (ORGANIZATION, uuid.UUID(int=0))] == [2, 1]


def test_who_reads_while_a_slice_is_replaced_sees_each_row_once(clickhouse: ClickHouse) -> None:
    """Rows and markers were read from two snapshots: on ClickHouse before 26.1 every fifth of these reads saw the slice
    twice, or not at all."""
    versions = "SELECT uniqExact(as_of), count(), uniqExact(ticket_id) FROM ticket_facts WHERE day = {day:Date}"
    slow = " SETTINGS merge_tree_storage_snapshot_sleep_ms = 20"
    done = threading.Event()
    reads: list[tuple[int, int, int]] = []
    clickhouse.replace_slice("ticket_facts", facts(2, 3), clickhouse.now(), [DAY])

    def read() -> None:
        with clickhouse.elsewhere().open() as other:
            while not done.is_set():
                reads.append(tuple(other.rows(versions + slow, day=DAY)[0].values()))  # type: ignore[arg-type]

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(3, 43):
        clickhouse.replace_slice("ticket_facts", facts(number, number + 1), clickhouse.now(), [DAY])
    done.set()
    reader.join()
    assert len(reads) > 20
    assert set(reads) == {(1, 2, 2)}


def test_markers_of_old_versions_do_not_pile_up(clickhouse: ClickHouse) -> None:
    for second in range(30):
        clickhouse.replace_slice("ticket_facts", facts(1), BEFORE + timedelta(seconds=second), [DAY])
    markers = (
        "SELECT count() FROM ticket_facts_versions FINAL WHERE day = {day:Date} AND organization_id = toUUID({id:UUID})"
    )
    assert clickhouse.scalar(markers, day=DAY, id=uuid.UUID(int=0)) < 25


@pytest.mark.parametrize("mart", sliced_marts())
def test_every_mart_takes_and_hides_markers(shared_stores: Stores, mart: str) -> None:  # noqa: F811
    clickhouse = shared_stores.clickhouse
    slices = slices_from(mart, datetime(2026, 11, 1, 5, tzinfo=UTC))
    assert clickhouse.replace_slice(mart, mart_rows(mart, []), clickhouse.now(), slices) == 0
    assert clickhouse.scalar(f"SELECT count() FROM {mart}_versions") == 1
    assert clickhouse.rows(f"SELECT * FROM {mart}") == []
