"""What Dagster is given of this stage: Dragonfly's documents."""

import dagster as dg

from ninjait_pipelines.cache.assets import device_caches, organization_summaries, uptime_leaderboard
from ninjait_pipelines.cache.checks import device_lists_match, leaderboard_is_whole, left_nothing_out, summaries_match

defs = dg.Definitions(
    assets=[device_caches, organization_summaries, uptime_leaderboard],
    asset_checks=[*left_nothing_out, device_lists_match, summaries_match, leaderboard_is_whole],
)
