"""Do the caches say what the databases say?"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import dagster as dg

from ninjait_pipelines.cache.assets import device_caches, organization_summaries, uptime_leaderboard
from ninjait_pipelines.cache.keys import (
    UPTIME_LEADERBOARD,
    UPTIME_LEADERBOARD_ABOUT,
    organization_devices,
    organization_summary,
)
from ninjait_pipelines.cache.reads import active_organizations
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.resources.dragonfly import Dragonfly, errors
from ninjait_pipelines.resources.postgres import Postgres

Document = dict[str, Any]


@dg.asset_check(asset=device_caches)
def device_lists_match(postgres: Postgres, dragonfly: Dragonfly) -> dg.AssetCheckResult:
    """Each organization has a cached list, its own, with as many devices as PostgreSQL has."""
    return _compare(postgres, dragonfly, organization_devices, lambda document: len(document["devices"]))


@dg.asset_check(asset=organization_summaries)
def summaries_match(postgres: Postgres, dragonfly: Dragonfly) -> dg.AssetCheckResult:
    """Each organization has a cached summary, its own, whose devices by status add up to PostgreSQL's."""
    return _compare(
        postgres,
        dragonfly,
        organization_summary,
        lambda document: sum(count for status, count in document["devices"].items() if status != "total"),
    )


def _compare(
    postgres: Postgres, dragonfly: Dragonfly, key: Callable[[UUID], str], count: Callable[[Document], int]
) -> dg.AssetCheckResult:
    """A device registered since the cache was written fails it once; the next run of the cache heals that."""
    organizations = active_organizations(postgres)
    expected = Counter(row["organization_id"] for row in postgres.rows(sql("cache/devices")))
    with errors(dragonfly.url):
        values = dragonfly.client.mget([key(organization) for organization in organizations]) if organizations else []
    problems = find_problems(organizations, list(values), expected, count)  # type: ignore[arg-type]
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:10]),
        metadata={"organizations": len(organizations), "problems": len(problems)},
    )


def find_problems(
    organizations: Sequence[UUID],
    values: Sequence[str | None],
    expected: Counter[UUID],
    count: Callable[[Document], int],
) -> list[str]:
    """What is wrong with each organization's cached value, in words."""
    problems = []
    for organization, value in zip(organizations, values, strict=True):
        document = json.loads(value) if value else None
        if document is None:
            problems.append(f"{organization} has no entry")
        elif document["organization_id"] != str(organization):
            problems.append(f"{organization} has the entry of {document['organization_id']}")
        elif count(document) != expected[organization]:
            problems.append(
                f"{organization} has {count(document)} devices in it, {expected[organization]} in PostgreSQL"
            )
    return problems


@dg.asset_check(asset=uptime_leaderboard)
def leaderboard_is_whole(dragonfly: Dragonfly) -> dg.AssetCheckResult:
    """The leaderboard has as many devices as its last run gave it, and every score lies between 0 and 1."""
    with errors(dragonfly.url):
        about = json.loads(str(dragonfly.client.get(UPTIME_LEADERBOARD_ABOUT) or '{"devices": 0}'))
        members = dragonfly.client.zcard(UPTIME_LEADERBOARD)
        shares = dragonfly.client.zcount(UPTIME_LEADERBOARD, 0, 1)
    return dg.AssetCheckResult(
        passed=members == shares == about["devices"],
        description=f"{about['devices']} devices written, {members} there, {shares} with a score between 0 and 1",
        metadata={"devices": about["devices"], "members": int(str(members))},
    )
