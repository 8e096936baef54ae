"""The fast path for metrics messages of our own agents: a flawless one is decoded by msgspec, without the rules."""

import msgspec

from ninjait_pipelines.contract import MAX_BYTES, Metrics, all_milliseconds
from ninjait_pipelines.ingest.decode.model import Decoded, Period, SenderRegistry
from ninjait_pipelines.ingest.decode.rules import is_json
from ninjait_pipelines.ingest.decode.tables import metric_columns
from ninjait_pipelines.messages import Message, identity

_decode = msgspec.json.Decoder(Metrics).decode
_values = msgspec.structs.astuple


def decode_good_metrics(message: Message, registry: SenderRegistry, period: Period) -> Decoded | None:
    """Decodes a metrics message without any fault; None if there is one, or anything unusual."""
    if len(message.body) > MAX_BYTES or not is_json(message.content_type):
        return None
    try:
        body = _decode(message.body)
    except (ValueError, RecursionError):
        return None
    organization, device = body.organization_id, body.device_id
    if registry.devices.get(device) != organization or message.routing_key != f"metrics.{organization}":
        return None
    moments, *values = zip(*map(_values, body.samples), strict=True)
    times = all_milliseconds(moments)
    if min(times) < period.oldest or max(times) > period.newest:
        return None
    if None in values[0] and (None,) * len(values) in zip(*values, strict=True):
        return None  # a sample without any known field
    return Decoded(
        message_id=identity(message.queue, message.body, message.message_id, body.message_id),
        organization_id=organization,
        device_id=device,
        agent_version=body.agent_version,
        points=len(times),
        columns=metric_columns(organization, device, times, values),
    )
