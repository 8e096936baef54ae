"""The weekly report at its edges: boundaries to the millisecond, killed at every step, damaged, the running week."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.keys import weekly_report
from ninjait_pipelines.reports.assets import every_organization_has_its_report, weekly_reports
from ninjait_pipelines.reports.weekly import WEEK, report_key
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, EMPTY, HOUR, SINCE, Fleet, hours, mart, midnight
from ninjait_pipelines_tests.rollup.data import check
from ninjait_pipelines_tests.runs import killed, passed, run

MS = timedelta(milliseconds=1)
DAY = timedelta(days=1)
RUNNING_WEEK = midnight(datetime.now(UTC).weekday())
W = RUNNING_WEEK - WEEK
END = RUNNING_WEEK
LAST, RUNNING = f"{W:%Y-%m-%d}", f"{RUNNING_WEEK:%Y-%m-%d}"


@pytest.fixture
def fleet(shared_stores: Stores) -> Fleet:
    """Last week: 80 hours rolled up; in them `one` has all samples, `new` (from the 41st hour on) half of its."""
    fleet = Fleet(shared_stores)
    one, new = fleet.device(ALPHA, "one"), fleet.device(ALPHA, "new", W + 40 * HOUR)
    gone, other = fleet.device(ALPHA, "gone", retired_at=W), fleet.device(BETA, "other")
    when = hours(W, 80)
    fleet.rolled_up([W - HOUR, *when, END])
    fleet.hourly(ALPHA, one, when, 240, cpu_avg=10.0, cpu_max=30.0, memory_avg=100.0, memory_max=200.0)
    fleet.hourly(ALPHA, new, when[40:], 60, cpu_avg=40.0, cpu_max=90.0)
    fleet.hourly(BETA, other, when[:1], cpu_avg=1.0)
    for outside in (W - HOUR, END):
        fleet.hourly(ALPHA, one, [outside], cpu_avg=100.0, cpu_max=100.0)
        fleet.hourly(ALPHA, gone, [outside], cpu_avg=100.0, cpu_max=100.0)
    return fleet


def reports(stores: Stores, key: str = LAST, *more: Any, fails: bool = False) -> dg.ExecuteInProcessResult:
    return run(stores, weekly_reports, *more, key=key, fails=fails)


def archived(stores: Stores, organization: uuid.UUID = ALPHA, week: str = LAST) -> dict[str, Any]:
    return json.loads(stores.archive.read(report_key(organization, week)))


def cached(stores: Stores, organization: uuid.UUID = ALPHA) -> dict[str, Any] | None:
    return json.loads(stores.dragonfly.client.get(weekly_report(organization)) or "null")


def call(stores: Stores, organization: uuid.UUID, moment: datetime, status: int = 200) -> None:
    row = {"organization_id": organization, "timestamp": moment, "status_code": status, "message_id": uuid.uuid4()}
    mart(stores, "api_calls", row)


def closed(
    stores: Stores, day: datetime, ticket: int, created: datetime, closed_at: datetime | None, **more: Any
) -> None:
    row = {"day": day.date(), "organization_id": ALPHA, "ticket_id": uuid.UUID(int=ticket), "created_at": created}
    mart(stores, "ticket_facts", {**row, "closed_at": closed_at, **more})


def test_the_figures_of_devices(shared_stores: Stores, fleet: Fleet) -> None:
    assert passed(reports(shared_stores, LAST, every_organization_has_its_report)) == {
        "every_organization_has_its_report": True
    }
    found = archived(shared_stores)
    assert (found["organization"], found["week"], found["completeness"]) == ("Alpha", LAST, 80 / 168)
    devices = found["devices"]
    busiest = [(row["hostname"], row["cpu_avg"]) for row in devices["busiest"]]
    assert busiest == [("new", 40.0), ("one", 10.0)]
    assert devices == {
        "busiest": devices["busiest"],
        "reporting": 2,
        "cpu_avg": pytest.approx((80 * 240 * 10 + 40 * 60 * 40) / (80 * 240 + 40 * 60)),
        "cpu_max": 90.0,
        "memory_avg": 100.0,
        "memory_max": 200.0,
        "sample_share": (80 * 120 + 40 * 60) / (80 * 120 + 40 * 120),
    }
    beta, empty = archived(shared_stores, BETA), archived(shared_stores, EMPTY)
    assert (beta["devices"]["reporting"], beta["devices"]["sample_share"]) == (1, 1 / 80)
    assert [row["hostname"] for row in beta["devices"]["busiest"]] == ["other"]
    assert empty["devices"] == {
        **dict.fromkeys(("cpu_avg", "cpu_max", "memory_avg", "memory_max", "sample_share")),
        "reporting": 0,
        "busiest": [],
    }
    assert empty["api"] == {"calls": 0, "error_share": None}
    assert empty["usage"] == {"storage_gb": None, "backup_gb": None}
    assert cached(shared_stores) == found
    assert 86_000 < shared_stores.dragonfly.client.ttl(weekly_report(ALPHA)) <= 86_400


def test_the_week_is_half_open_to_the_millisecond(shared_stores: Stores, fleet: Fleet) -> None:
    """Bound as DateTime, the end of a range of DateTime64 lost its last second in the metrics store (a bug of chDB)."""
    for moment in (W - MS, END):
        call(shared_stores, ALPHA, moment, 500)
    call(shared_stores, ALPHA, W, 499)
    call(shared_stores, ALPHA, END - MS, 500)
    call(shared_stores, ALPHA, END - 999 * MS)
    call(shared_stores, BETA, W)
    for number, moment in enumerate((W - MS, W, END - MS)):
        closed(shared_stores, max(moment, W), number, moment, moment)
    closed(shared_stores, END, 9, END, END)
    reports(shared_stores)
    assert archived(shared_stores)["api"] == {"calls": 3, "error_share": 1 / 3}
    assert archived(shared_stores, BETA)["api"] == {"calls": 1, "error_share": 0.0}
    tickets = archived(shared_stores)["tickets"]
    assert (tickets["opened"], tickets["closed"]) == (2, 2)
    reports(shared_stores, RUNNING)
    assert archived(shared_stores, week=RUNNING)["api"]["calls"] == 1
    assert archived(shared_stores, week=RUNNING)["tickets"]["opened"] == 1


@pytest.mark.parametrize(
    ("created", "deactivated", "there"),
    [
        (END - MS, None, True),
        (END, None, False),
        (SINCE, W + MS, True),
        (SINCE, W, False),
    ],
)
def test_who_gets_a_report(shared_stores: Stores, created: datetime, deactivated: datetime | None, there: bool) -> None:
    row = {"id": ALPHA, "name": "Alpha", "created_at": created, "deactivated_at": deactivated}
    mart(shared_stores, "organizations", row)
    assert passed(reports(shared_stores, LAST, every_organization_has_its_report)) == {
        "every_organization_has_its_report": True
    }
    assert shared_stores.archive.list_keys("weekly_reports") == ([report_key(ALPHA, LAST)] if there else [])


def test_the_figures_of_billing(shared_stores: Stores, fleet: Fleet) -> None:
    quantities = {W - DAY: "9", W: "1.5", END - DAY: "2.25", END: "9"}
    for day, quantity in quantities.items():
        row = {"organization_id": ALPHA, "local_day": day.date(), "quantity": Decimal(quantity), "window_start": day}
        row |= {"window_end": day + DAY, "completeness": 1.0 if day == W else 0.5}
        mart(shared_stores, "billing_quantities", {**row, "kind": "storage"}, {**row, "kind": "devices", "quantity": 2})
    invoice = {"organization_id": ALPHA, "currency": "EUR", "status": "draft", "days_covered": 3, "days_in_period": 30}
    periods = [(W - 30 * DAY, W), (W - 29 * DAY, W + DAY), (END - DAY, END + 29 * DAY), (END, END + 30 * DAY)]
    for number, (start, end) in enumerate(periods):
        row = {**invoice, "id": uuid.UUID(int=number), "total": Decimal(number) + Decimal("0.10")}
        row |= {"period_starts_on": start.date(), "period_ends_on": end.date(), "period_start": start}
        mart(shared_stores, "invoices", {**row, "period_end": end})
    reports(shared_stores)
    found = archived(shared_stores)
    assert found["usage"] == {"storage_gb": "2.250000", "backup_gb": None}
    assert found["billing"]["quantities"] == [
        {"kind": "devices", "quantity": "4.000000", "complete_days": 1},
        {"kind": "storage", "quantity": "3.750000", "complete_days": 1},
    ]
    assert [one["total"] for one in found["billing"]["invoices"]] == ["1.10", "2.10"]
    assert found["billing"]["invoices"][0]["period_starts_on"] == f"{W - 29 * DAY:%Y-%m-%d}"
    assert archived(shared_stores, BETA)["billing"] == {"quantities": [], "invoices": []}


def everything(stores: Stores) -> dict[str, Any]:
    """All reports in both stores, without as_of."""
    found = {key: json.loads(stores.archive.read(key)) for key in stores.archive.list_keys("weekly_reports")}
    found |= {weekly_report(id_): cached(stores, id_) or {} for id_ in (ALPHA, BETA, EMPTY)}
    return {key: {**report, "as_of": None} for key, report in found.items()}


def test_twice_the_same_and_a_range_is_its_weeks(shared_stores: Stores, fleet: Fleet) -> None:
    before = f"{W - WEEK:%Y-%m-%d}"
    for key in (before, LAST):
        reports(shared_stores, key)
    first = everything(shared_stores)
    assert len(first) == 2 * 3 + 3
    result = run(shared_stores, weekly_reports, every_organization_has_its_report, span=(before, LAST))
    assert everything(shared_stores) == first
    assert passed(result) == {"every_organization_has_its_report": True}
    rows = result.asset_materializations_for_node("weekly_reports")
    assert [(one.partition, one.metadata["dagster/partition_row_count"].value) for one in rows] == [
        (before, 3),
        (LAST, 3),
    ]


@pytest.mark.parametrize(
    ("owner", "method", "number", "after"),
    [
        (Archive, "write", 1, False),
        (Archive, "write", 1, True),
        (Dragonfly, "set_if_newer", 1, False),
        (Dragonfly, "set_if_newer", 1, True),
        (Archive, "write", 2, False),
        (Dragonfly, "set_if_newer", 3, False),
    ],
)
def test_killed_half_way_and_again(
    shared_stores: Stores, fleet: Fleet, owner: type, method: str, number: int, after: bool
) -> None:
    with killed(owner, method, number, after):
        reports(shared_stores, fails=True)
    in_archive = len(shared_stores.archive.list_keys("weekly_reports"))
    in_cache = len(shared_stores.dragonfly.client.keys("report:weekly:*"))
    assert in_archive - in_cache in (0, 1), "the archive first: the API never shows what is not kept"
    reports(shared_stores)
    found = everything(shared_stores)
    shared_stores.dragonfly.client.flushdb()
    for key in shared_stores.archive.list_keys("weekly_reports"):
        shared_stores.archive.delete(key)
    reports(shared_stores)
    assert everything(shared_stores) == found
    assert len(found) == 6


def test_a_backfill_of_an_older_week_does_not_replace_the_newer(shared_stores: Stores, fleet: Fleet) -> None:
    reports(shared_stores, RUNNING)
    shown = cached(shared_stores)
    reports(shared_stores, LAST)
    assert cached(shared_stores) == shown
    assert archived(shared_stores)["week"] == LAST, "it is in the archive"
    before = f"{W - WEEK:%Y-%m-%d}"
    shared_stores.dragonfly.client.flushdb()
    reports(shared_stores, before)
    assert cached(shared_stores) is None, "nor does it come back when the newer one has expired"
    reports(shared_stores, LAST)
    assert (cached(shared_stores) or {})["week"] == LAST
    reports(shared_stores, RUNNING)
    assert (cached(shared_stores) or {})["week"] == RUNNING


def test_the_running_week_says_how_much_of_it_there_is(shared_stores: Stores) -> None:
    fleet = Fleet(shared_stores)
    elapsed = (datetime.now(UTC) - RUNNING_WEEK) // HOUR
    fleet.rolled_up(hours(RUNNING_WEEK, elapsed // 2))
    reports(shared_stores, RUNNING)
    found = cached(shared_stores) or {}
    assert found["week"] == RUNNING
    assert found["completeness"] == pytest.approx(elapsed // 2 / elapsed if elapsed else 0, abs=0.02)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (None, "is not there"),
        (b"{", "is not there, or no report"),
        (b"[]", "is not there, or no report"),
        ({"organization_id": str(BETA)}, "is the report of"),
        ({"week": "2026-01-05"}, "week 2026-01-05"),
        ({"completeness": 1.5}, "has the completeness 1.5"),
    ],
)
def test_the_check_fails_and_a_rerun_heals_it(shared_stores: Stores, damage: Any, words: str) -> None:
    """A report that was cut short made every later run of its week fail on reading it."""
    Fleet(shared_stores)
    reports(shared_stores)
    key = report_key(ALPHA, LAST)
    if damage is None:
        shared_stores.archive.delete(key)
    else:
        damaged = damage if isinstance(damage, bytes) else json.dumps(archived(shared_stores) | damage).encode()
        shared_stores.archive.write(key, damaged)
    found = check(shared_stores, [weekly_reports], [every_organization_has_its_report], LAST)
    assert not found["every_organization_has_its_report"].passed
    assert words in str(found["every_organization_has_its_report"].description)
    assert passed(reports(shared_stores, LAST, every_organization_has_its_report)) == {
        "every_organization_has_its_report": True
    }
