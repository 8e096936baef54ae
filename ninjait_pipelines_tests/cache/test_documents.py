"""The content of the cached documents, as pure functions."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any
from uuid import UUID

import msgspec
import pytest

from ninjait_pipelines.cache.documents import (
    PRIORITIES,
    SEVERITIES,
    Device,
    Window,
    device_list,
    figures,
    lacks,
    own_reading,
    summary,
    uptime_scores,
)
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.metrics.model import FIELDS

ORG, OTHER = UUID(int=1), UUID(int=2)
REVISION = "r"
H = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURS = [H, H + HOUR, H + 3 * HOUR]  # H + 2 was not rolled up


def device(number: int, registered_at: datetime = H - HOUR, **changes: Any) -> Device:
    return Device(str(ORG), str(UUID(int=number)), f"pc-{number}", "server", "Linux", registered_at, **changes)


def window(*shares: tuple[Device, float], hours: Sequence[datetime] = HOURS) -> Window:
    return Window(4, hours, {(one.organization_id, one.device_id): share for one, share in shares})


@pytest.mark.parametrize(
    ("registered_at", "due"),
    [(H - HOUR, 3), (H, 3), (H + timedelta(microseconds=1), 2), (H + 2 * HOUR, 1), (H + 4 * HOUR, 0)],
)
def test_an_hour_is_due_if_it_began_after_the_registration(registered_at: datetime, due: int) -> None:
    assert window().due(device(1, registered_at)) == due


def test_a_device_covers_no_more_hours_than_are_due() -> None:
    """Its samples of the hour in which it was registered are there too."""
    new = device(1, H + HOUR)
    assert window((new, 2.5)).covered(new) == 2.0
    assert window((new, 1.5)).covered(new) == 1.5
    assert window((new, 1.5)).covered(device(2)) == 0.0


def test_samples_under_another_organization_cover_nothing() -> None:
    one = device(1)
    assert Window(4, HOURS, {(str(OTHER), one.device_id): 3.0}).covered(one) == 0.0


@pytest.mark.parametrize("share", [nan, inf, -inf])
def test_a_share_that_is_no_number_is_an_error(share: float) -> None:
    """min(nan, 3) is nan, which Redis refuses as a score."""
    one = device(1)
    with pytest.raises(ValueError, match=rf"{one.device_id} adds up to {share}: roll its hours up again"):
        window((one, share)).covered(one)


def test_a_window_ends_with_its_newest_hour() -> None:
    assert window().completeness == 3 / 4
    shown = {"start": "2026-03-01T00:00:00.000000+00:00", "end": "2026-03-01T04:00:00.000000+00:00"}
    assert window().document() == shown
    assert (window(hours=[]).completeness, window(hours=[]).document()) == (0.0, {"start": None, "end": None})


def test_a_list_has_each_device_with_its_own_readings() -> None:
    cached = [
        {"organization_id": str(ORG), "as_of": "now", "cpu": 5.0, "invented": 1},
        {"organization_id": str(OTHER), "as_of": "now", "cpu": 6.0},
        {"as_of": "now", "cpu": 7.0},
    ]
    readings = [own_reading(json.dumps(one), str(ORG)) for one in cached]
    heard: list[dict[str, Any]] = [{"status": "online", "last_seen": H}, {}, {}]
    devices = [device(number, readings=readings[number], **heard[number]) for number in range(3)]
    made = device_list(ORG, devices, REVISION, H)
    found = msgspec.json.decode(msgspec.json.encode(made))
    assert found["completeness"] == 1 / 3, "the status of two is unknown"
    one, *others = found["devices"]
    assert one["readings"] == dict.fromkeys(FIELDS) | {"as_of": "now", "cpu": 5.0}
    assert [other["readings"] for other in others] == [None, None], "those of nobody and of another organization"
    assert (one["last_seen"], others[0]["last_seen"]) == ("2026-03-01T00:00:00Z", None)


@pytest.mark.parametrize("cached", [None, "", "x", "[1]", "7", "null", '{"organization_id": 1}', "{"])
def test_what_is_no_reading_is_none(cached: str | None) -> None:
    assert own_reading(cached, str(ORG)) is None


LATELY, EARLIER = "2026-03-01T00:00:01.000", "2026-03-01T00:00:00.999"
MEMORY, UPTIME = 0b10, 0b100000


@pytest.mark.parametrize(
    ("cached", "read_at", "carried", "lacking"),
    [
        (None, "", 0, False),
        (None, LATELY, MEMORY, True),
        ({"memory": 1.0}, LATELY, MEMORY, False),
        ({"memory": 1.0}, LATELY, MEMORY | UPTIME, True),
        ({"memory": 1.0}, EARLIER, MEMORY, False),
        ({"memory": None}, EARLIER, 0, False),
        ({"memory": 1.0, "as_of": f"{EARLIER}500+00:00"}, LATELY, MEMORY, True),
        ({"memory": 1.0, "as_of": f"{LATELY}999+00:00"}, LATELY, MEMORY, False),
        ({"memory": 1.0, "as_of": None}, LATELY, MEMORY, True),
        (dict.fromkeys(FIELDS, 1.0), LATELY, 0b111111111, False),
    ],
)
def test_a_reading_lacks_what_was_sent_since_or_lately(
    cached: dict[str, Any] | None, read_at: str, carried: int, lacking: bool
) -> None:
    about = {"organization_id": str(ORG), "as_of": f"{LATELY}000+00:00"}
    reading = own_reading(json.dumps(about | cached), str(ORG)) if cached else None
    assert lacks(reading, read_at, carried) is lacking


def test_an_organization_without_devices_is_complete() -> None:
    found = device_list(ORG, [], REVISION, H)
    assert (found["devices"], found["completeness"]) == ([], 1.0)


def test_a_summary_counts_devices_hours_and_open_work() -> None:
    old, new = device(1, status="online"), device(2, H + 2 * HOUR)
    work = {("ticket", "high"): 2, ("alert", "info"): 3, ("ticket", "unheard-of"): 1}
    hours = window((old, 2.0), (new, 0.5))
    found = summary(ORG, [old, new], hours, figures([old, new], hours, {"cpu_avg": 7.5}), work, REVISION, H)
    assert found["devices"] == {"total": 2, "online": 1, "unknown": 1}
    assert found["sample_share"] == 2.5 / 4, "three hours of the old device and one of the new"
    assert (found["cpu_avg"], found["memory_avg"]) == (7.5, None)
    assert found["open_tickets"] == dict.fromkeys(PRIORITIES, 0) | {"high": 2}
    assert found["open_alerts"] == dict.fromkeys(SEVERITIES, 0) | {"info": 3}


def test_a_summary_without_due_hours_has_no_share() -> None:
    """0 would look like devices that are all down."""
    for devices in ([], [device(1, H + 5 * HOUR)]):
        assert figures(devices, window(), {}).sample_share is None


def test_the_leaderboard_leaves_out_new_devices_and_names_bad_ones() -> None:
    good, new, bad = device(1), device(2, H + 4 * HOUR), device(3)
    left_out = LeftOut()
    assert uptime_scores([bad, good, new], window((good, 1.5), (bad, nan)), left_out) == {
        f"{ORG}:{good.device_id}": 0.5
    }
    assert list(left_out.reasons) == [f"device {bad.device_id}"]
