"""Cases from people who bill for usage: amounts computed by hand, with the sum beside them."""

from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
import pytest

from ninjait_pipelines.billing.rating.agreement import Party, Refused
from ninjait_pipelines.billing.rating.document import Document, Issued, canonical, document, draft, sha256
from ninjait_pipelines_tests.billing.rating.agreements import agreed, bill, days, devices, item, priced, used

TIERS = {"tiers": [{"up_to": "100", "price": "5"}, {"price": "4"}]}


def issue(draft: Document, number: str, at: datetime) -> Document:
    return msgspec.structs.replace(draft, status="issued", number=number, issued_at=at)


def amounts(found: Document) -> list[str]:
    return [str(line.amount) for line in found.lines]


def test_devices_by_day() -> None:
    """(10 x 28 + 14) / 28 x 5.00."""
    found = bill(
        agreed(item("device", "5.00")), "2026-02", devices=[*devices(10), *devices(1, "x", **{"from": "2026-02-15"})]
    )
    assert str(found.total) == "52.50"
    assert str(found.lines[0].quantity) == "10.5"


@pytest.mark.parametrize(("model", "total"), [("graduated", "700.00"), ("volume", "600.00")])
def test_tiers(model: str, total: str) -> None:
    """100 x 5 + 50 x 4; 150 x 4."""
    terms = agreed(item("device", price={"model": model, **TIERS}))
    assert str(bill(terms, "2026-02", devices=devices(150)).total) == total


@pytest.mark.parametrize(("count", "total"), [(100, "500.00"), (101, "404.00"), (0, "0.00")])
def test_a_tier_includes_its_upper_bound(count: int, total: str) -> None:
    terms = agreed(item("device", price={"model": "volume", **TIERS}))
    assert str(bill(terms, "2026-02", devices=devices(count)).total) == total


def test_a_price_that_changes_within_the_month() -> None:
    """10 x 5 x 15/30, 10 x 6 x 15/30, on one document."""
    prices = [priced("5"), priced("6", version=2) | {"from": "2026-06-16"}]
    found = bill(agreed({**item("device"), "prices": prices}), "2026-06", devices=devices(10))
    assert amounts(found) == ["25.00", "30.00"]
    assert str(found.total) == "55.00"


@pytest.mark.parametrize(
    ("since", "month", "total"),
    [("2024-02-26", "2024-02", "13.79"), ("2026-02-26", "2026-02", "10.71"), ("2024-02-01", "2024-02", "100.00")],
)
def test_a_fee_from_a_day_on(since: str, month: str, total: str) -> None:
    """4/29, 3/28 and 29/29 of 100."""
    assert str(bill(agreed(item("flat", "100", **{"from": since})), month).total) == total


@pytest.mark.parametrize("since", ["2026-02-26", "2026-02-28"])
def test_a_fee_without_proration_is_due_whole(since: str) -> None:
    assert str(bill(agreed(item("flat", "100", proration="full", **{"from": since})), "2026-02").total) == "100.00"


def test_included_calls_are_not_given_again_when_the_plan_is_renewed() -> None:
    first = item("api_calls", "1", included="3100", to="2026-03-15")
    second = item("api_calls", "1", included="3100", **{"from": "2026-03-15"})
    assert (
        str(bill(agreed(first, second), "2026-03", api_call_counts=[{"day": "2026-03-02", "count": 3100}]).total)
        == "0.00"
    )
    twice = [{"day": "2026-03-02", "count": 3100}, {"day": "2026-03-20", "count": 7}]
    assert str(bill(agreed(first, second), "2026-03", api_call_counts=twice).total) == "7.00"


def test_an_add_on_leaves_the_main_contract_as_it_is() -> None:
    """100 + 20 x 10/31."""
    add_on = {**item("flat", "20", to="2026-03-20", **{"from": "2026-03-10"}), "product": "add-on"}
    terms = agreed(item("flat", "100"), add_on)
    assert str(bill(terms, "2026-03").total) == "106.45"
    assert str(bill(terms, "2026-04").total) == "100.00"


@pytest.mark.parametrize(
    ("currency", "amount", "total"), [("JPY", "1000", "484"), ("KWD", "10", "4.839"), ("EUR", "10", "4.84")]
)
def test_amounts_have_the_places_of_their_currency(currency: str, amount: str, total: str) -> None:
    """15/31 of 1000 is 483.87, of 10 is 4.8387."""
    terms = agreed(item("flat", amount, to="2026-03-16"), currency=currency)
    assert str(bill(terms, "2026-03").total) == total


