"""What cannot be right is refused, and the message names where it stands and what it is."""

from typing import Any

import pytest

from ninjait_pipelines.billing.rating.agreement import Refused, agreement
from ninjait_pipelines_tests.billing.rating.agreements import agreed, item, priced

FEE = item("flat", "1")
LATER = {"from": "2021-01-01"}


def tiered(*bounds: str | None) -> dict[str, Any]:
    tiers = [{"price": "1", **({"up_to": bound} if bound else {})} for bound in bounds]
    return item("device", price={"model": "graduated", "tiers": tiers})


@pytest.mark.parametrize(
    ("items", "more", "message"),
    [
        ([FEE], {"currency": "???"}, r"currency: '\?\?\?'"),
        ([FEE], {"currency": "XAU"}, "currency: 'XAU'"),
        ([FEE], {"currency": "eur"}, "currency: 'eur'"),
        ([FEE], {"time_zone": "Europe/Berln"}, "time_zone: 'Europe/Berln'"),
        ([FEE], {"time_zone": "../../etc/passwd"}, "time_zone"),
        ([FEE], {"time_zone": ""}, "time_zone: ''"),
        ([FEE], {"time_zone": "localtime"}, "time_zone: 'localtime'"),
        ([FEE], {"tax": {"category": "QQ"}}, "'QQ'"),
        ([FEE], {"term": {"from": "2026-02-01", "to": "2026-02-01"}}, "term: from 2026-02-01 to 2026-02-01 is empty"),
        ([FEE], {"tax": {"category": "S", "rate": "101"}}, "tax.rate: 101"),
        ([FEE], {"tax": {"category": "AE", "rate": "19"}}, "category AE has the rate 0"),
        ([FEE], {"surprise": 1}, "surprise"),
        ([FEE, FEE], {}, "'flat@2020-01-01' stands there twice"),
        ([FEE, FEE | LATER], {}, "product 'flat': from 2021-01-01 to None overlaps"),
        ([FEE | {"to": "2021-01-01"}, item("one_off", "1", **LATER) | {"product": "flat"}], {}, "kinds"),
        ([item("flat", "-1")], {}, "amount: -1"),
        ([item("flat", "NaN")], {}, "amount: NaN"),
        ([item("flat", "1e15")], {}, "amount: 1E"),
        ([item("flat", "1", included="-3")], {}, "included: -3"),
        ([item("flat", "1,5")], {}, r"\$.items\[0\].prices\[0\].amount`: '1,5'"),
        ([item("flat", "1", price={"version": 2**53})], {}, "version`: 9007199254740992"),
        ([item("device", "1", quantity="5")], {}, "quantity: 5"),
        ([item("api_calls", "1", filter={"classes": ["server"]})], {}, "filter: it is for kind 'device'"),
        ([item("api_calls", "1", not_billed_statuses=["5xx\n"])], {}, "5xx"),
        ([item("one_off", "1", **{"from": "2019-12-31"})], {}, "outside the agreement's term"),
        ([item("flat", "1", basis="peak")], {}, "basis: 'peak'"),
        ([item("device", "1", basis="average")], {}, "basis: 'average'"),
        ([item("api_calls", "1", proration="full")], {}, "proration"),
        ([item("api_calls", "1", billed="advance")], {}, "billed: 'advance'"),
        ([item("device", "1", billed="advance", basis="peak")], {}, "billed: 'advance'"),
        ([item("flat", "1", to="2019-01-01")], {}, "is empty"),
        ([item("flat", "1", to="2019-01-01", **{"from": "2018-01-01"})], {}, "outside the agreement's term"),
        ([{**FEE, "prices": []}], {}, "prices: there is none"),
        ([{**FEE, "prices": [priced("1"), priced("2")]}], {}, "'1' stands there twice"),
        ([item("flat", "1", price={"published_at": None})], {}, "it is not published"),
        ([item("flat", "1", price={"published_at": "2026-01-01T00:00:00"})], {}, "no time zone"),
        ([item("flat", price={"model": "volume"})], {}, "needs tiers"),
        ([item("flat", "1", price={"size": "3"})], {}, "size: 3"),
        ([item("flat", "1", price={"model": "package", "size": "0"})], {}, "size: 0"),
        ([tiered("5")], {}, "the last must have none"),
        ([tiered("5", "5", None)], {}, "5, 5"),
        ([item("flat", "1", discounts=[{"from": "2026-01-01", "percent": "101"}])], {}, "percent: 101"),
        ([item("flat", "1", discounts=[{"from": "2026-01-01", "percent": "1"}] * 2)], {}, "overlaps"),
    ],
)  # fmt: skip
def test_refused(items: list[dict[str, Any]], more: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        agreed(*items, **more)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"id":"\xff"}', b"\xef\xbb\xbf{}", b'{"id":' + b"[" * 100_000, b'{"a\\nb": 1}', b'{"id": 1} 2'],
)
def test_what_is_no_agreement_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(Refused, match="the agreement is not as its schema says") as refused:
        agreement(data)
    assert len(str(refused.value).splitlines()) == 1


def test_of_two_versions_from_one_day_the_later_counts() -> None:
    found = agreed({**FEE, "prices": [priced("1"), priced("2", version=2)]}).items[0]
    assert found.price_on(found.from_, None).version == 2


def test_a_day_before_the_first_price_is_refused() -> None:
    found = agreed({**FEE, "prices": [priced("1") | {"from": "2021-01-01"}]}).items[0]
    with pytest.raises(Refused, match="no price is in use on 2020-01-01"):
        found.price_on(found.from_, None)
