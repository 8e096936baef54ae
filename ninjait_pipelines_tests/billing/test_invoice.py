"""What a month costs, to the cent: proration, included calls, rounding."""

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.billing.invoice import CENT, Contract, invoice, line, lines_of, term_within

MARCH = date(2026, 3, 1)
CONTRACT = Contract(
    id=uuid.UUID(int=1),
    organization_id=uuid.UUID(int=2),
    time_zone="Europe/Berlin",
    starts_on=date(2026, 1, 1),
    ends_on=None,
    price_plan_id=uuid.UUID(int=3),
    price_plan_version=2,
    currency="EUR",
    base_fee=Decimal("99.0000"),
    device_month_price=Decimal("3.9000"),
    storage_gb_month_price=Decimal("0.0990"),
    backup_gb_month_price=Decimal("0.0450"),
    api_calls_included=50_000,
    api_calls_thousand_price=Decimal("0.2900"),
)
USAGE = {
    "devices": Decimal("1178.000000"),
    "storage": Decimal("38223.456789"),
    "backup": Decimal("0.000000"),
    "api_calls": Decimal("81234.000000"),
}


def test_a_whole_month() -> None:
    draft = invoice(CONTRACT, MARCH, USAGE, 31)
    amounts = {each.kind: each.amount for each in draft.lines}
    assert amounts == {
        "base_fee": Decimal("99.00"),
        "devices": Decimal("148.20"),  # 1178 / 31 = 38 devices, 3.90 each
        "storage": Decimal("122.07"),  # 38223.456789 / 31 = 1233.014735... GB, 0.099 each = 122.0684...
        "backup": Decimal("0.00"),
        "api_calls": Decimal("9.06"),  # 31234 beyond, 31.234 thousand at 0.29 = 9.05786
    }
    assert draft.total == Decimal("378.33") == sum(amounts.values())
    assert (draft.days_in_period, draft.days_covered, draft.status) == (31, 31, "draft")
    assert (draft.period_starts_on, draft.period_ends_on) == (MARCH, date(2026, 4, 1))
    # the clocks change in March: the month is an hour short
    assert (draft.period_start, draft.period_end) == (
        datetime(2026, 2, 28, 23, tzinfo=UTC),
        datetime(2026, 3, 31, 22, tzinfo=UTC),
    )
    assert [each.quantity for each in draft.lines] == [
        Decimal("1.000000"),
        Decimal("38.000000"),
        Decimal("1233.014735"),
        Decimal("0.000000"),
        Decimal("31.234000"),
    ]
    assert draft.lines[1].description == "Devices, 1178 device-days of a month of 31 days"


def test_a_month_that_starts_in_the_middle() -> None:
    draft = invoice(CONTRACT._replace(starts_on=date(2026, 3, 17)), MARCH, {"api_calls": Decimal(30_000)}, 3)
    assert draft.days_in_period == 15
    assert draft.lines[0].amount == Decimal("47.90")  # 99 * 15 / 31 = 47.9032...
    # 50,000 a month are 24,193.55 in 15 of 31 days: 5,806.45 beyond, at 0.29 a thousand
    assert draft.lines[4].quantity == Decimal("5.806452")
    assert draft.lines[4].amount == Decimal("1.68")
    assert draft.days_covered == 3


@pytest.mark.parametrize(
    ("starts_on", "ends_on", "first", "end"),
    [
        ("2026-01-01", None, "2026-03-01", "2026-04-01"),
        ("2026-03-01", "2026-04-01", "2026-03-01", "2026-04-01"),
        ("2026-03-31", None, "2026-03-31", "2026-04-01"),
        ("2025-01-01", "2026-03-02", "2026-03-01", "2026-03-02"),
        ("2026-03-05", "2026-03-09", "2026-03-05", "2026-03-09"),
    ],
)
def test_term_within_a_month(starts_on: str, ends_on: str | None, first: str, end: str) -> None:
    contract = CONTRACT._replace(
        starts_on=date.fromisoformat(starts_on), ends_on=date.fromisoformat(ends_on) if ends_on else None
    )
    assert term_within(contract, MARCH) == (date.fromisoformat(first), date.fromisoformat(end))


def test_no_usage_costs_the_base_fee() -> None:
    draft = invoice(CONTRACT, MARCH, {}, 0)
    assert draft.total == Decimal("99.00")
    assert len(draft.lines) == 5


def test_included_calls_are_free_to_the_last() -> None:
    free = lines_of(CONTRACT, 31, 31, {"api_calls": Decimal(50_000)})[4]
    assert (free.quantity, free.amount) == (Decimal("0.000000"), Decimal("0.00"))
    assert lines_of(CONTRACT, 31, 31, {"api_calls": Decimal(50_018)})[4].amount == Decimal("0.01")  # 0.00522


@pytest.mark.parametrize(
    ("dividend", "divisor", "price", "amount"),
    [
        ("1", 2, "0.0100", "0.01"),  # half a cent goes up, not to the even neighbour
        ("3", 2, "0.0100", "0.02"),
        ("5", 2, "0.0100", "0.03"),
        ("1", 3, "0.0149", "0.00"),
        ("99999999.999999", 1, "99999999.9999", "9999999999989900.00"),
        # The quantity beside it is 0.333333: an amount made of that would be 33333333.30 of 33333333.33
        ("1", 3, "99999999.9999", "33333333.33"),
    ],
)
def test_rounded_once_half_up(dividend: str, divisor: int, price: str, amount: str) -> None:
    assert line("devices", "", Decimal(dividend), divisor, "", Decimal(price)).amount == Decimal(amount)


@given(
    st.decimals(0, 10**13, places=6),
    st.integers(28, 31),
    st.decimals(0, 10**7, places=4),
)
def test_the_amount_is_the_exact_value_rounded_half_up(dividend: Decimal, days: int, price: Decimal) -> None:
    with localcontext(prec=6):  # somebody else's context changes nothing
        amount = line("devices", "", dividend, days, "", price).amount
    exact = Fraction(dividend) * Fraction(price) / days
    assert amount == amount.quantize(CENT)
    assert Fraction(-1, 200) < Fraction(amount) - exact <= Fraction(1, 200)


def test_the_id_is_that_of_contract_and_month() -> None:
    first = invoice(CONTRACT, MARCH, {}, 0)
    assert first.id == invoice(CONTRACT, MARCH, USAGE, 31).id
    assert first.id != invoice(CONTRACT, date(2026, 4, 1), {}, 0).id
    assert first.id != invoice(CONTRACT._replace(id=uuid.UUID(int=4)), MARCH, {}, 0).id
