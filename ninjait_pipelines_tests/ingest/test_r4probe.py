import time
import uuid

import pytest

from ninjait_pipelines.ingest.decode import Period, decode
from ninjait_pipelines.ingest.quarantine import _document, insert_new
from ninjait_pipelines.ingest.sensors import *
from ninjait_pipelines_tests.ingest.conftest import *
from ninjait_pipelines_tests.ingest.samples import *


@pytest.mark.timeout(600)
def test_many(fleet):
    docs = []
    for n in range(10000):
        m = telegraf(
            *(line("mem", f"used={n}i", host=f"new-{n % 1000}", seconds_ago=60 + k) for k in range(5)),
            organization=ORG,
            delivery_id=f"x{n}",
        )
        docs.append(_document(m, decode(m, REGISTRY, Period.at(NOW)), "run", NOW))
    t = time.monotonic()
    for at in range(0, 10000, 1000):
        insert_new(fleet.mongodb, "quarantine", docs[at : at + 1000])
    fleet.mongodb.database["quarantine"].create_index([("state", 1), ("quarantined_at", 1)])
    print("insert", time.monotonic() - t)
    reg = load_registry(fleet.postgres)
    t = time.monotonic()
    print(replay_registered(fleet.mongodb, fleet.message_queue, reg, NOW))
    print("tick, nobody known", time.monotonic() - t)
    with fleet.postgres.transaction() as c:
        for n in range(500):
            register_device(c, str(uuid.UUID(int=5000 + n)), ORG, f"new-{n}")
    reg = load_registry(fleet.postgres)
    t = time.monotonic()
    found = list(__import__("itertools").islice(held_for_known_hosts(fleet.mongodb, reg), 500))
    print("find 500", len(found), time.monotonic() - t)
    t = time.monotonic()
    print(replay_registered(fleet.mongodb, fleet.message_queue, reg, NOW))
    print("tick, 500 hosts known", time.monotonic() - t)
    t = time.monotonic()
    print(sum(1 for _ in held_for_known_hosts(fleet.mongodb, reg)))
    print("find all", time.monotonic() - t)
