"""The seeded environments name only what there is, and promise what `seed` can keep."""

from decimal import Decimal
from zoneinfo import available_timezones

import pytest

from ninjait_pipelines.local.fleet.seed_data import ENVIRONMENTS, PLANS, PRICES, SCENARIOS, TARGETS, Shape

SHAPES = [shape for shapes in ENVIRONMENTS.values() for shape in shapes]


def test_environments_share_no_organization() -> None:
    """`seed --clean` deletes one environment by its slugs."""
    assert len({shape.slug for shape in SHAPES}) == len({shape.name for shape in SHAPES}) == len(SHAPES)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.slug)
def test_an_organization_has_plans_targets_and_a_time_zone_that_there_are(shape: Shape) -> None:
    assert shape.time_zone in available_timezones()
    assert set(shape.targets) <= TARGETS.keys()
    assert {(plan in PLANS, version in (1, 2)) for plan, version, _ in shape.contracts} == {(True, True)}
    assert shape.contracts[0][2] == "long ago", "every local day of the past has a contract"
    assert len({PLANS[plan][0] for plan, _, _ in shape.contracts}) == 1, "nobody changes its currency"
    assert shape.tickets >= (10 if shape.slug in ("north", "south") else len(SCENARIOS))


def test_prices_are_decimals_one_for_each_name() -> None:
    for _, *versions in PLANS.values():
        assert len(versions) == 2
        for version in versions:
            prices = [Decimal(price) for price in version.split()]
            assert len(prices) == len(PRICES)
            assert all(price > 0 for price in prices)


def test_first_responses_are_due_before_resolutions_and_sooner_the_more_urgent() -> None:
    times = [TARGETS[priority] for priority in ("low", "normal", "high", "urgent")]
    assert all(response < resolution for response, resolution in times)
    assert times == sorted(times, reverse=True)
