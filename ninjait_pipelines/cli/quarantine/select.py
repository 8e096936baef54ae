"""What a command is about: the messages that its options select, or the one with an id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from ninjait_pipelines.cli.output import counted, fail, safe, say

if TYPE_CHECKING:
    from ninjait_pipelines.ingest.quarantine.edit import Edits
    from ninjait_pipelines.ingest.quarantine.query import QuarantineFilter
    from ninjait_pipelines.resources import Stores
    from ninjait_pipelines.resources.mongodb import MongoDB

MAX_REASONS = 10  # named where nothing matches


def filter_of(
    document_id: str | None,
    queue: str | None,
    reason: str | None,
    since: datetime | None,
    until: datetime | None,
    organization: str | None,
) -> QuarantineFilter:
    """The filter that the options name. Exits with 1 for an unknown queue."""
    from ninjait_pipelines.ingest.quarantine.query import QuarantineFilter
    from ninjait_pipelines.streams import CONTRACTS

    if queue is not None and queue not in CONTRACTS:
        fail(f"there is no queue {queue}; the queues are {', '.join(CONTRACTS)}")
    return QuarantineFilter(document_id, queue, reason, _utc(since), _utc(until), organization)


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment else None


def pairs(option: str, form: str, given: Iterable[str] | None) -> dict[str, str]:
    """The values of `--set` or `--map`. Exits with 1 for one that is not of this form, or is given twice."""
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            fail(f"{option} {text}: write it as {form}")
        if name in found:
            fail(f"{option} {text}: {name} is given twice")
        found[name] = value
    return found


def organization_names(stores: Stores) -> dict[str, str]:
    """Organization id -> name; empty while PostgreSQL is away."""
    from ninjait_pipelines.resources.store import StoreError

    try:
        rows = stores.postgres.rows("SELECT id::text AS id, name FROM organizations")
    except StoreError:
        return {}
    return {row["id"]: row["name"] for row in rows}


def move_spool(mongodb: MongoDB) -> None:
    """Moves the spool into MongoDB; a file that cannot be moved stops no command."""
    from ninjait_pipelines.ingest.quarantine.hold import move_spooled
    from ninjait_pipelines.resources.store import StoreFailed

    try:
        move_spooled(mongodb, datetime.now(UTC))
    except StoreFailed as error:
        say(str(error), err=True)


def find_message(mongodb: MongoDB, document_id: str) -> tuple[dict[str, Any], bytes]:
    """A message and its body, from the spool while MongoDB is away. Exits with 1 if it is in neither."""
    from ninjait_pipelines.ingest.quarantine import query
    from ninjait_pipelines.ingest.quarantine.documents import body_of
    from ninjait_pipelines.ingest.quarantine.spool import Spool
    from ninjait_pipelines.resources.store import StoreError

    try:
        move_spool(mongodb)
        document = query.find(mongodb, document_id)
        body = body_of(mongodb, document) if document else b""
    except StoreError as error:
        spooled = query.select_spooled(mongodb, query.QuarantineFilter(document_id), bodies=True)
        if not spooled:
            waiting = counted(Spool(mongodb).waiting()[0], "message")
            fail(f"{error} It is not among the {waiting} in the spool {mongodb.spool}.")
        return spooled[0], spooled[0]["body"]
    if document is None:
        fail(f"{document_id} is not in quarantine")
    return document, body


def select_messages(mongodb: MongoDB, selection: QuarantineFilter, everything: bool) -> list[dict[str, Any]]:
    """The quarantined messages that a command is about. Exits with 1 if its options name none, or none matches."""
    from ninjait_pipelines.ingest.quarantine import query
    from ninjait_pipelines.ingest.quarantine.documents import routing_key_of

    if selection == query.ALL and not everything:
        fail("say which: --id, --queue, --reason, --since, --until, --organization or --everything")
    move_spool(mongodb)
    names = ("_id", "queue", "routing_key", "message_id", "device_id", "envelope_organization", "reasons")
    found = [
        {**document, "routing_key": routing_key_of(document)}
        for document in query.select(mongodb, selection, names=names)
    ]
    if not found:
        _fail_with_nothing(mongodb, selection)
    return found


def _fail_with_nothing(mongodb: MongoDB, selection: QuarantineFilter) -> NoReturn:
    """Says why nothing matches: it was resolved, nothing is quarantined, or only messages with other reasons are."""
    from ninjait_pipelines.ingest.quarantine import query
    from ninjait_pipelines.ingest.quarantine.audit import last_step

    document_id = selection.document_id
    if document_id is not None:
        if step := last_step(mongodb, document_id):
            resolved = f"{step['who']} {step['action']} it at {step['at']:%Y-%m-%d %H:%M:%S} UTC: {step['outcome']}"
            fail(safe(f"{document_id} is no longer in quarantine: {resolved}"))
        there = query.find(mongodb, document_id)
        fail(f"{document_id} is {'quarantined, but the other options exclude it' if there else 'not in quarantine'}")
    messages: Counter[str] = Counter()
    for summary in query.summarize_selection(mongodb)[0]:
        messages[summary.reason] += summary.messages
    if not messages:
        fail("nothing is quarantined")
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in messages.most_common(MAX_REASONS))
    rest = f" and {len(messages) - MAX_REASONS:,} more" if len(messages) > MAX_REASONS else ""
    fail(safe(f"no quarantined message matches; the reasons are {reasons}{rest}"))


def check_edits_merge_nothing(found: list[dict[str, Any]], edits: Edits) -> None:
    """Exits with 1 if an edit would give several messages the same value of what tells them apart: they would silently
    become one."""
    from ninjait_pipelines.ingest.quarantine.edit import names_no_organization

    if "organization_id" in edits.fields and len({one["routing_key"] for one in found}) > 1:
        fail("--set organization_id is for messages of one organization, and these are of several: --map, or --id each")
    # Third-party agents' messages name no organization, and several organizations may have hosts of the same name.
    metrics = (one["routing_key"] for one in found if one["queue"] == "agent.metrics")
    lost = sum(names_no_organization("agent.metrics", key) for key in metrics)
    if "organization_id" in edits.fields and lost > 1:
        fail(f"{lost} of these messages have no routing key that names their organization: choose one by --id")
    # A message without a readable device id counts as a device of its own.
    if "device_id" in edits.fields and len({one["device_id"] or one["message_id"] for one in found}) > 1:
        fail("--set device_id is for messages of one device, and these are of several: --map, or --id each")
    if "timestamp" in edits.fields and len({one["message_id"] for one in found}) > 1:
        fail(f"--set timestamp is for one message, and these are {len(found)}: choose one by --id")


def replay_outcome(stores: Stores, document: Mapping[str, Any], step: Mapping[str, Any]) -> str | None:
    """What became of the message that this step published; None if it published none."""
    from ninjait_pipelines.resources.clickhouse import sql
    from ninjait_pipelines.resources.store import StoreError

    if not step.get("message_id"):
        return None
    try:
        rows = stores.clickhouse.rows(
            sql("ingest/replayed_message"),
            queue=document["queue"],
            message_id=step["message_id"],
            own=document["_id"].partition("/")[2],
            since=step["at"],
        )
    except StoreError as error:
        return f"not known: {error}"
    outcomes = [
        f"{row['outcome']} ({row['points_written']} of {row['points']} points) by run {row['run_id']}"
        + ("" if row["outcome"] in ("written", "not_understood") else f", see {document['queue']}/{row['delivery_id']}")
        for row in rows
    ]
    return "; ".join(outcomes) or "not drained yet"
