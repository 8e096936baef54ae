"""The sensor that starts drains: it looks at the depths of the queues and touches no message.

Two more replay messages: those from hosts that were registered later, and dead letters that an outage made.
"""

import time
from ast import literal_eval
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any

import dagster as dg

from ninjait_pipelines.automation import ACTIVE_RUN_STATUSES
from ninjait_pipelines.contract import ContractViolation
from ninjait_pipelines.ingest import outages
from ninjait_pipelines.ingest.assets import BY_QUEUE
from ninjait_pipelines.ingest.decode.hosts import device_of
from ninjait_pipelines.ingest.decode.model import HOST_REASONS, SenderRegistry
from ninjait_pipelines.ingest.decode.routing import organization_of
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION
from ninjait_pipelines.ingest.quarantine.reasons import read_hosts
from ninjait_pipelines.ingest.quarantine.replay import first_of_each, replay_all
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.message_queue import Depth, MessageQueue
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines.settings import THRESHOLDS

# Drains usually fail because a store is down, and would fail again at once. Each further failure doubles the wait.
LONGEST_WAIT = timedelta(minutes=5)
FAILURES_COUNTED = 7  # as many as it takes from the shortest wait to the longest
EMPTY = "the queue is empty"
# How long a tick waits for messages, and how often it looks for them. Dagster ends a tick after 60 seconds, a daemon
# that is stopped waits for its end, and a queue that does not answer takes 20 seconds of it.
WAIT_SECONDS = 20.0
LOOK_SECONDS = 2.0
# Far beyond a drain's bound of 45 seconds: a worker that hangs, or whose machine is gone, makes room for the next one.
MAX_RUN_SECONDS = 300
# A drain starts before all other queued runs: it takes seconds, and messages wait for it.
PRIORITY = "10"
# How many messages one tick replays, and how many of them may be one organization's: those that no replay resolves stay
# the oldest, and must not block those of other organizations.
MAX_REPLAYED = THRESHOLDS.replay_max_messages
MAX_OF_ONE = MAX_REPLAYED // 10


def drain_job(asset: dg.AssetsDefinition) -> dg.JobDefinition:
    """The job of one drain with its checks, in one process: a process per step would cost more than the drain."""
    name = asset.key.to_user_string()
    return dg.define_asset_job(  # type: ignore[return-value]
        f"drain_{name}",
        selection=dg.AssetSelection.assets(asset),
        executor_def=dg.in_process_executor,
        tags={"dagster/max_runtime_seconds": str(MAX_RUN_SECONDS), "dagster/priority": PRIORITY},
        description=f"One bounded drain into {name}.",
    )


def decide(depth: Depth, active: bool, failed_at: datetime | None, now: datetime, failures: int = 1) -> str | None:
    """Why no drain should start now; None if one should.

    Messages held by a dead consumer count too: only a drain can take them over.
    """
    if depth.empty:
        return EMPTY
    if active:
        return "a drain is under way"
    wait = min(timedelta(seconds=THRESHOLDS.drain_retry_seconds) * 2 ** (failures - 1), LONGEST_WAIT)
    if failed_at and now - failed_at < wait:
        seconds = int(wait.total_seconds())
        return f"the last drain failed at {failed_at:%H:%M:%S} UTC; the next one starts {seconds} seconds later"
    return None


def drains_sensor(wait_seconds: float = WAIT_SECONDS) -> dg.SensorDefinition:
    """One sensor for all queues. Its requests have no run key, which Dagster would remember for ever."""

    @dg.sensor(
        jobs=drain_jobs,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts the drain of each queue that holds messages or dead letters, unless one runs already.",
    )
    def drains_by_depth(
        context: dg.SensorEvaluationContext, message_queue: dg.ResourceParam[MessageQueue]
    ) -> dg.SensorResult | dg.SkipReason:
        until = time.monotonic() + wait_seconds
        depths, errors = _first_look(message_queue)
        reasons = _reasons(context.instance, depths)
        if all(reasons.values()) and not errors:
            reasons = _watch(context.instance, message_queue, until) or reasons
        for error in errors:  # one queue that is not as it should be stops its own drain only
            context.log.error(str(error))
        requests = [dg.RunRequest(job_name=jobs[queue].name) for queue, reason in reasons.items() if not reason]
        if errors and not requests:
            raise errors[0]
        return dg.SensorResult(requests) if requests else dg.SkipReason(_summary(reasons))

    return drains_by_depth


def _first_look(message_queue: MessageQueue) -> tuple[dict[str, Depth], list[StoreError]]:
    """The depths, and the errors of the other queues. A queue whose leader is gone takes 20 seconds to fail: all are
    asked at the same time."""

    def look(queue: str) -> Depth | StoreError:
        try:
            message_queue.declare(queue)  # a stack that was never published to has no queues yet
            return message_queue.depth(queue)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(len(jobs)) as threads:
        found = dict(zip(jobs, threads.map(look, jobs), strict=True))
    depths = {queue: depth for queue, depth in found.items() if isinstance(depth, Depth)}
    return depths, [error for error in found.values() if isinstance(error, StoreError)]


def _watch(instance: dg.DagsterInstance, message_queue: MessageQueue, until: float) -> dict[str, str | None]:
    """Looks at the queues until a drain should start, or until the end of the tick; returns the reasons of the last
    look.

    A look costs a fiftieth of a tick, and Dagster would not begin the next tick for five to ten seconds.
    """
    reasons: dict[str, str | None] = {}
    with message_queue.watch() as depth:
        while all(reasons.values()) and time.monotonic() + LOOK_SECONDS < until:
            time.sleep(LOOK_SECONDS)
            reasons = _reasons(instance, {queue: depth(queue) for queue in jobs})
    return reasons


