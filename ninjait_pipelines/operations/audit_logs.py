"""The retention of PostgreSQL's audit log: at least the year that the platform publishes."""

from ninjait_pipelines.resources.postgres import Postgres

# Rows per transaction, which holds its locks for some tenths of a second, and transactions per run of store_health.
BATCH = 10_000
MAX_BATCHES = 10


def delete_expired(postgres: Postgres, kept_days: int, batch: int = BATCH) -> int:
    """Deletes audit logs older than `kept_days`, by PostgreSQL's clock, oldest first; returns how many.

    The database's function deletes nothing younger than a year, whatever it is asked for. Each batch is a transaction:
    dying between two, or with more than MAX_BATCHES to do, the next run goes on.
    """
    deleted = 0
    for _ in range(MAX_BATCHES):
        found = _delete_batch(postgres, kept_days, batch)
        deleted += found
        if found < batch:
            break
    return deleted


def _delete_batch(postgres: Postgres, kept_days: int, batch: int) -> int:
    query = "SELECT audit.delete_expired(%(kept_days)s, %(batch)s) AS deleted"
    with postgres.transaction() as connection:
        rows = connection.execute(query, {"kept_days": kept_days, "batch": batch}).fetchall()
    return int(rows[0]["deleted"])
