"""`MetricsStore`: what the pipeline needs from a time-series store, implemented on InfluxDB and on ClickHouse.

The contract, which `ninjait_pipelines_tests/resources/metrics_contract.py` tests on every implementation:

- The key of a point is (organization_id, device_id, time): writing a point again replaces it, so writing is idempotent,
  and each field keeps the value written last. A field that a later point lacks keeps its value, because third-party
  agents spread one reading over several messages.
- The key of a network interface's counters is (organization_id, device_id, source, interface, time). `aggregate` of the
  first tier turns them into increases (see `increases`) and adds those to network_in and network_out.
- The key of a volume's reading is (organization_id, device_id, source, disk, volume, time).
- All fields are floats; a field that a sample lacks is null and stays null.
- Aggregates compose: aggregating the 5-minute tier over an hour gives exactly what aggregating the raw points would
  have given (sums up to floating-point rounding). The exception is `last` of a window that `late_windows` added to: it
  is the value of the row with the latest timestamp.
- Increases of counters, values of disks and the minutes that samples cover are computed per device and hour, by the
  rules of counters.py, volumes.py and coverage.py in metrics, and distributed over the hour's 5-minute windows.
- Windows are half open, UTC, aligned to their width; a window without samples has no row.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import msgspec
import pyarrow as pa
from pydantic import Field

from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.resources.store import Store


class Refusal(msgspec.Struct, frozen=True):
    """A row that the store will never accept: its index in what was written, and the server's message."""

    row: int
    message: str


class MetricsStore(Store):
    """Device metrics in three tiers: full resolution, 5 minutes, 1 hour."""

    interfaces_left_out: str | None = Field(
        default=None, description="Shell patterns, separated by commas, of the interfaces whose bytes do not count"
    )

    @abstractmethod
    def declare(self) -> None:
        """Creates missing tiers with their retention. Safe to repeat; never changes existing ones."""

    @abstractmethod
    def check_declared(self) -> None:
        """Raises StoreFailed for a tier that is missing or differs from what `declare` would create. Creates none."""

    @abstractmethod
    def now(self) -> datetime:
        """The store's clock, UTC, by which points expire."""

    @abstractmethod
    def write(self, points: pa.Table) -> list[Refusal]:
        """Writes points (schema POINTS) to the full-resolution tier, in as few requests as is sensible.

        Returns when the store has them safely, except for those that it refused, which are the result. Of two points
        with the same key, the later row wins.
        """

    @abstractmethod
    def write_aggregates(self, tier: Tier, windows: pa.Table) -> list[Refusal]:
        """Writes windows (schema WINDOWS) to a lower tier; writing a window again replaces it."""

    @abstractmethod
    def write_counters(self, counters: pa.Table) -> list[Refusal]:
        """Writes readings of counters (schema COUNTERS), kept as long as full resolution."""

    @abstractmethod
    def write_volumes(self, volumes: pa.Table) -> list[Refusal]:
        """Writes readings of volumes (schema VOLUMES), kept as long as full resolution."""

    @abstractmethod
    def read(self, start: datetime, stop: datetime, device_ids: list[str] | None = None) -> pa.Table:
        """The points (schema POINTS) of the full-resolution tier, in order of organization, device and time: of all
        devices, or of at most a hundred."""

    @abstractmethod
    def latest(self, start: datetime, stop: datetime, device_ids: Sequence[str] = ()) -> pa.Table:
        """One row per device (schema POINTS) with the last value of each field in the window, in order of the key: of
        these devices, or of all.

        `time` is the newest point's. Counters are not included.
        """

    @abstractmethod
    def aggregate(self, tier: Tier, start: datetime, stop: datetime, every: timedelta) -> pa.Table:
        """Aggregates a tier over windows of width `every`; schema WINDOWS, in order of its key.

        Raises ValueError unless `start` and `stop` are UTC and multiples of `every`.
        """

    def first_tiers(self, start: datetime, stop: datetime, widths: Sequence[timedelta]) -> Iterator[list[pa.Table]]:
        """Full resolution as windows of several widths, from one read where the store can: in parts, each with the
        windows of each width (as `aggregate` would return them, to the last bit) of some of the devices.

        Not repeated when the store is away: what was made of a part is the caller's.
        """
        yield [self.aggregate(Tier.RAW, start, stop, every) for every in widths]

    @abstractmethod
    def count_samples(self, tier: Tier, start: datetime, stop: datetime) -> dict[datetime, int]:
        """The samples of each hour that has any: what `samples` of `aggregate` sums up to, without aggregating.

        In full resolution these are its points, and the instants of each device's counters and of its volumes.
        """

    @abstractmethod
    def delete(self, device_ids: Sequence[str]) -> None:
        """Deletes all data of these devices in all tiers; returns when none of it can be read any more."""
