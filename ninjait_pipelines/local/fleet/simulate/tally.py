"""What was published, and what must become of it."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources.message_queue import MessageQueue

PUBLISHED_AT_ONCE = 2_000


class Published(msgspec.Struct, frozen=True):
    """A message, and what must become of it.

    outcome: written, not_understood, partly_quarantined, quarantined or duplicate, as in the ledger.
    kind: good, duplicate, resent, or what is wrong with it.
    points: what its store must have afterwards; bad_points: what must be in quarantine; resent_points: what another
    message has brought already. A duplicate has none.
    """

    message: Outgoing
    outcome: str
    kind: str
    points: int = 0
    bad_points: int = 0
    resent_points: int = 0


class QueueTally(msgspec.Struct):
    """What was published to one queue. messages = written + not_understood + partly_quarantined + quarantined +
    duplicate."""

    messages: int = 0
    written: int = 0
    not_understood: int = 0
    partly_quarantined: int = 0
    quarantined: int = 0
    duplicate: int = 0
    points: int = 0  # distinct: what the store must have afterwards
    bad_points: int = 0  # in messages whose other points are good
    resent_points: int = 0  # written, but known already
    kinds: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, published: Published) -> None:
        """Counts one message."""
        self.messages += 1
        setattr(self, published.outcome, getattr(self, published.outcome) + 1)
        self.points += published.points
        self.bad_points += published.bad_points
        self.resent_points += published.resent_points
        self.kinds[published.kind] += 1


Tally = dict[str, QueueTally]


def publish(
    queue: MessageQueue,
    messages: Iterable[Published],
    progress: Callable[[int], None] | None = None,
    at_once: int = PUBLISHED_AT_ONCE,
) -> Tally:
    """Publishes in order and returns what the broker has confirmed, by queue.

    progress: called with the number of messages so far.
    Raises StoreError where the broker does not take a batch; part of that batch may have been taken.
    """
    tally: Tally = {}
    stream = iter(messages)
    total = 0
    while batch := list(itertools.islice(stream, at_once)):
        queue.publish(published.message for published in batch)
        for published in batch:
            tally.setdefault(published.message.queue, QueueTally()).add(published)
        total += len(batch)
        if progress:
            progress(total)
    return dict(sorted(tally.items()))
