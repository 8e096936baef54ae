"""The three tables that the rows of a metrics message go to: gauges (POINTS), COUNTERS and VOLUMES."""

from collections.abc import Sequence
from typing import Any

from ninjait_pipelines.contract import name
from ninjait_pipelines.ingest.decode.model import Columns, Decoded
from ninjait_pipelines.ingest.decode.parts import Core, mean
from ninjait_pipelines.ingest.decode.volumes import Place
from ninjait_pipelines.metrics.model import COUNTERS, FIELDS, POINTS, VOLUMES

GAUGE, COUNTER, VOLUME = range(3)
# Asking a schema for its names takes as long as a row.
NAMES = (tuple(POINTS.names), tuple(COUNTERS.names), tuple(VOLUMES.names))
TIME_IN = tuple(names.index("time") for names in NAMES)


def table_of(interface: Any, place: Place | None) -> int:
    """The table for a reading of an interface, of a volume, or of neither."""
    return COUNTER if interface is not None else GAUGE if place is None else VOLUME


def disk_and_volume(place: Place) -> tuple[str, str]:
    """The names of disk and volume, as they are stored. Raises ContractViolation."""
    return name(place.disk) if place.disk else "", name(place.volume)


def row_of_cores(cores: Sequence[Core]) -> list[Any]:
    """The row of POINTS that all cores of a device make together."""
    values = {"cpu": mean(cores)}
    return [*cores[0].device, cores[0].time, *map(values.get, FIELDS)]


def index_of_cores(cores: Sequence[Core]) -> int:
    """The index of the entry that completed the cores."""
    return max(core.index for core in cores)


def metric_columns(organization: str, device: str, times: list[int], values: Any) -> Columns:
    """The columns of POINTS for a message of one device."""
    count = len(times)
    return dict(zip(NAMES[GAUGE], ((organization,) * count, (device,) * count, times, *values), strict=True))


def columns_of(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Rows as columns; without rows there are none."""
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}


def fill(decoded: Decoded, columns: Sequence[Columns], indexes: Sequence[list[int]]) -> None:
    """Sets the columns of the three tables, and the organization if all rows belong to a single one."""
    decoded.columns, decoded.counters, decoded.volumes = columns
    decoded.rows, decoded.counter_rows, decoded.volume_rows = indexes
    decoded.points = sum(map(len, indexes)) + len(decoded.rejections)
    organizations = {organization for table in columns if table for organization in table["organization_id"]}
    decoded.organization_id = organizations.pop() if len(organizations) == 1 else None
