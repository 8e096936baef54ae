"""Batches under way: in order, one failure for all after it, and what was written is recorded."""

import threading
import time
from datetime import datetime
from typing import Any

import pytest

from ninjait_pipelines.ingest.stages import Stages
from ninjait_pipelines.resources.store import StoreUnavailable
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
