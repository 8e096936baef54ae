"""One bad row stops only itself: what cannot be computed is left out and named, and the others go on."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, TypeVar

import dagster as dg

from ninjait_pipelines.partitions import per_partition

T = TypeVar("T")
R = TypeVar("R")
# Names in a run's metadata and in a check: enough to start with, few enough to read.
MAX_NAMED = 20
METADATA = "left_out"


class LeftOut:
    """What a run left out of one partition, each with its reason."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def each(self, rows: Iterable[T], name: Callable[[T], str], compute: Callable[[T], R]) -> Iterator[R]:
        """The result of `compute` for each row, without those it raises for. It must not query a store."""
        for row in rows:
            try:
                yield compute(row)
            except Exception as error:  # noqa: BLE001 -- not hidden: named in the metadata and by the check
                self.reasons[name(row)] = f"{type(error).__name__}: {error}"

    def metadata(self) -> dict[str, Any]:
        """For the run's metadata, which the check reads."""
        said = [f"{name} ({reason})" for name, reason in sorted(self.reasons.items())[:MAX_NAMED]]
        return {METADATA: len(self.reasons), f"{METADATA}_names": "; ".join(said)}


def latest(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None) -> tuple[int, str]:
    """How many rows the last run of a partition left out, and their names."""
    found = last_metadata(instance, asset, partition)
    return int(found.get(METADATA) or 0), str(found.get(f"{METADATA}_names") or "")


def last_metadata(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None) -> dict[str, Any]:
    """What the last run of a partition recorded; empty if there was none."""
    of = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(of, limit=1).records
    found = records[0].asset_materialization if records else None
    return {name: one.value for name, one in found.metadata.items()} if found else {}


def nothing_is_left_out(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The check that names what the last run of the asset left out. It does not block: the other rows are right."""

    @dg.asset_check(
        asset=asset,
        name=f"{asset.key.to_user_string()}_left_nothing_out",
        partitions_def=asset.partitions_def,
        description="Fails and names what could not be computed and was therefore left out.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        partitions = asset.partitions_def

        def examine(start: datetime, _: datetime) -> dg.AssetCheckResult:
            assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)
            return _result(context, asset.key, partitions.get_partition_key_for_timestamp(start.timestamp()))

        return per_partition(context, examine) if partitions else _result(context, asset.key, None)

    return check


def _result(context: dg.AssetCheckExecutionContext, asset: dg.AssetKey, partition: str | None) -> dg.AssetCheckResult:
    count, names = latest(context.instance, asset, partition)
    return dg.AssetCheckResult(
        passed=not count,
        description=f"{count} left out: {names}" if count else "Nothing was left out.",
        metadata={METADATA: count},
    )
