"""Builds the Dagster definitions: every stage's assets, checks, jobs, sensors, and the resources they use."""

import importlib
import os
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar

import dagster as dg

from ninjait_pipelines import archive, billing, cache, ingest, operations, reference, reports, rollup, tickets
from ninjait_pipelines.automation import AUTOMATION
from ninjait_pipelines.resources import stores_from
from ninjait_pipelines.settings import validate

STAGES = [ingest, reference, rollup, tickets, billing, cache, archive, reports, operations]
T = TypeVar("T")


def build_defs(
    environ: Mapping[str, str] = os.environ, resource_overrides: Mapping[str, dg.ConfigurableResource] | None = None
) -> dg.Definitions:
    """The definitions. `resource_overrides` (resource key -> store) replaces stores, for tests and the demo.

    Opens no connection. Raises SettingsError, which names the variable, for settings that cannot be right.
    """
    settings = validate(environ)
    modules = [module for stage in STAGES for module in _modules(stage)]
    sensors: list[dg.SensorDefinition] = [*_found(modules, dg.SensorDefinition), _conditions()]
    return dg.Definitions(
        assets=dg.load_assets_from_modules(modules),
        asset_checks=dg.load_asset_checks_from_modules(modules),
        jobs=[*_found(modules, dg.JobDefinition), *_found(modules, type(dg.define_asset_job("any")))],
        sensors=sensors,
        schedules=_found(modules, dg.ScheduleDefinition),
        resources={**stores_from(dg.EnvVar, settings).all(), **(resource_overrides or {})},
    )


def _conditions() -> dg.AutomationConditionSensorDefinition:
    """Evaluates every asset's automation condition. Dagster's own one would start stopped."""
    return dg.AutomationConditionSensorDefinition(
        "automation_conditions",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        run_tags=AUTOMATION,
    )


def _modules(stage: ModuleType) -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(stage.__path__):
        yield importlib.import_module(f"{stage.__name__}.{info.name}")


def _found(modules: list[ModuleType], kind: type[T]) -> list[T]:
    """Objects of a kind at the top of the modules, or in a list there; each once, though several modules import it."""
    values: list[Any] = [value for module in modules for value in vars(module).values()]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return list({id(item): item for item in flat if isinstance(item, kind)}.values())
