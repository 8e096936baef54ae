"""The service desk's assets on real stores: from PostgreSQL's history to technicians' figures, and again."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from ninjait_pipelines.resources import Stores, stores_from
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.settings import validate
from ninjait_pipelines.tickets import assets
from ninjait_pipelines.tickets.sensors import note_late_history
from ninjait_pipelines_tests.nowhere import NOWHERE
from ninjait_pipelines_tests.runs import Killed, content, faulty, killed, left_out, passed, run, spoil
from ninjait_pipelines_tests.tickets.desk import ALL, ANA, ASKER, BEN, CHECKS, DAY, KEY, NEXT, ORGANIZATION, Desk

VIEWS = ("ticket_events", "ticket_facts", "technician_performance")


def test_a_day(desk: Desk) -> None:
    result = run(desk.stores, *ALL, *CHECKS, key=KEY)
    assert passed(result) == dict.fromkeys(
        ("every_event_copied", "every_ticket_has_a_fact", "every_closing_counted_once"), True
    )
    rows = {row["technician_id"]: row for row in desk.stores.clickhouse.rows("SELECT * FROM technician_performance")}
    assert rows.keys() == {ANA, BEN}
    ana = rows[ANA]
    assert (ana["day"], ana["organization_id"]) == (DAY.date(), ORGANIZATION)
    assert (ana["tickets_closed"], ana["mean_hours_to_close"], ana["median_hours_to_close"]) == (4, 4.0, 3.0)
    assert (ana["mean_first_response_minutes"], ana["first_response_breaches"], ana["resolution_breaches"]) == (
        15.0,
        0,
        1,
    )
    ben = rows[BEN]
    assert (ben["tickets_closed"], ben["mean_first_response_minutes"], ben["first_response_breaches"]) == (1, None, 1)
    assert desk.stores.clickhouse.scalar("SELECT count() FROM ticket_facts WHERE closed_at IS NULL") == 1


def test_what_is_published_of_a_day(desk: Desk) -> None:
    """Closed events add up to technician_performance, and breaches are on the events that came too late."""
    run(desk.stores, *ALL, key=KEY)
    closed = desk.stores.clickhouse.rows(
        "SELECT technician_id, groupArray(duration_seconds) AS seconds, sum(sla_breached) AS breaches FROM "
        "(SELECT * FROM ticket_events WHERE event_type = 'closed' ORDER BY duration_seconds) GROUP BY technician_id"
    )
    assert {row["technician_id"]: (row["seconds"], row["breaches"]) for row in closed} == {
        ANA: ([3600, 7200, 14400, 32400], 1),
        BEN: ([5400], 1),  # nobody had answered
        None: ([5400], 1),
    }
    figures = desk.stores.clickhouse.rows("SELECT technician_id, tickets_closed FROM technician_performance")
    assert {row["technician_id"]: row["tickets_closed"] for row in figures} == {ANA: 4, BEN: 1}
    others = desk.stores.clickhouse.rows("SELECT DISTINCT event_type FROM ticket_events WHERE event_type != 'closed'")
    assert {row["event_type"] for row in others} == {"created", "assigned", "responded", "commented"}


def test_twice_the_same_and_a_range_the_same_as_its_days(desk: Desk) -> None:
    desk.ticket(1500, (1600, "status_changed", "open", "closed"))
    for key in (KEY, NEXT):
        run(desk.stores, *ALL, key=key)
    first = {view: content(desk.stores, view) for view in VIEWS}
    assert {row[0] for row in first["ticket_facts"]} == {DAY.date(), DAY.date() + timedelta(days=1)}
    run(desk.stores, *ALL, key=KEY)
    result = run(desk.stores, *ALL, *CHECKS, span=(KEY, NEXT))
    assert all(passed(result).values())
    assert {view: content(desk.stores, view) for view in VIEWS} == first
    facts = result.asset_materializations_for_node("ticket_facts")
    assert [(one.partition, one.metadata["dagster/partition_row_count"].value) for one in facts] == [
        (KEY, 8),
        (NEXT, 1),
    ]


def test_a_day_computed_later_is_the_day_as_it_was(desk: Desk) -> None:
    """A backfill must not show yesterday's tickets as they stand today."""
    run(desk.stores, *ALL, key=KEY)
    first = {view: content(desk.stores, view) for view in VIEWS}
    ticket = desk.stores.clickhouse.rows(
        "SELECT ticket_id FROM ticket_facts WHERE closed_assignee_id = {id:UUID}", id=BEN
    )
    later = [
        (2000, "status_changed", "closed", "open"),
        (2001, "assigned", BEN, ANA),
        (2002, "priority_changed", "normal", "urgent"),
    ]
    desk.happens(ticket[0]["ticket_id"], *later)
    with desk.stores.postgres.transaction() as connection:
        connection.execute(
            "UPDATE tickets SET status = 'open', priority = 'urgent', assigned_to = %s WHERE id = %s",
            (ANA, ticket[0]["ticket_id"]),
        )
    run(desk.stores, *ALL, key=KEY)
    assert {view: content(desk.stores, view) for view in VIEWS} == first


