"""Audit logs leave PostgreSQL only where that is set, and never before the year that the platform publishes."""

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from ninjait_pipelines.operations import assets
from ninjait_pipelines.operations.assets import store_health
from ninjait_pipelines.operations.audit_logs import delete_expired
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.settings import thresholds
from ninjait_pipelines_tests.reference.rows import organization
from ninjait_pipelines_tests.runs import Killed, add, killed, run

EXPIRED, KEPT = [800, 500, 400, 368, 367], [365, 364, 30, 0]  # days old


@pytest.fixture
def logs(shared_stores: Stores) -> Stores:
    """The stores, with an audit log of each age."""
    one = organization("one")
    about = {"organization_id": one["id"], "entity_type": "device", "entity_id": uuid.uuid4(), "action": "READ"}
    now = datetime.now(UTC)
    add(shared_stores, "organizations", [one])
    add(
        shared_stores,
        "audit.audit_logs",
        [about | {"id": uuid.uuid4(), "created_at": now - timedelta(days=age)} for age in EXPIRED + KEPT],
    )
    return shared_stores


def ages(postgres: Postgres) -> list[int]:
    """The ages of the audit logs that are there, in days, oldest first."""
    query = "SELECT extract(day FROM now() - created_at)::int AS days FROM audit.audit_logs ORDER BY created_at"
    return [row["days"] for row in postgres.rows(query)]


def test_by_default_all_are_kept(logs: Stores) -> None:
    """No other store has them: what goes is gone."""
    run(logs, store_health)
    assert ages(logs.postgres) == EXPIRED + KEPT


def test_store_health_deletes_what_is_older_than_is_set_and_a_second_run_nothing(
    logs: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "THRESHOLDS", thresholds({"AUDIT_KEPT_DAYS": "366"}))
    for deleted in (len(EXPIRED), 0):
        (event,) = run(logs, store_health).asset_materializations_for_node("store_health")
        assert event.metadata["audit_logs_deleted"].value == deleted
        assert ages(logs.postgres) == KEPT


@pytest.mark.parametrize("after", [False, True])
def test_killed_between_two_batches_the_next_run_does_the_rest(logs: Stores, after: bool) -> None:
    with killed(Postgres, "transaction", call=2, after=after), pytest.raises(Killed):
        delete_expired(logs.postgres, 366, batch=2)
    assert ages(logs.postgres) == EXPIRED[2:] + KEPT
    assert delete_expired(logs.postgres, 366, batch=2) == 3
    assert ages(logs.postgres) == KEPT


def test_nothing_younger_than_a_year_goes_whatever_is_asked_for(logs: Stores) -> None:
    assert delete_expired(logs.postgres, -1) == len(EXPIRED)
    assert ages(logs.postgres) == KEPT


def test_they_are_kept_for_longer_where_that_is_set(logs: Stores) -> None:
    assert delete_expired(logs.postgres, 450) == 2
    assert ages(logs.postgres) == EXPIRED[2:] + KEPT


def test_one_run_does_not_wait_for_another_and_what_that_one_leaves_is_deleted_later(logs: Stores) -> None:
    """The other run dies before it commits: its rows are there again."""
    with psycopg.connect(logs.postgres.url) as other:
        assert other.execute("SELECT audit.delete_expired(366, 2)").fetchall() == [(2,)]
        assert delete_expired(logs.postgres, 366) == 3
        other.rollback()
    assert ages(logs.postgres) == EXPIRED[:2] + KEPT
    assert delete_expired(logs.postgres, 366) == 2
    assert ages(logs.postgres) == KEPT
