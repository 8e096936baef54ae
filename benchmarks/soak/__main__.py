"""`python -m benchmarks.soak`, which `make soak` runs."""

import argparse
import json
import random
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3
from rich.console import Console

from benchmarks.soak.accounts import QUEUE, account
from benchmarks.soak.faults import Drains, Event, disturb, restart, schedule
from benchmarks.soak.load import BURST, Shared, context, publish, streams
from benchmarks.soak.report import MAX_EMPTYING, print_soak, report
from benchmarks.soak.scaling import scaling
from benchmarks.soak.watch import Soak, Watch
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.local.stack.local import LocalStack
from ninjait_pipelines.local.stack.servers import SERVERS, built
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.settings import validate

MAX_QUEUED_A_MINUTE = 15_000
console = Console()


def soak(stack: LocalStack, stores: Stores, folder: Path, minutes: float, random_seed: int, max_queued: int) -> Soak:
    """Fills, soaks and empties; what was published is in files in the folder."""
    settings, seconds = stack.settings() or {}, minutes * 60
    limit_queue(settings, max_queued)
    chance = random.Random(random_seed)  # noqa: S311
    planned = streams(datetime.now(UTC))
    shared = Shared(
        rate=context.Value("d", 0.0),
        began=context.Value("d", 0.0),
        samples=context.Array("Q", len(planned)),
        unconfirmed=context.Array("Q", len(planned)),
        filled=context.Semaphore(0),
        go=context.Event(),
        stop=context.Event(),
    )
    publishers = [
        context.Process(target=publish, args=(settings, number, stream, folder, random_seed, shared), daemon=True)
        for number, stream in enumerate(planned)
    ]
    for publisher in publishers:
        publisher.start()
    for _ in publishers:
        if not shared.filled.acquire(timeout=120):
            raise SystemExit("the publishers did not fill the queue")
    drains = Drains(settings, folder / "drains.log")
    shared.rate.value = first_rate(stores, drains)
    console.print(
        f"one drain alone: {shared.rate.value:,.0f} samples/s; now {minutes:g} minutes, bursts of {BURST:g} times that"
    )
    watch = Watch(stack, stores, drains, shared)
    began_at = time.time()
    shared.began.value = began = time.monotonic()
    shared.go.set()
    watch.start()
    marks = disturb(stack, drains, schedule(seconds, chance), began, seconds, chance)
    shared.stop.set()
    while any(publisher.is_alive() for publisher in publishers):  # until the broker has confirmed their last batch
        drains.tend()
        time.sleep(0.05)
    if codes := [publisher.exitcode for publisher in publishers if publisher.exitcode != 0]:
        raise SystemExit(f"a publisher ended with {codes[0]}: what it sent is unknown")
    emptied = empty(stores, drains)
    emptied_after = time.monotonic() - began - seconds if emptied else None
    watch.ended.set()
    watch.join()
    return Soak(
        seconds, shared.rate.value, emptied_after, drains.ended, marks, watch.seen, sum(shared.unconfirmed), began_at
    )


def limit_queue(settings: dict[str, str], limit: int) -> None:
    """Lowers what the queue holds by a policy: then it is full within the soak, and refuses its publishers."""
    url = urllib3.util.parse_url(settings["RABBITMQ_MANAGEMENT_URL"])
    definition = {"pattern": f"^{QUEUE}$", "definition": {"max-length": limit}, "apply-to": "queues"}
    answer = urllib3.request(
        "PUT",
        url._replace(auth=None, path="/api/policies/%2F/soak").url,
        json=definition,
        headers=urllib3.make_headers(basic_auth=url.auth),
    )
    if answer.status >= 300:
        raise SystemExit(f"RabbitMQ does not take the policy: {answer.status}")


def first_rate(stores: Stores, drains: Drains) -> float:
    """Empties the first fill with one drain; samples per second, from its first row of the ledger to its last."""
    while stores.message_queue.depth(QUEUE).ready or not drains.idle():
        drains.tend(1)
        time.sleep(0.1)
    drains.finish()
    row = stores.clickhouse.rows(
        "SELECT sum(points) AS samples, min(recorded_at) AS first, max(recorded_at) AS last FROM message_deliveries"
    )[0]
    return float(row["samples"] / (row["last"] - row["first"]).total_seconds())


def empty(stores: Stores, drains: Drains) -> bool:
    """Drains until nothing is queued, held by a drain or dead; False if that takes too long."""
    deadline = time.monotonic() + MAX_EMPTYING
    while time.monotonic() < deadline:
        depth = stores.message_queue.depth(QUEUE)
        if depth.outstanding or depth.dead:
            drains.tend()
        elif drains.idle():
            drains.tend(0)
            return True
        time.sleep(0.2)
    drains.finish()
    return False


def prepare(stores: Stores) -> None:
    """Migrated stores, and a fleet of some thousand devices: the demo's organizations with each device 45 times."""
    migrate_up(stores.postgres, stores.clickhouse)
    seed(stores.postgres, "demo", datetime.now(UTC).date())
    with stores.postgres.transaction() as connection:
        connection.execute(
            "INSERT INTO devices (id, organization_id, name, kind, os_version, created_at, retired_at) "
            "SELECT gen_random_uuid(), organization_id, name || '-' || copy, kind, "
            "os_version, created_at, retired_at FROM devices, generate_series(1, 44) AS copy"
        )
    stores.message_queue.declare()


def main() -> None:
    parser = argparse.ArgumentParser(description="Ingest under load, with restarts and kills; nothing may be lost.")
    parser.add_argument("--minutes", type=float, default=10, help="how long the publishers send")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is random")
    parser.add_argument("--chart", type=Path, help="write the chart to this SVG")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--max-queued", type=int, help="messages that the queue holds before it refuses publishers")
    parser.add_argument("--scaling", action="store_true", help="only one drain against two")
    given = parser.parse_args()
    if not built():
        raise SystemExit("RabbitMQ and InfluxDB are missing: make servers")
    figures: dict[str, Any] = {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder) / "home", SERVERS)
        try:
            settings = stack.up()
            with open_stores(validate(settings)) as stores:
                prepare(stores)
                # A clean stop has RabbitMQ write its list of queues: killed before, 3.10 forgets who leads them.
                restart(stack, Event(0, "rabbitmq", kill=False))
                if not given.scaling:
                    limit = given.max_queued or int(MAX_QUEUED_A_MINUTE * given.minutes)
                    result = soak(stack, stores, Path(folder), given.minutes, given.seed, limit)
                    figures = report(stores, result, account(stores, Path(folder)), given.chart)
                    print_soak(figures)
                    if result.ended["crashed"]:
                        figures["problems"].append("drains crashed")
                        console.print((Path(folder) / "drains.log").read_text()[-5000:])
                figures["scaling"] = scaling(stores, settings, begun + (given.minutes + 3.5) * 60)
        finally:
            stack.down()
    console.print_json(json.dumps(figures))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(bool(figures.get("problems")))


if __name__ == "__main__":
    main()
