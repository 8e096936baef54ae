"""The rows of message_deliveries, the ledger: the outcome of each copy of a message, and the points it delivered."""

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
# Reasons why the quarantine has no body: the organization's share was full, or the device repeats a message of that day
# that is kept already.
BODY_NOT_KEPT = "body_not_kept"
KEPT_ONCE_A_DAY = "kept_once_a_day"

_INSTANTS = pa.timestamp("ms", "UTC")
# One value per copy. first_time and last_time are missing: ClickHouse derives them from the instants.
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
    """A row of message_deliveries per copy; without `outcome` it follows from what was decoded.

    not_kept: copies whose bodies the quarantine did not keep -> the reason, which their rows name. A message that was
    refused whole belongs to the organization of its routing key, whatever its body says.
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
                # counted independently, so that written + quarantined = points proves something
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
    """The organization of a message. One that was refused whole belongs to that of its routing key, whatever its body
    says, so that no sender can appear as another. None if the routing key names none."""
    if not decoded.whole or CONTRACTS[message.queue].routed_by != "organization_id":
        return decoded.organization_id
    named = organization_of(message.routing_key)
    with suppress(ContractViolation):
        if named == identifier(named):  # in upper case, in braces or with a line break it would be another key
            return named
    return None


def _reasons(message: Message, decoded: Decoded, not_kept: Mapping[str, str]) -> list[str]:
    reasons = sorted({rejection.reason for rejection in decoded.rejections})
    why = not_kept.get(message.copy_id)
    return [*reasons, why] if why else reasons


def outcome_of(decoded: Decoded) -> str:
    """written, partly_quarantined, quarantined, or not_understood: nothing in the message is bad, but nothing in it is
    known either, so it is kept nowhere."""
    if not decoded.rejections:
        return "written" if decoded.points else "not_understood"
    return "partly_quarantined" if decoded.points_accepted else "quarantined"


def _written(decoded: Decoded) -> tuple[Columns, Columns, Columns]:
    """The columns, counters and volumes without the rows that their sink refused."""
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
    """The device of each point, counter reading and volume reading, which third-party agents name one by one.

    Only once if it is the same for all, as nearly always: an agent reports its own machine, at hundreds of instants.
    """
    columns = [part["device_id"] for part in parts if "time" in part]
    devices = set(chain.from_iterable(columns))
    return list(devices) if len(devices) <= 1 else list(chain.from_iterable(columns))


def _digest(columns: Columns) -> int:
    """A digest of the values in their order, the same in every process. It is only compared between messages of our own
    agents with equal instants (`resent_points`), for which 32 bits are plenty."""
    return zlib.crc32(_encode(_values(columns))) if "time" in columns else 0


def _left_out_lists(parts: Sequence[Sequence[LeftOut]]) -> pa.ListArray:
    columns = list(zip(*map(_left_out, chain.from_iterable(parts)), strict=True)) or [()] * len(_LEFT_OUT)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _LEFT_OUT, strict=True)]
    return pa.ListArray.from_arrays(_offsets(parts), pa.StructArray.from_arrays(arrays, fields=list(_LEFT_OUT)))


def _offsets(parts: Sequence[Sequence[Any]]) -> pa.Array:
    return pa.array(accumulate(map(len, parts), initial=0), pa.int32())


def _lists(parts: Sequence[Sequence[Any]], kind: pa.DataType) -> pa.ListArray:
    """One list per row, made from all values at once, because a row may have a thousand."""
    values = pa.array(list(chain.from_iterable(parts)), pa.int64() if kind == _INSTANTS else kind)
    return pa.ListArray.from_arrays(_offsets(parts), values.view(kind))
