"""nx-27017 as the local stack starts it."""

from pathlib import Path

import pymongo

from ninjait_pipelines.local.stack.engines import MongoDB
from ninjait_pipelines_tests.local.stack.standalone_engine import alone


def test_its_log_does_not_grow_with_its_commands(tmp_path: Path) -> None:
    """nx-27017 logs a line or more for each: its log outgrew its data."""
    with alone(MongoDB, tmp_path / "mongodb") as server, pymongo.MongoClient(server.settings["MONGODB_URL"]) as client:
        numbers = client.get_default_database().numbers
        for number in range(20):
            client.admin.command("ping")
            numbers.insert_one({"_id": number})
        assert numbers.count_documents({}) == 20
        assert b"INFO" not in server.log.read_bytes()
