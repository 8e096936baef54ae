"""Whether the caches agree with the databases."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import dagster as dg

from ninjait_pipelines.cache import reads
from ninjait_pipelines.cache.assets import device_caches, organization_summaries, uptime_leaderboard
from ninjait_pipelines.keys import (
    UPTIME_LEADERBOARD,
    UPTIME_LEADERBOARD_ABOUT,
    organization_devices,
    organization_summary,
)
from ninjait_pipelines.left_out import LeftOut, nothing_is_left_out
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.postgres import Postgres

left_nothing_out = [nothing_is_left_out(asset) for asset in (device_caches, organization_summaries, uptime_leaderboard)]


@dg.asset_check(asset=device_caches)
def device_lists_match(postgres: Postgres, dragonfly: Dragonfly) -> dg.AssetCheckResult:
    """Each organization has its own cached list, with as many devices as PostgreSQL has valid ones."""
    return _compare(postgres, dragonfly, organization_devices, lambda found: len(found["devices"]))


@dg.asset_check(asset=organization_summaries)
def summaries_match(postgres: Postgres, dragonfly: Dragonfly) -> dg.AssetCheckResult:
    """Each organization has its own cached summary, whose devices by status add up to PostgreSQL's."""
    return _compare(
        postgres,
        dragonfly,
        organization_summary,
        lambda found: sum(found["devices"].values()) - found["devices"]["total"],
    )


def _compare(
    postgres: Postgres, dragonfly: Dragonfly, key: Callable[[UUID], str], count: Callable[[dict[str, Any]], int]
) -> dg.AssetCheckResult:
    """A device registered since the cache was written fails the check once; the next run of the cache heals that."""
    organizations = reads.organizations(postgres, {})
    expected = {one.organization_id: len(one.devices(LeftOut())) for one in organizations}
    found = reads.documents(dragonfly, [key(organization) for organization in expected])
    problems = []
    for (organization, devices), document in zip(expected.items(), found, strict=True):
        if document is None:
            problems.append(f"{organization} has no entry")
        elif document.get("organization_id") != str(organization):
            problems.append(f"{organization} has the entry of {document.get('organization_id')}")
        elif (listed := count(document)) != devices:
            problems.append(f"{organization} has {listed} devices in it, {devices} in PostgreSQL")
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:10]),
        metadata={"organizations": len(expected), "problems": len(problems)},
    )


@dg.asset_check(asset=uptime_leaderboard)
def leaderboard_is_whole(dragonfly: Dragonfly) -> dg.AssetCheckResult:
    """The leaderboard has as many devices as its last run wrote, and every score lies between 0 and 1."""
    # In one transaction: another run may switch between two reads.
    with dragonfly.errors(), dragonfly.client.pipeline() as pipeline:
        pipeline.get(UPTIME_LEADERBOARD_ABOUT)
        pipeline.zcard(UPTIME_LEADERBOARD)
        pipeline.zcount(UPTIME_LEADERBOARD, 0, 1)
        about, members, shares = pipeline.execute()
    devices = json.loads(about)["devices"] if about else None
    return dg.AssetCheckResult(
        passed=members == shares == devices,
        description=f"{devices} devices written, {members} there, {shares} with a score between 0 and 1",
        metadata={"devices": devices, "members": members},
    )
