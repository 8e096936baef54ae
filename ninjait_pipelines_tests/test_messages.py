"""The identity of messages."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.messages import CONTENT_NAMESPACE, identity
from ninjait_pipelines_tests.examples import examples


@given(body=st.binary(max_size=40), repeated=st.integers(0, 1000), own=st.uuids())
@examples(50)
def test_the_id_of_a_message_without_one_is_a_uuid5_of_its_content(body: bytes, repeated: int, own: uuid.UUID) -> None:
    body *= repeated
    assert identity("agent.metrics", body, None, "no id") == uuid.uuid5(
        CONTENT_NAMESPACE, "agent.metrics\0" + body.hex()
    )
    assert identity("agent.metrics", body, str(own)) == identity("agent.metrics", body, f"{{{own.hex}}}") == own
