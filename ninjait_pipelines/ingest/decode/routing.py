"""The agent and the organization of a metrics message, by its routing key."""

import re

from ninjait_pipelines.ingest.decode.collectd import COLLECTD
from ninjait_pipelines.ingest.decode.telegraf import LINE_PROTOCOL
from ninjait_pipelines.ingest.decode.third_party import Format
from ninjait_pipelines.messages import JSON

AGENTS = {"telegraf": LINE_PROTOCOL, "collectd": COLLECTD}
_LIST_OF_OBJECTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{")


def format_of(queue: str, routing_key: str, content_type: str | None, body: bytes) -> Format | None:
    """The third-party format of a message, by its routing key or else its content type; None if it is our own."""
    if queue != "agent.metrics":
        return None
    agent = AGENTS.get("".join(routing_key.split(".")[1:2]))
    if agent:
        return agent
    kind = (content_type or JSON).partition(";")[0].strip().lower()
    if kind == "text/plain" or kind.startswith("application/vnd.influx"):
        return LINE_PROTOCOL
    return COLLECTD if kind == JSON and _LIST_OF_OBJECTS.match(body) else None


def organization_of(routing_key: str) -> str | None:
    """The organization that the routing key of a third-party message names, if any."""
    words = routing_key.split(".")[1:]
    words = words[1:] if words and words[0] in AGENTS else words
    return ".".join(words) if words else None  # after a final dot it is "", which is unknown and not absent
