"""The cases from the field, each with its right value: from the queue to the hourly row."""

from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.field_cases import rows_of


def test_all_forms_of_a_case_arrive(stores: Stores) -> None:
    """Our own agent, Telegraf and collectd, in one hour."""
    rows = rows_of(stores, "25-leaderboard-and-means", "own", "tele", "coll")
    assert {host: row["cpu_avg"] for host, row in rows.items()} == {"own": 10.0, "tele": 90.0, "coll": 90.0}
