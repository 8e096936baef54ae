"""The weekly report on real stores: its figures, and which report the API shows. Its edges: test_weekly_edges.py."""

import json
import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ninjait_pipelines.keys import as_of_text, weekly_report
from ninjait_pipelines.reports.assets import (
    every_organization_has_its_report,
    weekly_reports,
    weekly_reports_left_nothing_out,
)
from ninjait_pipelines.reports.weekly import completeness
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.reports.weeks import DAY, KEY, THIS_WEEK, WEEK, archived, publish, put
from ninjait_pipelines_tests.rollup.data import DEVICE, HOUR, ORGANIZATION, OTHER_ORGANIZATION, check
from ninjait_pipelines_tests.runs import left_out, passed, run


def metrics(device: str, hour: datetime, cpu: float | None, samples: int, organization: str = ORGANIZATION) -> Any:
    names = ("disk_usage", "network_in", "network_out", "uptime", "memory_avg", "memory_max")
    names += ("memory_count", "memory_total", "disk_total", "disk_free", "several_senders")
    names += ("first_sample", "last_sample")
    row = {"organization_id": organization, "device_id": device, "timestamp": hour, **dict.fromkeys(names)}
    row |= {"cpu_avg": cpu, "cpu_max": cpu and cpu * 2, "cpu_count": samples, "sample_share": samples / 120}
    return row | {"source_tier": "metrics", "sample_count": samples + 60}  # 60 of them without cpu


def ticket(number: int, day: datetime, created: datetime, closed: datetime | None, **more: Any) -> dict[str, Any]:
    nothing: tuple[str, ...] = ("assignee_id", "first_responded_at", "first_response_minutes", "hours_to_close")
    nothing += ("closed_assignee_id", "first_response_target_minutes", "resolution_target_minutes")
    row = {"day": day.date(), "organization_id": ORGANIZATION, "ticket_id": uuid.UUID(int=number), "number": number}
    row |= {"priority": "high", "status": "closed" if closed else "open", "created_at": created, "closed_at": closed}
    row |= {**dict.fromkeys(nothing), "first_response_breached": False, "resolution_breached": False}
    return row | more


def cached(stores: Stores, organization: str = ORGANIZATION) -> Any:
    value = stores.dragonfly.client.get(weekly_report(organization))
    return json.loads(str(value)) if value else None


def test_completeness_is_of_the_hours_that_are_over() -> None:
    assert completeness(24, WEEK, WEEK + 2 * DAY) == 0.5
    assert completeness(84, WEEK, WEEK + 30 * DAY) == 0.5
    assert completeness(0, WEEK, WEEK + timedelta(minutes=59)) == 0.0
    assert completeness(3, WEEK, WEEK + 2 * HOUR) == 1.0


def test_a_silent_organization_has_a_report_that_says_so(marts: Stores) -> None:
    assert publish(marts) == {"every_organization_has_its_report": True}
    report = archived(marts, OTHER_ORGANIZATION)
    assert (report["organization"], report["week"], report["completeness"]) == ("South", KEY, 0.5)
    assert report["devices"]["sample_share"] is None
    assert (report["devices"]["reporting"], report["devices"]["busiest"]) == (0, [])
    assert report["api"] == {"calls": 0, "error_share": None}
    assert report["tickets"] == dict.fromkeys(("opened", "closed", "first_response_breaches", "resolution_breaches"), 0)
    assert report["usage"] == {"storage_gb": None, "backup_gb": None}
    assert cached(marts, OTHER_ORGANIZATION) == report


def test_the_five_busiest_by_their_samples_inside_the_week(marts: Stores) -> None:
    others = [str(uuid.UUID(int=number)) for number in range(1, 7)]
    put(
        marts,
        "device_metrics_hourly",
        metrics(DEVICE, WEEK, 10.0, 120),
        metrics(DEVICE, WEEK + HOUR, 40.0, 60),
        metrics(DEVICE, WEEK - HOUR, 100.0, 120),
        metrics(DEVICE, WEEK + 7 * DAY, 100.0, 120),
        metrics(others[0], WEEK, None, 120),
        *(metrics(device, WEEK, 50.0 + number, 1) for number, device in enumerate(others[1:])),
        metrics(others[5], WEEK + HOUR, 55.0, 3),
        metrics(DEVICE, WEEK, 99.0, 120, organization=OTHER_ORGANIZATION),
    )
    publish(marts)
    devices = archived(marts)["devices"]
    assert devices["reporting"] == 7
    assert devices["cpu_avg"] == pytest.approx((120 * 10 + 60 * 40 + sum(range(50, 55)) + 3 * 55) / 188)
    assert (devices["cpu_max"], devices["memory_avg"]) == (110.0, None)
    busiest = zip(reversed(others[1:]), [(54 + 3 * 55) / 4, 53.0, 52.0, 51.0, 50.0], strict=True)
    assert [(one["device_id"], one["cpu_avg"]) for one in devices["busiest"]] == list(busiest)
    assert archived(marts, OTHER_ORGANIZATION)["devices"]["cpu_avg"] == 99.0


