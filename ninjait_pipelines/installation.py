"""The first day of this installation, as PostgreSQL records it: PIPELINE_START at the first `ninjait migrate up`.

Partitions begin on that day, and what Dagster knows of them, their runs and their data, is kept by their keys. A later
start would hide partitions that have data, an earlier one would ask for partitions that never could exist. So nothing
here ever changes the recorded day: `migrate up` refuses another one, `ninjait status` and a check of `store_health`
report it.
"""

from datetime import date

from ninjait_pipelines.errors import UserError
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.settings import DEFAULT_START


class StartMoved(UserError):
    """PIPELINE_START is not the day on which this installation began, or a day that has not begun."""


def record_start(postgres: Postgres, start: date) -> None:
    """Records `start`, if no day is recorded yet. Raises StartMoved where it is another one than the recorded day.

    To be called before the first migration: a database that has migrations, but no recorded day, was made by 0.3.0 or
    earlier, whose partitions begin on DEFAULT_START.
    """
    with postgres.transaction() as connection:
        first = recorded_start(postgres)
        if first is None and _is_migrated(postgres):
            first = DEFAULT_START
        if problem := start_problem(start, first) or (first is None and _future_problem(postgres, start)):
            raise StartMoved(f"{problem} Nothing was changed.")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS installation ("
            "only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), "
            "pipeline_start date NOT NULL, recorded_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        connection.execute(
            "INSERT INTO installation (pipeline_start) VALUES (%(start)s) ON CONFLICT DO NOTHING", {"start": start}
        )


def recorded_start(postgres: Postgres) -> date | None:
    """The first day of this installation; None before its first `ninjait migrate up` of 0.4.0 or later."""
    if not _has_table(postgres, "installation"):
        return None
    rows = postgres.rows("SELECT pipeline_start FROM installation")
    return rows[0]["pipeline_start"] if rows else None


def start_problem(start: date, recorded: date | None) -> str | None:
    """What is wrong with `start`, and what to do; None if it is the recorded day, or none is recorded."""
    if recorded in (None, start):
        return None
    remedy = f"set PIPELINE_START={recorded}" + (" or leave it unset" if recorded == DEFAULT_START else "")
    return (
        f"PIPELINE_START is {start}, but this installation's partitions begin on {recorded}, and that day is fixed: "
        f"{remedy}, here and wherever the pipeline runs."
    )


def _future_problem(postgres: Postgres, start: date) -> str | None:
    """A mistyped year could never be corrected, and until then no partition would exist. By PostgreSQL's clock."""
    [row] = postgres.rows("SELECT (now() AT TIME ZONE 'UTC')::date AS today")
    if start <= row["today"]:
        return None
    return f"PIPELINE_START is {start}, which is still to come (today is {row['today']}), and it can never be changed."


def _is_migrated(postgres: Postgres) -> bool:
    return _has_table(postgres, "schema_migrations") and bool(postgres.rows("SELECT FROM schema_migrations LIMIT 1"))


def _has_table(postgres: Postgres, name: str) -> bool:
    query = "SELECT FROM pg_tables WHERE tablename = %(name)s AND schemaname = 'public'"
    return bool(postgres.rows(query, {"name": name}))
