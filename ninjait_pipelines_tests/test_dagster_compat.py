"""Whether the private names of Dagster are still needed."""

import inspect

import dagster as dg


def test_a_check_result_cannot_name_its_partition() -> None:
    """Once it can, `partition_evaluation` and the private import behind it go."""
    assert "partition" not in inspect.signature(dg.AssetCheckResult.__new__).parameters


def test_the_type_of_an_asset_job_has_no_public_name() -> None:
    """Once it has one, `AssetJob` goes."""
    assert type(dg.define_asset_job("any")).__name__ not in dir(dg)
