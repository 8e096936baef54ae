"""Usage in local days, whatever its clocks and however it is cut."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest

from ninjait_pipelines.billing.rating.agreement import Refused
from ninjait_pipelines.billing.rating.usage import Measurement, device_days, volumes_by_day
from ninjait_pipelines_tests.billing.rating.agreements import agreed, bill, item, priced, used

WEEK = timedelta(days=7)
EARLY = {"from": "2011-01-01"}


def measured(*values: tuple[str, str, str]) -> list[Measurement]:
    return [
        Measurement(timestamp=datetime.fromisoformat(at), gb=Decimal(gb), source=source) for at, gb, source in values
    ]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-03-30", 24)])
def test_a_day_is_as_long_as_its_clocks_say(day: str, hours: int) -> None:
    """100 GB for the last hour of the day."""
    midnight = datetime.combine(
        date.fromisoformat(day) + timedelta(days=1), datetime.min.time(), ZoneInfo("Europe/Berlin")
    )
    last_hour = midnight.astimezone(UTC) - timedelta(hours=1)
    found = volumes_by_day(
        measured((last_hour.isoformat(), "100", "")), [date.fromisoformat(day)], "Europe/Berlin", WEEK
    )
    assert found[date.fromisoformat(day)] == (Fraction(100, hours), Fraction(1, hours))


def test_sources_add_up_and_a_silent_one_is_missing() -> None:
    """a holds 10 GB all day, b 20 GB, last heard of a day ago: half of what is expected is known."""
    values = measured(("2026-03-01T00:00:00Z", "10", "a"), ("2026-02-27T00:00:00Z", "20", "b"))
    (found,) = volumes_by_day(values, [date(2026, 3, 1)], "UTC", timedelta(days=1)).values()
    assert found == (Fraction(10), Fraction(1, 2))


def test_what_a_source_adds_later_is_not_missing_before() -> None:
    values = measured(("2026-03-01T00:00:00Z", "10", "a"), ("2026-03-01T12:00:00Z", "20", "b"))
    (found,) = volumes_by_day(values, [date(2026, 3, 1)], "UTC", WEEK).values()
    assert found == (Fraction(20), Fraction(1))


def test_two_terms_of_a_device_do_not_overlap() -> None:
    twice = used(devices=[{"device_id": "d", "to": "2026-03-11"}, {"device_id": "d", "from": "2026-03-10"}])
    with pytest.raises(Refused, match="'d' has two terms on 2026-03-10"):
        device_days(twice, ZoneInfo("UTC"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"storage": [{"timestamp": "2026-03-01T00:00:00Z", "gb": "-1"}]}, "storage.gb: -1"),
        ({"storage": [{"timestamp": "2026-03-01T00:00:00", "gb": "1"}]}, "no time zone"),
        ({"api_call_counts": [{"day": "2026-03-01", "count": -1}]}, "-1 on 2026-03-01"),
        ({"api_call_counts": [{"day": "2026-03-01", "count": 1}, {"day": "2026-03-01", "count": 2}]}, "1 and 2"),
        ({"api_call_counts": [{"day": "2026-03-01", "count": 10**15}]}, "1000000000000000 on 2026-03-01"),
        ({"api_calls": [{"id": "a", "timestamp": "2026-03-01T00:00:00Z", "status_code": 99}]}, "status_code`: 99"),
        ({"devices": [{"device_id": "d", "from": "2026-03-02", "to": "2026-03-01"}]}, "from 2026-03-02 to 2026-03-01"),
        ({"devices": [{"device_id": "d", "frm": "2026-03-01"}]}, "frm"),
        ({"devices": [{"device_id": "d", "from": "yesterday"}]}, "not as its schema says"),
        ({"devices": [{"device_id": "d", "from": "2026-02-30"}]}, "2026-02-30"),
        ({"devices": [{"device_id": "d", "from": "2026-02-03T10:00:00"}]}, "no time zone"),
    ],
)
def test_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(Refused, match=message):
        bill(agreed(item("device", "1")), "2026-03", **given)


def test_devices_that_an_item_does_not_count() -> None:
    devices = [
        {"device_id": "1", "class": "server", "site": "north", "tags": ["gold"]},
        {"device_id": "2", "class": "server", "site": "north", "tags": ["gold", "spare"]},
        {"device_id": "3", "class": "laptop", "site": "north", "tags": ["gold"]},
        {"device_id": "4", "class": "server", "site": "south", "tags": ["gold"]},
        {"device_id": "5", "class": "server", "site": "north", "tags": []},
        {"device_id": "6", "class": "server", "site": "north", "tags": ["gold"], "billable": False},
    ]
    rule = {"classes": ["server"], "sites": ["north"], "tags": ["gold"], "without_tags": ["spare", "co-managed"]}
    assert str(bill(agreed(item("device", "1", filter=rule)), "2026-03", devices=devices).total) == "1.00"


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_the_ends_of_the_calendar_are_in_no_month(zone: str, at: str) -> None:
    given = {
        "devices": [{"device_id": "d", "from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}],
        "reports": [{"device_id": "d", "at": [at]}],
        "api_calls": [{"id": "a", "timestamp": at}],
        "storage": [{"timestamp": at, "gb": "1"}],
    }
    items = [item("device", "31"), item("api_calls", "1"), item("storage", "1")]
    assert str(bill(agreed(*items, time_zone=zone), "2026-03", **given).total) == "31.00"


def test_a_day_that_the_zone_skips_has_the_volume_of_its_midnight() -> None:
    """Samoa had no 30 December 2011: 100 GB in December at 0.31 are 31.00."""
    terms = agreed(
        {**item("storage", carried_forward_days=40, **{"from": "2011-01-01"}), "prices": [priced("0.31") | EARLY]},
        time_zone="Pacific/Apia",
        term=EARLY,
    )
    found = bill(terms, "2011-12", storage=[{"timestamp": "2011-11-30T00:00:00Z", "gb": "100"}])
    assert (str(found.total), str(found.lines[0].completeness)) == ("31.00", "1")


def test_volumes_that_were_measured_elsewhere_stand_for_the_measurements_of_their_day() -> None:
    """Exact, of the item's own rule; of other days the measurements count."""
    terms = agreed(item("storage", "31", carried_forward_days=2))
    day = {"gb_milliseconds": "86400000", "known_milliseconds": 43_200_000, "day_milliseconds": 86_400_000}
    known = [
        {"day": "2026-03-01", "carried_forward_days": 2, **day},
        {"day": "2026-03-02", "carried_forward_days": 3, **day},
    ]
    [line] = bill(terms, "2026-03", storage_days=known).lines
    assert (line.quantity, line.amount) == (Decimal("0.032258"), Decimal("1.00"))
    assert line.completeness == Decimal("0.016129")  # half of a day of 31
    first = {"timestamp": "2026-03-01T00:00:00Z", "gb": "10"}
    [line] = bill(terms, "2026-03", storage_days=known, storage=[first]).lines
    assert line.amount == Decimal("11.00")