def test_a_price_of_many_places() -> None:
    """100,000 x 0.00045."""
    found = bill(
        agreed(item("storage", "0.00045", carried_forward_days=31)),
        "2026-03",
        storage=[{"timestamp": "2026-03-01T00:00:00Z", "gb": "100000"}],
    )
    assert str(found.total) == "45.00"
    assert str(found.lines[0].completeness) == "1"


def test_a_retired_device_costs_nothing_after_its_last_day() -> None:
    """10 of 31 days at 31.00."""
    laptop = {"device_id": "laptop", "to": "2026-03-11T08:00:00Z"}
    found = bill(
        agreed(item("device", "31.00")),
        "2026-03",
        devices=[laptop],
        reports=[{"device_id": "laptop", "at": days("2026-03-01", 31)}],
    )
    assert str(found.total) == "10.00"


def test_calls_belong_to_the_local_month() -> None:
    terms = agreed(item("api_calls", "1"), time_zone="Europe/Berlin")
    calls = [{"id": "a", "timestamp": "2026-03-31T21:59:59.999Z"}, {"id": "b", "timestamp": "2026-03-31T22:00:00Z"}]
    assert [str(bill(terms, month, api_calls=calls).total) for month in ("2026-03", "2026-04")] == ["1.00", "1.00"]


def test_a_sample_after_local_midnight_is_of_the_new_month() -> None:
    """00:15 in Kolkata on 1 April is 18:45 UTC on 31 March."""
    terms = agreed(item("device", "30.00", basis="reporting"), time_zone="Asia/Kolkata")
    given = {"devices": devices(1), "reports": [{"device_id": "d0", "at": ["2026-03-31T18:45:00Z"]}]}
    assert [str(bill(terms, month, **given).total) for month in ("2026-03", "2026-04")] == ["0.00", "1.00"]


def test_registered_devices_cost_the_same_whether_they_report() -> None:
    """A laptop that is on by day and a server that is silent: 2 x 10.00."""
    given = {
        "devices": [{"device_id": "laptop"}, {"device_id": "server"}],
        "reports": [{"device_id": "laptop", "at": days("2026-03-02", 5)}],
    }
    assert str(bill(agreed(item("device", "10.00")), "2026-03", **given).total) == "20.00"


def test_usage_of_an_issued_month_is_billed_later_and_once() -> None:
    """3 device-days of 31 at 5.00: 0.48."""
    terms = agreed(item("device", "5.00", basis="reporting"))
    known = {"devices": devices(2), "reports": [{"device_id": "d0", "at": days("2026-05-01", 31)}]}
    late = {**known, "reports": [*known["reports"], {"device_id": "d1", "at": days("2026-05-10", 3)}]}
    may = issue(bill(terms, "2026-05", **known), "2026-0001", datetime(2026, 6, 4, tzinfo=UTC))
    before = sha256(may)
    june = issue(bill(terms, "2026-06", may, **known), "2026-0002", datetime(2026, 7, 4, tzinfo=UTC))
    july = bill(terms, "2026-07", may, june, **late)
    assert sha256(may) == before
    assert str(may.total) == "5.00"
    (correction,) = [line for line in july.lines if line.kind == "correction"]
    assert (str(correction.amount), correction.corrects) == ("0.48", "2026-0001")
    july = issue(july, "2026-0003", datetime(2026, 8, 4, tzinfo=UTC))
    assert bill(terms, "2026-08", may, june, july, **late).total == Decimal(0)


def test_a_correction_is_at_the_prices_of_its_time_and_in_their_tiers() -> None:
    """99 devices, then 102: the 100th at 5, two at 4, although May's price was replaced since."""
    prices = [
        priced(model="graduated", **TIERS) | {"published_at": "2020-01-01T00:00:00Z"},
        priced("9", version=2) | {"published_at": "2026-07-01T00:00:00Z"},
    ]
    terms = agreed({**item("device"), "prices": prices})
    before = agreed({**item("device"), "prices": prices[:1]})
    may = issue(bill(before, "2026-05", devices=devices(99, to="2026-06-01")), "1", datetime(2026, 6, 4, tzinfo=UTC))
    july = bill(terms, "2026-07", may, devices=devices(102, to="2026-06-01"))
    assert [str(line.amount) for line in july.lines if line.kind == "correction"] == ["13.00"]


