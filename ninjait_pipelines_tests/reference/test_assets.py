"""The reference copies against the real stores: complete, repeatable, and never emptied by a read that failed."""

import re
import uuid
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from ninjait_pipelines.paths import SQL
from ninjait_pipelines.reference import assets
from ninjait_pipelines.resources import Stores, stores_from
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.store import StoreError, StoreFailed
from ninjait_pipelines.settings import validate
from ninjait_pipelines_tests.nowhere import NOWHERE
from ninjait_pipelines_tests.reference.rows import ALL, CHECKS, SINCE, organization
from ninjait_pipelines_tests.runs import Killed, add, content, faulty, killed, left_out, passed, run, spoil


def test_copies_all_twice_and_the_checks_pass(one_of_each: Stores) -> None:
    stores = one_of_each
    result = run(stores, *ALL, *CHECKS)
    assert all(passed(result).values())
    assert len(passed(result)) == 6
    first = {asset.key: content(stores, asset.key.to_user_string()) for asset in ALL}
    assert all(len(rows) == 1 for rows in first.values())
    run(stores, *ALL)
    assert {asset.key: content(stores, asset.key.to_user_string()) for asset in ALL} == first
    contract = stores.clickhouse.rows("SELECT * FROM contracts")[0]
    assert (contract["price_plan_name"], contract["currency"], contract["ends_on"]) == ("standard", "USD", None)
    [agreement] = stores.clickhouse.rows("SELECT * FROM agreements")
    assert (agreement["time_zone"], agreement["starts_on"], agreement["items"]) == ("Asia/Kolkata", SINCE.date(), 3)
    [term] = stores.clickhouse.rows("SELECT * FROM device_terms")
    assert (term["class"], term["starts_at"], term["ends_at"], term["billable"]) == ("server", SINCE, None, True)


def test_whatever_is_agreed_changes_the_copy(one_of_each: Stores) -> None:
    """A new version of a price changes no row of agreements, and yet what each day costs."""
    run(one_of_each, assets.agreements)
    [before] = one_of_each.clickhouse.rows("SELECT agreed_hash FROM agreements")
    with one_of_each.postgres.transaction() as connection:
        plan = "(SELECT id FROM billing.plans WHERE name = 'standard')"
        connection.execute(f"UPDATE billing.plans SET currency = currency WHERE id = {plan}".encode())
        connection.execute("UPDATE billing.agreements SET purchase_order = 'PO 17'")
    run(one_of_each, assets.agreements)
    [after] = one_of_each.clickhouse.rows("SELECT agreed_hash FROM agreements")
    assert before != after


def test_a_row_that_is_gone_goes_and_a_changed_one_changes(shared_stores: Stores) -> None:
    add(shared_stores, "organizations", [organization("one"), organization("two")])
    run(shared_stores, assets.organizations)
    with shared_stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM organizations WHERE slug = 'one'")
        connection.execute("UPDATE organizations SET name = 'Renamed' WHERE slug = 'two'")
    run(shared_stores, assets.organizations)
    assert [row["name"] for row in shared_stores.clickhouse.rows("SELECT name FROM organizations")] == ["Renamed"]


def test_an_empty_source_is_a_value(shared_stores: Stores) -> None:
    add(shared_stores, "organizations", [organization("one")])
    run(shared_stores, assets.organizations)
    with shared_stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM organizations")
    assert passed(run(shared_stores, assets.organizations, assets.row_counts[0])) == {"organizations_row_count": True}
    assert shared_stores.clickhouse.scalar("SELECT count() FROM organizations") == 0


def test_a_read_that_fails_raises_and_leaves_the_copy(shared_stores: Stores) -> None:
    """A failed read was once taken for an empty one, and everything downstream was deleted."""
    add(shared_stores, "organizations", [organization("one")])
    run(shared_stores, assets.organizations)
    with shared_stores.postgres.transaction() as connection:
        connection.execute("ALTER TABLE organizations RENAME TO moved")
    try:
        with pytest.raises(StoreFailed, match="migrate up"):
            run(shared_stores, assets.organizations)
    finally:
        with shared_stores.postgres.transaction() as connection:
            connection.execute("ALTER TABLE moved RENAME TO organizations")
    assert shared_stores.clickhouse.scalar("SELECT count() FROM organizations") == 1


