"""Ids that ClickHouse 26.1 to 26.3 stored wrong are repaired by the statements in the runbook."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Period
from ninjait_pipelines.ingest.ledger import ledger_rows
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.samples import NOW, REGISTRY, message, metrics, sample

SECTION = (ROOT / "docs" / "runbook.md").read_text().partition("## Ids that ClickHouse")[2].partition("\n## ")[0]
RIGHT, WRONG = re.findall(r"`([0-9a-f-]{36})`", SECTION)


def statements(start: datetime, stop: datetime) -> list[str]:
    """Those of the runbook, for rows recorded in this time."""
    block = SECTION.partition("```sql\n")[2].partition("```")[0]
    for example, moment in (("2026-01-01 00:00:00", start), ("2026-12-01 00:00:00", stop)):
        block = block.replace(example, f"{moment:%Y-%m-%d %H:%M:%S.%f}")
    return [one for one in block.split(";\n") if one.strip()]


def backwards(text: str) -> str:
    """An id as such a server stored it: each half of its bytes backwards."""
    half = UUID(text).bytes
    return str(UUID(bytes=half[7::-1] + half[:7:-1]))


def test_how_such_a_server_stored_an_id(clickhouse_version: str, shared_stores: Stores) -> None:
    """What 0.3.0 sent: 25.8 refuses it, 26.3 stores another id without an error, 26.9 the right one."""
    assert backwards(RIGHT) == WRONG
    rows = pa.table({"queue": ["agent.metrics"], "message_id": pa.array([UUID(RIGHT).bytes], pa.binary(16))})
    client = shared_stores.clickhouse.client
    if clickhouse_version == "25.8":
        with pytest.raises(DatabaseError, match="376"):
            client.insert_arrow("message_deliveries", rows)
        return
    client.insert_arrow("message_deliveries", rows)
    stored = str(shared_stores.clickhouse.scalar("SELECT message_id FROM message_deliveries"))
    assert stored == (WRONG if clickhouse_version == "26.3" else RIGHT)


def test_the_runbook_repairs_what_was_recorded_then_and_nothing_else(shared_stores: Stores) -> None:
    columns, clickhouse = "SELECT * FROM message_deliveries ORDER BY recorded_at", shared_stores.clickhouse
    delivered = message("agent.metrics", metrics(sample(60)), message_id=RIGHT)
    clickhouse.insert(
        "message_deliveries", ledger_rows([(delivered, decode(delivered, REGISTRY, Period.at(NOW)))], "run")
    )
    [kept] = clickhouse.rows(columns)
    assert str(kept["message_id"]) == RIGHT
    # As such a server would have recorded them, three days ago.
    then = datetime.now(UTC) - timedelta(days=3)
    for number, moment in ((1, then), (2, then + timedelta(hours=1))):
        wrong = backwards(str(UUID(int=UUID(RIGHT).int + number)))
        clickhouse.command(
            "INSERT INTO message_deliveries SELECT * REPLACE ({wrong:UUID} AS message_id, {at:DateTime64(6)} AS "
            "recorded_at) FROM (SELECT * FROM message_deliveries WHERE message_id = {right:UUID})",
            wrong=wrong,
            at=moment,
            right=RIGHT,
        )
    look, *repair = statements(then - timedelta(minutes=1), datetime.now(UTC) - timedelta(days=1))
    [found] = clickhouse.rows(look)
    assert (found["copies"], found["look_right"], found["look_right_repaired"]) == (2, 0, 2)
    for statement in repair:
        clickhouse.command(statement)
    expected = [str(UUID(int=UUID(RIGHT).int + number)) for number in (1, 2, 0)]
    rows = clickhouse.rows(columns)
    assert [str(row.pop("message_id")) for row in rows] == expected
    del kept["message_id"], kept["recorded_at"]
    for row in rows:
        del row["recorded_at"]
        assert row == kept, "nothing but the id has changed"
    assert clickhouse.rows("EXISTS TABLE repaired_deliveries") == [{"result": 0}]
