"""The agent: nothing it has read is lost, whoever is away and whatever is killed."""

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Period, SenderRegistry
from ninjait_pipelines.ingest.decode.volumes import Place, place_of
from ninjait_pipelines.local.fleet.agent import (
    MIB,
    Agent,
    Spool,
    SpoolFull,
    SpoolInUse,
    increase,
    keep_and_deliver,
    register,
    run,
    volume_of,
)
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.metrics.interfaces import LEFT_OUT
from ninjait_pipelines.metrics.volumes import disk_of
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.local.fleet.brokers import AWAY, into, queued

ORGANIZATION, DEVICE = uuid.UUID(int=1), uuid.UUID(int=2)


def now() -> datetime:
    return datetime.now(UTC)


def reading(number: int) -> Outgoing:
    return Outgoing("agent.metrics", f"metrics.{ORGANIZATION}", b'{"number": %d}' % number, str(uuid.UUID(int=number)))


def ids(messages: list[Message]) -> list[int]:
    return [uuid.UUID(message.message_id or "").int for message in messages]


def test_what_it_reads_is_what_the_contract_wants() -> None:
    agent = Agent(ORGANIZATION, DEVICE)
    time.sleep(0.1)
    registry = SenderRegistry(frozenset([str(ORGANIZATION)]), {str(DEVICE): str(ORGANIZATION)})
    for sent in (agent.metrics(now()), agent.heartbeat(now()), agent.heartbeat(now(), "offline")):
        message = Message(sent.queue, sent.routing_key, sent.body, sent.content_type, sent.message_id, "1", "1", 1, 0)
        decoded = decode(message, registry, Period.at(now()))
        assert decoded.rejections == []
        assert (decoded.points_accepted, str(decoded.message_id)) == (1, sent.message_id)
    sample = json.loads(agent.metrics(now()).body)["samples"][0]
    fields = {
        "cpu",
        "memory",
        "memory_total",
        "disk_used",
        "disk_total",
        "disk_free",
        "network_in",
        "network_out",
        "uptime",
    }
    assert set(sample) == {"timestamp", *fields}
    assert 0 < sample["memory"] < sample["memory_total"] < 1e8
    assert 0 < sample["disk_used"] < sample["disk_total"]
    assert sample["uptime"] > 0


def test_loopback_and_what_is_stacked_is_not_traffic() -> None:
    """206 MB were reported of a machine whose eth0 had 28 kB: two processes spoke to each other."""
    before = {"lo": (0, 0), "eth0": (1_000, 100), "docker0": (5, 5), "eth0.20": (0, 0), "wlan0": (900, 90)}
    now = {"lo": (10**9, 10**9), "eth0": (29_000, 600), "docker0": (99, 99), "eth0.20": (9_000, 9)}
    assert increase(before, now | {"wlan0": (7, 7)}, LEFT_OUT) == (28_000, 500)  # a dongle that was put in again
    assert increase(before, now | {"eth1": (10**9, 10**9)}, LEFT_OUT) == (28_000, 500)  # it only begins
    assert increase(before, now, ("eth0",)) == (10**9 + 94 + 9_000, 10**9 + 94 + 9)
    assert increase({}, {"lo": (1, 1), "br0": (5, 5)}, LEFT_OUT) is None


def test_each_disk_and_each_pool_counts_once() -> None:
    """By the decoders' rule of what counts, and the roll-up's of how it adds up."""
    mounted = [("/", "/dev/sda1", "ext4"), ("/var/lib/docker", "/dev/sda1", "ext4"), ("/run", "tmpfs", "tmpfs")]
    places = [place for one in mounted if (place := place_of(*one))]
    volumes = [volume_of(place, 50 * MIB, 100 * MIB, 45 * MIB) for place in places]
    assert disk_of(volumes) == (50.0, 100.0, 45.0)
    pool = [
        volume_of(Place(f"zfs:{name}", f"/{name}"), used * MIB, (used + 50) * MIB, 50 * MIB)
        for name, used in (("tank", 1), ("tank/data", 30))
    ]
    assert disk_of([*volumes, *pool]) == (81.0, 181.0, 95.0)


