"""What Dagster is given of this stage: the copies of the system of record."""

import dagster as dg

from ninjait_pipelines.reference.assets import COPIES, left_nothing_out, row_counts, rows_keep_the_constraints

defs = dg.Definitions(
    assets=COPIES,
    asset_checks=[*row_counts, *left_nothing_out, rows_keep_the_constraints],
)
