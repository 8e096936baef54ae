"""Whether the private names of Dagster are still needed."""

import inspect

import dagster as dg

from ninjait_pipelines.dagster_compat import partition_evaluations


def test_a_check_result_cannot_name_its_partition() -> None:
    """Once it can, `partition_evaluations` and the private import behind it go."""
    assert "partition" not in inspect.signature(dg.AssetCheckResult.__new__).parameters


def test_the_type_of_an_asset_job_has_no_public_name() -> None:
    """Once it has one, `AssetJob` goes."""
    assert type(dg.define_asset_job("any")).__name__ not in dir(dg)


def test_each_partition_is_judged_by_its_newest_materialization() -> None:
    """Those of a run are found by one query; a partition that another run made many times must not hide the others."""
    passed, spec = dg.AssetCheckResult(passed=True), dg.AssetCheckSpec("right", asset="mart")
    with dg.DagsterInstance.ephemeral() as instance:
        for key in "abbb":
            instance.report_runless_asset_event(dg.AssetMaterialization("mart", partition=key))
        records = instance.fetch_materializations(spec.asset_key, limit=9, ascending=True).records
        newest = {record.partition_key: record.storage_id for record in records}
        found = {one.partition: one for one in partition_evaluations(instance, spec, dict.fromkeys("abc", passed))}
    assert {key: one.target_materialization_data.storage_id for key, one in found.items() if key != "c"} == newest
    assert found["c"].target_materialization_data is None
