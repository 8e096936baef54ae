"""Any properties that a message may have, ours and third parties'."""

import pika
from hypothesis import strategies as st

from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources.rabbitmq.messages import DELIVERY_ID, PUBLISHED_MS, properties_of

KEYS = st.text(max_size=60).map(lambda key: key.encode()[:255].decode(errors="ignore"))
PROPERTIES = st.builds(
    pika.BasicProperties,
    content_type=st.none() | KEYS,
    message_id=st.none() | st.uuids().map(str) | KEYS,
    timestamp=st.none() | st.integers(1, 2**63),
    priority=st.none() | st.integers(0, 9),
    headers=st.none()
    | st.dictionaries(
        st.sampled_from([DELIVERY_ID, PUBLISHED_MS, "x-delivery-count", "a"]),
        st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=40) | st.uuids().map(lambda one: one.hex),
    ),
)
OURS = st.builds(
    lambda message_id: properties_of(Outgoing("agent.metrics", "metrics.a", b"", message_id)),
    st.none() | st.uuids().map(str) | KEYS,
)
