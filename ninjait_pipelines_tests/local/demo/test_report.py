"""The report holds each figure against another store's, and names what does not add up."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from ninjait_pipelines.local.demo.report import Report
from ninjait_pipelines.local.demo.run import Story
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.local.fleet.simulate import Options, Published, Window, publish, read_fleet, simulate
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.streams import QUEUES
from ninjait_pipelines_tests.ingest.conftest import drained

YESTERDAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


def reported(stores: Any, story: Story, *sections: str) -> tuple[list[str], str]:
    """What these sections call wrong, and what they and the verdict print."""
    console = Console(file=io.StringIO(), width=250)
    report = Report(console, stores, story)
    for section in sections:
        console.print(getattr(report, section)())
    console.print(report.verdict())
    return report.wrong, console.file.getvalue()  # type: ignore[attr-defined]


def simulated(stores: Stores, hours: int, options: Options) -> Iterator[Published]:
    """What the fleet sent from eight in the morning on."""
    start = YESTERDAY + timedelta(hours=8)
    return simulate(read_fleet(stores.postgres, start), Window(start, start + timedelta(hours=hours)), options)


@pytest.fixture
def story(stores: Stores) -> Story:
    """Two hours of a small fleet, drained and not yet rolled up."""
    stores.metrics_store.declare()
    seed(stores.postgres, "testing", YESTERDAY.date())
    messages = simulated(stores, hours=2, options=Options(broken=0.2, duplicates=0.2, api_calls=30, logs=30))
    story = Story(YESTERDAY, stores.clickhouse.now(), points_before={YESTERDAY: 0})
    story.tally = publish(stores.message_queue, messages)
    story.windows[YESTERDAY] = story.tally["agent.metrics"]
    for queue in QUEUES:
        drained(stores, queue)
    return story


def test_what_is_missing_in_a_store_is_named_and_the_rest_adds_up(stores: Stores, story: Story) -> None:
    points, day = story.tally["agent.metrics"].points, f"samples of {YESTERDAY:%Y-%m-%d}"
    wrong, shown = reported(stores, story, "ledger", "quarantine", "engines")
    assert wrong == []
    assert "All 11 figures add up" in shown
    not_rolled_up = f"{day}, rolled up: expected {points}, found 0"
    assert reported(stores, story, "stores_against_stores")[0] == [not_rolled_up]

    calls = story.tally["platform.api_calls"].written
    stores.clickhouse.command("TRUNCATE TABLE api_calls_versions")
    stores.mongodb.database["application_logs"].delete_one({})
    logs = story.tally["platform.logs"].written
    wrong, shown = reported(stores, story, "stores_against_stores")
    assert wrong == [
        not_rolled_up,
        f"api_calls: expected {calls}, found 0",
        f"application_logs: expected {logs}, found {logs - 1}",
    ]
    assert "These figures do not add up" in shown
    assert f"\u2717 expected {calls}" in shown

    held = stores.mongodb.database["quarantine"].count_documents({})
    stores.mongodb.database["quarantine"].delete_one({})
    assert reported(stores, story, "quarantine")[0] == [f"quarantined copies: expected {held}, found {held - 1}"]


def test_a_message_that_nobody_published_is_an_inequality_too(stores: Stores, story: Story) -> None:
    """Also while it waits in its queue."""
    extra = next(simulated(stores, hours=1, options=Options(seed=2))).message
    stores.message_queue.publish([extra])
    wrong, _ = reported(stores, story, "ledger")
    messages = story.tally[extra.queue].messages
    assert wrong == [f"{extra.queue} in all: expected {messages}, found {messages + 1}"]