def test_killed_half_way_and_run_again(shared_stores: Stores) -> None:
    add(shared_stores, "organizations", [organization("one"), organization("two")])
    run(shared_stores, assets.organizations)
    with shared_stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM organizations WHERE slug = 'one'")
    for after in (False, True):  # before anything is written; before what was replaced is deleted
        with killed(ClickHouse, "insert", after=after), pytest.raises(Killed):
            run(shared_stores, assets.organizations)
        assert shared_stores.clickhouse.scalar("SELECT count() FROM organizations") == (1 if after else 2)
    run(shared_stores, assets.organizations)
    assert [row["slug"] for row in shared_stores.clickhouse.rows("SELECT slug FROM organizations")] == ["two"]


def test_the_row_count_check_fails_and_blocks_when_rows_differ(shared_stores: Stores) -> None:
    add(shared_stores, "organizations", [organization("one"), organization("two")])
    result = run(faulty(shared_stores), assets.organizations, assets.row_counts[0], fails=True)
    assert passed(result) == {"organizations_row_count": False}


def test_a_row_that_a_column_does_not_hold_is_left_out_and_named(shared_stores: Stores) -> None:
    """A date before 1970 stopped the copy of every contract, and with it all billing."""
    add(shared_stores, "organizations", [organization("one"), organization("two")])
    spoil(shared_stores, "organizations", "UPDATE organizations SET created_at = '1850-01-01Z' WHERE slug = 'two'")
    result = run(shared_stores, assets.organizations, assets.row_counts[0], assets.left_nothing_out[0])
    assert passed(result) == {"organizations_row_count": True, "organizations_left_nothing_out": False}
    assert [row["slug"] for row in shared_stores.clickhouse.rows("SELECT slug FROM organizations")] == ["one"]


# what no Python has a time for, and what ClickHouse's columns do not hold
TIMES = ("infinity", "-infinity", "0044-03-15 BC", "294000-01-01", "1850-01-01")
COLUMNS = {
    "organizations": ("created_at", "deactivated_at"),
    "users": ("created_at", "deactivated_at"),
    "devices": ("created_at", "retired_at"),
}
COPIED_AS = {("devices", "created_at"): "registered_at"}


@pytest.mark.parametrize("table", COLUMNS)
def test_a_time_that_nothing_can_compute_with_stops_only_its_row(one_of_each: Stores, table: str) -> None:
    """psycopg raised for `infinity`, and with it the read of all rows: every copy, every day of billing."""
    [asset] = [one for one in ALL if one.key.to_user_string() == table]
    [count] = [one for one in CHECKS if one.check_key.name == f"{table}_row_count"]
    [nothing] = [one for one in assets.left_nothing_out if one.check_key.name == f"{table}_left_nothing_out"]
    everything = {assets.organizations: None, asset: None, count: None, nothing: None}
    columns = ", ".join(one_of_each.postgres.rows(f"SELECT * FROM {table}")[0])
    copied = columns.replace("id,", "gen_random_uuid(),", 1)
    for unique in ("slug", "email", "name"):
        copied = copied.replace(unique, f"{unique} || number")
    for column in COLUMNS[table]:
        values = copied.replace(column, "time::timestamptz")
        source = f"{table}, unnest(ARRAY{list(TIMES)}) WITH ORDINALITY AS t (time, number)"
        spoil(one_of_each, table, f"INSERT INTO {table} ({columns}) SELECT {values} FROM {source}")
        result = run(one_of_each, *everything, assets.rows_keep_the_constraints)
        names = (f"{table}_row_count", f"{table}_left_nothing_out", "rows_keep_the_constraints")
        assert passed(result) == dict(zip(names, (True, False, False), strict=True))
        assert one_of_each.clickhouse.scalar(f"SELECT count() FROM {table}") == 1
        said = left_out(result, table)
        assert f"{COPIED_AS.get((table, column), column)} is infinity" in said
        assert said.count(f"{table} ") == len(TIMES)
        wrong = re.findall(rf"{table} (\S+) \(", said)
        [check] = [one for one in result.get_asset_check_evaluations() if one.check_name == "rows_keep_the_constraints"]
        assert f"{table}_times: {table} " in str(check.description)
        assert all(id_ in str(check.description) for id_ in wrong)
        with one_of_each.postgres.transaction() as connection:
            connection.execute(f"DELETE FROM {table} WHERE id::text = ANY(%s)".encode(), (wrong,))
    assert all(passed(run(one_of_each, *everything, assets.rows_keep_the_constraints)).values())


