"""The health of all stores at once; shared by the asset store_health and by `ninjait status`.

Two stores are optional. Without MongoDB what is bad waits in the spool; without Dragonfly the caches are cold, unless
it is the queue as well. All others are required: without one of them nothing is taken from the queue.
"""

import time
from collections.abc import Callable, Mapping
from threading import Thread

import msgspec

from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.ingest.quarantine.usage import NEARLY_FULL, read_usage
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import Store, StoreError, StoreStatus
from ninjait_pipelines.resources.versions import NEWER, problem, too_old

# Organizations with nearly full shares that a note names, the fullest first.
NAMED = 10


def check_all(
    stores: Mapping[str, Store], seconds: float = 5, clock: Callable[[], float] = time.monotonic
) -> list[StoreStatus]:
    """Asks every store (resource key -> store) at the same time, and waits for the slowest at most `seconds`.

    A store that hangs is reported as down and left to its own time-out, in a thread that lets the process exit.
    """
    found: dict[str, StoreStatus] = {}
    queue = stores.get("message_queue")

    def check(name: str, store: Store) -> None:
        try:
            status = store.status()
        except Exception as error:  # noqa: BLE001 -- shown, not hidden: whatever a client throws, its store does not answer
            status = StoreStatus(store.title, store.address, ok=False, problem=f"{store.title}: {error!r}")
        found[name] = _with_version(_with_meaning(status, store, queue))

    threads = [Thread(target=check, args=item, daemon=True) for item in stores.items()]
    for thread in threads:
        thread.start()
    deadline = clock() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - clock()))
    return [found.get(name) or _with_meaning(_silent(store, seconds), store, queue) for name, store in stores.items()]


def _silent(store: Store, seconds: float) -> StoreStatus:
    silence = f"{store.title} at {store.address}: no answer within {seconds:g} seconds."
    return StoreStatus(store.title, store.address, ok=False, problem=silence)


def _with_meaning(status: StoreStatus, store: Store, queue: Store | None) -> StoreStatus:
    """The status, with whether the pipeline can go on without the store, and what changes then."""
    if isinstance(store, MongoDB):
        return _with_quarantine(status, store)
    if type(store) is Dragonfly and not isinstance(queue, Dragonfly):
        cold = "Caches are cold; device_caches repairs the latest values once it is back."
        return msgspec.structs.replace(status, optional=True, note="" if status.ok else cold)
    return status


def _with_version(status: StoreStatus) -> StoreStatus:
    """A store that answers but is too old counts as down, even if the pipeline could do without it."""
    if not too_old(status.version, status.oldest):
        return status
    old = f"{status.store} at {status.address}: {problem(status.version, status.oldest)}. {NEWER}"
    return msgspec.structs.replace(status, ok=False, optional=False, problem=f"{old} {status.problem}".strip())


def _with_quarantine(status: StoreStatus, mongodb: MongoDB) -> StoreStatus:
    """The status, with what waits in the spool and which organizations' shares of the quarantine are nearly full."""
    spool = Spool(mongodb)
    status = msgspec.structs.replace(status, optional=True)
    try:
        messages, size = spool.waiting()
        used = read_usage(mongodb, away=not status.ok)
    except StoreError as error:
        return msgspec.structs.replace(status, note=str(error))
    status = msgspec.structs.replace(status, spooled_messages=messages, spooled_bytes=size)
    waiting = f"{messages} {'message waits' if messages == 1 else 'messages wait'} there"
    note = f"Not yet moved from the spool {spool.folder}: {waiting}. " if messages else ""
    if not status.ok:
        note = f"Quarantine goes to the spool {spool.folder}: {waiting}. Logs stay queued, alerts in Dagster's log. "
    if used.share >= NEARLY_FULL:
        meaning = "beyond it bad messages are only counted, those of the largest holder first"
        note += f"The quarantine is {used.share:.0%} full: {used}; {meaning}: ninjait quarantine list. "
    fullest = used.fullest()
    for organization, share in fullest[:NAMED]:
        note += _share_note(organization, share)
    if len(fullest) > NAMED:
        note += f"So have {len(fullest) - NAMED} more. "
    return msgspec.structs.replace(status, note=note.strip())


def _share_note(organization: str, share: float) -> str:
    """The consequence of one organization's share of the quarantine being nearly full."""
    who = f"The organization {organization}" if organization else "What is of no known organization"
    select = f"ninjait quarantine list{f' --organization {organization}' if organization else ''}"
    meaning = "beyond it what it sends wrong is only counted, not kept"
    return f"{who} has filled {share:.0%} of its share of the quarantine; {meaning}: {select}. "
