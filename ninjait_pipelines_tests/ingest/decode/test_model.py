"""Who may send, which times are accepted, and how the points of a message are counted. Pure values."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ninjait_pipelines.contract import ContractViolation, milliseconds
from ninjait_pipelines.ingest.decode.model import Decoded, Period, Rejection, SenderRegistry

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("organizations_needed", "organization", "refusal"),
    [
        (True, "a", None),
        (True, "b", "unknown_organization"),
        (True, "", "unknown_organization"),  # after a final dot: empty is not absent
        (True, None, "no_organization_in_key"),
        (False, None, None),
        (False, "b", "unknown_organization"),
    ],
)
def test_who_may_send(organizations_needed: bool, organization: str | None, refusal: str | None) -> None:
    registry = SenderRegistry(frozenset({"a"}), {}, hosts_without_organization=not organizations_needed)
    assert registry.refusal(organization) == refusal


def test_hosts_that_differ_in_case_are_found_together() -> None:
    registry = SenderRegistry(frozenset(), {}, {"PC": {"a": "1"}, "pc": {"a": "2", "b": "3"}, "STRASSE": {"a": "4"}})
    assert registry.folded["pc"] == [("a", "1"), ("a", "2"), ("b", "3")]
    assert registry.folded["straße".casefold()] == [("a", "4")]
    changed = msgspec.structs.replace(registry, hosts={"other": {"a": "1"}})
    assert changed.folded == {"other": [("a", "1")]}, "those of other hosts are not kept"


@pytest.mark.parametrize(
    ("moment", "reason", "reason_of_counter"),
    [
        (NOW + timedelta(minutes=5), "", ""),
        (NOW + timedelta(minutes=5) + MILLISECOND, "in_the_future", "in_the_future"),
        (NOW - timedelta(days=7), "", ""),
        (NOW - timedelta(days=7) - MILLISECOND, "", "counter_too_old"),
        (NOW - timedelta(days=730), "", "counter_too_old"),
        (NOW - timedelta(days=730) - MILLISECOND, "too_old", "too_old"),
    ],
)
def test_which_times_are_accepted(moment: datetime, reason: str, reason_of_counter: str) -> None:
    period = Period.at(NOW)
    for check, expected in ((period.check, reason), (period.check_counter, reason_of_counter)):
        for value in (milliseconds(moment), moment.isoformat()):
            assert _code(check, value) == expected


def _code(check: Any, value: Any) -> str:
    try:
        check(value)
    except ContractViolation as violation:
        return violation.code
    return ""


def test_a_time_that_cannot_be_read_is_no_old_one() -> None:
    assert _code(Period.at(NOW).check_counter, "now") == "not_a_time"


def test_a_sample_with_several_faults_is_one_rejected_point() -> None:
    rejections = [Rejection(1, "cpu", "-1", "negative"), Rejection(1, "memory", "-1", "negative")]
    decoded = Decoded(uuid.uuid4(), points=3, rejections=rejections)
    assert (decoded.points_rejected, decoded.points_accepted) == (1, 2)


def test_a_message_rejected_whole_has_no_accepted_points() -> None:
    decoded = Decoded(uuid.uuid4(), points=3, rejections=[Rejection(None, None, "", "unknown_device")], whole=True)
    assert (decoded.points_rejected, decoded.points_accepted) == (3, 0)


def test_messages_share_nothing_that_can_be_changed() -> None:
    """A refusal that was added to one message would be one of every message."""
    one, other = Decoded(uuid.uuid4()), Decoded(uuid.uuid4())
    one.rejections.append(Rejection(0, None, "", "refused_by_store"))
    assert other.rejections == []
    with pytest.raises(TypeError):
        one.counters["cpu"] = [1]  # type: ignore[index]