@pytest.mark.parametrize("time", TIMES)
def test_the_door_refuses_such_times(one_of_each: Stores, time: str) -> None:
    for table, columns in COLUMNS.items():
        for column in columns:
            with (
                pytest.raises(StoreError, match=f"{table}_times"),
                one_of_each.postgres.transaction() as open_,
            ):
                open_.execute(f"UPDATE {table} SET {column} = '{time}'".encode())


def test_a_name_of_a_megabyte_and_a_slug_like_a_path_are_names(shared_stores: Stores) -> None:
    odd = {"name": "x" * 2**20, "slug": "../../etc/passwd"}
    add(shared_stores, "organizations", [organization("one"), organization("two") | odd])
    result = run(shared_stores, assets.organizations, assets.row_counts[0], assets.left_nothing_out[0])
    assert passed(result) == {"organizations_row_count": True, "organizations_left_nothing_out": True}
    assert shared_stores.clickhouse.scalar("SELECT max(length(name)) FROM organizations") == 2**20


def test_an_organization_that_is_called_like_a_version_stops_only_itself(shared_stores: Stores) -> None:
    """The view takes it for a marker: PostgreSQL had a row more than the copy, which blocked everybody's billing. Rows
    like it are older than the constraint that refuses them."""
    add(shared_stores, "organizations", [organization("one"), organization("two")])
    definition = (SQL / "postgres" / "0007_names.sql").read_text().partition("-- migrate: down")[0]
    with shared_stores.postgres.transaction() as connection:
        connection.execute("ALTER TABLE organizations DROP CONSTRAINT organizations_name_no_version")
        connection.execute("UPDATE organizations SET slug = 'version of two' WHERE slug = 'two'")
        connection.execute(definition.partition("-- migrate: up")[2].encode())
    result = run(shared_stores, assets.organizations, assets.row_counts[0], assets.left_nothing_out[0])
    assert passed(result) == {"organizations_row_count": True, "organizations_left_nothing_out": False}
    assert [row["slug"] for row in shared_stores.clickhouse.rows("SELECT slug FROM organizations")] == ["one"]


@pytest.mark.parametrize("wrong", [{"slug": "version of me"}, {"id": uuid.UUID(int=0)}])
def test_the_door_refuses_names_of_versions(shared_stores: Stores, wrong: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="organizations_name_no_version"):
        add(shared_stores, "organizations", [organization("me") | wrong])


def test_the_data_version_changes_with_the_rows_only(shared_stores: Stores) -> None:
    """Each hourly copy once asked for every day of billing again, although no contract had changed."""
    add(shared_stores, "organizations", [organization("one")])
    with dg.DagsterInstance.ephemeral() as instance:
        versions = []
        for _ in range(2):
            run(shared_stores, assets.organizations, instance=instance)
            versions.append(_data_version(instance))
        add(shared_stores, "organizations", [organization("two")])
        run(shared_stores, assets.organizations, instance=instance)
        assert versions[0] == versions[1] != _data_version(instance)


def _data_version(instance: dg.DagsterInstance) -> str:
    event = instance.get_latest_materialization_event(assets.organizations.key)
    assert event
    assert event.asset_materialization
    assert event.asset_materialization.tags
    return event.asset_materialization.tags["dagster/data_version"]


def test_copied_every_hour_and_once_after_a_stop() -> None:
    definitions = dg.Definitions([assets.organizations], resources=stores_from(dg.EnvVar, validate(NOWHERE)).all())
    now = datetime(2026, 11, 2, 9, 59, tzinfo=UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.evaluate_automation_conditions(definitions, instance, evaluation_time=now)
        for hours, expected in ((0.01, 0), (0.1, 1), (0.2, 0), (5, 1), (5.1, 0)):
            moment = now + timedelta(hours=hours)
            result = dg.evaluate_automation_conditions(
                definitions, instance, evaluation_time=moment, cursor=result.cursor
            )
            assert result.total_requested == expected, moment


@pytest.mark.parametrize("table", ["contracts", "price_plans"])
def test_what_agreements_have_replaced_is_closed(shared_stores: Stores, table: str) -> None:
    """A contract that was entered there would be billed by nothing, in silence."""
    with pytest.raises(StoreError, match=r"insert is refused: .* ninjait billing enter --agreement FILE"):  # noqa: SIM117
        with shared_stores.postgres.transaction() as connection:
            connection.execute(f"INSERT INTO {table} DEFAULT VALUES".encode())