def test_what_is_billed_in_advance_is_on_the_document_before() -> None:
    terms = agreed(item("flat", "100", billed="advance", **{"from": "2026-03-01"}), term={"from": "2026-03-01"})
    march = bill(terms, "2026-03")
    assert [(str(line.from_), str(line.amount)) for line in march.lines] == [
        ("2026-03-01", "100.00"),
        ("2026-04-01", "100.00"),
    ]
    april = bill(terms, "2026-04", issue(march, "1", datetime(2026, 4, 4, tzinfo=UTC)))
    assert [(str(line.from_), str(line.amount)) for line in april.lines] == [("2026-05-01", "100.00")]


def test_an_advance_that_ended_sooner_is_given_back() -> None:
    """April was billed whole in advance; the item ended on the 16th: 15/30 of 100 back."""
    march = bill(agreed(item("flat", "100", billed="advance")), "2026-03")
    ended = agreed(item("flat", "100", billed="advance", to="2026-04-16"))
    april = bill(ended, "2026-04", issue(march, "1", datetime(2026, 4, 4, tzinfo=UTC)))
    assert [(line.kind, str(line.amount)) for line in april.lines] == [("correction", "-50.00")]


def test_a_one_off_is_billed_in_its_month_only() -> None:
    terms = agreed(item("one_off", "250", quantity="2", **{"from": "2026-03-17"}))
    assert [str(bill(terms, month).total) for month in ("2026-02", "2026-03", "2026-04")] == ["0.00", "500.00", "0.00"]


def test_tax_is_on_the_sum_of_its_rate() -> None:
    """Three lines of 0.33 at 19 %: 0.99 x 0.19 = 0.1881, once; not three times 0.06."""
    items = [{**item("flat", "0.33"), "product": name} for name in "abc"]
    found = bill(agreed(*items, tax={"category": "S", "rate": "19"}), "2026-03")
    assert (str(found.net), str(found.tax_total), str(found.total)) == ("0.99", "0.19", "1.18")
    assert found.net + found.tax_total == found.total


def test_minimum_and_discount() -> None:
    """10 x 5 less 10 % is 45, and 55 is asked; 3 devices count as 5."""
    discount = [{"from": "2026-03-01", "to": "2026-04-01", "percent": "10"}]
    least = agreed(item("device", "5", minimum_amount="55", discounts=discount))
    assert amounts(bill(least, "2026-03", devices=devices(10))) == ["45.00", "10.00"]
    assert str(bill(agreed(item("device", "5", minimum_quantity="5")), "2026-03", devices=devices(3)).total) == "25.00"


@pytest.mark.parametrize(("basis", "total"), [("last_day", "10.00"), ("peak", "20.00"), ("registered", "15.00")])
def test_bases(basis: str, total: str) -> None:
    """Two devices for half of April, one for the rest, at 10.00."""
    given = [{"device_id": "a"}, {"device_id": "b", "to": "2026-04-16"}]
    assert str(bill(agreed(item("device", "10", basis=basis)), "2026-04", devices=given).total) == total


def test_a_device_that_moves_at_noon_is_its_new_owners_on_that_day() -> None:
    moved = [
        {"device_id": "d", "organization_id": "acme", "to": "2026-04-11T12:00:00Z"},
        {"device_id": "d", "organization_id": "other", "from": "2026-04-11T12:00:00Z"},
    ]
    own = bill(agreed(item("device", "30")), "2026-04", devices=moved)
    theirs = bill(agreed(item("device", "30"), organization_id="other"), "2026-04", devices=moved)
    assert [str(own.total), str(theirs.total)] == ["10.00", "20.00"]


def test_a_call_that_is_stamped_anew_with_each_retry_is_one() -> None:
    calls = [
        {"id": "a", "timestamp": "2026-03-31T23:59:00Z", "status_code": 503},
        {"id": "a", "timestamp": "2026-04-01T00:00:00Z"},
        {"id": "a", "timestamp": "2026-05-01T00:00:00Z"},
        {"id": "b", "timestamp": "2026-04-01T00:00:00Z", "status_code": 401},
    ]
    terms = agreed(item("api_calls", "1"))
    assert [str(bill(terms, month, api_calls=calls).total) for month in ("2026-03", "2026-04", "2026-05")] == [
        "0.00",
        "1.00",
        "0.00",
    ]


def test_a_silent_reporter_is_missing_and_neither_zero_nor_complete() -> None:
    """100 GB for 7 of 30 days, then nobody knows."""
    found = bill(agreed(item("storage", "3")), "2026-04", storage=[{"timestamp": "2026-04-01T00:00:00Z", "gb": "100"}])
    assert str(found.total) == "70.00"
    assert str(found.lines[0].completeness) == "0.233333"


