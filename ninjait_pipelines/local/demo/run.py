"""What the demo does, step by step, through the same queue, assets and sensors that production uses."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from rich.console import Console

from ninjait_pipelines.billing.finalise import finalise
from ninjait_pipelines.build import build_defs
from ninjait_pipelines.ingest.assets import BY_QUEUE
from ninjait_pipelines.local.demo.stack import step
from ninjait_pipelines.local.fleet import agent, simulate
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.local.stack.local import HISTORY
from ninjait_pipelines.metrics.model import tier_of
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.partitions import range_tags
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.rollup.sensors import late_hours, roll_up_late_hours
from ninjait_pipelines.settings import validate

DAY = timedelta(days=1)
COPIES = ("organizations", "users", "devices", "contracts", "agreements", "device_terms")
SELLER = {
    "name": "Demo Managed Services",
    "address": ["1 Demo Street", "1010 Auckland", "New Zealand"],
    "tax_id": "GST 123-456-789",
    "time_zone": "UTC",
    "number_prefix": "D-",
    "numbered_by_year": True,
    "payment_days": 14,
}
# Days whose samples come too late for full resolution (7 days), and too late for the 5-minute tier (90 days).
WARM_AGE, COLD_AGE = 10 * DAY, HISTORY
# Share of the day's messages, the last in order of delivery, that come after the roll-up: laptops that were away.
LATECOMERS = 0.04
# An old day has a sample every five minutes and a heartbeat every hour: enough to see it, and it keeps the demo short.
OLD = simulate.Options(interval=300, heartbeat_interval=3600)


@dataclass
class Story:
    """What happened, for the report."""

    day: datetime
    started_at: datetime
    tally: simulate.Tally = field(default_factory=dict)
    windows: dict[datetime, simulate.QueueTally] = field(default_factory=dict)
    points_before: dict[datetime, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Graph:
    """Dagster on this machine: runs assets in this process and keeps the runs where the UI finds them."""

    def __init__(self) -> None:
        self._instance = dg.DagsterInstance.get()
        self._defs = build_defs()
        self._everything = self._defs.resolve_implicit_global_asset_job_def()

    def drain(self, asset: str) -> None:
        """Drains the asset's queue once, without waiting for further messages."""
        self._execute(
            self._everything, {}, {asset: {"config": {"idle_seconds": 0}}}, asset_selection=[dg.AssetKey(asset)]
        )

    def run(self, *assets: str, first: str | None = None, last: str | None = None) -> None:
        """One run of these assets with their checks: unpartitioned, of one partition, or of a range of them.

        Raises RuntimeError, naming them, where a check fails as an error.
        """
        keys = [dg.AssetKey(asset) for asset in assets]
        self._execute(self._everything, range_tags(first, last or first) if first else {}, {}, asset_selection=keys)

    def tick(self, sensor: dg.SensorDefinition, job: str, stores: Stores) -> int:
        """Evaluates a sensor and runs what it asks for; returns how many runs that were."""
        resources = {key: getattr(stores, key) for key in sensor.required_resource_keys}
        with dg.build_sensor_context(instance=self._instance, resources=resources) as context:
            requests = sensor.evaluate_tick(context).run_requests or []
        for request in requests:
            self._execute(self._defs.resolve_job_def(job), request.tags, {})
        return len(requests)

    def _execute(self, job: dg.JobDefinition, tags: Any, ops: dict[str, Any], **selection: Any) -> None:
        config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, "ops": ops}
        result = job.execute_in_process(run_config=config, instance=self._instance, tags=dict(tags), **selection)
        failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
        errors = [check for check in failed if check.severity == dg.AssetCheckSeverity.ERROR]
        if errors:
            raise RuntimeError("; ".join(f"{check.check_name} failed: {check.description}" for check in errors))


@contextmanager
def prepared(console: Console, seconds: dict[str, float], variables: Mapping[str, str]) -> Iterator[Stores]:
    """The stores of `variables`, with their schema and the demo's organizations."""
    settings = validate(variables)
    with open_stores(settings) as stores:
        with step(console, seconds, "schema and organizations") as say:
            applied = migrate_up(stores.postgres, stores.clickhouse, start=settings.pipeline_start)
            stores.message_queue.declare()
            stores.metrics_store.declare()
            rows = seed(stores.postgres, "demo", datetime.now(UTC).date()).rows
            say(f"{len(applied)} migrations applied, {rows['devices']} devices, {rows['tickets']} tickets")
        yield stores


def run(console: Console, stores: Stores, seconds: dict[str, float]) -> Story:
    """Everything between the prepared stores and the report."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    story = Story(day=today - DAY, started_at=stores.clickhouse.now(), seconds=seconds)
    with step(console, seconds, "Dagster") as say:
        graph = Graph()
        say("definitions loaded, runs are kept in PostgreSQL")
    latecomers = _publish(console, stores, story)
    _drain(console, graph, stores, story, "drain")
    day = _keys(story.day, story.day + DAY - timedelta(hours=1), "%Y-%m-%d-%H:%M")
    with step(console, seconds, "hourly roll-up") as say:
        graph.run("device_metrics_5m", "device_metrics_1h", "device_metrics_hourly", first=day[0], last=day[1])
        say("24 hours: 5-minute tier, 1-hour tier, ClickHouse")
    with step(console, seconds, "latecomers") as say:
        _add(story.tally, simulate.publish(stores.message_queue, latecomers), story.windows[story.day])
        say(f"{len(latecomers)} messages of laptops that were away")
    _drain(console, graph, stores, story, "drain again")
    with step(console, seconds, "late hours") as say:
        ranges = graph.tick(late_hours, roll_up_late_hours.name, stores)
        say(f"the sensor had {ranges} ranges rolled up again, the warm and the cold day among them")
    _marts(console, graph, stores, story, today)
    return story


def _publish(console: Console, stores: Stores, story: Story) -> list[simulate.Published]:
    """Publishes the cold day, the warm day, and most of yesterday; returns yesterday's latecomers."""
    latecomers: list[simulate.Published] = []
    with step(console, story.seconds, "publish") as say:
        for age, options in ((COLD_AGE, OLD), (WARM_AGE, OLD), (DAY, simulate.Options())):
            start = story.day + DAY - age
            story.points_before[start] = stored_points(stores, start)
            fleet = simulate.read_fleet(stores.postgres, before=start)
            messages = list(simulate.simulate(fleet, simulate.Window(start, start + DAY), options))
            if start == story.day:
                cut = int(len(messages) * (1 - LATECOMERS))
                messages, latecomers = messages[:cut], messages[cut:]
            story.windows[start] = simulate.QueueTally()
            _add(story.tally, simulate.publish(stores.message_queue, messages), story.windows[start])
        _publish_this_machine(stores, story)
        total = sum(queue.messages for queue in story.tally.values())
        say(
            f"{total:,} messages, {story.tally['agent.metrics'].points:,} samples: three organizations and this machine"
        )
    return latecomers


