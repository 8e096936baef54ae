"""The leaderboard is replaced as a whole: readers see the old one or the new one, never an older after a newer one."""

import itertools
from collections.abc import Mapping
from typing import Any

import msgspec

from ninjait_pipelines.keys import (
    UNFINISHED_TTL,
    UPTIME_LEADERBOARD,
    UPTIME_LEADERBOARD_ABOUT,
    unfinished_leaderboard,
)
from ninjait_pipelines.resources.dragonfly import VERSION_OF, Dragonfly

# KEYS: the new generation, the leaderboard, its description. ARGV: the description as JSON, its as_of, the number of
# members. If the generation has expired meanwhile, RENAME fails before anything is changed.
_SWITCH = f"""{VERSION_OF}
if version_of(KEYS[3]) > ARGV[2] then return 0 end
if ARGV[3] == '0' then redis.call('DEL', KEYS[2]) else
    redis.call('RENAME', KEYS[1], KEYS[2])
    redis.call('PERSIST', KEYS[2])
end
redis.call('SET', KEYS[3], ARGV[1])
return 1
"""


def publish(dragonfly: Dragonfly, scores: Mapping[str, float], about: Mapping[str, Any]) -> bool:
    """Switches the leaderboard to `scores`; returns False and changes nothing if the current one has a newer as_of.

    1. Write the new generation under a key of its own, with an expiry. Dying here: it expires unread.
    2. Switch it and its description atomically. Dying here: all or nothing; a rerun writes a generation of its own.
    """
    generation = write_generation(dragonfly, scores, about["as_of"])
    with dragonfly.errors():
        switch = dragonfly.client.register_script(_SWITCH)
        keys = [generation, UPTIME_LEADERBOARD, UPTIME_LEADERBOARD_ABOUT]
        return bool(switch(keys=keys, args=[msgspec.json.encode(about), about["as_of"], len(scores)]))


def confirmed(dragonfly: Dragonfly, revision: str, as_of: str) -> int | None:
    """How many devices it has, as of now, if it is whole and has this revision; else None."""
    with dragonfly.errors(), dragonfly.client.pipeline() as pipeline:
        pipeline.get(UPTIME_LEADERBOARD_ABOUT)
        pipeline.zcard(UPTIME_LEADERBOARD)
        cached, members = pipeline.execute(raise_on_error=False)
    same = dragonfly.renew({UPTIME_LEADERBOARD_ABOUT: revision}, as_of)
    return members if same and msgspec.json.decode(cached)["devices"] == members else None


def write_generation(dragonfly: Dragonfly, scores: Mapping[str, float], as_of: str) -> str:
    """Step 1; returns the key."""
    key = unfinished_leaderboard(as_of)
    members = iter(scores.items())
    with dragonfly.errors(), dragonfly.client.pipeline() as pipeline:
        pipeline.delete(key)
        while chunk := dict(itertools.islice(members, 1000)):
            pipeline.zadd(key, chunk)
        pipeline.expire(key, UNFINISHED_TTL)
        pipeline.execute()
    return key
