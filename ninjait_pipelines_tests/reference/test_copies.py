"""A copy is made only where PostgreSQL has something else, and whatever may make that judgement wrong."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.marts import content
from ninjait_pipelines.reference import assets, copies
from ninjait_pipelines.reference.copies import copy
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.reference.rows import ALL, organization
from ninjait_pipelines_tests.runs import Killed, add, changed, killed, passed, run, spoil

# What changes of agreements and device terms.
AGREED = {
    "purchase_order": "'PO 1'",
    "class": "'laptop'",
    "site": "'Bonn'",
    "tags": "'{spare}'",
    "billable": "false",
    "until": "{}range(lower(term), '2028-01-01')",
}
TABLES = [asset.key.to_user_string() for asset in ALL]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def change(stores: Stores, statement: str) -> None:
    with stores.postgres.transaction() as connection:
        connection.execute(statement.encode())


def copied(stores: Stores, last: dict[str, Any], table: str = "organizations") -> dict[str, Any]:
    """The metadata of a run after `last`."""
    return copy(table, stores.postgres, stores.clickhouse, last).metadata


def names(stores: Stores) -> list[str]:
    return [row["name"] for row in stores.clickhouse.rows("SELECT name FROM organizations ORDER BY name")]


def test_nothing_is_copied_again_until_something_changes(one_of_each: Stores, instance: dg.DagsterInstance) -> None:
    """Every hour the whole of each table was written again, although next to nothing ever changes in it."""
    found = []
    for statement in ("", "", "UPDATE organizations SET name = 'Renamed'", ""):
        if statement:
            change(one_of_each, statement)
        result = run(one_of_each, *ALL, *assets.row_counts, *assets.left_nothing_out, instance=instance)
        assert all(passed(result).values())
        events = {event.asset_key.to_user_string(): event for event in result.get_asset_materialization_events()}
        metadata = {name: event.materialization.metadata for name, event in events.items()}
        assert all(one["dagster/row_count"].value == 1 for one in metadata.values())
        found.append({name for name, one in metadata.items() if not one["unchanged"].value})
    assert found == [set(TABLES), set(), {"organizations"}, set()]
    assert names(one_of_each) == ["Renamed"]


@pytest.mark.parametrize("table", TABLES)
def test_a_change_of_any_column_is_a_change(one_of_each: Stores, table: str) -> None:
    """Two rows that differ in one column only are not taken for equal: null and empty, a microsecond, a blank."""
    changes = {
        "name": "name || ' '",
        "full_name": "full_name || ' '",
        "time_zone": "'Europe/Berlin'",
        "role": "'admin'",
        "kind": "'laptop'",
        "os_version": "''",
        "created_at": "created_at + interval '1 microsecond'",
        "deactivated_at": "'2026-06-01Z'",
        "retired_at": "'2026-06-01Z'",
        "id": "gen_random_uuid()",
    }
    origin = assets.ORIGINS.get(table, table)
    if origin != table:
        changes = {name: change for name, change in AGREED.items() if table != "contracts" or name == "until"}
        changes["term"] = changes.pop("until").format("tstz" if table == "device_terms" else "date")
    columns = one_of_each.postgres.rows(f"SELECT * FROM {origin}")[0].keys() & changes.keys()
    last = copied(one_of_each, {}, table)
    referred_to = {"id"} if table in ("organizations", "devices") else set()
    for column in sorted(columns - referred_to):
        change(one_of_each, f"UPDATE {origin} SET {column} = {changes[column]}")
        last = copied(one_of_each, last, table)
        assert not last["unchanged"], column
        assert copied(one_of_each, last, table)["unchanged"]


def test_null_and_empty_are_two_things(one_of_each: Stores) -> None:
    change(one_of_each, "UPDATE organizations SET name = ''")
    last = copied(one_of_each, {})
    assert names(one_of_each) == [""]
    change(one_of_each, "UPDATE organizations SET deactivated_at = created_at")
    assert not copied(one_of_each, last)["unchanged"]
    assert one_of_each.clickhouse.scalar("SELECT deactivated_at = created_at FROM organizations")


def test_two_rows_that_change_places_are_a_change(shared_stores: Stores) -> None:
    add(shared_stores, "organizations", [organization("one"), organization("two")])
    last = copied(shared_stores, {})
    change(
        shared_stores,
        "UPDATE organizations AS o SET name = other.name FROM organizations AS other WHERE other.id != o.id",
    )
    assert not copied(shared_stores, last)["unchanged"]


def test_what_is_committed_late_is_copied_by_the_next_run(shared_stores: Stores, settings: Settings) -> None:
    """A counter of changes would have had its new value before these rows could be read."""
    add(shared_stores, "organizations", [organization("one")])
    last = copied(shared_stores, {})
    with open_stores(settings) as other, other.postgres.transaction() as connection:
        connection.execute("UPDATE organizations SET name = 'Late'")
        last = copied(shared_stores, last)
        assert last["unchanged"]
    last = copied(shared_stores, last)
    assert not last["unchanged"]
    assert names(shared_stores) == ["Late"]


def test_rows_written_again_by_a_restored_dump_are_no_change(shared_stores: Stores) -> None:
    add(shared_stores, "organizations", [organization("one"), organization("two")])
    last = copied(shared_stores, {})
    change(
        shared_stores,
        "CREATE TEMPORARY TABLE dump ON COMMIT DROP AS SELECT * FROM organizations; DELETE FROM organizations; "
        "INSERT INTO organizations SELECT * FROM dump ORDER BY id DESC",
    )
    assert copied(shared_stores, last)["unchanged"]


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE TABLE organizations_versions",
        "DELETE FROM organizations_versions WHERE slug = 'one'",
        "DELETE FROM organizations_versions WHERE startsWith(slug, 'version of ') OR 1",
    ],
)
def test_a_copy_that_lost_rows_is_made_again(shared_stores: Stores, statement: str) -> None:
    add(shared_stores, "organizations", [organization("one"), organization("two")])
    last = copied(shared_stores, {})
    shared_stores.clickhouse.command(statement)
    assert not copied(shared_stores, last)["unchanged"]
    assert names(shared_stores) == ["One", "Two"]


@pytest.mark.parametrize("after", [False, True])
def test_killed_before_it_was_recorded_and_the_source_changed_back(
    shared_stores: Stores, instance: dg.DagsterInstance, after: bool
) -> None:
    """The last run that was recorded had the same rows, and the copy had others."""
    add(shared_stores, "organizations", [organization("one")])
    run(shared_stores, assets.organizations, instance=instance)
    change(shared_stores, "UPDATE organizations SET name = 'Other'")
    with killed(ClickHouse, "replace_slice", after=after), pytest.raises(Killed):
        run(shared_stores, assets.organizations, instance=instance)
    assert names(shared_stores) == (["Other"] if after else ["One"])
    change(shared_stores, "UPDATE organizations SET name = 'One'")
    run(shared_stores, assets.organizations, instance=instance)
    assert names(shared_stores) == ["One"]


def test_nothing_is_trusted_for_longer_than_a_day(shared_stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that somebody edited in ClickHouse, neither version nor number tells anything."""
    add(shared_stores, "organizations", [organization("one")])
    last = copied(shared_stores, {})
    shared_stores.clickhouse.command(
        "ALTER TABLE organizations_versions UPDATE name = 'Edited' WHERE slug = 'one' SETTINGS mutations_sync = 2"
    )
    assert copied(shared_stores, last)["unchanged"]
    monkeypatch.setattr(copies, "TRUSTED_FOR", timedelta(0))
    assert not copied(shared_stores, last)["unchanged"]
    assert names(shared_stores) == ["One"]