def _publish_this_machine(stores: Stores, story: Story) -> None:
    """One real reading of this machine, as a device of the first organization."""
    now = datetime.now(UTC)
    organization, device = agent.register(stores.postgres, "aoraki", None, now)
    machine = agent.Agent(organization, device)
    time.sleep(agent.FIRST_READING_AFTER.total_seconds())
    readings = [machine.heartbeat(datetime.now(UTC)), machine.metrics(datetime.now(UTC))]
    stores.message_queue.publish(readings)
    for message in readings:
        reading = simulate.Published(message, outcome="written", kind="this machine", points=1)
        story.tally.setdefault(message.queue, simulate.QueueTally()).add(reading)


def _drain(console: Console, graph: Graph, stores: Stores, story: Story, name: str) -> None:
    with step(console, story.seconds, name) as say:
        drains = 0
        for queue, asset in BY_QUEUE.items():
            while stores.message_queue.depth(queue).outstanding:
                graph.drain(asset.key.to_user_string())
                drains += 1
        say(f"{drains} drains: written, quarantined, recorded, acknowledged")


def _marts(console: Console, graph: Graph, stores: Stores, story: Story, today: datetime) -> None:
    """What Dagster's conditions would ask for within the next minutes, in the same order."""
    day = story.day
    before = (today.replace(day=1) - DAY).replace(day=1)
    monday = day - timedelta(days=day.weekday())
    first_ticket, last_day = _keys(today - 40 * DAY, day, "%Y-%m-%d")
    steps: list[tuple[str, str, Callable[[], None]]] = [
        ("reference", f"{len(COPIES)} copies", lambda: graph.run(*COPIES)),
        (
            "tickets",
            "40 days",
            lambda: graph.run(
                "ticket_events", "ticket_facts", "technician_performance", first=first_ticket, last=last_day
            ),
        ),
        ("billing", f"{before:%B} is issued, {today:%B} drafted", lambda: _bill(graph, stores, before, today)),
        ("caches", "3 assets", lambda: graph.run("device_caches", "organization_summaries", "uptime_leaderboard")),
        ("archive", "3 days", lambda: _archive(graph, story)),
        ("weekly report", f"{monday:%Y-%m-%d}", lambda: graph.run("weekly_reports", first=f"{monday:%Y-%m-%d}")),
        ("health", "all stores", lambda: graph.run("store_health")),
    ]
    for name, result, work in steps:
        with step(console, story.seconds, name) as say:
            work()
            say(result)


def _bill(graph: Graph, stores: Stores, before: datetime, today: datetime) -> None:
    """The month before as issued documents, the month of today as drafts."""
    month = today.replace(day=1)
    graph.run("billing_events", first=f"{before:%Y-%m-%d}", last=f"{today:%Y-%m-%d}")
    for first in (before, month):
        graph.run("invoices", first=f"{first:%Y-%m-%d}")
    with stores.postgres.transaction() as connection:
        connection.execute(sql("billing/enter_seller").encode(), SELLER)
    reason = "the demo has no usage of most days"
    finalise(stores.postgres, stores.clickhouse, before.date(), force=reason)
    graph.run("billing_reconciliation", first=f"{before:%Y-%m-%d}")


def _archive(graph: Graph, story: Story) -> None:
    for start in sorted(story.windows):
        graph.run("device_metrics_archive", first=f"{start:%Y-%m-%d}")


def stored_points(stores: Stores, start: datetime) -> int:
    """Samples of a day in the metrics store, counted there, in whichever tier a sample of that age goes to."""
    tier = tier_of(start, datetime.now(UTC))
    if tier is None:
        raise ValueError(f"{start.isoformat()} is older than the last tier")
    windows = stores.metrics_store.aggregate(tier, start, start + DAY, timedelta(hours=1))
    return int(sum(windows["samples"].to_pylist()))


def _add(tally: simulate.Tally, published: simulate.Tally, window: simulate.QueueTally) -> None:
    """Adds what was published to the sum of all windows, and its metrics to those of its own window."""
    for queue, counts in published.items():
        _sum(tally.setdefault(queue, simulate.QueueTally()), counts)
        if queue == "agent.metrics":
            _sum(window, counts)


def _sum(total: simulate.QueueTally, more: simulate.QueueTally) -> None:
    for name in total.__struct_fields__:
        setattr(total, name, getattr(total, name) + getattr(more, name))


def _keys(first: datetime, last: datetime, form: str) -> tuple[str, str]:
    return first.strftime(form), last.strftime(form)
