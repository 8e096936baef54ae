"""The seed: plausible, the same in every run, and removed without touching anything else."""

from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ninjait_pipelines.local.fleet.seed import DAYS, PUBLISHED, TABLES, build, clean, seed
from ninjait_pipelines.local.fleet.seed_data import ENVIRONMENTS
from ninjait_pipelines.resources import Stores

TODAY = date(2026, 5, 20)
# The first day of a month, the last of a long month, a leap day, a DST change in Berlin, New Year.
AWKWARD_DAYS = (date(2026, 3, 1), date(2026, 3, 31), date(2028, 2, 29), date(2026, 3, 30), date(2027, 1, 1))


def content(stores: Stores) -> dict[str, list[Any]]:
    """All rows but the prices of the plan `standard`."""
    standard = {
        "billing.prices": "WHERE name != 'standard'",
        "billing.price_versions": "WHERE price_id NOT IN (SELECT id FROM billing.prices WHERE name = 'standard')",
    }
    query = "SELECT * FROM {} {} ORDER BY 1, 2, 3"
    return {table: stores.postgres.rows(query.format(table, standard.get(table, ""))) for table in TABLES}


def histories(rows: dict[str, list[Any]]) -> dict[Any, list[Any]]:
    found = defaultdict(list)
    for event in rows["ticket_history"]:
        found[event["ticket_id"]].append(event)
    return found


def test_a_second_run_changes_nothing_even_days_later(shared_stores: Stores) -> None:
    first = seed(shared_stores.postgres, "demo", TODAY)
    before = content(shared_stores)
    assert first.added == sum(first.rows.values()) == sum(map(len, before.values()))
    second = seed(shared_stores.postgres, "demo", TODAY + timedelta(days=3))
    assert (second.added, second.rows, second.devices) == (0, first.rows, first.devices)
    assert content(shared_stores) == before


def test_what_was_deleted_comes_back_as_it_was(shared_stores: Stores) -> None:
    seed(shared_stores.postgres, "testing", TODAY)
    before = content(shared_stores)
    with shared_stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM ticket_history WHERE event = 'responded'")
    assert seed(shared_stores.postgres, "testing", TODAY).added > 0
    assert content(shared_stores) == before


def test_clean_removes_one_environment_with_what_was_added_to_it_and_nothing_else(shared_stores: Stores) -> None:
    testing = seed(shared_stores.postgres, "testing", TODAY)
    before = content(shared_stores)
    demo = seed(shared_stores.postgres, "demo", TODAY)
    with shared_stores.postgres.transaction() as connection:
        connection.execute(
            "INSERT INTO devices SELECT gen_random_uuid(), %s, 'mine', 'server', 'Linux', now(), NULL",
            [demo.organizations["redwood"]],
        )
    gone = sum(count for table, count in demo.rows.items() if table not in PUBLISHED)
    assert clean(shared_stores.postgres, "demo") == gone + 1
    after = content(shared_stores)
    assert {table: after[table] for table in TABLES if table not in PUBLISHED} == {
        table: before[table] for table in TABLES if table not in PUBLISHED
    }, "published prices stay"
    seed(shared_stores.postgres, "demo", TODAY)
    clean(shared_stores.postgres, "demo")
    assert clean(shared_stores.postgres, "demo") == 0
    assert seed(shared_stores.postgres, "testing", TODAY).added == 0
    assert set(testing.organizations) == {"north", "south"}


@pytest.mark.parametrize("today", [TODAY, *AWKWARD_DAYS])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_histories_are_in_order_end_in_the_tickets_state_and_never_in_the_future(environment: str, today: date) -> None:
    rows = build(environment, today)
    midnight = datetime.combine(today, time(), UTC)
    events = histories(rows)
    for ticket in rows["tickets"]:
        times = [event["occurred_at"] for event in events[ticket["id"]]]
        assert times == sorted(times)
        assert times[0] == ticket["created_at"]
        assert midnight - timedelta(days=DAYS + 35) < times[0] <= times[-1] < midnight
        state = {"status_changed": "new", "assigned": None}
        for event in events[ticket["id"]]:
            if event["event"] in state:
                assert event["old_value"] == state[event["event"]]
                state[event["event"]] = event["new_value"]
        assert state["status_changed"] == ticket["status"]
        assert state["assigned"] == (ticket["assigned_to"] and str(ticket["assigned_to"]))
    moments = [
        row[name] for table in rows.values() for row in table for name in row if name.endswith("_at") and row[name]
    ]
    assert max(moments) < midnight


@pytest.mark.parametrize("today", [TODAY, *AWKWARD_DAYS])
def test_every_organization_of_the_demo_has_every_kind_of_ticket(today: date) -> None:
    rows = build("demo", today)
    events = histories(rows)
    for organization in rows["organizations"]:
        zone = ZoneInfo(organization["time_zone"])
        seen = set()
        for ticket in rows["tickets"]:
            if ticket["organization_id"] == organization["id"]:
                seen |= crossed(events[ticket["id"]], zone)
        assert seen >= {"night", "midnight UTC", "weekend", "month end", "reopened", "unassigned", "no response"}


def crossed(events: list[Any], zone: ZoneInfo) -> set[str]:
    """What kind of ticket this is, by its history alone."""
    first, last = events[0]["occurred_at"], events[-1]["occurred_at"]
    names = [event["event"] for event in events]
    closings = [event for event in events if event["new_value"] == "closed"]
    local = first.astimezone(zone), last.astimezone(zone)
    found = {
        "night": local[0].date() < local[1].date(),
        "midnight UTC": first.date() < last.date() and last - first < timedelta(hours=2),
        "weekend": local[0].weekday() == 4 and local[1].weekday() == 0,
        "month end": (local[0].year, local[0].month) < (local[1].year, local[1].month),
        "reopened": any(event["old_value"] == "closed" for event in events) and bool(closings),
        "unassigned": "assigned" not in names,
        "no response": "assigned" in names and "responded" not in names,
    }
    return {name for name, holds in found.items() if holds}


def test_people_plans_and_contracts_are_plausible() -> None:
    rows = build("demo", TODAY)
    assert 115 <= len(rows["devices"]) <= 125
    assert {row["kind"] for row in rows["devices"]} == {"server", "workstation", "laptop"}
    assert len({row["time_zone"] for row in rows["organizations"]}) == 3
    by_organization = defaultdict(list)
    for user in rows["users"]:
        by_organization[user["organization_id"]].append(user["role"])
    for roles in by_organization.values():
        assert set(roles) == {"owner", "admin", "technician", "customer"}
        assert roles.count("technician") >= 3
    terms = [row["term"] for row in rows["billing.agreement_items"]]
    assert any(term.lower.day not in (1,) for term in terms)
    assert any(term.upper is None for term in terms)
    assert len({row["organization_id"] for row in rows["billing.agreements"]}) == len(rows["billing.agreements"]) == 3