def _reasons(instance: dg.DagsterInstance, depths: Mapping[str, Depth]) -> dict[str, str | None]:
    """For each queue, why no drain should start now; None if one should. Of an empty queue Dagster is not asked."""
    return {queue: EMPTY if depth.empty else _reason(instance, queue, depth) for queue, depth in depths.items()}


def _reason(instance: dg.DagsterInstance, queue: str, depth: Depth) -> str | None:
    active, failed_at, failures = last_drain(instance, jobs[queue].name)
    return decide(depth, active, failed_at, datetime.now(UTC), failures)


def _summary(reasons: Mapping[str, str | None]) -> str:
    waiting = [f"{queue}: {reason}" for queue, reason in reasons.items() if reason != EMPTY]
    return "; ".join(waiting) or "all queues are empty"


def last_drain(instance: dg.DagsterInstance, job_name: str) -> tuple[bool, datetime | None, int]:
    """(whether a drain is active, when the last one failed if it did, how many failed in a row)."""
    if instance.get_runs_count(dg.RunsFilter(job_name=job_name, statuses=ACTIVE_RUN_STATUSES)):
        return True, None, 0
    last = instance.get_run_records(dg.RunsFilter(job_name=job_name), limit=FAILURES_COUNTED)
    failed = list(takewhile(lambda record: record.dagster_run.is_failure and record.end_time, last))
    if not failed:
        return False, None, 0
    return False, datetime.fromtimestamp(failed[0].end_time or 0, UTC), len(failed)


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def registered_hosts(
    context: dg.SensorEvaluationContext,
    message_queue: dg.ResourceParam[MessageQueue],
    mongodb: MongoDB,
    postgres: Postgres,
) -> dg.SkipReason:
    """Replays messages that were quarantined because their host was unknown or ambiguous, once the host is known.

    There is no cursor: the quarantine is the state, so a missed tick changes nothing, and what one tick leaves the next
    one finds.
    """
    replayed = replay_registered(mongodb, message_queue, load_sender_registry(postgres), datetime.now(UTC))
    return dg.SkipReason(
        f"messages replayed: {replayed}" if replayed else "no host of a quarantined message is known by now"
    )


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def after_outage(
    context: dg.SensorEvaluationContext,
    message_queue: dg.ResourceParam[MessageQueue],
    metrics_store: dg.ResourceParam[MetricsStore],
    clickhouse: ClickHouse,
    mongodb: MongoDB,
) -> dg.SkipReason:
    """Replays the dead letters that an outage made, once all stores take writes again; each message at most twice
    (OUTAGE_REPLAYS).

    There is no cursor, as in `registered_hosts`.
    """
    names = {queue: job.name for queue, job in jobs.items()}
    found = list(islice(outages.waiting(mongodb, context.instance, names, MAX_OF_ONE), MAX_REPLAYED))
    if not found:
        return dg.SkipReason("no dead letter of an outage is in quarantine")
    try:
        for store in (metrics_store, clickhouse, mongodb):
            store.probe()
    except StoreError as error:
        return dg.SkipReason(f"at least {len(found)} wait, and the outage lasts: {error}")
    replayed = replay_all(mongodb, message_queue, found, outages.WHO, datetime.now(UTC))
    return dg.SkipReason(f"messages replayed: {replayed}")


def replay_registered(
    mongodb: MongoDB, queue: MessageQueue, registry: SenderRegistry, now: datetime, limit: int = MAX_REPLAYED
) -> int:
    """Replays up to `limit` quarantined messages whose host is known by now; returns the number of messages."""
    found = islice(held_for_known_hosts(mongodb, registry), limit)
    return replay_all(mongodb, queue, list(found), "registered_hosts", now)


def held_for_known_hosts(mongodb: MongoDB, registry: SenderRegistry) -> Iterator[dict[str, Any]]:
    """Quarantined messages with a host that is known by now, oldest first, MAX_OF_ONE per organization.

    One pass that compares hosts here: a query per host would read the whole quarantine each time.
    """
    # Most hosts are unknown: one message may name a thousand, and looking each of them up would delay every tick.
    names = {repr(host).casefold() for host in registry.hosts}
    # `$or`, where `$in` would be shorter: the local stack's MongoDB does not look into arrays with `$in`.
    waiting = {"state": "held", "$or": [{"reasons.reason": reason} for reason in HOST_REASONS]}
    shown = {"routing_key": 1, "hosts": 1, "reasons": 1, "intent": 1, "share": 1}

    def is_wanted(copy: Mapping[str, Any]) -> bool:
        hosts = {host for host in read_hosts(copy) if host.casefold() in names}
        return any(_is_known(host, copy["routing_key"], registry) for host in hosts)

    with mongodb.errors():
        held = mongodb.database[COLLECTION].find(waiting, shown).sort("quarantined_at", 1)
        yield from first_of_each(held, MAX_OF_ONE, is_wanted)


def _is_known(shown: str, routing_key: str, registry: SenderRegistry) -> bool:
    """Whether the host belongs to a device by now; `shown` is its repr, as in rejections."""
    try:
        host = literal_eval(shown)
        return isinstance(host, str) and bool(device_of(host, organization_of(routing_key), registry))
    except (ContractViolation, ValueError, SyntaxError):
        return False


jobs = {queue: drain_job(asset) for queue, asset in BY_QUEUE.items()}
drain_jobs = list(jobs.values())
drains_by_depth = drains_sensor()
