"""What quantities cost at the edges of tiers and packages."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.billing.rating.agreement import Price
from ninjait_pipelines.billing.rating.price import price
from ninjait_pipelines_tests.billing.rating.agreements import agreed, item

TIERS = [{"up_to": "10", "price": "5"}, {"up_to": "20", "price": "4"}, {"price": "3"}]


def version(**given: object) -> Price:
    return agreed(item("device", price=given)).items[0].prices[0]  # type: ignore[arg-type]


def amount(of: Price, quantity: int, before: int = 0, total: int | None = None) -> Fraction:
    whole = None if total is None else Fraction(total)
    return sum((part.amount for part in price(of, Fraction(quantity), Fraction(before), whole)), Fraction(0))


@pytest.mark.parametrize(("quantity", "cost"), [(0, 0), (10, 50), (11, 54), (20, 90), (21, 93), (100, 330)])
def test_graduated(quantity: int, cost: int) -> None:
    assert amount(version(model="graduated", tiers=TIERS), quantity) == cost


@pytest.mark.parametrize(("quantity", "cost"), [(0, 0), (10, 50), (11, 44), (20, 80), (21, 63)])
def test_volume(quantity: int, cost: int) -> None:
    assert amount(version(model="volume", tiers=TIERS), quantity) == cost


CUMULATIVE = [
    version(model="graduated", tiers=TIERS),
    version(model="volume", tiers=TIERS),
    version(model="package", amount="2", size="7"),
]


@given(cuts=st.lists(st.integers(0, 15), min_size=1))
def test_what_comes_in_pieces_costs_what_it_costs_at_once(cuts: list[int]) -> None:
    for of in CUMULATIVE:
        before = total = 0
        cost = Fraction(0)
        for quantity in cuts:
            cost += amount(of, quantity, before, sum(cuts))
            before += quantity
            total += quantity
        assert cost == amount(of, total)


def test_a_price_is_never_rounded() -> None:
    assert amount(version(amount="0.000000000000000001"), 3) == Fraction(Decimal("3e-18"))
