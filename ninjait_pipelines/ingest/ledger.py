"""The rows of message_deliveries, the ledger: what became of each copy of a message, and which points it brought."""

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, chain
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import Any

import msgspec
import pyarrow as pa

from ninjait_pipelines.contract import ContractViolation, identifier
from ninjait_pipelines.ingest.decode.model import NOBODY, Columns, Decoded, LeftOut
from ninjait_pipelines.ingest.decode.routing import organization_of
from ninjait_pipelines.ingest.series import TOO_MANY
from ninjait_pipelines.messages import Message
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.streams import CONTRACTS

Batch = Sequence[tuple[Message, Decoded]]
# Among a row's reasons, why the quarantine has no body: its organization's share was full, or its device repeats what
# is kept of that day.
BODY_NOT_KEPT = "body_not_kept"
KEPT_ONCE_A_DAY = "kept_once_a_day"

_INSTANTS = pa.timestamp("ms", "UTC")
# One value a copy. first_time and last_time are not among them: ClickHouse finds them in the instants.
_LEDGER = pa.schema(
    dict.fromkeys(("queue", "delivery_id", "run_id", "outcome", "organization_id", "device_id"), pa.string())
    | dict.fromkeys(("agent", "host"), pa.string())
    | {"message_id": pa.string(), "published_at": _INSTANTS}
    | dict.fromkeys(("points", "points_written", "points_quarantined", "unknown_fields", "bytes"), pa.uint32())
    | {"position": pa.uint32(), "reasons": pa.list_(pa.string()), "values_digest": pa.uint32()}
)
_LEFT_OUT = pa.struct(
    dict.fromkeys(("device_id", "host", "measurement", "example"), pa.string()) | {"readings": pa.uint32()}
)
_left_out = attrgetter(*_LEFT_OUT.names)
REFUSED_BY_SINK = {"refused_by_store", *TOO_MANY.values()}
_encode = msgspec.msgpack.Encoder().encode
_values = itemgetter(*FIELDS)


def ledger_rows(
    batch: Iterable[tuple[Message, Decoded]],
    run_id: str,
    outcome: str | None = None,
    not_kept: Mapping[str, str] = MappingProxyType({}),
) -> pa.Table:
    """A row of message_deliveries for each copy; the outcome follows from what was decoded, if none is given.

    `not_kept` are copies whose bodies the quarantine did not keep, with the reason: their rows are all that is left of
    them, and say so. Whose a message is that was refused whole is said by its routing key, not by its body.
    """
    rows: list[tuple[Any, ...]] = []
    instants: list[Sequence[int]] = []
    counter_instants: list[Sequence[int]] = []
    volume_instants: list[Sequence[int]] = []
    instant_devices: list[Sequence[str]] = []
    left_out: list[Sequence[LeftOut]] = []
    for position, (message, decoded) in enumerate(batch):
        columns, counters, volumes = _written(decoded)
        instants.append(columns.get("time") or columns.get("timestamp") or ())
        counter_instants.append(counters.get("time", ()))
        volume_instants.append(volumes.get("time", ()))
        instant_devices.append(() if decoded.device_id else _devices(columns, counters, volumes))
        left_out.append(decoded.left_out)
        rows.append(
            (
                message.queue,
                message.delivery_id,
                run_id,
                outcome or outcome_of(decoded),
                organization_shown(message, decoded) or NOBODY,
                decoded.device_id or NOBODY,
                decoded.agent,
                decoded.host,
                str(decoded.message_id),
                message.published_at or None,
                decoded.points,
                # counted, so that the sum with the next one proves something
                len(instants[-1]) + len(counter_instants[-1]) + len(volume_instants[-1]),
                decoded.points_rejected if decoded.rejections else 0,
                decoded.unknown_fields,
                len(message.body),
                position,
                _reasons(message, decoded, not_kept) if decoded.rejections else (),
                _digest(columns) if decoded.device_id else 0,
            )
        )
    values = zip(*rows, strict=True) if rows else [()] * len(_LEDGER)
    arrays = {field.name: pa.array(column, field.type) for field, column in zip(_LEDGER, values, strict=True)}
    arrays["instants"] = _lists(instants, _INSTANTS)
    arrays["counter_instants"] = _lists(counter_instants, _INSTANTS)
    arrays["volume_instants"] = _lists(volume_instants, _INSTANTS)
    arrays["instant_devices"] = _lists(instant_devices, pa.string())
    arrays["left_out"] = _left_out_lists(left_out)
    return pa.table(arrays)