def test_volumes_are_weighted_by_time() -> None:
    """100 GB until noon, 300 GB from then on: 200 GB-days of 30."""
    terms = agreed(item("storage", "30", to="2026-04-02"))
    given = [{"timestamp": "2026-04-01T00:00:00Z", "gb": "100"}, {"timestamp": "2026-04-01T12:00:00Z", "gb": "300"}]
    assert str(bill(terms, "2026-04", storage=given).total) == "200.00"


def test_packages_are_charged_once_begun() -> None:
    terms = agreed(item("api_calls", "2", price={"model": "package", "size": "1000"}))
    counts = [{"day": "2026-04-01", "count": 600}, {"day": "2026-04-02", "count": 401}]
    found = bill(terms, "2026-04", api_call_counts=counts)
    assert str(found.total) == "4.00"
    assert found.lines[0].parts == ((Decimal(2), Decimal(2)),), "two packages, not 1,001 calls, at 2.00"


def test_full_proration_is_not_charged_again_when_the_item_is_renewed() -> None:
    first = item("flat", "100", proration="full", to="2026-03-15")
    second = item("flat", "100", proration="full", **{"from": "2026-03-15"})
    assert str(bill(agreed(first, second), "2026-03").total) == "100.00"


def test_a_document_reads_back_as_it_was_written() -> None:
    found = bill(agreed(item("device", "5"), bill_to={"name": "Müller GmbH"}), "2026-02", devices=devices(3))
    seller = Party(name="Provider", address=("Way 1",), tax_id="DE123456788")
    credit = msgspec.structs.replace(found, kind="credit_note", credits="1", seller=seller, notes=("Goodwill",))
    assert document(canonical(found)) == found
    assert document(canonical(credit)) == credit


def test_a_document_of_this_month_corrects_nothing() -> None:
    terms = agreed(item("flat", "1"))
    with pytest.raises(Refused, match="2026-03-01"):
        bill(terms, "2026-03", bill(terms, "2026-03"))


def test_a_corrected_minimum_is_not_corrected_again() -> None:
    """One device at 31.00 and 50.00 at least; then two: 62.00, which is 12.00 more."""
    terms = agreed(item("device", "31", minimum_amount="50", to="2026-04-01"))
    march = issue(bill(terms, "2026-03", devices=devices(1)), "1", datetime(2026, 4, 4, tzinfo=UTC))
    april = issue(bill(terms, "2026-04", march, devices=devices(2)), "2", datetime(2026, 5, 4, tzinfo=UTC))
    assert amounts(april) == ["12.00"]
    assert amounts(bill(terms, "2026-05", march, april, devices=devices(2))) == []


def test_two_corrections_in_a_row_and_documents_given_twice() -> None:
    """20 days at 1.00, then 10, then 15."""
    terms = agreed(item("device", "31"))
    until = [[{"device_id": "d", "from": "2026-03-01", "to": f"2026-03-{day}"}] for day in (21, 11, 16)]
    march = issue(bill(terms, "2026-03", devices=until[0]), "1", datetime(2026, 4, 4, tzinfo=UTC))
    april = issue(bill(terms, "2026-04", march, devices=until[1]), "2", datetime(2026, 5, 4, tzinfo=UTC))
    may = bill(terms, "2026-05", april, march, april, devices=until[2])
    assert [str(one.total) for one in (march, april, may)] == ["20.00", "-10.00", "5.00"]


def test_a_correction_is_taxed_at_the_rate_of_then() -> None:
    """10.00 back at 19 %, although 7 % is the rate now."""
    before, now = (agreed(item("device", "31"), tax={"category": "S", "rate": rate}) for rate in ("19", "7"))
    march = bill(before, "2026-03", devices=devices(1, **{"from": "2026-03-12"}, to="2026-04-01"))
    april = bill(now, "2026-04", march, devices=devices(1, **{"from": "2026-03-22"}, to="2026-04-01"))
    assert (str(april.net), str(april.total)) == ("-10.00", "-11.90")


def test_what_is_late_is_charged_under_the_agreement_of_then() -> None:
    """May was agreed at 5.00 a device; since then that item was ended in April, and 9.00 agreed on."""
    before = agreed(item("device", "5"))
    now = agreed(item("device", "5", to="2026-04-01"), item("device", "9", **{"from": "2026-04-01"}))
    until = {"to": "2026-06-01"}
    may = issue(bill(before, "2026-05", devices=devices(2, **until)), "1", datetime(2026, 6, 4, tzinfo=UTC))
    usage = used(devices=devices(3, **until))
    july = draft(now, usage, date(2026, 7, 1), [Issued(may, before)])
    assert [str(line.amount) for line in july.lines if line.kind == "correction"] == ["5.00"]
    assert draft(now, usage, date(2026, 7, 1), [Issued(may, before, changed=False)]).total == 0


