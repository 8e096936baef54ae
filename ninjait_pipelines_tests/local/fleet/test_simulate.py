"""The simulator: the same messages every time, and exactly what it says of them."""

from datetime import timedelta

import pytest

from ninjait_pipelines.local.fleet.simulate import (
    Options,
    Organization,
    Window,
)
from ninjait_pipelines_tests.local.fleet.simulate.fleets import DAY, FLEET, YESTERDAY, all_of


def test_the_same_arguments_give_the_same_bytes_and_ids() -> None:
    window = Window(YESTERDAY, YESTERDAY + timedelta(hours=3))
    assert all_of(Options(), window) == all_of(Options(), window)


@pytest.mark.parametrize(
    ("options", "window", "fleet"),
    [
        (Options(seed=2), DAY, FLEET),
        (Options(broken=0.006), DAY, FLEET),
        (Options(), Window(DAY.start, DAY.end - timedelta(hours=1)), FLEET),
        (Options(), Window(DAY.start - timedelta(days=1), DAY.start), FLEET),
        (Options(), DAY, FLEET[:1]),
    ],
)
def test_other_arguments_never_use_a_message_id_again(
    options: Options, window: Window, fleet: list[Organization]
) -> None:
    """An early version took ids from the seed alone: the second simulated day was one big duplicate of the first."""
    ids = {one.message.message_id for one in all_of(Options(seed=1))}
    assert ids.isdisjoint(one.message.message_id for one in all_of(options, window, fleet))
