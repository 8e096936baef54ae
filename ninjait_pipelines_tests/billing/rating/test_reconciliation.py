"""What does not fit together is named, with days and money."""

from datetime import UTC, date, datetime
from typing import Any

import msgspec

from ninjait_pipelines.billing.rating.agreement import Agreement
from ninjait_pipelines.billing.rating.reconciliation import of_organization, reconciliation
from ninjait_pipelines_tests.billing.rating.agreements import agreed, days, item, used


def found(amount: str, month: str, **given: Any) -> list[tuple[str, str, int, str]]:
    rows = reconciliation(agreed(item("device", amount)), used(**given), date.fromisoformat(f"{month}-01"))
    return [(row.finding, row.device_id, row.days, str(row.amount)) for row in rows]


def test_a_registered_device_that_is_silent() -> None:
    """Heard of on three of 30 days: 27/30 of 5.00."""
    given = {"devices": [{"device_id": "a"}], "reports": [{"device_id": "a", "at": days("2026-04-01", 3)}]}
    assert found("5.00", "2026-04", **given) == [("silent_but_billed", "a", 27, "4.50")]


def test_no_device_is_silent_on_days_that_are_not_known() -> None:
    """The 28th to the 30th are to come, or their hours are not in: 24 days, 4.00 of 5.00."""
    given: dict[str, Any] = {
        "devices": [{"device_id": "a"}],
        "reports": [{"device_id": "a", "at": days("2026-04-01", 3)}],
    }
    given["hours_known"] = [{"day": day, "hours": 12 * at, "of": 24} for at, day in enumerate(days("2026-04-28", 3))]
    given["hours_known"][2]["hours"] = 23
    assert found("5.00", "2026-04", **given) == [("silent_but_billed", "a", 24, "4.00")]
    terms = agreed(item("device", "5.00", basis="last_day"))
    never = {**given, "reports": []}
    assert all_of((terms, never)) == []
    assert [row[4:] for row in all_of((terms, {**never, "hours_known": []}))] == [(30, "5.00")]


def test_a_retired_device_that_goes_on_sending() -> None:
    given = {
        "devices": [{"device_id": "a", "to": "2026-03-11"}],
        "reports": [{"device_id": "a", "at": days("2026-03-01", 31)}],
    }
    assert found("31.00", "2026-03", **given) == [("retired_and_sending", "a", 21, "0.00")]


def test_devices_that_report_and_are_not_billed() -> None:
    given = {
        "devices": [{"device_id": "spare", "billable": False}, {"device_id": "moved", "organization_id": "other"}],
        "reports": [{"device_id": name, "at": days("2026-03-01", 2)} for name in ("spare", "unknown", "moved")],
    }
    assert found("31.00", "2026-03", **given) == [
        ("reporting_unbilled", "spare", 2, "0.00"),
        ("reporting_unbilled", "unknown", 2, "0.00"),
    ]


def test_nothing_where_all_fits() -> None:
    given = {"devices": [{"device_id": "a"}], "reports": [{"device_id": "a", "at": days("2026-03-01", 31)}]}
    assert found("31.00", "2026-03", **given) == []


def test_a_device_that_reports_on_the_day_on_which_it_is_retired_is_fine() -> None:
    """Retired at noon of the 11th: the 11th is no device-day of its, but its reports of that morning are no finding."""
    given = {
        "devices": [{"device_id": "a", "to": "2026-03-11T12:00:00Z"}],
        "reports": [{"device_id": "a", "at": days("2026-03-01", 11)}],
    }
    assert found("31.00", "2026-03", **given) == []
    given["devices"] = [{"device_id": "a", "to": "2026-03-11T00:00:00Z"}]
    assert found("31.00", "2026-03", **given) == [("retired_and_sending", "a", 1, "0.00")]


def test_a_device_that_no_item_counts_is_unbilled() -> None:
    given = {
        "devices": [{"device_id": "a", "class": "server"}, {"device_id": "b", "class": "laptop"}],
        "reports": [{"device_id": name, "at": days("2026-04-01", 30)} for name in "ab"],
    }
    servers = agreed(item("device", "5.00", filter={"classes": ["server"]}))
    assert all_of((servers, given)) == [("A-1", "reporting_unbilled", "b", None, 30, "0.00")]
    laptops = agreed(item("device", "5.00", filter={"classes": ["laptop"]}), id="A-2")
    assert all_of((servers, given), (laptops, given)) == []
    assert all_of((agreed(item("flat", "100")), given)) == []  # a fee for all of them


def test_a_device_that_counts_as_of_one_day_and_was_never_heard() -> None:
    for basis in ("last_day", "peak"):
        given = {
            "devices": [{"device_id": "a"}, {"device_id": "b", "from": "2026-04-11"}],
            "reports": [{"device_id": "a", "at": ["2026-04-02"]}],
        }
        terms = agreed(item("device", "5.00", basis=basis))
        assert all_of((terms, given)) == [("A-1", "silent_but_billed", "b", "device", 20, "5.00")], basis


def test_an_organization_that_was_deactivated_and_is_billed() -> None:
    """Deactivated at noon of the 15th: 15 days of two devices at 6.00, and of a fee of 100."""
    given = {
        "devices": [{"device_id": name} for name in "ab"],
        "reports": [{"device_id": name, "at": days("2026-04-01", 30)} for name in "ab"],
    }
    terms = agreed(item("device", "6.00"), item("flat", "100"), item("one_off", "7"))
    noon = datetime(2026, 4, 15, 12, tzinfo=UTC)
    assert all_of((terms, given), deactivated_at=noon) == [
        ("A-1", "deactivated_but_billed", None, "flat", 15, "50.00"),
        ("A-1", "deactivated_but_billed", "a", "device", 15, "3.00"),
        ("A-1", "deactivated_but_billed", "b", "device", 15, "3.00"),
    ]
    assert all_of((terms, given), deactivated_at=datetime(2026, 5, 1, tzinfo=UTC)) == []
    long_ago = all_of((terms, given), deactivated_at=datetime(2019, 1, 1, tzinfo=UTC))
    assert [(row[-2], row[-1]) for row in long_ago] == [(30, "100.00"), (30, "6.00"), (30, "6.00")]


def test_a_device_that_two_agreements_bill_for_one_product() -> None:
    """One of two devices, on 10 of 30 days, at 6.00."""
    given = {
        "devices": [{"device_id": "a"}, {"device_id": "b"}],
        "reports": [{"device_id": name, "at": days("2026-04-01", 30)} for name in "ab"],
    }
    one = agreed(item("device", "6.00"))
    other = agreed(item("device", "3.00", filter={"tags": ["gold"]}, **{"from": "2026-04-21"}), id="A-2")
    assert all_of((one, given), (other, given)) == []
    given["devices"][0]["tags"] = ["gold"]
    assert all_of((one, given), (other, given)) == [
        ("A-1", "billed_twice", "a", "device", 10, "2.00"),
        ("A-2", "billed_twice", "a", "device", 10, "1.00"),
    ]


def all_of(*given: tuple[Agreement, dict[str, Any]], **more: Any) -> list[tuple[Any, ...]]:
    """The findings of April 2026, of all agreements together."""
    rows = of_organization([(terms, used(**usage)) for terms, usage in given], date(2026, 4, 1), **more)
    return [(terms.id, *msgspec.structs.astuple(row)[:-1], str(row.amount)) for terms, row in rows]
