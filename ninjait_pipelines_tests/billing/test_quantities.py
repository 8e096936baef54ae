"""The rows of a day by item, without a store: devices by basis and term, levels as measured, what they cost alone."""

import uuid
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines.billing.measure import DEVICES
from ninjait_pipelines.billing.quantities import (
    Count,
    measured_days,
    quantity_rows,
    registered,
    reporting,
    terms_of,
)
from ninjait_pipelines.billing.rating.agreement import Agreement
from ninjait_pipelines.billing.rating.charges import Measured
from ninjait_pipelines.billing.rating.usage import Device, Reports, Usage
from ninjait_pipelines_tests.billing.rating.agreements import agreed, item, priced

FIRST = date(2026, 6, 10)
DAYS = [FIRST + number * DAY for number in range(6)]
IDS = [str(uuid.UUID(int=number)) for number in range(1, 4)]
MOMENTS = st.integers(-1, 7).map(lambda number: (FIRST + number * DAY).isoformat())
OWNERS = st.sampled_from(["acme", "other"])


def rows_of(terms: Agreement, counts: Any = None, *measured: dict[str, Any]) -> list[dict[str, Any]]:
    found = measured_days({"organization_id": "acme", "time_zone": "UTC", "frozen": False, **row} for row in measured)
    return list(quantity_rows(terms, counts or (lambda _: {}), found, FIRST, FIRST + DAY))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(IDS), OWNERS, MOMENTS, st.booleans()), max_size=6), st.data())
def test_devices_count_as_rating_counts_them(moves: list[tuple[str, str, str, bool]], data: st.DataObject) -> None:
    """Each move ends the term before it; of reports those count that lie in a billable term of the organization."""
    devices = []
    for id_ in IDS:
        own = sorted({at: (owner, billable) for one, owner, at, billable in moves if one == id_}.items())
        ends: list[str | None] = [*(at for at, _ in own[1:]), None][: len(own)]
        devices += [
            Device(device_id=id_, organization_id=owner, class_="laptop", billable=billable, from_=at, to=end)
            for (at, (owner, billable)), end in zip(own, ends, strict=True)
        ]
    heard = {id_: data.draw(st.sets(st.sampled_from(DAYS))) for id_ in IDS}
    terms = agreed({**item("device", "1"), "product": "seats"}, item("device", "1", basis="reporting"))
    usage = Usage(
        devices=tuple(devices),
        reports=tuple(Reports(device_id=id_, at=tuple(day.isoformat() for day in of)) for id_, of in heard.items()),
    )
    measured = Measured(terms, usage)
    of = terms_of(terms, devices)
    seats, heard_of = terms.items
    counts = registered(of, seats, DAYS)
    assert {day: count.devices for day, count in counts.items()} == measured.device_levels(seats, DAYS)
    columns = {
        "organization_id": ["acme"] * len(IDS),
        "time_zone": ["UTC"] * len(IDS),
        "device_id": IDS,
        "days": [[(day - date(1970, 1, 1)).days for day in sorted(heard[id_])] for id_ in IDS],
    }
    columns |= {name: [[1] * len(heard[id_]) for id_ in IDS] for name in ("hours", "samples")}
    found = reporting(pa.table(columns, schema=DEVICES), [(terms, heard_of, of)])[terms.id, heard_of.key]
    levels = measured.device_levels(heard_of, DAYS)
    assert {day: count.devices for day, count in found.items()} == {day: n for day, n in levels.items() if n}
    for day, count in found.items():
        assert count.hash == sum(uuid.UUID(id_).int for id_ in IDS if _counts(measured, heard_of, id_, day))


def _counts(measured: Measured, of: Any, device: str, day: date) -> bool:
    return day in measured.reported[device] and any(
        term.holds(day) for term in measured.devices(of) if term.device.device_id == device
    )


def test_a_day_costs_its_share_and_says_how_complete_it_is() -> None:
    terms = agreed(
        item("flat", "30"),
        item("device", "3", basis="reporting"),
        item("api_calls", "0.5", included="60"),
        item("storage", "3"),
    )
    volume = {"gb_milliseconds": Decimal("129600000"), "day_milliseconds": 86_400_000, "inputs_hash": 5}
    day = {"local_day": FIRST, "inputs_hash": 4}
    found = rows_of(
        terms,
        lambda _: {FIRST: Count(2, 9)},
        {**day, "kind": "hours", "rule": "", "quantity": Decimal(18), "completeness": 0.75},
        {**day, "kind": "api_calls", "rule": "401,403,5xx", "quantity": Decimal(10), "completeness": 0.75},
        {**day, "kind": "storage", "rule": "7", "quantity": Decimal("1.5"), "completeness": 0.5, **volume},
    )
    rows = {row["product"]: row for row in found}
    assert {name: (row["quantity"], row["cost"]) for name, row in rows.items()} == {
        "flat": (1, 1),
        "device": (2, Decimal("0.2")),
        "api_calls": (10, 4),  # less 2 of the month's 60
        "storage": (Decimal("1.5"), Decimal("0.15")),
    }
    shares = {name: (row["completeness"], row["inputs_hash"]) for name, row in rows.items()}
    assert shares == {"flat": (1, 0), "device": (0.75, 9), "api_calls": (0.75, 4), "storage": (0.5, 5)}
    assert [row["kind"] for row in found] == ["flat", "devices", "api_calls", "storage"]


def test_items_are_there_on_their_days_alone() -> None:
    """A whole fee is shared by the days on which it holds; a one-off is of its day; what ended is of none."""
    later = (FIRST + DAY).isoformat()
    terms = agreed(
        {**item("flat", "30", proration="full"), "from": FIRST.isoformat()},
        {**item("one_off", "7"), "from": FIRST.isoformat()},
        {**item("one_off", "8"), "product": "later", "from": later},
        {**item("flat", "9"), "product": "ended", "to": FIRST.isoformat()},
    )
    costs = {row["product"]: row["cost"].quantize(Decimal("1e-6")) for row in rows_of(terms)}
    assert costs == {"flat": Decimal("1.428571"), "one_off": 7}


def test_an_amount_that_no_column_holds_is_null() -> None:
    price = priced("999999999999999")
    [row] = rows_of(agreed({**item("flat"), "prices": [price], "quantity": "1000"}))
    assert row["cost"] is None
    assert row["quantity"] == 1000
