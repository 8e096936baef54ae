"""Dead letters that an outage made are replayed automatically once the stores take writes again.

Nothing is wrong with them: a drain recorded a store's error as their reason, or the broker counted them out while
drains of their queue failed for a store. Whatever else made a dead letter waits for a person. A message is replayed
MAX_REPLAYS times at most, so that one which is to blame after all does not go round for ever.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from ninjait_pipelines.ingest import quarantine
from ninjait_pipelines.ingest.quarantine import reasons
from ninjait_pipelines.resources.mongodb import MongoDB

# The tag of a drain's run that failed for a store.
STORE_FAILED = "ninjait/store_failed"
WHO = "after_outage"
MAX_REPLAYS = 2
# While a store is away a drain fails for it every few minutes, and the first one that succeeds moves the dead letters.
BEFORE = timedelta(hours=6)


def waiting(
    mongodb: MongoDB, instance: dg.DagsterInstance, jobs: dict[str, str], of_one: int
) -> Iterator[dict[str, Any]]:
    """The held copies that an outage made dead letters of, the oldest first, `of_one` of each organization; `jobs`
    names each queue's drain.

    Without those of 0.3.0, whose routing keys may be what their senders wrote: they need a person.
    """
    # Dead letters are held many at a time: Dagster's storage is asked once for all of one moment.
    failed = functools.cache(functools.partial(drain_failed_for_a_store, instance))
    names = ("queue", "routing_key", "envelope_organization", "message_id", "reasons", "intent", "share")
    shown = dict.fromkeys((*names, "quarantined_at"), 1)

    def is_wanted(copy: Mapping[str, Any]) -> bool:
        known = "envelope_organization" in copy and _is_of_outage(copy, failed, jobs)
        return known and _replayed(mongodb, copy) < MAX_REPLAYS

    query = {"state": "held", "reasons.reason": reasons.DEAD_LETTER}
    with mongodb.errors():
        held = mongodb.database[quarantine.COLLECTION].find(query, shown).sort("quarantined_at", 1)
        yield from quarantine.first_of_each(held, of_one, is_wanted)


def _is_of_outage(copy: Mapping[str, Any], failed: Callable[[str, datetime], bool], jobs: dict[str, str]) -> bool:
    words = reasons.words_of_dead_letter(copy)
    if reasons.BY_A_STORE.match(words):
        return True
    return bool(reasons.COUNTED_OUT.match(words)) and failed(jobs[copy["queue"]], copy["quarantined_at"])


def drain_failed_for_a_store(instance: dg.DagsterInstance, job: str, before: datetime) -> bool:
    """Whether a drain failed for a store in the hours before."""
    of_job = dg.RunsFilter(
        job_name=job, tags={STORE_FAILED: "true"}, created_after=before - BEFORE, created_before=before
    )
    return bool(instance.get_runs(of_job, limit=1))


def _replayed(mongodb: MongoDB, copy: Mapping[str, Any]) -> int:
    """How often the message was replayed automatically already, as whatever copy."""
    same = {name: copy[name] for name in ("queue", "routing_key", "message_id")}
    return mongodb.database[quarantine.COLLECTION].count_documents({**same, "state": "replayed", "trail.who": WHO})
