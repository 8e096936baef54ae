"""What the quarantine's tests share: messages in it, a small one, and a replay that is killed."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import Result

from ninjait_pipelines.ingest.decode.message import decode, decode_nothing
from ninjait_pipelines.ingest.decode.model import Period
from ninjait_pipelines.ingest.drain import DrainSummary
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.documents import make_document
from ninjait_pipelines.ingest.quarantine.edit import Edits
from ninjait_pipelines.ingest.quarantine.hold import hold_messages
from ninjait_pipelines.ingest.quarantine.replay import NO_EDITS, replay_each
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.conftest import LOG, drained, idle_seconds, make_drain
from ninjait_pipelines_tests.ingest.deaths import impatient, proxied
from ninjait_pipelines_tests.ingest.samples import NOW, ORG, REGISTRY, message, metrics, outgoing, sample

PERIOD = Period.at(NOW)
KIB = 1024


def publish_bad(stores: Stores, *bodies: Any, queue: str = "agent.metrics") -> list[str]:
    """Publishes and drains bad messages; the ids of what is quarantined."""
    stores.message_queue.publish([outgoing(queue, body) for body in bodies])
    drained(stores, queue)
    return [document["_id"] for document in query.select(stores.mongodb)]


def hold(stores: Stores, one: Message, reason: str = "") -> str:
    """Quarantines a message as it is decoded, or as a dead letter for this reason; its id."""
    decoded = decode_nothing(one, reason, "words") if reason else decode(one, REGISTRY, PERIOD)
    hold_messages(stores.mongodb, [(one, decoded)], "run", NOW, LOG)
    return one.copy_id


def document_of(one: Message) -> dict[str, Any]:
    """The document of a message, as it is decoded."""
    return make_document(one, decode(one, REGISTRY, PERIOD), "run", NOW)


def with_body(one: Message, body: bytes) -> Message:
    """The message with another body."""
    return msgspec.structs.replace(one, body=body)


def bad(number: int, organization: str = ORG, size: int = 16 * KIB) -> Any:
    """A message of this size that is refused whole."""
    return outgoing("agent.metrics", metrics(sample(number), organization_id=organization, schema="x" * size))


def fill(stores: Stores, mebibytes: float) -> None:
    """Quarantines this much, in bodies of 64 KiB."""
    rejected = []
    for n in range(round(mebibytes * 16)):
        one = message("agent.metrics", b"x" * 65_536, 1000 + n, delivery_id=f"filled-{n}")
        rejected.append((one, decode(one, REGISTRY, PERIOD)))
    hold_messages(stores.mongodb, rejected, "run", NOW, LOG)


def small(stores: Stores, **changes: Any) -> Stores:
    """The stores with a limit of 1 MiB on the quarantine, of which one organization alone may fill 256 KiB."""
    return replace(stores, mongodb=stores.mongodb.model_copy(update={"quarantine_limit_mib": 1, **changes}))


def states(stores: Stores) -> list[str]:
    """The states of all documents, by id."""
    return [document["state"] for document in stores.mongodb.database["quarantine"].find().sort("_id", 1)]


def as_json(result: Result) -> Any:
    """What a command that succeeded printed."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


class KillsItsPublisher:
    """A queue that takes a message, and whose publisher does not live to see it."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def takes(self, message: Outgoing) -> bool:
        return bool(self._queue.takes(message))

    def publish(self, messages: Sequence[Outgoing]) -> None:
        self._queue.publish(messages)
        raise KeyboardInterrupt


def replay_and_die(stores: Stores, edits: Edits = NO_EDITS) -> None:
    """Begins to replay everything that is quarantined, and dies once the first message is out."""
    queue: Any = KillsItsPublisher(stores.message_queue)
    documents = list(query.select(stores.mongodb))
    with pytest.raises(KeyboardInterrupt):
        list(replay_each(stores.mongodb, queue, documents, "somebody", NOW, edits))


@contextmanager
def without_mongodb(settings: Settings) -> Iterator[Stores]:
    """The stores, with a MongoDB that is away."""
    with proxied(settings, "MONGODB_URL") as (through, proxy), open_stores(through) as stores:
        proxy.refuse()
        yield impatient(stores)


def spooled(fleet: Stores, settings: Settings, *bodies: Any) -> list[Path]:
    """Spools these bad messages, each in a file of its own; returns the new files."""
    before = set(Spool(fleet.mongodb).files())
    with without_mongodb(settings) as stores:
        for body in bodies:
            fleet.message_queue.publish([outgoing("agent.metrics", body)])
            drain_now(stores)
    return sorted(set(Spool(fleet.mongodb).files()) - before)


def drain_now(stores: Stores, long_bodies: bool = False, **changes: Any) -> DrainSummary:
    """A drain, which waits for RabbitMQ to send bodies of many megabytes if there are some."""
    waited = 2.0 if long_bodies else idle_seconds(stores)
    return make_drain(stores, clock=lambda: NOW, **changes).run(idle_seconds=waited)