def organization_shown(message: Message, decoded: Decoded) -> str | None:
    """Of a message that was taken the one that it is of; of one that was refused the one that it was published under,
    whatever it says, so that nobody shows up as another one. None where the routing key names none."""
    if not decoded.whole or CONTRACTS[message.queue].routed_by != "organization_id":
        return decoded.organization_id
    named = organization_of(message.routing_key)
    with suppress(ContractViolation):
        if named == identifier(named):  # not in upper case, in braces, or with a line break: that is another key
            return named
    return None


def _reasons(message: Message, decoded: Decoded, not_kept: Mapping[str, str]) -> list[str]:
    reasons = sorted({rejection.reason for rejection in decoded.rejections})
    why = not_kept.get(message.copy_id)
    return [*reasons, why] if why else reasons


def outcome_of(decoded: Decoded) -> str:
    """What becomes of a message: written, partly_quarantined, quarantined, or not_understood: nothing in it is bad, and
    nothing is for us, so it is kept nowhere."""
    if not decoded.rejections:
        return "written" if decoded.points else "not_understood"
    return "partly_quarantined" if decoded.points_accepted else "quarantined"


def _written(decoded: Decoded) -> tuple[Columns, Columns, Columns]:
    """The columns, counters and volumes without the rows that their sink has refused."""
    if not decoded.rejections:
        return decoded.columns, decoded.counters, decoded.volumes
    refused = {rejection.index for rejection in decoded.rejections if rejection.reason in REFUSED_BY_SINK}
    columns = _without(decoded.columns, decoded.rows, refused)
    counters = _without(decoded.counters, decoded.counter_rows, refused)
    return columns, counters, _without(decoded.volumes, decoded.volume_rows, refused)


def _without(columns: Columns, rows: Sequence[int], refused: Collection[int | None]) -> Columns:
    if not refused:
        return columns
    size = len(columns.get("time", ()))
    kept = [at for at, row in enumerate(rows or range(size)) if row not in refused]
    return {name: [values[at] for at in kept] for name, values in columns.items()} if kept else {}


def _devices(*parts: Columns) -> Sequence[str]:
    """The device of each point and of each reading of counters and volumes, which other agents name one by one;
    once where all are of one device, as nearly always: an agent reports its own machine, at hundreds of instants."""
    columns = [part["device_id"] for part in parts if "time" in part]
    devices = set(chain.from_iterable(columns))
    return list(devices) if len(devices) <= 1 else list(chain.from_iterable(columns))


def _digest(columns: Columns) -> int:
    """Of the values, in their order, the same in every process. It is only compared between messages of our own agents
    whose instants are equal (`resent_points`), for which 32 bits are plenty."""
    return zlib.crc32(_encode(_values(columns))) if "time" in columns else 0


def _left_out_lists(parts: Sequence[Sequence[LeftOut]]) -> pa.ListArray:
    columns = list(zip(*map(_left_out, chain.from_iterable(parts)), strict=True)) or [()] * len(_LEFT_OUT)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _LEFT_OUT, strict=True)]
    return pa.ListArray.from_arrays(_offsets(parts), pa.StructArray.from_arrays(arrays, fields=list(_LEFT_OUT)))


def _offsets(parts: Sequence[Sequence[Any]]) -> pa.Array:
    return pa.array(accumulate(map(len, parts), initial=0), pa.int32())


def _lists(parts: Sequence[Sequence[Any]], kind: pa.DataType) -> pa.ListArray:
    """A list a row; made from all values at once, as there may be a thousand of them in a row."""
    values = pa.array(list(chain.from_iterable(parts)), pa.int64() if kind == _INSTANTS else kind)
    return pa.ListArray.from_arrays(_offsets(parts), values.view(kind))
