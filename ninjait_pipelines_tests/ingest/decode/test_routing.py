"""Which format a message has and which organization it speaks for."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.ingest.decode.routing import organization_of
from ninjait_pipelines.messages import Message
from ninjait_pipelines_tests.examples import examples
from ninjait_pipelines_tests.ingest.decode.decoding import decoded, gauges, reasons
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    ORG,
    OTHER_ORG,
    REGISTRY,
    collectd,
    encoded,
    gzipped,
    line,
    message,
    metrics,
    sample,
    telegraf,
    value_list,
)


@pytest.mark.parametrize(
    "delivered",
    [
        telegraf(line("mem", "used=0i")),
        telegraf(line("mem", "used=0i"), organization=ORG),
        telegraf(line("mem", "used=0i"), organization=ORG, content_type="application/octet-stream"),
        telegraf(line("mem", "used=0i"), routing_key=f"metrics.{ORG}"),
        telegraf(line("mem", "used=0i"), routing_key=f"metrics.{ORG}", content_type="Text/Plain; charset=utf-8"),
        telegraf(line("mem", "used=0i"), routing_key=f"metrics.{ORG}", content_type="application/vnd.influxdata"),
        collectd(value_list("memory", "memory", 0, type_instance="used")),
        collectd(value_list("memory", "memory", 0, type_instance="used"), organization=ORG, content_type="text/json"),
        collectd(value_list("memory", "memory", 0, type_instance="used"), routing_key=f"metrics.{ORG}"),
    ],
)
def test_the_format_is_told_by_the_routing_key_else_by_the_content_type(delivered: Message) -> None:
    result = decoded(delivered)
    assert (result.points, result.rejections, gauges(result)) == (1, [], {"memory": [0.0]})


def test_our_own_format_is_not_taken_for_another() -> None:
    assert decoded(message("agent.metrics", metrics(sample()))).device_id == DEVICE
    assert reasons(decoded(message("agent.metrics", metrics(sample()), content_type="application/xml")))[0][2] == (
        "unknown_content_type"
    )


@pytest.mark.parametrize("organization", [str(uuid.UUID(int=9)), "acme", f"{ORG}.more"])
def test_an_organization_that_does_not_exist_costs_the_message(organization: str) -> None:
    result = decoded(telegraf(line("mem", "used=0i"), organization=organization))
    assert (reasons(result), result.whole) == ([(None, "routing_key", "unknown_organization")], True)
    assert (result.organization_id, result.rejections[0].value) == (None, repr(f"metrics.telegraf.{organization}"))


@pytest.mark.parametrize("key", ["metrics.telegraf.", "metrics.collectd.", "metrics."])
def test_a_key_whose_organization_is_empty_is_nobody_s_and_not_everybody_s(key: str) -> None:
    """`metrics.telegraf.$ORGANIZATION` of an agent whose variable was not set: its hosts could be any customer's."""
    delivered = collectd(value_list("memory", "memory", 0, type_instance="used"), routing_key=key)
    if "collectd" not in key:
        delivered = telegraf(line("mem", "used=0i"), routing_key=key)
    result = decoded(delivered)
    assert (result.whole, reasons(result)) == (True, [(None, "routing_key", "unknown_organization")])
    assert organization_of("metrics.telegraf") is None


LINES = st.lists(
    st.builds(
        line,
        st.sampled_from(["mem", "disk,path=/", "net,interface=eth0"]),
        st.sampled_from(["used=1i", "bytes_recv=1i", "used=-1i"]),
        host=st.sampled_from(["lap-1", "lap-2", "nobody"]),
    ),
    min_size=1,
    max_size=4,
)
LISTS = st.lists(
    st.builds(
        lambda host: value_list("memory", "memory", 1, type_instance="used", host=host),
        st.sampled_from(["lap-1", "lap-2", "nobody"]),
    ),
    min_size=1,
    max_size=4,
)
OURS = st.builds(
    lambda organization, device: metrics(sample(), organization_id=organization, device_id=device),
    st.sampled_from([ORG, OTHER_ORG]),
    st.sampled_from(list(REGISTRY.devices)),
)
BODIES = LINES.map("\n".join).map(str.encode) | LISTS.map(encoded) | OURS.map(encoded)


@examples(400)
@given(
    st.sampled_from(["metrics.{}", "metrics.telegraf.{}", "metrics.collectd.{}", "metrics.telegraf.{}.x"]),
    st.sampled_from([ORG, OTHER_ORG, ORG.upper(), "", "telegraf", "collectd", str(uuid.UUID(int=9))]),
    st.sampled_from(["text/plain", "application/json", "", "application/vnd.influx"]),
    BODIES | BODIES.map(gzipped),
)
def test_no_row_is_of_another_organization_than_the_one_in_the_routing_key(
    pattern: str, organization: str, kind: str, body: bytes
) -> None:
    """Brokers give rights by routing key: whatever else a message says, it speaks for nobody else."""
    key = pattern.format(organization)
    if key in ("metrics.telegraf", "metrics.collectd"):  # these name none, and are given to nobody who may not say so
        return
    result = decoded(message("agent.metrics", body, routing_key=key, content_type=kind, message_id=None))
    rows = [*result.columns.get("organization_id", []), *result.counters.get("organization_id", [])]
    assert set(rows) <= {organization}
    devices = [*result.columns.get("device_id", []), *result.counters.get("device_id", [])]
    assert {REGISTRY.devices[device] for device in devices} <= {organization}
