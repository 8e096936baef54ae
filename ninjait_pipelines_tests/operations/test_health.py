"""The health of the stores: who answers, who hangs, who is optional."""

import socket
import time
from collections.abc import Iterator

import dagster as dg
import pytest

from ninjait_pipelines.ingest.quarantine.usage import Usage, read_usage
from ninjait_pipelines.operations import health
from ninjait_pipelines.operations.assets import stores_are_up
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.settings import Settings, validate


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def with_dragonfly_at(settings: Settings, port: int) -> Settings:
    return validate({**settings, "DRAGONFLY_URL": f"redis://:secret-of-the-test@127.0.0.1:{port}/0"})


def test_every_store_answers_with_version_and_latency(shared_stores: Stores) -> None:
    statuses = check_all(shared_stores.all())
    assert [status.problem for status in statuses] == [""] * 7
    assert all(status.ok and status.version for status in statuses)
    assert all(status.latency_seconds is not None and status.latency_seconds < 5 for status in statuses)


def test_a_store_that_hangs_costs_no_more_than_the_wait(settings: Settings, mute: int) -> None:
    with open_stores(with_dragonfly_at(settings, mute)) as stores:
        started = time.monotonic()
        found = dict(zip(stores.all(), check_all(stores.all(), seconds=1), strict=True))
        assert time.monotonic() - started < 3
    assert found["postgres"].ok
    assert not found["dragonfly"].ok
    assert "no answer within 1 second" in found["dragonfly"].problem
    assert "secret-of-the-test" not in repr(found)


def test_a_quarantine_that_cannot_be_counted_in_time_costs_no_more_than_the_wait(
    shared_stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MongoDB answered the ping and then nothing: whoever asked waited for its time-out of half a minute."""

    def slow(mongodb: MongoDB, away: bool = False) -> Usage:
        time.sleep(0 if away else 3)
        return read_usage(mongodb, away=True)

    monkeypatch.setattr(health, "read_usage", slow)
    started = time.monotonic()
    (status,) = check_all({"mongodb": shared_stores.mongodb}, seconds=1)
    assert time.monotonic() - started < 2
    assert (status.ok, status.optional, "no answer within 1 second" in status.problem) == (False, True, True)


def test_a_note_of_full_shares_names_some(monkeypatch: pytest.MonkeyPatch, shared_stores: Stores) -> None:
    """Once the quarantine is full, most of a thousand organizations may be at their bound."""
    shares = {f"organization-{number}": 2**20 for number in range(1_000)}
    monkeypatch.setattr(health, "read_usage", lambda *_, **__: Usage(1_000, 1_000 * 2**20, 1_000 * 2**20, shares))
    (status,) = check_all({"mongodb": shared_stores.mongodb})
    assert (status.note.count("--organization"), status.note.endswith("So have 990 more.")) == (10, True)


def test_dragonfly_is_optional_unless_it_is_the_queue() -> None:
    away = Dragonfly(url="redis://127.0.0.1:1/0")
    queue = DragonflyQueue(url="redis://127.0.0.1:1/0")
    (alone,) = check_all({"dragonfly": away})
    assert (alone.ok, alone.optional) == (False, True)
    assert "Caches are cold" in alone.note
    both = check_all({"dragonfly": away, "message_queue": queue})
    assert [status.optional for status in both] == [False, False]
    assert stores_are_up([alone]).severity == dg.AssetCheckSeverity.WARN
    assert stores_are_up([alone, *both]).severity == dg.AssetCheckSeverity.ERROR