def test_while_the_broker_is_away_readings_wait_on_disk_and_come_in_order(
    shared_stores: Stores, tmp_path: Path
) -> None:
    said: list[str] = []
    with Spool(tmp_path) as spool:
        for number in range(3):
            assert not keep_and_deliver(spool, AWAY, [reading(number)], said.append)
        assert "3 messages wait on disk" in said[-1]
    with Spool(tmp_path) as spool:  # the agent was restarted meanwhile
        assert keep_and_deliver(spool, shared_stores.message_queue, [reading(3)], said.append)
        assert len(spool) == 0
        assert keep_and_deliver(spool, shared_stores.message_queue, [reading(4)], said.append)
    assert ids(queued(shared_stores)) == [0, 1, 2, 3, 4]


def test_what_was_confirmed_leaves_the_spool_although_the_rest_fails(tmp_path: Path) -> None:
    taken: list[Outgoing] = []

    def takes_one_batch(batch: list[Outgoing]) -> int:
        if taken:
            raise StoreUnavailable("Queue", "redis://x", "gone", "")
        taken.extend(batch)
        return len(batch)

    with Spool(tmp_path) as spool:
        for number in range(520):
            spool.append(reading(number))
        with pytest.raises(StoreUnavailable):
            spool.deliver(takes_one_batch)
        assert len(spool) == 20
        spool.append(reading(520))
        taken.clear()
        assert spool.deliver(takes_one_batch) == 21
    assert taken == [reading(number) for number in range(500, 521)]


_KILLED_AFTER_PUBLISHING = """
import json, os, signal, sys, uuid
from pathlib import Path
from ninjait_pipelines.local.fleet.agent import Agent, Spool
from ninjait_pipelines.resources import open_stores
from ninjait_pipelines.settings import validate
from datetime import UTC, datetime
with open_stores(validate(json.loads(sys.stdin.read()))) as stores, Spool(Path(sys.argv[1])) as spool:
    agent = Agent(uuid.UUID(int=1), uuid.UUID(int=2))
    for _ in range(3):
        spool.append(agent.metrics(datetime.now(UTC)))
    def publish(messages):
        stores.message_queue.publish(messages)
        os.kill(os.getpid(), signal.SIGKILL)
    spool.deliver(publish)
"""