def test_a_correction_on_a_later_document_is_not_repeated_on_an_earlier_one() -> None:
    """July was issued before June, and corrected May: June need not."""
    terms = agreed(item("device", "5"))
    until = {"to": "2026-06-01"}
    may = issue(bill(terms, "2026-05", devices=devices(2, **until)), "1", datetime(2026, 6, 4, tzinfo=UTC))
    late = {"devices": devices(3, **until)}
    assert str(bill(terms, "2026-06", may, **late).total) == "5.00"
    july = issue(bill(terms, "2026-07", may, **late), "2", datetime(2026, 8, 4, tzinfo=UTC))
    assert bill(terms, "2026-06", may, july, **late).total == 0


def test_issued_documents_that_do_not_fit_are_refused() -> None:
    terms = agreed(item("flat", "1"))
    march = bill(terms, "2026-03")
    with pytest.raises(Refused, match="two documents of 2026-03-01"):
        bill(terms, "2026-04", march, msgspec.structs.replace(march, number="9"))
    with pytest.raises(Refused, match="'9' is the number of two documents"):
        bill(terms, "2026-05", *(msgspec.structs.replace(one, number="9") for one in (march, bill(terms, "2026-04"))))
    with pytest.raises(Refused, match="is in EUR, not JPY"):
        bill(agreed(item("flat", "1"), currency="JPY"), "2026-04", march)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"amount":"1.00"', b'"amount":"NaN"', "line 'flat@2020-01-01', amount: NaN"),
        (b'"period_from":"2026-03-01"', b'"period_from":"2026-03-15"', "period_from: 2026-03-15"),
        (b'"issued_at":null', b'"issued_at":"2026-04-01T00:00:00"', "issued_at: 2026-04-01 00:00:00 has no time zone"),
        (b"ninjait.invoice.v1", b"ninjait.invoice.v9", "'ninjait.invoice.v9'"),
        (b'"kind":"charge"', b'"kind":"charged"', "'charged'"),
    ],
)
def test_a_document_that_is_not_one_is_refused(old: bytes, new: bytes, message: str) -> None:
    issued = canonical(bill(agreed(item("flat", "1")), "2026-03"))
    assert old in issued
    with pytest.raises(Refused, match=message):
        document(issued.replace(old, new))


def test_nothing_is_due_in_advance_before_the_agreement() -> None:
    since = {"from": "2026-03-01"}
    terms = agreed(item("flat", "100", billed="advance", **since), term=since)
    assert [str(bill(terms, month).total) for month in ("2026-02", "2026-03")] == ["0.00", "200.00"]


def test_an_item_that_was_agreed_after_a_document_is_billed_on_the_next() -> None:
    """From 11 May, in advance: 21/31 of 31.00 for May, 31.00 for June."""
    fee = item("flat", "31", price={"published_at": "2026-05-10T00:00:00Z"}, billed="advance", **{"from": "2026-05-11"})
    april = issue(bill(agreed(), "2026-04"), "1", datetime(2026, 5, 3, tzinfo=UTC))
    assert amounts(bill(agreed(fee), "2026-05", april)) == ["31.00", "21.00"]


def test_two_one_offs_of_a_product_in_a_month() -> None:
    visits = [item("one_off", "99", **{"from": f"2026-03-{day}"}) for day in ("03", "17")]
    assert amounts(bill(agreed(*visits), "2026-03")) == ["99.00", "99.00"]


def test_a_price_is_shown_with_all_its_places_and_an_amount_beyond_reason_refused() -> None:
    amount = "123456789012345.123456789012345678"
    assert str(bill(agreed(item("flat", amount)), "2026-03").lines[0].unit_price) == amount
    with pytest.raises(Refused, match=r"costs 1e\+15"):
        bill(agreed(item("flat", "500000000000000", quantity="2")), "2026-03")


def test_another_agreements_document_is_refused() -> None:
    with pytest.raises(Refused, match="agreement 'A-2', not 'A-1'"):
        bill(agreed(item("flat", "1")), "2026-03", bill(agreed(item("flat", "1"), id="A-2"), "2026-02"))
