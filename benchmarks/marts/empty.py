"""A project of one asset: what `dagster dev` costs whatever it is given."""

import dagster as dg


@dg.asset
def nothing() -> None:
    """Does nothing."""


defs = dg.Definitions(assets=[nothing])
