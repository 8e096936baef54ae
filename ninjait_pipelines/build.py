"""Builds the Dagster definitions: every stage's own, and the resources and conditions that they share."""

import os
from collections.abc import Mapping

import dagster as dg

from ninjait_pipelines.archive import definitions as archive
from ninjait_pipelines.automation import AUTOMATION
from ninjait_pipelines.billing import definitions as billing
from ninjait_pipelines.cache import definitions as cache
from ninjait_pipelines.executor import executor_from
from ninjait_pipelines.ingest import definitions as ingest
from ninjait_pipelines.operations import definitions as operations
from ninjait_pipelines.reference import definitions as reference
from ninjait_pipelines.reports import definitions as reports
from ninjait_pipelines.resources import stores_from
from ninjait_pipelines.rollup import definitions as rollup
from ninjait_pipelines.settings import validate
from ninjait_pipelines.tickets import definitions as tickets

STAGES = (ingest, reference, rollup, tickets, billing, cache, archive, reports, operations)


def build_defs(
    environ: Mapping[str, str] = os.environ, resource_overrides: Mapping[str, dg.ConfigurableResource] | None = None
) -> dg.Definitions:
    """The definitions. `resource_overrides` (resource key -> store) replaces stores, for tests and the demo.

    Opens no connection. Raises SettingsError, which names the variable, for settings that cannot be right.
    """
    settings = validate(environ)
    shared = dg.Definitions(
        sensors=[_conditions()],
        resources={**stores_from(dg.EnvVar, settings).all(), **(resource_overrides or {})},
        executor=executor_from(settings),
    )
    return dg.Definitions.merge(shared, *(stage.defs for stage in STAGES))


def _conditions() -> dg.AutomationConditionSensorDefinition:
    """Evaluates every asset's automation condition. Dagster's own sensor for this starts stopped."""
    return dg.AutomationConditionSensorDefinition(
        "automation_conditions",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        run_tags=AUTOMATION,
    )
