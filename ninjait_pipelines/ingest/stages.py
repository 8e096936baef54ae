"""Batches under way in a drain: one is written and recorded while the next ones are received and decoded."""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import Any, Self, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from ninjait_pipelines.ingest.ledger import Batch
from ninjait_pipelines.ingest.sinks import Hour, Record
from ninjait_pipelines.resources.store import StoreUnavailable

T = TypeVar("T")
# Batches that are being written or recorded, or wait to be acknowledged, while the next one is received and decoded.
MAX_UNDER_WAY = 3
KEEP_ALIVE_SECONDS = 5.0


class Stages:
    """The batches under way. An error in one is raised where the batch is taken; steps that have begun finish first."""

    def __init__(
        self,
        write: Callable[[Batch, datetime], Record],
        record: Callable[[Batch, datetime, Record], set[Hour]],
        meanwhile: Callable[[], None] = lambda: None,
        meanwhile_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._write = write
        self._record = record
        self._meanwhile = meanwhile
        self._meanwhile_seconds = meanwhile_seconds
        self._writer = ThreadPoolExecutor(1, "write")
        self._recorder = ThreadPoolExecutor(1, "record")
        self._written: Future[Record] | None = None  # of the batch put last
        self._recorded: Future[set[Hour]] | None = None
        self.under_way: deque[tuple[Batch, Future[set[Hour]]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(cancel_futures=True)
        self._recorder.shutdown()  # what was written must be recorded: without its queue there may be no next attempt

    @property
    def messages(self) -> int:
        """How many messages are under way."""
        return sum(len(batch) for batch, _ in self.under_way)

    @property
    def full(self) -> bool:
        """Whether the oldest batch has to be taken before another one is put."""
        return len(self.under_way) == MAX_UNDER_WAY or self.under_way[0][1].done()

    def put(self, batch: Batch, now: datetime) -> None:
        """Starts writing the batch; recording follows."""
        written = self._writer.submit(_after, self._written, lambda: self._write(batch, now))
        recorded = self._recorder.submit(_after, self._recorded, lambda: self._record(batch, now, written.result()))
        self._written, self._recorded = written, recorded
        self.under_way.append((batch, recorded))

    def take(self) -> tuple[Batch, set[Hour]]:
        """The oldest batch, once it has been recorded; calls `meanwhile` every few seconds until then."""
        batch, recorded = self.under_way.popleft()
        while not wait([recorded], self._meanwhile_seconds).done:
            self._meanwhile()
        return batch, recorded.result()


def _after(before: Future[Any] | None, step: Callable[[], T]) -> T:
    """Runs a step unless it failed for the batch before: a store that hangs is waited for once, not once per batch."""
    if before:
        before.result()
    return step()


class StoreWait:
    """Retries a step whose store is unavailable. All waits of one drain end `seconds` after its first failure.

    Steps may be done twice, so each is simply repeated.
    """

    def __init__(self, seconds: float, log: logging.Logger, sleep: Callable[[float], None]) -> None:
        self._seconds = seconds
        self._log = log
        self._sleep = sleep
        self._until: float | None = None

    @property
    def began(self) -> bool:
        """Whether a store has failed."""
        return self._until is not None

    def __call__(self, step: Callable[[], T]) -> T:
        """The step's result. Raises its StoreUnavailable when the time is up."""
        tries = Retrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=self._is_over,
            wait=wait_exponential_jitter(initial=1, max=10),
            before_sleep=lambda state: self._log.warning("A store fails, and is waited for: %s", _error(state)),
            sleep=self._sleep,
            reraise=True,
        )
        return tries(step)

    def _is_over(self, _: object) -> bool:
        if self._until is None:
            self._until = time.monotonic() + self._seconds
        return time.monotonic() >= self._until


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
