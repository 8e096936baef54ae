"""Properties of what is charged: order, repetition and cuts change no byte, and a cut term changes no amount."""

import json
import random
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines.billing.rating.agreement import Agreement
from ninjait_pipelines.billing.rating.charges import Measured, charges
from ninjait_pipelines.billing.rating.document import canonical, draft
from ninjait_pipelines.billing.rating.usage import usage
from ninjait_pipelines_tests.billing.rating.agreements import agreed, priced, used

MARCH, APRIL = date(2026, 3, 1), date(2026, 4, 1)
MODELS: list[dict[str, Any]] = [
    {"model": "flat", "amount": "7"},
    {"model": "per_unit", "amount": "3"},
    {"model": "package", "amount": "11", "size": "3"},
    {"model": "graduated", "tiers": [{"up_to": "3", "price": "5"}, {"up_to": "9", "price": "4"}, {"price": "1"}]},
    {"model": "volume", "tiers": [{"up_to": "3", "price": "5"}, {"up_to": "9", "price": "4"}, {"price": "1"}]},
]
Terms = list[tuple[int, int]]
day_numbers = st.integers(0, 31)
device_terms = st.lists(st.tuples(day_numbers, day_numbers).map(lambda term: (min(term), max(term))), max_size=12)
call_counts = st.dictionaries(st.integers(0, 30), st.integers(0, 8), max_size=10)


def day(number: int) -> str:
    return str(MARCH + timedelta(days=number))


def cost(terms: Agreement, given: dict[str, Any]) -> Fraction:
    return sum((one.amount for one in charges(Measured(terms, used(**given)), MARCH, terms.items, None)), Fraction(0))


def everything(terms: Terms, calls: dict[int, int]) -> dict[str, Any]:
    """Devices with these terms, and so many calls on these days."""
    return {
        "devices": [
            {"device_id": f"d{number}", "from": day(first), "to": day(end)} for number, (first, end) in enumerate(terms)
        ],
        "api_calls": [
            {"id": f"c{number}-{one}", "timestamp": f"{day(number)}T{one:02}:00:00Z"}
            for number, count in calls.items()
            for one in range(count)
        ],
    }


@settings(max_examples=150, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    kind=st.sampled_from(["device", "api_calls"]),
    basis=st.sampled_from(["registered", "last_day", "peak"]),
    included=st.integers(0, 6),
    cut=st.integers(1, 30),
    terms=device_terms,
    calls=call_counts,
)
def test_a_term_that_is_cut_in_two_costs_the_same(
    model: dict[str, Any],
    kind: str,
    basis: str,
    included: int,
    cut: int,
    terms: Terms,
    calls: dict[int, int],
) -> None:
    item = {"product": "p", "kind": kind, "included": str(included), "prices": [priced(**model)]}
    item |= {"basis": basis} if kind == "device" else {}
    whole = agreed(item)
    parts = agreed(item | {"to": day(cut)}, item | {"from": day(cut)})
    given = everything(terms, calls)
    assert cost(parts, given) == cost(whole, given)


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_doubled_and_cut_usage_gives_the_same_bytes(seed: int) -> None:
    chance = random.Random(seed)
    given = everything(
        [(chance.randrange(15), 15 + chance.randrange(16)) for _ in range(40)], {n: n % 9 for n in range(31)}
    )
    given["reports"] = [{"device_id": f"d{n % 40}", "at": [f"{day(n % 31)}T{n % 24:02}:30:00Z"]} for n in range(400)]
    given["storage"] = [
        {"timestamp": f"{day(n)}T{n % 24:02}:00:00Z", "gb": str(n * 1.1), "source": f"s{n % 3}"} for n in range(31)
    ]
    terms = agreed(
        {"product": "d", "kind": "device", "basis": "reporting", "prices": [priced(**MODELS[3])]},
        {"product": "c", "kind": "api_calls", "included": "20", "prices": [priced(**MODELS[4])]},
        {"product": "s", "kind": "storage", "prices": [priced("0.1")]},
        time_zone="Pacific/Auckland",
    )
    rows = [(name, row) for name, rows in given.items() for row in rows]
    rows += chance.sample(rows, len(rows) // 20)
    chance.shuffle(rows)
    files: list[dict[str, list[Any]]] = [{} for _ in range(1_000)]
    for name, row in rows:
        chance.choice(files).setdefault(name, []).append(row)
    cut = usage(json.dumps(file).encode() for file in files)
    assert canonical(draft(terms, cut, MARCH)) == canonical(draft(terms, used(**given), MARCH))


@settings(max_examples=100, deadline=None)
@given(terms=device_terms, included=st.integers(0, 12))
def test_included_units_are_pooled_and_never_cost_less_than_nothing(terms: Terms, included: int) -> None:
    """Per unit: what is used beyond what is included in the whole month, at 31.00 a device-month."""
    item = {"product": "p", "kind": "device", "included": str(included), "prices": [priced("31")]}
    device_days = sum(max(0, min(end, 31) - first) for first, end in terms)
    assert cost(agreed(item), everything(terms, {})) == max(0, device_days - 31 * included)


@settings(max_examples=100, deadline=None)
@given(calls=call_counts, included=st.integers(0, 20))
def test_calls_beyond_the_included_ones_cost_their_price(calls: dict[int, int], included: int) -> None:
    item = {"product": "p", "kind": "api_calls", "included": str(included), "prices": [priced("2")]}
    assert cost(agreed(item), everything([], calls)) == 2 * max(0, sum(calls.values()) - included)


@settings(max_examples=100, deadline=None)
@given(terms=device_terms, reports=st.dictionaries(st.integers(0, 11), st.sets(day_numbers)), first=st.integers(0, 30))
def test_devices_are_counted_as_if_one_by_one(terms: Terms, reports: dict[int, set[int]], first: int) -> None:
    given = everything(terms, {}) | {
        "reports": [{"device_id": f"d{number}", "at": [day(at) for at in heard]} for number, heard in reports.items()]
    }
    for basis in ("registered", "reporting"):
        agreement = agreed({"product": "p", "kind": "device", "basis": basis, "prices": [priced("1")]})
        levels = Measured(agreement, used(**given)).device_levels(agreement.items[0], [MARCH + first * DAY, APRIL])
        for number in range(first, 31):
            holding = [device for device, (begins, ends) in enumerate(terms) if begins <= number < ends]
            expected = [one for one in holding if basis == "registered" or number in reports.get(one, ())]
            assert levels[MARCH + number * DAY] == len(expected)
