"""A replay that is killed after its message is out, and before it is marked as replayed."""

from collections.abc import Sequence
from typing import Any

import pytest

from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.edit import Edits
from ninjait_pipelines.ingest.quarantine.replay import NO_EDITS, replay_each
from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.samples import NOW


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
    """Begins to replay everything that is quarantined, and dies when the first message is out."""
    queue: Any = KillsItsPublisher(stores.message_queue)
    documents = list(query.select(stores.mongodb))
    with pytest.raises(KeyboardInterrupt):
        list(replay_each(stores.mongodb, queue, documents, "somebody", NOW, edits))