def test_where_a_row_is_left_out_the_copy_is_made_each_time(shared_stores: Stores) -> None:
    """It is read once more, later than its fingerprint; so no fingerprint is recorded."""
    add(shared_stores, "organizations", [organization("one"), organization("two")])
    last = copied(shared_stores, {})
    spoil(shared_stores, "organizations", "UPDATE organizations SET created_at = 'infinity' WHERE slug = 'two'")
    for _ in range(2):
        last = copied(shared_stores, last)
        assert (last["unchanged"], last["left_out"], "fingerprint" in last) == (False, 1, False)
    assert names(shared_stores) == ["One"]
    change(shared_stores, "UPDATE organizations SET created_at = '2026-01-01Z'")
    last = copied(shared_stores, last)
    assert (last["unchanged"], last["left_out"]) == (False, 0)
    assert copied(shared_stores, last)["unchanged"]


ODD = ("", " ", '"', "a,b", "a\nb", "a\r\nb", "\\.", "\\N", "NULL", "NaN", "'", "\t", "ü 漢 \N{ROCKET}", "x" * 2**20)
ODD_TIMES = (
    "1969-12-31 23:59:59.9996Z",
    "1900-01-01 00:00Z",
    "2026-03-29 02:30:00.123456+01",
    "2299-12-30 23:59:59.999Z",
)


@pytest.mark.parametrize("style", ["ISO, DMY", "German"])
def test_rows_by_columns_are_the_same_as_row_by_row(shared_stores: Stores, settings: Settings, style: str) -> None:
    """Whatever the rows are, and in whatever form the database writes times."""
    times = [datetime.fromisoformat(time) for time in ODD_TIMES]
    plain = [organization(f"o-{number}") for number in range(len(ODD) + len(times))]
    given: list[dict[str, Any]] = [{"name": name, "deactivated_at": None} for name in ODD]
    given += [{"created_at": time, "deactivated_at": time} for time in times]
    add(
        shared_stores,
        "organizations",
        [one | {"deactivated_at": None} | odd for one, odd in zip(plain, given, strict=True)],
    )
    database = shared_stores.postgres.rows("SELECT current_database() AS name")[0]["name"]
    change(shared_stores, f"ALTER DATABASE {database} SET datestyle = '{style}'")
    change(shared_stores, f"ALTER DATABASE {database} SET timezone = 'America/New_York'")
    try:
        with open_stores(settings) as opened:
            query = sql("reference/organizations").rstrip()
            _, csv = opened.postgres.copy_out(query)
            assert csv
            by_columns = content("organizations", copies._typed("organizations", csv), LeftOut())
            by_row = content("organizations", opened.postgres.rows(query), LeftOut())
    finally:
        change(shared_stores, f"ALTER DATABASE {database} RESET ALL")
    assert by_columns.sort_by("id").equals(by_row.sort_by("id"))
    assert len(by_row) == len(plain)


def test_a_column_that_the_table_lacks_is_an_error(shared_stores: Stores) -> None:
    add(shared_stores, "organizations", [organization("one")])
    last = copied(shared_stores, {})

    def with_one(self: Postgres, query: Any, unless: str | None) -> Any:
        return Postgres.copy_out(self, query.replace("slug,", "slug, 1 AS one,"), unless)

    refused = pytest.raises(KeyError, match="organizations has no column one: add it by a migration")
    with changed(shared_stores.postgres, copy_out=with_one).open() as postgres, refused:
        copied(replace(shared_stores, postgres=postgres), last)
    assert names(shared_stores) == ["One"]