def test_killed_between_publishing_and_forgetting_it_sends_the_same_ids_again(
    shared_stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _KILLED_AFTER_PUBLISHING, str(tmp_path)]
    killed = subprocess.run(command, input=json.dumps(dict(settings)), text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    first = queued(shared_stores)
    with Spool(tmp_path) as spool:
        assert spool.deliver(shared_stores.message_queue.publish) == 3
    second = queued(shared_stores)
    assert len(set(ids(first))) == 3
    assert [(one.message_id, one.body) for one in second] == [(one.message_id, one.body) for one in first]


def test_half_a_line_that_a_crash_left_does_not_spoil_the_next(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append(reading(1))
    path = tmp_path / "spool.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    os.truncate(path, path.stat().st_size - 7)
    taken: list[Outgoing] = []
    with Spool(tmp_path) as spool:
        spool.append(reading(2))
        spool.deliver(into(taken))
    assert taken == [reading(1), reading(2)]


def test_a_line_that_a_power_cut_left_as_zeros_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """The file system had the end of a line, its beginning was zeros: the agent died of that line at every start."""
    with Spool(tmp_path) as spool:
        for number in range(3):
            spool.append(reading(number))
    path = tmp_path / "spool.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], bytes(len(lines[1])), lines[2], b""]))
    taken: list[Outgoing] = []
    with Spool(tmp_path) as spool:
        spool.deliver(into(taken))
        assert len(spool) == 0
    assert taken == [reading(0), reading(2)]


def test_a_full_disk_does_not_stop_an_agent_that_delivered_a_part(tmp_path: Path) -> None:
    """What was left of the spool could not be written anew, and the agent died of it, at every start."""
    with Spool(tmp_path) as spool:
        for number in range(600):
            spool.append(reading(number))

        def full_disk(messages: list[Outgoing]) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            if messages[0] != reading(0):
                raise StoreUnavailable("Queue", "redis://x", "gone", "")
            return len(messages)

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            with pytest.raises(StoreUnavailable):
                spool.deliver(full_disk)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        taken: list[Outgoing] = []
        spool.deliver(into(taken))
    assert taken == [reading(number) for number in range(600)]


def test_a_clock_that_is_set_back_silences_no_heartbeat(tmp_path: Path) -> None:
    """The clock was set back by three hours, and the device seemed offline for three hours."""
    times = itertools.chain([now()] * 3, itertools.repeat(now() - timedelta(hours=3)))
    stop, taken = threading.Event(), []

    class Broker:
        def publish(self, messages: list[Outgoing]) -> int:
            taken.extend(messages)
            if sum(message.queue == "agent.heartbeats" for message in taken) == 4:
                stop.set()
            return len(messages)

    enough = threading.Timer(5, stop.set)
    enough.start()
    with Spool(tmp_path) as spool:
        agent = Agent(ORGANIZATION, DEVICE)
        often = {"interval": timedelta(seconds=0.1), "heartbeat_every": timedelta(seconds=0.2)}
        run(agent, spool, Broker(), stop=stop, report=lambda _: None, clock=lambda: next(times), **often)  # type: ignore[arg-type]
    enough.cancel()
    assert sum(message.queue == "agent.heartbeats" for message in taken) == 5, "four, and the last one: offline"


def test_a_full_spool_keeps_the_older_readings_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    with Spool(tmp_path, max_bytes=500) as spool:
        for number in range(5):
            keep_and_deliver(spool, AWAY, [reading(number)], said.append)
        kept = len(spool)
        assert 0 < kept < 5
        with pytest.raises(SpoolFull, match=r"spool\.jsonl is full \(it may take .*this reading is not kept"):
            spool.append(reading(9))
        taken: list[Outgoing] = []
        spool.deliver(into(taken))
    assert taken == [reading(number) for number in range(kept)]
    assert any("is full" in line for line in said)


def test_a_full_disk_costs_the_reading_and_not_those_before_it(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append(reading(1))
        size = (tmp_path / "spool.jsonl").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
        try:
            with pytest.raises(SpoolFull, match="File too large"):
                spool.append(reading(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        spool.append(reading(3))
        taken: list[Outgoing] = []
        spool.deliver(into(taken))
    assert taken == [reading(1), reading(3)]


def test_two_agents_do_not_share_a_spool(tmp_path: Path) -> None:
    with Spool(tmp_path), pytest.raises(SpoolInUse, match="--spool"), Spool(tmp_path):
        pass
    with Spool(tmp_path) as spool:
        assert len(spool) == 0


def test_registering_makes_this_machine_a_device_once(shared_stores: Stores) -> None:
    seeded = seed(shared_stores.postgres, "testing", date(2026, 5, 20))
    first = register(shared_stores.postgres, "north", None, now())
    assert register(shared_stores.postgres, str(seeded.organizations["north"]), None, now()) == first
    assert first[0] == seeded.organizations["north"]
    other = register(shared_stores.postgres, "south", None, now())
    assert other[1] != first[1]
    with pytest.raises(LookupError, match="no organization 'nowhere'"):
        register(shared_stores.postgres, "nowhere", None, now())
    assert register(shared_stores.postgres, "south", other[1], now()) == other
    for taken in (seeded.devices["north"][0], seeded.devices["south"][0]):
        with pytest.raises(LookupError, match="is registered otherwise"):
            register(shared_stores.postgres, "south", taken, now())
