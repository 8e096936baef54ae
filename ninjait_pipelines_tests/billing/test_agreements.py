"""What is agreed goes into PostgreSQL as it comes out again; what cannot be right is refused by field and value."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import iso4217
import msgspec
import psycopg
import pytest

from ninjait_pipelines.billing.agreements import agreements_in_force, device_terms, enter
from ninjait_pipelines.billing.rating.agreement import Agreement, Refused, agreement
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.migrations import migrate_up, rollback
from ninjait_pipelines.paths import SQL
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines_tests.billing.conftest import Platform
from ninjait_pipelines_tests.conftest import drop, fresh
from ninjait_pipelines_tests.runs import add

ALL = (date(1970, 1, 1), date(2149, 6, 6))
PER_CALL = {"version": 1, "from": "2026-01-01", "published_at": "2025-12-01T00:00:00Z", "amount": "0.00045"}
GRADUATED = {
    "version": 2,
    "from": "2026-06-16",
    "published_at": "2026-05-01T12:00:00.5Z",
    "model": "graduated",
    "tiers": [{"up_to": "0.5", "price": "5"}, {"up_to": "100.000000000000000001", "price": "4.10"}, {"price": "0"}],
}
PACKAGES = {**PER_CALL, "version": 3, "model": "package", "size": "2.5"}


def agreed(organization: uuid.UUID, **changes: Any) -> Agreement:
    """An agreement of everything, with other fields, or other ones of its first item (`item`)."""
    item = {
        "product": "servers",
        "kind": "device",
        "description": "Servers",
        "from": "2026-01-01",
        "to": "2026-09-01",
        "basis": "peak",
        "filter": {"classes": ["server", "nas"], "sites": ["Bonn"], "tags": ["gold"], "without_tags": ["spare"]},
        "included": "2",
        "minimum_quantity": "1",
        "minimum_amount": "10.50",
        "proration": "full",
        "prices": [PER_CALL, GRADUATED, PACKAGES],
        "discounts": [{"from": "2026-02-01", "to": "2026-03-01", "percent": "12.5"}],
        "tax": {"category": "S", "rate": "7"},
        **changes.pop("item", {}),
    }
    fee = {"product": "fee", "kind": "flat", "from": "2026-01-01", "billed": "advance", "quantity": "2.5"}
    calls = {"product": "calls", "kind": "api_calls", "from": "2026-01-01", "not_billed_statuses": ["404", "5xx"]}
    gb = {"product": "gb", "kind": "storage", "from": "2026-01-01", "carried_forward_days": 2}
    document = {
        "id": str(uuid.uuid5(organization, "agreement")),
        "organization_id": str(organization),
        "currency": "EUR",
        "time_zone": "Europe/Berlin",
        "purchase_order": "PO 17",
        "term": {"from": "2026-01-01"},
        "bill_to": {"name": "Büro <b>", "address": ["Am Markt 1", "53111 Bonn"], "tax_id": "DE 129273398"},
        "tax": {"category": "S", "rate": "19"},
        "items": [item, *({**one, "prices": [PER_CALL]} for one in (fee, calls, gb))],
        **changes,
    }
    return agreement(msgspec.json.encode(document))


def enter_all(stores: Stores, *some: Agreement) -> list[uuid.UUID]:
    with stores.postgres.transaction() as connection:
        return [enter(connection, one) for one in some]


def comparable(one: Agreement) -> Agreement:
    """Without what the database gives names to: items in an order of their own."""
    items = tuple(sorted((msgspec.structs.replace(item, id="") for item in one.items), key=lambda item: item.product))
    return msgspec.structs.replace(one, items=items)


def test_an_agreement_comes_back_as_it_was_entered(platform: Platform) -> None:
    entered = agreed(platform.organization("acme", "Asia/Tokyo"))
    enter_all(platform.stores, entered)
    [found] = agreements_in_force(platform.stores.postgres, *ALL)
    assert comparable(found) == comparable(entered)
    assert {price.amount for price in found.items[0].prices} == {price.amount for price in entered.items[2].prices}


def test_ids_that_are_no_uuids_give_the_same_uuid_in_each_organization(platform: Platform) -> None:
    one, other = (platform.organization(name, "UTC") for name in ("one", "other"))
    first, second = enter_all(platform.stores, agreed(one, id="A-17"), agreed(other, id="A-17"))
    assert first == uuid.uuid5(one, "A-17") != second


def test_agreements_are_those_that_hold_on_some_day(platform: Platform) -> None:
    organization = platform.organization("acme", "UTC")
    term = {"from": "2026-01-01", "to": "2026-03-10"}
    enter_all(platform.stores, agreed(organization, term=term, item={"to": "2026-03-10"}))
    held = [
        len(agreements_in_force(platform.stores.postgres, date(2026, *first), date(2026, *end)))
        for first, end in (((3, 9), (3, 10)), ((3, 10), (4, 1)))
    ]
    assert held == [1, 0]


def test_an_agreement_that_rating_refuses_is_left_out_and_named(platform: Platform) -> None:
    good, bad = (platform.organization(name, "UTC") for name in ("good", "bad"))
    enter_all(platform.stores, agreed(good), agreed(bad))
    with platform.stores.postgres.transaction() as connection:
        connection.execute("ALTER TABLE billing.agreements DISABLE TRIGGER USER")
        connection.execute("ALTER TABLE billing.agreements DROP CONSTRAINT agreements_time_zone_fkey")
        connection.execute("UPDATE billing.agreements SET time_zone = 'localtime' WHERE organization_id = %s", [bad])
        left_out = LeftOut()
        found = agreements_in_force(platform.stores.postgres, *ALL, left_out)
        connection.execute("ROLLBACK")
    assert [one.organization_id for one in found] == [str(good)]
    [(name, reason)] = left_out.reasons.items()
    assert str(bad) in name
    assert "time_zone: 'localtime' is no time zone" in reason


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE billing.agreements SET purchase_order = repeat('x', 501)", "purchase_order_has_at_most_500"),
        ("UPDATE billing.agreements SET time_zone = 'Asia/Tokyo'", "agreements: update is refused: organization"),
        ("UPDATE billing.agreements SET term = '[2026-01-01,infinity)'", "agreements.term: [2026-01-01,infinity)"),
        ("UPDATE billing.agreements SET term = 'empty'", "agreements.term: empty; it must begin"),
        ("UPDATE billing.agreements SET tax_category = 'AE'", "tax_rate_is_0_to_100_and_0_where_nothing_is_due"),
        ("UPDATE billing.agreement_items SET included = -1", "agreement_items.included: -1; it must be from 0"),
        ("UPDATE billing.agreement_items SET minimum_amount = 'NaN'", "agreement_items.minimum_amount: NaN"),
        ("UPDATE billing.agreement_items SET minimum_amount = 1e15", "below 10^15"),
        ("UPDATE billing.agreement_items SET quantity = 2 WHERE kind = 'storage'", "quantity_is_measured_unless"),
        ("UPDATE billing.agreement_items SET basis = 'average' WHERE kind = 'device'", "basis_fits_the_kind"),
        ("UPDATE billing.agreement_items SET tags = '{gold}' WHERE kind = 'flat'", "a_filter_is_for_devices"),
        ("UPDATE billing.agreement_items SET billed = 'advance' WHERE kind = 'storage'", "advance_is_for_fees"),
        ("UPDATE billing.agreement_items SET proration = 'full' WHERE kind = 'storage'", "proration_full_is_for"),
        ("UPDATE billing.agreement_items SET currency = 'USD'", 'is not present in table "agreements"'),
        ("UPDATE billing.agreement_items SET term = '[2025-01-01,2026-01-01)'", "outside the agreement's term"),
        ("UPDATE billing.parties SET organization_id = gen_random_uuid()", "violates foreign key constraint"),
        ("UPDATE billing.discounts SET percent = 100.01", "percent_is_at_most_100"),
        ("INSERT INTO billing.discounts SELECT * FROM billing.discounts", "discounts_of_an_item_do_not_overlap"),
        ("UPDATE billing.price_versions SET amount = 1", "a published price never changes; insert a new version"),
        ("DELETE FROM billing.price_versions", "a published price never changes"),
        ("TRUNCATE billing.price_versions", "a published price never changes"),
        ("UPDATE billing.products SET not_billed_statuses = '{4x}'", "not_billed_statuses_are_like_404_or_5xx"),
        ("UPDATE billing.parties SET name = ''", "name_has_1_to_500_characters"),
        ("UPDATE billing.parties SET address = ARRAY[NULL]", "address_is_a_list_of_texts"),
        ("UPDATE billing.parties SET address = ARRAY[repeat('x', 501)]", "address_is_a_list_of_texts"),
        ("UPDATE billing.agreement_items SET tags = '{{a,b},{c,d}}' WHERE kind = 'device'", "tags_are_a_list_of_texts"),
        ("UPDATE billing.prices SET currency = '???' WHERE name LIKE 'item%'", "violates foreign key constraint"),
    ],
)
def test_the_database_refuses_what_cannot_be_right(platform: Platform, statement: str, message: str) -> None:
    enter_all(platform.stores, agreed(platform.organization("acme", "UTC")))
    assert message in refusal(platform.stores, statement)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"currency": "XXX"}, "(currency)=(XXX) is not present"),
        ({"time_zone": "Europe/Zurch"}, "(time_zone)=(Europe/Zurch) is not present"),
        ({"organization_id": str(uuid.UUID(int=1))}, f"(organization_id)=({uuid.UUID(int=1)}) is not present"),
    ],
)
def test_the_database_refuses_what_there_is_not(platform: Platform, change: dict[str, str], message: str) -> None:
    valid = agreed(platform.organization("acme", "UTC"), bill_to=None)
    assert message in refused(platform.stores, msgspec.structs.replace(valid, **change))


def test_a_product_of_an_agreement_may_follow_itself_but_not_overlap(platform: Platform) -> None:
    organization = platform.organization("acme", "UTC")
    valid = agreed(organization)
    device = valid.items[0]
    renewed = msgspec.structs.replace(device, from_=date(2026, 9, 1), to=None, discounts=())
    enter_all(platform.stores, msgspec.structs.replace(valid, items=(device, renewed)))
    early = msgspec.structs.replace(renewed, from_=date(2026, 8, 31))
    overlapping = msgspec.structs.replace(valid, id=str(uuid.uuid4()), items=(device, early))
    message = refused(platform.stores, overlapping)
    assert "a_product_of_an_agreement_does_not_overlap" in message
    assert "[2026-08-31,)" in message


def test_an_unpublished_price_is_refused(platform: Platform) -> None:
    organization = platform.organization("acme", "UTC")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    message = refused(platform.stores, agreed(organization, item={"prices": [{**PER_CALL, "published_at": tomorrow}]}))
    assert "agreement_items.price_id: no published version" in message
    message = refused(platform.stores, agreed(organization, item={"prices": [{**PER_CALL, "from": "2026-01-02"}]}))
    assert "is in use on 2026-01-01" in message


@pytest.mark.parametrize("limits", ["{2,1}", "{0,1}", "{1,1}", "{NaN,2}", "{1}", "{NULL,2}", "[0:1]={1,2}"])
def test_tiers_must_ascend(platform: Platform, limits: str) -> None:
    enter_all(platform.stores, agreed(platform.organization("acme", "UTC")))
    statement = (
        "INSERT INTO billing.price_versions (price_id, version, used_from, model, tier_limits, tier_prices) "
        f"SELECT id, 9, '2026-01-01', 'volume', '{limits}', '{{3,2,1}}' FROM billing.prices LIMIT 1"
    )
    assert 'violates check constraint "tiers_ascend"' in refusal(platform.stores, statement)


def test_a_product_keeps_its_rules(platform: Platform) -> None:
    one, other = (platform.organization(name, "UTC") for name in ("one", "other"))
    enter_all(platform.stores, agreed(one))
    changed = agreed(other, item={"kind": "flat", "basis": None, "filter": {}})
    with pytest.raises(Refused, match="product 'servers': kind is device, not flat"):
        enter_all(platform.stores, changed)


def test_an_agreement_that_was_deleted_can_be_entered_again_at_the_same_prices(platform: Platform) -> None:
    one = agreed(platform.organization("one", "UTC"))
    enter_all(platform.stores, one)
    for table in ("agreement_items", "agreements"):
        with platform.stores.postgres.transaction() as connection:
            connection.execute(f"DELETE FROM billing.{table}".encode())
    dearer = agreed(uuid.UUID(one.organization_id), bill_to=None, item={"prices": [{**PER_CALL, "amount": "1"}]})
    with pytest.raises(Refused, match=r"version 1: amount is 0\.00045, not 1"):
        enter_all(platform.stores, dearer)
    enter_all(platform.stores, msgspec.structs.replace(one, bill_to=None))
    assert len(agreements_in_force(platform.stores.postgres, *ALL)) == 1


def test_currencies_are_those_of_iso_4217(platform: Platform) -> None:
    rows = platform.stores.postgres.rows("SELECT code, exponent FROM billing.currencies")
    standard = {one.code: one.exponent for one in iso4217.Currency if one.exponent is not None}
    assert {row["code"]: row["exponent"] for row in rows} == standard


# --- devices ---


@pytest.fixture
def device(platform: Platform) -> Callable[[str], list[tuple[Any, ...]]]:
    """Changes a device of `acme`, which it has from 5 January 2026 on, and returns its terms."""
    acme, id_ = platform.organization("acme", "UTC"), uuid.uuid4()
    platform.organization("other", "UTC")
    row = {"id": id_, "organization_id": acme, "name": "srv", "kind": "server", "os_version": "Debian 13"}
    add(platform.stores, "devices", [{**row, "created_at": datetime(2026, 1, 5, 12, tzinfo=UTC)}])

    def change(set_: str = "") -> list[tuple[Any, ...]]:
        with platform.stores.postgres.transaction() as connection:
            if set_:
                connection.execute(f"UPDATE devices SET {set_} WHERE id = %s".encode(), [id_])
        found = device_terms(platform.stores.postgres, [str(acme)]).get(str(acme), [])
        return [(one.from_, one.to, one.class_, one.organization_id == str(acme)) for one in found]

    return change


BEGAN = "2026-01-05T12:00:00.000000Z"


def test_a_device_has_a_term_from_its_registration_to_its_retirement(device: Any) -> None:
    assert device() == [(BEGAN, None, "server", True)]
    retired = "2026-03-11T00:00:00.000000Z"
    assert device(f"retired_at = '{retired}'") == [(BEGAN, retired, "server", True)]
    assert device("name = 'renamed', retired_at = NULL") == [(BEGAN, None, "server", True)]
    assert device("retired_at = created_at") == []
    assert device("retired_at = NULL") == [(BEGAN, None, "server", True)]


def test_a_device_that_moves_has_two_terms_that_meet(device: Any) -> None:
    [old, new] = device("organization_id = (SELECT id FROM organizations WHERE slug = 'other')")
    assert (old[0], new[1], old[3], new[3]) == (BEGAN, None, True, False)
    assert old[1] == new[0] > BEGAN
    [_, moved] = device("kind = 'laptop', retired_at = '2100-01-01Z'")[-2:]
    assert moved[1:3] == ("2100-01-01T00:00:00.000000Z", "laptop")


def test_terms_of_one_device_do_not_overlap(platform: Platform, device: Any) -> None:
    device("organization_id = (SELECT id FROM organizations WHERE slug = 'other')")
    message = refusal(platform.stores, "UPDATE billing.device_terms SET term = tstzrange('2026-01-01Z', NULL)")
    assert "terms_of_a_device_do_not_overlap" in message
    assert "term_has_a_beginning" in refusal(platform.stores, "UPDATE billing.device_terms SET term = '(,)'")


# --- plans ---


def test_the_standard_plan_has_the_published_prices(platform: Platform) -> None:
    valid = agreed(platform.organization("acme", "UTC"), currency="USD")
    [id_] = enter_all(platform.stores, msgspec.structs.replace(valid, items=()))
    with platform.stores.postgres.transaction() as connection:
        connection.execute("SELECT billing.subscribe(%s, 'standard', '[2026-01-01,)')", [id_])
    [found] = agreements_in_force(platform.stores.postgres, *ALL)
    prices = {item.product: (str(item.prices[0].amount), item.measured_by) for item in found.items}
    assert prices == {"api_calls": ("0.001", ""), "devices": ("5", "reporting"), "storage": ("0.10", "average")}
    euro = enter_all(platform.stores, agreed(platform.organization("euro", "UTC")))[0]
    subscribe = "SELECT billing.subscribe('{}', 'standard', '[2026-01-01,)')"
    assert "plan: standard has no items in EUR" in refusal(platform.stores, subscribe.format(euro))
    assert f"agreement: {uuid.UUID(int=9)} is not in" in refusal(platform.stores, subscribe.format(uuid.UUID(int=9)))


def refusal(stores: Stores, statement: str) -> str:
    """What the database says to a statement that it refuses."""
    with pytest.raises(psycopg.Error) as error, psycopg.connect(stores.postgres.url) as connection:
        connection.execute(statement.encode())
    return str(error.value)


def refused(stores: Stores, one: Agreement) -> str:
    with pytest.raises(StoreFailed) as error:
        enter_all(stores, one)
    return str(error.value)


# --- plans and contracts of 0.4.0 ---

PLANS = [  # number, version, currency, base fee, device, storage, backup, included calls, a thousand calls
    (1, 1, "EUR", "99", "3.9", "0.1", "0.05", 3100, "0.5"),
    (1, 2, "EUR", "109", "4", "0.2", "0.1", 6200, "0.0001"),
    (2, 1, "???", "1", "1", "1", "1", 1, "1"),
    (3, 1, "usd", "7", "1", "1", "1", 1, "1"),
]
SINCE = datetime(2025, 12, 1, tzinfo=UTC)


@pytest.fixture
def before(stack: dict[str, str], tmp_path: Path) -> Iterator[Stores]:
    """PostgreSQL as 0.4.0 left it, with its plans."""
    (tmp_path / "sql" / "postgres").mkdir(parents=True)
    for file in sorted((SQL / "postgres").glob("*.sql"))[:11]:
        (tmp_path / "sql" / "postgres" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "sql" / "clickhouse").mkdir()
    settings = fresh(stack, "test_takeover", tmp_path)
    with open_stores(settings) as stores:
        migrate_up(stores.postgres, stores.clickhouse, folder=tmp_path / "sql")
        for number, version, currency, base, device, storage, backup, included, thousand in PLANS:
            prices = {"base_fee": base, "device_month_price": device, "storage_gb_month_price": storage}
            calls = {"backup_gb_month_price": backup, "api_calls_included": included}
            keys = {"id": uuid.UUID(int=number), "version": version, "name": f"Plan {number}", "currency": currency}
            row = {**keys, **prices, **calls, "api_calls_thousand_price": thousand, "published_at": SINCE}
            add(stores, "price_plans", [row])
        yield stores
    drop(stack, settings)


def test_contracts_become_agreements(before: Stores) -> None:
    names = ("changes", "unknown", "both", "gap")
    ids = {name: uuid.uuid5(uuid.NAMESPACE_DNS, name) for name in names}
    rows = [{"id": ids[name], "name": name, "slug": name, "time_zone": "Asia/Kolkata"} for name in names]
    add(before, "organizations", [{**row, "created_at": SINCE} for row in rows])
    device = {"id": uuid.UUID(int=1), "organization_id": ids["gap"], "name": "x", "kind": "laptop"}
    add(before, "devices", [{**device, "created_at": SINCE, "retired_at": SINCE + timedelta(days=9)}])
    contracts = [  # organization, plan, version, from, to
        ("changes", 1, 1, date(2026, 1, 1), None),
        ("changes", 1, 2, date(2026, 3, 17), None),
        ("unknown", 2, 1, date(2026, 1, 1), None),
        ("both", 1, 1, date(2026, 1, 1), date(2026, 6, 1)),
        ("both", 3, 1, date(2026, 2, 1), None),
        ("gap", 1, 1, date(2026, 1, 1), date(2026, 2, 1)),
        ("gap", 1, 1, date(2026, 4, 1), date(2026, 5, 1)),
    ]
    for name, plan, version, first, end in contracts:
        keys = {"id": uuid.uuid5(ids[name], str(first)), "organization_id": ids[name]}
        terms = {"price_plan_id": uuid.UUID(int=plan), "price_plan_version": version, "starts_on": first}
        add(before, "contracts", [{**keys, **terms, "ends_on": end}])

    migrate_up(before.postgres, before.clickhouse)
    found = {(one.organization_id, one.currency): one for one in agreements_in_force(before.postgres, *ALL)}
    wanted = [("changes", "EUR"), ("both", "EUR"), ("both", "USD"), ("gap", "EUR")]
    assert found.keys() == {(str(ids[name]), currency) for name, currency in wanted}
    changes = found[str(ids["changes"]), "EUR"]
    assert changes.id == str(uuid.uuid5(ids["changes"], "2026-01-01"))
    assert (changes.time_zone, changes.term.to) == ("Asia/Kolkata", None)
    calls = [item for item in changes.items if item.product == "api_calls"]
    assert [(str(item.from_), str(item.to), str(item.included), f"{item.prices[0].amount:f}") for item in calls] == [
        ("2026-01-01", "2026-03-17", "3100", "0.0005"),
        ("2026-03-17", "None", "6200", "0.0000001"),
    ]
    assert {item.product for item in changes.items} == {"api_calls", "backup", "base_fee", "devices", "storage"}
    assert {item.measured_by for item in changes.items if item.kind == "device"} == {"reporting"}
    [both, gap] = found[str(ids["both"]), "EUR"], found[str(ids["gap"]), "EUR"]
    assert (str(both.term.to), str(gap.term.from_), str(gap.term.to)) == ("2026-02-01", "2026-01-01", "2026-05-01")
    [term] = device_terms(before.postgres, [str(ids["gap"])])[str(ids["gap"])]
    assert (term.class_, term.from_, term.to) == (
        "laptop",
        "2025-12-01T00:00:00.000000Z",
        "2025-12-10T00:00:00.000000Z",
    )


def test_what_is_taken_over_can_be_given_back(before: Stores) -> None:
    migrate_up(before.postgres, before.clickhouse)
    while before.postgres.rows("SELECT to_regclass('billing.agreements') IS NOT NULL AS there")[0]["there"]:
        rollback(before.postgres, before.clickhouse, "postgres")
    migrate_up(before.postgres, before.clickhouse)
    assert before.postgres.rows("SELECT count(*) AS n FROM price_plans") == [{"n": len(PLANS)}]
