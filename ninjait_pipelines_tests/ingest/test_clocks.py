"""A drain whose clock is wrong takes nothing, and says which clocks differ."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ninjait_pipelines.ingest import assets
from ninjait_pipelines.ingest.clocks import ClocksDiffer, ahead_of_ours, compare_clocks, refuse_apart
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import MAX_APART
from ninjait_pipelines_tests.ingest.drains import Faulty
from ninjait_pipelines_tests.ingest.samples import metrics, outgoing, register, sample
from ninjait_pipelines_tests.runs import run

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("clocks", "words"),
    [
        ({"this machine": 61, "ClickHouse": 0, "PostgreSQL": 0}, "this machine is 0:01:01 ahead of that of ClickHouse"),
        (
            {"this machine": -61, "ClickHouse": 0, "PostgreSQL": 0},
            "ClickHouse is 0:01:01 ahead of that of this",
        ),
        ({"this machine": 0, "ClickHouse": 1, "PostgreSQL": 90}, "PostgreSQL is 0:01:30 ahead of that of this machine"),
        ({"this machine": 0, "ClickHouse": -40, "PostgreSQL": 40}, "PostgreSQL is 0:01:20 ahead of that of ClickHouse"),
    ],
)
def test_both_clocks_are_named(clocks: dict[str, int], words: str) -> None:
    with pytest.raises(ClocksDiffer, match=words):
        refuse_apart({name: NOON + timedelta(seconds=seconds) for name, seconds in clocks.items()})


def test_clocks_within_the_bound_are_taken_for_equal() -> None:
    refuse_apart({"this machine": NOON, "ClickHouse": NOON + MAX_APART, "PostgreSQL": NOON})


@pytest.mark.parametrize(("there", "ahead"), [(0, 0), (45, 0), (90, 0), (91, 1), (-1, -1)])
def test_a_slow_answer_is_no_difference(there: int, ahead: int) -> None:
    """A store that answered after 70 seconds stopped a drain, whose clock was right."""
    ours = iter([NOON, NOON + timedelta(seconds=90)])
    assert ahead_of_ours(lambda: next(ours), lambda: NOON + timedelta(seconds=there)) == timedelta(seconds=ahead)


def test_the_metrics_store_s_clock_is_compared_too(shared_stores: Stores) -> None:
    """Three days behind, it refused points as too old that the drain had chosen it for."""
    assert abs(shared_stores.metrics_store.now() - datetime.now(UTC)) < timedelta(seconds=10)
    behind = datetime.now(UTC) - timedelta(days=3)
    store: Any = Faulty(shared_stores.metrics_store, now=lambda: behind)
    with pytest.raises(ClocksDiffer, match=re.escape(shared_stores.metrics_store.title)):
        compare_clocks(lambda: datetime.now(UTC), shared_stores.clickhouse, shared_stores.postgres, store)


@pytest.mark.parametrize("days", [8, 400, -1])
def test_a_drain_with_a_wrong_clock_takes_nothing(
    shared_stores: Stores, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Ahead, it wrote an hour into the wrong tier, where it counted twice; behind, it quarantined everything."""
    register(shared_stores.postgres)
    shared_stores.message_queue.publish([outgoing("agent.metrics", metrics(sample(60)))])
    monkeypatch.setattr(assets, "clock", lambda: datetime.now(UTC) + timedelta(days=days))
    with pytest.raises(ClocksDiffer, match="this machine"):
        run(shared_stores, assets.agent_metrics)
    assert shared_stores.message_queue.depth("agent.metrics").outstanding == 1
    assert shared_stores.clickhouse.scalar("SELECT count() FROM message_deliveries") == 0
    monkeypatch.undo()
    run(shared_stores, assets.agent_metrics)
    assert shared_stores.clickhouse.scalar("SELECT count() FROM message_deliveries WHERE outcome = 'written'") == 1
