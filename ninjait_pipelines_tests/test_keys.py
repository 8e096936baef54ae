"""Keys in Dragonfly: none is another one's, and their texts sort as their moments do."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from ninjait_pipelines import keys

ORG, DEVICE = UUID(int=1), UUID(int=2)


def test_no_two_keys_are_the_same() -> None:
    """One id under every kind of key, and the leaderboard's fixed ones."""
    made = [
        keys.device_latest(ORG),
        keys.organization_devices(ORG),
        keys.organization_summary(ORG),
        keys.weekly_report(ORG),
        keys.unfinished_leaderboard(keys.as_of_text(datetime(2026, 1, 1, tzinfo=UTC))),
        keys.UPTIME_LEADERBOARD,
        keys.UPTIME_LEADERBOARD_ABOUT,
    ]
    assert len({*made}) == len(made)


def test_an_id_and_its_text_have_one_key() -> None:
    """Ingest has ids as text, PostgreSQL gives UUIDs."""
    for key in (keys.device_latest, keys.organization_devices, keys.organization_summary, keys.weekly_report):
        assert key(ORG) == key(str(ORG))
    assert keys.member(ORG, DEVICE) == keys.member(str(ORG), str(DEVICE)) == f"{ORG}:{DEVICE}"


MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (MOMENT, MOMENT + timedelta(microseconds=1)),
        (MOMENT - timedelta(microseconds=1), MOMENT),
        (MOMENT, (MOMENT + timedelta(minutes=1)).astimezone(timezone(timedelta(hours=-11)))),
        ((MOMENT - timedelta(minutes=1)).astimezone(timezone(timedelta(hours=14))), MOMENT),
    ],
)
def test_as_of_sorts_as_text_as_it_does_in_time(earlier: datetime, later: datetime) -> None:
    """Dragonfly's script compares texts; by default isoformat leaves out microseconds of zero."""
    assert keys.as_of_text(earlier) < keys.as_of_text(later)
