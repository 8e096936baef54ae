"""The leaderboard is replaced as a whole, on a real Dragonfly: readers, overtaking runs, and one that dies or waits."""

import threading
from datetime import timedelta

import pytest

from ninjait_pipelines import keys
from ninjait_pipelines.cache import leaderboard
from ninjait_pipelines.keys import as_of_text
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines_tests.cache.caches import H
from ninjait_pipelines_tests.cache.data import ALPHA


def test_a_reader_sees_one_whole_leaderboard_or_the_other(shared_stores: Stores) -> None:
    sizes = (4000, 1500)
    boards = [{f"{ALPHA}:{number}": 1 / (number + 1) for number in range(size)} for size in sizes]
    publish(shared_stores, boards[0], 0)
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        with Dragonfly(url=shared_stores.dragonfly.url).open() as own:
            while not done.is_set():
                seen.add(int(own.client.zcard(keys.UPTIME_LEADERBOARD)))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 16):
        publish(shared_stores, boards[number % 2], number)
    done.set()
    reader.join()
    assert seen == set(sizes)


def publish(stores: Stores, scores: dict[str, float], minutes: int) -> bool:
    about = {"as_of": as_of_text(H + timedelta(minutes=minutes)), "devices": len(scores)}
    return leaderboard.publish(stores.dragonfly, scores, about)


def test_of_two_runs_the_newer_leaderboard_wins_whichever_switches_last(shared_stores: Stores) -> None:
    client = shared_stores.dragonfly.client
    assert publish(shared_stores, {"a:1": 0.25}, 1)
    older = leaderboard.write_generation(shared_stores.dragonfly, {"a:1": 0.5}, as_of_text(H + timedelta(minutes=2)))
    assert 0 < client.ttl(older) <= 3600, "if its run dies now, it goes away by itself"
    assert publish(shared_stores, {"a:1": 1.0}, 3)
    assert not publish(shared_stores, {"a:1": 0.5}, 2)
    assert client.zscore(keys.UPTIME_LEADERBOARD, "a:1") == 1.0
    assert publish(shared_stores, {}, 4)
    assert not client.exists(keys.UPTIME_LEADERBOARD), "the last device was retired"
    assert not publish(shared_stores, {"a:1": 1.0}, 3)
    assert not client.exists(keys.UPTIME_LEADERBOARD)


def test_a_generation_that_expired_changes_nothing(shared_stores: Stores) -> None:
    """A run that hung for an hour between writing and switching: the old leaderboard and what is said of it stay."""
    client = shared_stores.dragonfly.client
    publish(shared_stores, {"a:1": 0.25}, 1)
    about = client.get(keys.UPTIME_LEADERBOARD_ABOUT)
    switch = client.register_script(leaderboard._SWITCH)
    names = [keys.unfinished_leaderboard("expired"), keys.UPTIME_LEADERBOARD, keys.UPTIME_LEADERBOARD_ABOUT]
    with pytest.raises(StoreFailed, match="no such key"), shared_stores.dragonfly.errors():
        switch(keys=names, args=["{}", as_of_text(H + timedelta(minutes=2)), 1])
    assert client.zrange(keys.UPTIME_LEADERBOARD, 0, -1, withscores=True) == [("a:1", 0.25)]
    assert client.get(keys.UPTIME_LEADERBOARD_ABOUT) == about


def test_what_a_dead_run_left_is_not_in_the_next_generation(shared_stores: Stores) -> None:
    """A retry of the same run has the same as_of, and so the same key."""
    as_of = as_of_text(H + timedelta(minutes=1))
    leaderboard.write_generation(shared_stores.dragonfly, {"a:1": 0.5, "a:2": 0.5}, as_of)
    publish(shared_stores, {"a:1": 1.0}, 1)
    assert shared_stores.dragonfly.client.zrange(keys.UPTIME_LEADERBOARD, 0, -1, withscores=True) == [("a:1", 1.0)]
    assert shared_stores.dragonfly.client.ttl(keys.UPTIME_LEADERBOARD) == -1
