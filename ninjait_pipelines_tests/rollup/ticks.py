"""Ticks of the sensor late_hours, and assets that do nothing but are requested like the real ones."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.resources import Stores
from ninjait_pipelines.rollup.sensors import late_hours


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(stores: Stores, instance: dg.DagsterInstance) -> Any:
    with dg.build_sensor_context(instance=instance, resources={"clickhouse": stores.clickhouse}) as context:
        return late_hours.evaluate_tick(context)


def inert(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """The asset with all that automation looks at, doing nothing."""

    @dg.multi_asset(specs=list(asset.specs), name=f"inert_{asset.op.name}", can_subset=asset.can_subset)
    def nothing(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        asked = context.selected_asset_keys
        yield from (dg.MaterializeResult(asset_key=spec.key) for spec in asset.specs if spec.key in asked)

    return nothing
