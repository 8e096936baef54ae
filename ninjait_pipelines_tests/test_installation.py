"""The first day of an installation: recorded once, never moved, and what partitions make of it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from ninjait_pipelines.cli import app
from ninjait_pipelines.installation import StartMoved, recorded_start, start_problem
from ninjait_pipelines.local.demo.stack import first_day
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.operations.assets import store_health
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.reports.sensors import past_report_weeks
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.rollup.sensors import last_week
from ninjait_pipelines.settings import DEFAULT_START, Settings
from ninjait_pipelines.tickets.sensors import past_ticket_days
from ninjait_pipelines_tests.conftest import drop, fresh
from ninjait_pipelines_tests.nowhere import NOWHERE
from ninjait_pipelines_tests.runs import passed, run

FIRST = date(2026, 3, 4)  # a Wednesday


@pytest.fixture
def empty(stack: dict[str, str], tmp_path: Path) -> Iterator[Settings]:
    """Settings of databases that no migration was applied to."""
    settings = fresh(stack, f"test_installation_{os.getpid()}", tmp_path)
    yield settings
    drop(stack, settings)


def test_the_first_migration_records_the_start_and_later_ones_refuse_another(empty: Settings) -> None:
    with open_stores(empty) as stores:
        pair = stores.postgres, stores.clickhouse
        assert recorded_start(stores.postgres) is None
        migrate_up(*pair, start=FIRST)
        assert recorded_start(stores.postgres) == FIRST
        assert migrate_up(*pair, start=FIRST) == []
        for other in (date(2026, 3, 5), date(2026, 3, 3), DEFAULT_START):
            words = f"PIPELINE_START is {other}, .* begin on {FIRST}, .*: set PIPELINE_START={FIRST}"
            with pytest.raises(StartMoved, match=words):
                migrate_up(*pair, start=other)
        assert recorded_start(stores.postgres) == FIRST


def test_a_day_that_is_still_to_come_is_not_recorded(empty: Settings) -> None:
    """A mistyped year was recorded for good, and no partition would have existed until then."""
    with open_stores(empty) as stores:
        with pytest.raises(StartMoved, match="PIPELINE_START is 2099-01-01, which is still to come"):
            migrate_up(stores.postgres, stores.clickhouse, start=date(2099, 1, 1))
        assert recorded_start(stores.postgres) is None
        assert stores.postgres.rows("SELECT FROM pg_tables WHERE schemaname = 'public'") == []


def test_another_start_is_refused_before_anything_is_migrated(stores: Stores) -> None:
    """Of an installation that has migrations but no recorded day, as 0.3.0 left it: its partitions began in 2024."""
    pair = stores.postgres, stores.clickhouse
    with stores.postgres.transaction() as connection:
        connection.execute("DROP TABLE installation")
        connection.execute("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)")
    before = stores.postgres.rows("SELECT * FROM schema_migrations")
    with pytest.raises(StartMoved, match="set PIPELINE_START=2024-01-01 or leave it unset"):
        migrate_up(*pair, start=FIRST)
    assert stores.postgres.rows("SELECT * FROM schema_migrations") == before
    assert recorded_start(stores.postgres) is None


def test_an_upgrade_without_the_setting_keeps_the_start_it_had(stores: Stores) -> None:
    with stores.postgres.transaction() as connection:
        connection.execute("DROP TABLE installation")
    migrate_up(stores.postgres, stores.clickhouse)
    assert recorded_start(stores.postgres) == DEFAULT_START == date(2024, 1, 1)


def test_status_and_migrate_name_a_start_that_was_changed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert CliRunner().invoke(app, ["status"]).exit_code == 0
    monkeypatch.setenv("PIPELINE_START", FIRST.isoformat())
    for command in (["status"], ["status", "--json"]):
        said = CliRunner().invoke(app, command)
        assert said.exit_code == 1
        assert f"PIPELINE_START is {FIRST}, but this installation's partitions begin on 2024-01-01" in said.stderr
    assert json.loads(said.stdout)
    refused = CliRunner().invoke(app, ["migrate", "up"])
    assert isinstance(refused.exception, StartMoved)


def test_the_health_check_fails_where_the_recorded_day_is_another(stores: Stores) -> None:
    with stores.postgres.transaction() as connection:
        connection.execute("UPDATE installation SET pipeline_start = '2026-03-04'")
    assert not passed(run(stores, store_health))["pipeline_start_is_unchanged"]


def test_nothing_is_wrong_before_a_day_is_recorded() -> None:
    assert start_problem(FIRST, None) is None
    assert start_problem(FIRST, FIRST) is None


def first_keys(start: date | None) -> dict[str, str]:
    """The first partition of each asset, in an interpreter with this setting."""
    script = (
        "from ninjait_pipelines.build import build_defs\n"
        "graph = build_defs().resolve_asset_graph()\n"
        "for key in graph.materializable_asset_keys:\n"
        "    definition = graph.get(key).partitions_def\n"
        "    if definition: print(key.to_user_string(), definition.get_first_partition_key())\n"
    )
    environment = {**os.environ, **NOWHERE, **({"PIPELINE_START": start.isoformat()} if start else {})}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.engines
def test_partitions_before_the_start_do_not_exist() -> None:
    """But for the week and the month that it is in, which have the days since."""
    first = first_keys(FIRST)
    assert first["device_metrics_hourly"] == "2026-03-04-00:00"
    assert first["billing_events"] == first["ticket_events"] == first["device_metrics_archive"] == "2026-03-04"
    assert first["weekly_reports"] == "2026-03-02"
    assert first["invoices"] == "2026-03-01"
    assert first_keys(None)["device_metrics_hourly"] == "2024-01-01-00:00"


def test_what_looks_back_asks_for_no_partition_before_the_start() -> None:
    """Dagster ends a run over partitions that do not exist as failed, and every new installation would have some."""

    def asked(schedule: Any, *moment: int) -> list[str]:
        request = schedule(dg.build_schedule_context(scheduled_execution_time=datetime(2024, 1, *moment, tzinfo=UTC)))
        return list(request.tags.values()) if isinstance(request, dg.RunRequest) else []

    assert asked(last_week, 1, 1, 30) == asked(past_ticket_days, 2) == asked(past_report_weeks, 5) == []
    assert asked(last_week, 2, 4, 20) == ["2024-01-01-00:00", "2024-01-02-02:00"]
    assert asked(past_ticket_days, 20) == ["2024-01-01", "2024-01-18"]
    assert asked(past_report_weeks, 20) == ["2024-01-01", "2024-01-08"]


@pytest.mark.engines
def test_the_demo_s_graph_has_no_partition_before_its_first_day() -> None:
    """The demo showed thousands of hours as missing that no fleet had ever sent anything for."""
    start = first_day(date(2026, 6, 12))
    keys = first_keys(start)
    assert len(keys) > 8
    monthly = ("invoices", "billing_reconciliation")
    daily = {key[:10] for name, key in keys.items() if name not in ("weekly_reports", *monthly)}
    assert daily == {start.isoformat()}
    assert keys["weekly_reports"] > "2026-02-25"
    assert {keys[name] for name in monthly} == {"2026-03-01"}
