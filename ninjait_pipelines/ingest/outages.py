"""Finds the dead letters of an outage, which are replayed automatically once the stores take writes again.

Nothing is wrong with them: a drain recorded a store's error as their reason, or they reached the delivery limit while
drains of their queue failed because of a store. All other dead letters wait for a person. A message is replayed
OUTAGE_REPLAYS times at most, in case it is at fault after all.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from ninjait_pipelines.ingest.quarantine import reasons
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION, HELD
from ninjait_pipelines.ingest.quarantine.replay import first_of_each
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.settings import THRESHOLDS

# Tags the run of a drain that failed because of a store.
STORE_FAILED = "ninjait/store_failed"
WHO = "after_outage"


def waiting(
    mongodb: MongoDB, instance: dg.DagsterInstance, jobs: dict[str, str], limit: int
) -> Iterator[dict[str, Any]]:
    """The quarantined messages that an outage made dead letters of, oldest first, `limit` per organization; `jobs` maps
    each queue to its drain.

    Those of 0.3.0 are left to a person: their senders may have written their routing keys.
    """
    # Dead letters are quarantined many at a time: Dagster's storage is asked once for all of the same moment.
    failed = functools.cache(functools.partial(drain_failed_for_a_store, instance))
    names = ("queue", "routing_key", "envelope_organization", "message_id", "reasons", "intent", "share")
    shown = dict.fromkeys((*names, "quarantined_at"), 1)

    def is_wanted(document: Mapping[str, Any]) -> bool:
        known = "envelope_organization" in document and _is_of_outage(document, failed, jobs)
        return known and _times_replayed(mongodb, document) < THRESHOLDS.outage_replays

    query = {"state": HELD, "reasons.reason": reasons.DEAD_LETTER}
    with mongodb.errors():
        found = mongodb.database[COLLECTION].find(query, shown).sort("quarantined_at", 1)
        yield from first_of_each(found, limit, is_wanted)


def _is_of_outage(document: Mapping[str, Any], failed: Callable[[str, datetime], bool], jobs: dict[str, str]) -> bool:
    message = reasons.dead_letter_message(document)
    if reasons.BY_A_STORE.match(message):
        return True
    return bool(reasons.COUNTED_OUT.match(message)) and failed(jobs[document["queue"]], document["quarantined_at"])


def drain_failed_for_a_store(instance: dg.DagsterInstance, job: str, before: datetime) -> bool:
    """Whether a drain failed because of a store in the hours before.

    During an outage drains fail every few minutes, and the first one that succeeds quarantines the dead letters.
    """
    since = before - timedelta(hours=THRESHOLDS.outage_lookback_hours)
    of_job = dg.RunsFilter(job_name=job, tags={STORE_FAILED: "true"}, created_after=since, created_before=before)
    return bool(instance.get_runs(of_job, limit=1))


def _times_replayed(mongodb: MongoDB, document: Mapping[str, Any]) -> int:
    """How often the message was replayed automatically before, counting all its copies."""
    same = {name: document[name] for name in ("queue", "routing_key", "message_id")}
    return mongodb.database[COLLECTION].count_documents({**same, "state": "replayed", "trail.who": WHO})
