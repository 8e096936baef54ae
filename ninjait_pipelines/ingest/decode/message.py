"""From the bytes of a message to rows and rejections. Pure: no store, no clock, and no exception whatever the bytes.

accepted + rejected = sent, for every message. If a JSON object names a key twice, the last one counts.
"""

from ninjait_pipelines.contract import ContractViolation
from ninjait_pipelines.ingest.decode.json_fast import decode_good_metrics
from ninjait_pipelines.ingest.decode.line_protocol_fast import decode_good_lines
from ninjait_pipelines.ingest.decode.model import Decoded, Period, Rejection, SenderRegistry
from ninjait_pipelines.ingest.decode.readings import decode_third_party
from ninjait_pipelines.ingest.decode.rejections import MAX_SHOWN, rejected_message
from ninjait_pipelines.ingest.decode.routing import format_of
from ninjait_pipelines.ingest.decode.rules import decode_by_rules, load_body
from ninjait_pipelines.ingest.decode.telegraf import LINE_PROTOCOL
from ninjait_pipelines.messages import Message


def decode(message: Message, registry: SenderRegistry, period: Period) -> Decoded:
    """The only entrance, for every queue and format: the good part of a message as columns, the bad part as rejections.

    Body, routing key and content type may be anything: none of them raises an exception. A metrics message gives the
    columns of POINTS, COUNTERS and VOLUMES, with times in milliseconds since 1970; an event gives one row with the
    fields of its contract. points_accepted + points_rejected = points, and the columns hold what was accepted.
    """
    good = decode_good_metrics(message, registry, period) if message.queue == "agent.metrics" else None
    if good:
        return good
    format_ = format_of(message.queue, message.routing_key, message.content_type, message.body)
    if format_:
        good = decode_good_lines(message, registry, period) if format_ is LINE_PROTOCOL else None
        return good or decode_third_party(message, format_, registry, period)
    return decode_by_rules(message, registry, period)


def decode_nothing(message: Message, reason: str, server_message: str = "") -> Decoded:
    """A message that is rejected for a reason outside it; its sender is read as far as possible.

    `server_message` is a store's own explanation. It is the rejection's value, so that it does not multiply reasons.
    """
    try:
        decoded = rejected_message(message, load_body(message), ContractViolation(reason))
    except ContractViolation:
        decoded = rejected_message(message, None, ContractViolation(reason))
    if server_message:
        decoded.rejections = [Rejection(None, None, server_message[:MAX_SHOWN], reason)]
    return decoded
