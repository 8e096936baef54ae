"""What each source sends while nothing goes wrong: once an interval, by its own clock."""

import json
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from ninjait_pipelines.local.fleet.simulate import (
    Options,
    Organization,
    Window,
)
from ninjait_pipelines.local.fleet.simulate.sources import LocalClock, Scene, api_calls, logs, usage
from ninjait_pipelines_tests.local.fleet.simulate.fleets import (
    DAY,
    FLEET,
    MONDAY,
    WEEK,
    YESTERDAY,
    all_of,
    of,
    samples,
)


def test_samples_lie_in_the_window_one_an_interval_and_none_twice() -> None:
    messages = all_of(Options(broken=0, duplicates=0, resent=0, away=0))
    points = samples(of(messages, "agent.metrics"))
    assert len(points) == len(set(points)) == sum(one.points for one in of(messages, "agent.metrics"))
    assert all(DAY.start <= moment < DAY.end for _, moment in points)
    servers = {device.id for one in FLEET for device in one.devices if device.kind == "server"}
    for device, count in Counter(device for device, _ in points).items():
        assert 2880 - 12 <= count <= 2880 if device in servers else count <= 2880
    assert {len(json.loads(one.message.body)["samples"]) for one in of(messages, "agent.metrics")} >= {20}


@pytest.mark.parametrize("interval", [1, 7, 60, 300])
def test_any_interval_gives_every_sample_of_the_window_once(interval: int) -> None:
    window = Window(YESTERDAY, YESTERDAY + timedelta(hours=2))
    options = Options(broken=0, duplicates=0, resent=0, interval=interval, api_calls=0, logs=0)
    servers = [device.id for one in FLEET for device in one.devices if device.kind == "server"]
    counts = Counter(device for device, _ in samples(of(all_of(options, window), "agent.metrics")))
    for server in servers:
        assert 7200 // interval - 3 <= counts[server] <= -(-7200 // interval)


def test_a_reboot_sets_the_uptime_back() -> None:
    messages = of(all_of(Options(broken=0, duplicates=0, resent=0, interval=300), WEEK), "agent.metrics")
    uptimes: dict[str, list[float]] = {}
    for one in messages:
        body = json.loads(one.message.body)
        uptimes.setdefault(body["device_id"], []).extend(sample["uptime"] for sample in body["samples"])
    falls = [later < earlier for values in uptimes.values() for earlier, later in pairwise(values)]
    assert 0 < sum(falls) < len(falls) / 20
    assert min(min(values) for values in uptimes.values()) >= 0


def test_the_day_has_a_curve_in_local_time() -> None:
    messages = all_of(Options(broken=0, away=0), Window(MONDAY, MONDAY + timedelta(days=1)))
    for one, offset in ((FLEET[0], 5.5), (FLEET[1], -4)):
        hours: dict[int, list[float]] = {}
        for published in of(messages, "agent.metrics", "good"):
            body = json.loads(published.message.body)
            if body["organization_id"] == one.id:
                (_, at), *_ = samples([published])
                hours.setdefault((at + timedelta(hours=offset)).hour, []).append(body["samples"][0]["cpu"])
        mean = {hour: sum(values) / len(values) for hour, values in hours.items()}
        assert mean[11] > 1.5 * mean[3]


def scene(window: Window = DAY, one: Organization = FLEET[0], **options: Any) -> Scene:
    return Scene(one, LocalClock(one.time_zone), window, Options(**options), "root")


@pytest.mark.parametrize(
    ("moment", "busy"),
    [
        ("2026-05-04T06:59+00:00", 0.05),
        ("2026-05-04T08:00+00:00", 0.5),
        ("2026-05-04T10:00+00:00", 1.0),
        ("2026-05-04T12:30+00:00", 0.75),
        ("2026-05-04T17:30+00:00", 0.5),
        ("2026-05-04T23:00+00:00", 0.05),
        ("2026-05-03T10:00+00:00", 0.2),
    ],
)
def test_a_day_rises_dips_at_noon_and_falls_and_weekends_are_quiet(moment: str, busy: float) -> None:
    assert LocalClock("UTC").busy(datetime.fromisoformat(moment).timestamp()) == pytest.approx(busy)


def test_what_is_stored_follows_one_line_in_every_window() -> None:
    """A second simulated day that began again at the first one's figures would bill a loss of data."""
    day = timedelta(days=1)
    whole = [draft.body for draft in usage(scene(Window(DAY.start - day, DAY.end)))]
    parts = [draft.body for start in (DAY.start - day, DAY.start) for draft in usage(scene(Window(start, start + day)))]
    assert whole == parts
    amounts = [Decimal(body["storage_gb"]) for body in whole]
    assert len(amounts) == 8
    assert amounts == sorted(amounts)
    assert all(Decimal(body["backup_gb"]) == 3 * amount for body, amount in zip(whole, amounts, strict=True))


def test_logs_are_routed_by_their_level_and_everything_else_by_its_organization() -> None:
    lines = list(logs(scene(logs=20)))
    assert len({draft.routing_key for draft in lines}) > 2
    assert all(draft.routing_key == f"log.{draft.body['level']}" for draft in lines)
    assert all(("error" in draft.body) == (draft.body["level"] in ("error", "critical")) for draft in lines)
    calls = list(api_calls(scene()))
    assert {draft.routing_key for draft in calls} == {f"api_call.{FLEET[0].id}"}
    assert 0 < sum("user_id" in draft.body for draft in calls) < len(calls), "machines have no user"
    assert [draft.at for draft in calls] == sorted(draft.at for draft in calls)


def test_an_organization_without_devices_is_silent_but_for_its_usage() -> None:
    nobody = scene(one=FLEET[2])
    assert list(api_calls(nobody)) == list(logs(nobody)) == []
    assert {draft.body["storage_gb"] for draft in usage(nobody)} == {"0.000"}
