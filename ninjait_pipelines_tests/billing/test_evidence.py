"""Which rows an item counts is said in a query as shortly as it can be, with every value quoted."""

from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec

from ninjait_pipelines.billing.evidence import Counted, Step, counted_condition, decisive_day, shown, to_places
from ninjait_pipelines.billing.rating.charges import Measured
from ninjait_pipelines_tests.billing.rating.agreements import agreed, days, item, used

FIRST, END = date(2026, 3, 1), date(2026, 4, 1)


def counted(devices: list[dict[str, Any]], reporting: str = "", **more: Any) -> Counted:
    terms = agreed(item("device", "1", **more))
    reports = [{"device_id": one, "at": days("2026-03-02", 3)} for one in reporting]
    return Counted(Measured(terms, used(devices=devices, reports=reports)), terms.items[0], FIRST, END)


def condition(devices: list[dict[str, Any]], reporting: str, **more: Any) -> str:
    return counted_condition(counted(devices, reporting, basis="reporting", **more))


def test_all_devices_need_no_list() -> None:
    assert condition([{"device_id": "a"}, {"device_id": "b"}], "ab") == "(1)"


def test_the_shorter_list_is_taken() -> None:
    laptops = [{"device_id": name, "class": "laptop"} for name in "abc"]
    server = {"device_id": "s", "class": "server"}
    only_laptops, only_servers = ({"filter": {"classes": [name]}} for name in ("laptop", "server"))
    assert condition([*laptops, server], "abcs", **only_laptops) == "(device_id NOT IN ['s'])"
    assert condition([*laptops, server], "abcs", **only_servers) == "(device_id IN ['s'])"
    assert condition(laptops, "abc", **only_servers) == "(0)"


def test_a_device_counts_on_its_days() -> None:
    found = condition([{"device_id": "a"}, {"device_id": "b'", "from": "2026-03-10", "to": "2026-03-20"}], "ab")
    part = "(device_id = 'b\\'' AND local_day >= '2026-03-10' AND local_day < '2026-03-20')"
    assert found == f"(device_id NOT IN ['b'] OR {part})"
    long = condition([{"device_id": "a", "from": "2026-03-10"}], "a")
    assert long == "(0 OR (device_id = 'a' AND local_day >= '2026-03-10' AND local_day < '2149-06-06'))"


def test_the_day_that_is_followed() -> None:
    devices = [{"device_id": "a", "to": "2026-03-21"}, {"device_id": "b", "from": "2026-03-05", "to": "2026-03-08"}]
    assert decisive_day(counted(devices)) == date(2026, 3, 20)
    assert decisive_day(counted(devices, basis="peak")) == date(2026, 3, 5)
    assert decisive_day(counted(devices, basis="last_day")) == date(2026, 3, 31)
    assert decisive_day(counted(devices, "a", basis="reporting")) == date(2026, 3, 4)


def test_a_step_that_no_longer_agrees_says_so() -> None:
    step = Step(
        title="calls, by day",
        rule="10 calls are charged",
        value=Decimal(10),
        found=Decimal(12),
        store="ClickHouse",
        query="SELECT 12 AS calls\nFROM numbers(1)",
        column="calls",
        rows=({"calls": 12},),
    )
    assert not step.agrees
    assert shown(step) == (
        "calls, by day: 10\n  10 calls are charged\n  by now the query gives 12\n  ClickHouse:\n"
        "    SELECT 12 AS calls\n    FROM numbers(1)"
    )
    gone = msgspec.structs.replace(step, found=None, rows=())
    assert "by now the query gives nothing" in shown(gone)


def test_quantities_are_rounded_as_they_are_stored() -> None:
    assert to_places(Fraction(1, 3)) == Decimal("0.333333333")