@pytest.mark.parametrize("asset", ALL, ids=VIEWS)
def test_killed_half_way_and_run_again(desk: Desk, asset: dg.AssetsDefinition) -> None:
    """Rows that vanish at the source and a death before they are deleted leave nothing behind for a reader."""
    view = asset.key.to_user_string()
    run(desk.stores, *ALL, key=KEY)
    expected = content(desk.stores, view)
    gone = desk.ticket(60, (70, "assigned", ANA, ASKER), (80, "status_changed", "open", "closed"), assignee=ASKER)
    run(desk.stores, *ALL, key=KEY)
    with desk.stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM ticket_history WHERE ticket_id = %s", (gone,))
        connection.execute("DELETE FROM tickets WHERE id = %s", (gone,))
    if asset is assets.technician_performance:
        run(desk.stores, assets.ticket_facts, key=KEY)
    for after in (False, True):  # before anything is written; before what was replaced is deleted
        with killed(ClickHouse, "insert", after=after), pytest.raises(Killed):
            run(desk.stores, asset, key=KEY)
        assert (content(desk.stores, view) == expected) is after
    run(desk.stores, asset, key=KEY)
    assert content(desk.stores, view) == expected


def test_each_check_fails_when_a_row_is_lost(desk: Desk) -> None:
    run(desk.stores, *ALL, key=KEY)
    for asset, check in zip(reversed(ALL), reversed(CHECKS), strict=True):
        for where in ({"key": KEY}, {"span": (KEY, NEXT)}):
            result = run(faulty(desk.stores), asset, check, **where, fails=True)
            assert list(passed(result).values())[-1:] == [False], asset.key


def test_a_bad_day_in_a_range_holds_only_itself(desk: Desk) -> None:
    """Dagster records a range run's check under no partition: what depends on its good days waited for ever."""
    definitions = dg.Definitions(ALL, asset_checks=CHECKS, resources=desk.stores.all())
    with dg.DagsterInstance.ephemeral() as instance:
        run(desk.stores, *ALL, *CHECKS, span=(KEY, NEXT), instance=instance)
        before = dg.evaluate_automation_conditions(definitions, instance)
        run(faulty(desk.stores), assets.ticket_facts, CHECKS[1], span=(KEY, NEXT), instance=instance, fails=True)
        after = dg.evaluate_automation_conditions(definitions, instance, cursor=before.cursor)
    performance = assets.technician_performance.key
    assert not before.get_requested_partitions(performance) & {KEY, NEXT}
    assert after.get_requested_partitions(performance) & {KEY, NEXT} == {NEXT}