def test_calls_that_were_counted_by_a_rule_are_of_the_items_with_it() -> None:
    counts = [
        {"day": "2026-03-01", "count": 2, "not_billed_statuses": ["5xx", "403", "401"]},
        {"day": "2026-03-01", "count": 30, "not_billed_statuses": []},
        {"day": "2026-03-01", "count": 400},
    ]
    every = {**item("api_calls", "1", not_billed_statuses=[]), "product": "every"}
    lines = bill(agreed(item("api_calls", "1"), every), "2026-03", api_call_counts=counts * 2).lines
    assert {line.product: line.amount for line in lines} == {"api_calls": 402, "every": 430}


def test_hours_that_are_not_in_yet_make_reports_and_calls_incomplete() -> None:
    """Not what is registered, nor volumes, which know it themselves."""
    reporting = {**item("device", "31", basis="reporting"), "product": "reporting"}
    terms = agreed(item("device", "31"), reporting, item("api_calls", "1"))
    given = {"devices": [{"device_id": "d"}], "hours_known": [{"day": "2026-03-01", "hours": 6, "of": 24}]}
    lines = {line.product: line.completeness for line in bill(terms, "2026-03", **given).lines}
    rest = Decimal("0.975806")  # 30.25 of 31
    assert lines == {"device": 1, "reporting": rest, "api_calls": rest}


DAY_OF_VOLUME = {"day": "2026-03-01", "gb_milliseconds": "1", "known_milliseconds": 1, "day_milliseconds": 86_400_000}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"storage_days": [{**DAY_OF_VOLUME, "gb_milliseconds": "-1"}]}, "storage_days.gb_milliseconds: -1"),
        ({"backup_days": [{**DAY_OF_VOLUME, "known_milliseconds": 86_400_001}]}, "86400001 of 86400000 milliseconds"),
        ({"storage_days": [{**DAY_OF_VOLUME, "day_milliseconds": 10**10}]}, "10000000000 milliseconds"),
        ({"storage_days": [DAY_OF_VOLUME, {**DAY_OF_VOLUME, "gb_milliseconds": "2"}]}, "2026-03-01 has 1, .* and 2, "),
        ({"hours_known": [{"day": "2026-03-01", "hours": 25, "of": 24}]}, "25 of 24 on 2026-03-01"),
        ({"hours_known": [{"day": "2026-03-01", "hours": n, "of": 24} for n in (1, 2)]}, "1, 24 and 2, 24"),
    ],
)
def test_refused_days_that_were_measured_elsewhere(given: dict[str, object], message: str) -> None:
    with pytest.raises(Refused, match=message):
        bill(agreed(item("storage", "1")), "2026-03", **given)
