"""`MetricsStore`: what the pipeline asks of a time-series store. InfluxDB and ClickHouse implement it alike.

The contract, which `ninjait_pipelines_tests/resources/metrics_contract.py` holds every implementation to:

- A point is known by (organization_id, device_id, time): written again it replaces itself, so writing is idempotent,
  and of each field the value received last wins. A field that a later point does not carry keeps its value: other
  agents than ours spread one reading over several messages.
- A reading of a network interface's counters is known by (organization_id, device_id, source, interface, time).
  `aggregate` of the first tier turns them into increases (see `increases`) and adds them to network_in and network_out.
- A reading of a volume is known by (organization_id, device_id, source, disk, volume, time).
- All fields are float; a field that a sample does not carry is null and stays null.
- The tiers below the first hold aggregates that compose: aggregating the 5-minute tier over an hour gives exactly what
  aggregating the raw points would have given (sums to the last bits of floating point). Only `last` of a window that
  `late_windows` added to is not exact: it is the value of the row that is stamped last.
- The increases of counters, the values of disks and the minutes that samples cover are of an hour of a device, by the
  rules of counters.py, volumes.py and coverage.py in metrics: the hour's 5-minute windows have their parts of it.
- Windows are half open, UTC, aligned to their width; a window without a sample has no row.
"""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import pyarrow as pa
from pydantic import Field

from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.resources.store import Store


class Refusal(msgspec.Struct, frozen=True):
    """A row that the store will never take: its index in what was written, and the store's own words."""

    row: int
    words: str


class MetricsStore(Store):
    """Device metrics in three tiers: full resolution, 5 minutes, 1 hour."""

    interfaces_left_out: str | None = Field(
        default=None, description="Shell patterns, separated by commas, of the interfaces whose bytes do not count"
    )

    @abstractmethod
    def declare(self) -> None:
        """Creates what is missing of the tiers, with their retention. Safe to repeat; never changes what is there."""

    @abstractmethod
    def check_declared(self) -> None:
        """Raises StoreFailed for a tier that is missing or differs from what `declare` would create. Creates none."""

    @abstractmethod
    def now(self) -> datetime:
        """The store's clock, UTC, by which it lets points expire."""

    @abstractmethod
    def write(self, points: pa.Table) -> list[Refusal]:
        """Writes points (schema POINTS) to the full-resolution tier, in as few requests as is sensible.

        Returns when the store has them safely, all but those that it refused for what they are. Of two points with one
        key, the later row wins.
        """

    @abstractmethod
    def write_aggregates(self, tier: Tier, windows: pa.Table) -> list[Refusal]:
        """Writes windows (schema WINDOWS) to a lower tier; a window written again is replaced."""

    @abstractmethod
    def write_counters(self, counters: pa.Table) -> list[Refusal]:
        """Writes readings of counters (schema COUNTERS), which are kept as long as full resolution."""

    @abstractmethod
    def write_volumes(self, volumes: pa.Table) -> list[Refusal]:
        """Writes readings of volumes (schema VOLUMES), which are kept as long as full resolution."""

    @abstractmethod
    def read(self, start: datetime, stop: datetime, device_ids: list[str] | None = None) -> pa.Table:
        """The points (schema POINTS) of the full-resolution tier, in order of organization, device and time.

        Of all devices, or of some: a hundred at most.
        """

    @abstractmethod
    def latest(self, start: datetime, stop: datetime) -> pa.Table:
        """One row a device (schema POINTS) with the last value of each field in the window, in order of the key.

        `time` is that of the newest point. Counters are not among it.
        """

    @abstractmethod
    def aggregate(self, tier: Tier, start: datetime, stop: datetime, every: timedelta) -> pa.Table:
        """Aggregates a tier over windows of width `every`; schema WINDOWS, in order of its key.

        `start` and `stop` are UTC and multiples of `every`, else ValueError.
        """

    @abstractmethod
    def delete(self, device_ids: Sequence[str]) -> None:
        """Deletes everything of these devices in all tiers; returns when it can no longer be read."""