def test_what_is_missing_is_not_made_from_a_day_that_failed_its_check(desk: Desk) -> None:
    definitions = dg.Definitions(ALL, asset_checks=CHECKS, resources=desk.stores.all())
    with dg.DagsterInstance.ephemeral() as instance:
        run(faulty(desk.stores), assets.ticket_facts, CHECKS[1], span=(KEY, NEXT), instance=instance, fails=True)
        requested = dg.evaluate_automation_conditions(definitions, instance)
    assert requested.get_requested_partitions(assets.technician_performance.key) & {KEY, NEXT} == {NEXT}


def test_an_empty_day_has_no_rows_and_passes(shared_stores: Stores) -> None:
    result = run(shared_stores, *ALL, *CHECKS, key=KEY)
    assert all(passed(result).values())
    assert [content(shared_stores, view) for view in VIEWS] == [[], [], []]


def test_gaps_are_filled_after_a_stop_and_what_was_run_again_is_followed() -> None:
    definitions = dg.Definitions(ALL, asset_checks=CHECKS, resources=stores_from(dg.EnvVar, validate(NOWHERE)).all())
    now = datetime(2026, 11, 2, 0, 1, tzinfo=UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        first = dg.evaluate_automation_conditions(definitions, instance, evaluation_time=now)
        days = [(date(2026, 11, 1) - timedelta(days=i)).isoformat() for i in range(14)]
        for asset in ALL:
            assert sorted(first.get_requested_partitions(asset.key)) == sorted(days)


def test_a_ticket_that_is_assigned_to_a_team_stops_only_itself(desk: Desk) -> None:
    """Its id is none of a user: it stopped the day of all tickets."""
    team = desk.ticket(60, (70, "assigned", ANA, "team:network"), (80, "status_changed", "open", "closed"))
    all_checks = (*CHECKS, assets.ticket_facts_left_nothing_out)
    for where in ({"key": KEY}, {"span": (KEY, NEXT)}):
        result = run(desk.stores, *ALL, *all_checks, **where)
        found = passed(result)
        assert not found.pop("ticket_facts_left_nothing_out")
        assert all(found.values())
        facts = result.asset_materializations_for_node("ticket_facts")[0]
        assert facts.metadata["left_out"].value == 1
        assert f"ticket {team} (ValueError" in facts.metadata["left_out_names"].value
        said = [str(one.description) for one in result.get_asset_check_evaluations() if not one.passed]
        assert all(str(team) in words for words in said)
    assert desk.stores.clickhouse.scalar("SELECT count() FROM ticket_facts") == 8
    assert desk.stores.clickhouse.scalar("SELECT sum(tickets_closed) FROM technician_performance") == 5


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 BC", "294000-01-01"])
def test_an_event_at_no_time_that_there_is_stops_only_its_ticket(desk: Desk, moment: str) -> None:
    """psycopg raised for it, and every ticket's day failed, and the sensor that looks for late history."""
    odd = desk.ticket(60, (70, "commented", None, None), (80, "status_changed", "open", "closed"))
    spoil(
        desk.stores,
        "ticket_history",
        f"UPDATE ticket_history SET occurred_at = '{moment}' WHERE ticket_id = '{odd}' AND event = 'commented'",
    )
    result = run(desk.stores, *ALL, *CHECKS, assets.ticket_facts_left_nothing_out, key=KEY)
    found = passed(result)
    assert not found.pop("ticket_facts_left_nothing_out")
    assert all(found.values())
    assert f"ticket {odd} (ValueError: occurred_at is {moment.split()[0]}" in left_out(result, "ticket_facts")
    assert desk.stores.clickhouse.scalar("SELECT count() FROM ticket_facts") == 8
    assert note_late_history(desk.stores.postgres, desk.stores.clickhouse, DAY.date(), "test") == []
    desk.happens(odd, (90, "commented", None, None))
    assert note_late_history(desk.stores.postgres, desk.stores.clickhouse, DAY.date(), "test") == [DAY.date()]
    run(desk.stores, *ALL, key=KEY)
    assert note_late_history(desk.stores.postgres, desk.stores.clickhouse, DAY.date(), "test") == []
