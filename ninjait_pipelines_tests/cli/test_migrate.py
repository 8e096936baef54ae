"""`ninjait migrate`, from the command line to the stores."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ninjait_pipelines.cli import app
from ninjait_pipelines.errors import UserError
from ninjait_pipelines.paths import SQL
from ninjait_pipelines_tests.conftest import drop, fresh

Migrate = Callable[..., Result]


@pytest.fixture
def migrate(stack: dict[str, str], tmp_path: Path) -> Iterator[Migrate]:
    """Runs the commands on databases that are empty at first."""
    settings = fresh(stack, "test_migrate", tmp_path)
    runner = CliRunner(env=dict(settings))
    yield lambda *arguments, **options: runner.invoke(app, ["migrate", *arguments], **options)
    drop(stack, settings)


def test_the_commands_apply_list_and_undo(migrate: Migrate) -> None:
    nothing = migrate("rollback", "--store", "clickhouse")
    assert (nothing.exit_code, "Undo" in nothing.output) == (1, False), "there is nothing to ask about"
    assert "has no migration to undo" in str(nothing.exception)
    assert migrate("status").exit_code == 1
    applied = migrate("up", "--json")
    assert applied.exit_code == 0
    assert json.loads(applied.output)["applied"]
    assert "up to date" in migrate("up").output
    listed = migrate("status", "--json")
    assert listed.exit_code == 0
    *migrations, queue, metrics = json.loads(listed.output)
    assert {row["state"] for row in migrations} == {"applied"}
    assert [(row["store"], row["state"]) for row in (queue, metrics)] == [
        ("message_queue", "ok"),
        ("metrics_store", "ok"),
    ]
    refused = migrate("rollback", "--store", "clickhouse", input="n\n")
    assert refused.exit_code != 0
    assert migrate("status").exit_code == 0
    assert migrate("rollback", "--store", "clickhouse", "--yes").exit_code == 0
    after = migrate("status")
    assert after.exit_code == 1
    assert "pending" in after.output


def test_a_draft_for_an_unknown_metric_is_refused_and_writes_nothing() -> None:
    before = sorted(SQL.rglob("*"))
    refused = CliRunner().invoke(app, ["migrate", "new", "battery", "--field", "batery"])
    assert isinstance(refused.exception, UserError)
    assert "there is no metric batery" in str(refused.exception)
    assert sorted(SQL.rglob("*")) == before
