"""What does not fit together is named, with days and money."""

from datetime import date
from typing import Any

from ninjait_pipelines.billing.rating.reconciliation import reconciliation
from ninjait_pipelines_tests.billing.rating.agreements import agreed, days, item, used


def found(amount: str, month: str, **given: Any) -> list[tuple[str, str, int, str]]:
    rows = reconciliation(agreed(item("device", amount)), used(**given), date.fromisoformat(f"{month}-01"))
    return [(row.finding, row.device_id, row.days, str(row.amount)) for row in rows]


def test_a_registered_device_that_is_silent() -> None:
    """Heard of on three of 30 days: 27/30 of 5.00."""
    given = {"devices": [{"device_id": "a"}], "reports": [{"device_id": "a", "at": days("2026-04-01", 3)}]}
    assert found("5.00", "2026-04", **given) == [("silent_but_billed", "a", 27, "4.50")]


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
