"""The ingest assets, materialized by Dagster."""

import dagster as dg

from ninjait_pipelines.ingest import assets, checks, sensors
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import idle_seconds

KEY = dg.AssetKey("agent_metrics")


def definitions(stores: Stores) -> dg.Definitions:
    return dg.Definitions(
        assets=dg.load_assets_from_modules([assets, sensors]),
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=sensors.drain_jobs,
        sensors=[sensors.drains_by_depth],
        resources=stores.all(),
    )


def drain(stores: Stores, instance: dg.DagsterInstance, name: str) -> dg.ExecuteInProcessResult:
    job = definitions(stores).resolve_job_def(f"drain_{name}")
    config = {"ops": {name: {"config": {"idle_seconds": idle_seconds(stores)}}}}
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def outcomes(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}
