"""Batches under way: in order, one failure for all after it, and what was written is recorded."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from ninjait_pipelines.ingest.stages import MAX_UNDER_WAY, Stages, StoreWait
from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable
from ninjait_pipelines_tests.ingest.conftest import LOG
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
)
from ninjait_pipelines_tests.resources.queue_contract import eventually


def test_after_a_batch_that_failed_none_is_begun() -> None:
    """A store that hung was waited for once for each batch under way, beyond the time in which messages come again."""
    begun: list[int] = []

    def write(batch: Any, _: datetime) -> Any:
        begun.append(batch[0])
        if batch[0] == 1:
            time.sleep(0.1)
            raise StoreUnavailable("InfluxDB", "http://h", "silent", "Wait.")
        return set

    with Stages(write, lambda *_: set()) as stages:
        for number in range(3):
            stages.put([number], NOW)  # type: ignore[list-item]
        stages.take()
        with pytest.raises(StoreUnavailable):
            stages.take()
        with pytest.raises(StoreUnavailable):
            stages.take()
    assert begun == [0, 1]


def test_what_was_written_is_recorded_although_the_drain_ends_meanwhile() -> None:
    """The queue was deleted while one batch was recorded and the next one written: nothing would ever record that."""
    recorded: list[int] = []
    going_on = threading.Event()

    def record(batch: Any, *_: Any) -> set[Any]:
        going_on.wait(5)
        recorded.append(batch[0])
        return set()

    with Stages(lambda *_: set, record) as stages:  # type: ignore[arg-type,return-value]
        for number in range(2):
            stages.put([number], NOW)  # type: ignore[list-item]
        assert eventually(lambda: stages._written is not None and stages._written.done())
        threading.Timer(0.2, going_on.set).start()
    assert recorded == [0, 1]


def test_batches_are_taken_in_order_once_three_are_under_way() -> None:
    release = threading.Event()

    def record(batch: Any, *_: Any) -> set[Any]:
        release.wait(5)
        return {batch[0]}

    with Stages(lambda *_: set, record) as stages:  # type: ignore[arg-type,return-value]
        for number in range(MAX_UNDER_WAY):
            stages.put([number] * (number + 1), NOW)  # type: ignore[list-item]
            assert stages.full is (number == MAX_UNDER_WAY - 1)
        assert stages.messages == 1 + 2 + 3
        release.set()
        assert [stages.take() for _ in range(3)] == [([n] * (n + 1), {n}) for n in range(3)]
        assert stages.messages == 0


def test_a_batch_that_is_done_is_taken_before_the_next_one_is_received() -> None:
    """Its messages wait for nothing but their acknowledgement."""
    with Stages(lambda *_: set, lambda *_: set()) as stages:
        stages.put([], NOW)
        assert eventually(lambda: stages.full)


def test_what_was_written_after_a_failed_record_is_not_recorded_before_it() -> None:
    """The messages of both come again, and are recorded in their order."""
    recorded: list[int] = []

    def record(batch: Any, *_: Any) -> set[Any]:
        recorded.append(batch[0])
        raise StoreUnavailable("ClickHouse", "http://h", "silent", "Wait.")

    with Stages(lambda *_: set, record) as stages:  # type: ignore[arg-type]
        for number in range(2):
            stages.put([number], NOW)  # type: ignore[list-item]
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                stages.take()
    assert recorded == [0]


def test_messages_are_kept_while_their_store_is_slow() -> None:
    kept = threading.Event()

    def write(*_: Any) -> Any:
        assert kept.wait(5), "nobody kept them from being redelivered"
        return set

    with Stages(write, lambda *_: set(), kept.set, meanwhile_seconds=0.01) as stages:
        stages.put([], NOW)
        assert stages.take() == ([], set())


def fails(*errors: Exception | None) -> Callable[[], str]:
    """A step with these outcomes, one after another."""
    left = iter(errors)

    def step() -> str:
        if error := next(left):
            raise error
        return "done"

    return step


AWAY = StoreUnavailable("InfluxDB", "http://h", "silent", "Wait.")


def test_a_store_that_comes_back_is_waited_for_a_while_longer_each_time(caplog: pytest.LogCaptureFixture) -> None:
    waits: list[float] = []
    wait = StoreWait(60, LOG, waits.append)
    assert wait(fails(None)) == "done"
    assert not wait.began
    assert wait(fails(AWAY, AWAY, AWAY, None)) == "done"
    assert (wait.began, len(waits)) == (True, 3)
    assert all(2**n <= waited <= 2**n + 1 for n, waited in enumerate(waits))
    assert caplog.text.count("A store fails, and is waited for: InfluxDB at http://h: silent") == 3


@pytest.mark.parametrize("error", [StoreFailed("InfluxDB", "http://h", "no", "Look."), ZeroDivisionError()])
def test_only_what_may_pass_is_waited_for(error: Exception) -> None:
    wait = StoreWait(60, LOG, lambda _: pytest.fail("it waited"))
    with pytest.raises(type(error)):
        wait(fails(error, None))


def test_all_waits_of_a_drain_end_together() -> None:
    """Each batch would wait as long as the first otherwise, and their messages would be redelivered meanwhile."""
    waits: list[float] = []
    wait = StoreWait(0.05, LOG, lambda seconds: (waits.append(seconds), time.sleep(0.1)))  # type: ignore[func-returns-value]
    with pytest.raises(StoreUnavailable):
        wait(fails(AWAY, AWAY, None))
    with pytest.raises(StoreUnavailable):
        wait(fails(AWAY, None))
    assert len(waits) == 1