def test_a_ticket_counts_once_by_its_last_state_of_the_week(marts: Stores) -> None:
    before, monday, sunday, after = WEEK - DAY, WEEK + HOUR, WEEK + 6 * DAY, WEEK + 8 * DAY
    put(
        marts,
        "ticket_facts",
        # Opened and closed in the week, late; closed by nobody.
        ticket(1, monday, monday, None),
        ticket(1, sunday, monday, sunday, first_response_breached=True, resolution_breached=True),
        # Opened before the week, closed in it, reopened: open at its end.
        ticket(2, monday, before, monday),
        ticket(2, sunday, before, None, resolution_breached=True),
        # Closed before the week, and commented on in it.
        ticket(3, monday, before, before),
        # Closed after the week.
        ticket(4, sunday, sunday, None),
        ticket(4, after, sunday, after),
    )
    publish(marts)
    expected = {"opened": 2, "closed": 1, "first_response_breaches": 1, "resolution_breaches": 1}
    assert archived(marts)["tickets"] == expected


def test_a_later_week_is_shown_although_an_older_one_was_computed_after_it(marts: Stores) -> None:
    tomorrow = as_of_text(datetime.now(UTC) + DAY)
    marts.dragonfly.set_if_newer(weekly_report(ORGANIZATION), {"as_of": tomorrow, "week": KEY})
    publish(marts, f"{THIS_WEEK:%Y-%m-%d}")
    assert cached(marts)["week"] == f"{THIS_WEEK:%Y-%m-%d}"
    left: Any = marts.dragonfly.client.ttl(weekly_report(ORGANIZATION))
    assert 0 < left <= 24 * 3600


def test_an_older_run_of_a_week_overwrites_nothing(marts: Stores) -> None:
    publish(marts)
    newer = archived(marts) | {"as_of": as_of_text(datetime.now(UTC) + DAY)}
    key = f"weekly_reports/week={KEY}/organization_id={ORGANIZATION}.json"
    marts.archive.write(key, json.dumps(newer).encode())
    marts.dragonfly.set_if_newer(weekly_report(ORGANIZATION), newer)
    publish(marts)
    assert archived(marts) == cached(marts) == newer


def test_figures_that_are_no_numbers_stop_only_their_report(marts: Stores) -> None:
    """JSON has no NaN: the report could not be read, and its check found nothing wrong."""
    put(marts, "device_metrics_hourly", metrics(DEVICE, WEEK, math.nan, 120))
    put(marts, "device_metrics_hourly", metrics(DEVICE, WEEK, 10.0, 120, organization=OTHER_ORGANIZATION))
    result = run(marts, weekly_reports, every_organization_has_its_report, weekly_reports_left_nothing_out, key=KEY)
    assert left_out(result, "weekly_reports").startswith(f"organization {ORGANIZATION} (ValueError")
    assert passed(result) == dict.fromkeys(passed(result), False)
    assert archived(marts, OTHER_ORGANIZATION)["devices"]["cpu_avg"] == 10.0
    assert cached(marts, OTHER_ORGANIZATION)["devices"]["cpu_avg"] == 10.0
    assert cached(marts) is None


@pytest.mark.parametrize(
    "value", ["no report", "[]", "7", '{"as_of": 7}', '{"as_of": "9"}', '{"as_of": {}, "organization_id": 1}']
)
def test_what_is_no_report_is_replaced(marts: Stores, value: str) -> None:
    """One object that had an as_of and was no report failed everybody's reports, and their check."""
    key = f"weekly_reports/week={KEY}/organization_id={ORGANIZATION}.json"
    marts.archive.write(key, value.encode())
    if "9" not in value:  # what has a version of any kind expires
        marts.dragonfly.client.set(weekly_report(ORGANIZATION), value)
    red = check(marts, [weekly_reports], [every_organization_has_its_report], KEY)
    assert key in str(red["every_organization_has_its_report"].description)
    assert publish(marts) == {"every_organization_has_its_report": True}
    assert archived(marts)["organization"] == "North"
    assert cached(marts) == archived(marts)
