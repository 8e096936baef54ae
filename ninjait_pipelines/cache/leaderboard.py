"""The leaderboard is replaced whole: a reader sees the old one or the new one, and never an older one after a newer."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

from redis.client import Pipeline

from ninjait_pipelines.cache.keys import (
    UNFINISHED_TTL,
    UPTIME_LEADERBOARD,
    UPTIME_LEADERBOARD_ABOUT,
    unfinished_leaderboard,
)
from ninjait_pipelines.resources.dragonfly import Dragonfly, errors


def publish(dragonfly: Dragonfly, scores: Mapping[str, float], about: Mapping[str, Any]) -> bool:
    """Switches the leaderboard to `scores`; False, and nothing changed, where the present one has a newer as_of.

    1. Write the new generation under a key of its own, with an expiry. Dying here: it expires, unread.
    2. Switch it and what is known about it in one transaction, which starts over if another run switched meanwhile.
       Dying here: all or nothing; a rerun makes a generation of its own.
    """
    with errors(dragonfly.url):
        generation = write_generation(dragonfly, scores, about["as_of"])
        return bool(
            dragonfly.client.transaction(
                lambda pipeline: _switch(pipeline, generation, bool(scores), about),  # type: ignore[arg-type]
                UPTIME_LEADERBOARD_ABOUT,
                value_from_callable=True,
            )
        )


def write_generation(dragonfly: Dragonfly, scores: Mapping[str, float], as_of: str) -> str:
    """Step 1; returns the key."""
    key = unfinished_leaderboard(as_of)
    members = iter(scores.items())
    with dragonfly.client.pipeline() as pipeline:
        pipeline.delete(key)
        while chunk := dict(itertools.islice(members, 1000)):
            pipeline.zadd(key, chunk)
        pipeline.expire(key, UNFINISHED_TTL)
        pipeline.execute()
    return key


def _switch(pipeline: Pipeline, generation: str, any_scores: bool, about: Mapping[str, Any]) -> bool:
    held = pipeline.get(UPTIME_LEADERBOARD_ABOUT)
    if held and json.loads(str(held))["as_of"] > about["as_of"]:
        return False
    pipeline.multi()
    if any_scores:
        pipeline.rename(generation, UPTIME_LEADERBOARD)
        pipeline.persist(UPTIME_LEADERBOARD)
    else:
        pipeline.delete(UPTIME_LEADERBOARD)
    pipeline.set(UPTIME_LEADERBOARD_ABOUT, json.dumps(about))
    return True
