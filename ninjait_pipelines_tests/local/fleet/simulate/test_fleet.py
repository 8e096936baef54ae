"""The fleet that is simulated: who had been registered by then."""

import pytest

from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.local.fleet.simulate import (
    read_fleet,
)
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.local.fleet.simulate.fleets import YESTERDAY


def test_the_fleet_is_what_was_registered_before_the_window_ended(shared_stores: Stores) -> None:
    seeded = seed(shared_stores.postgres, "testing", YESTERDAY.date())
    with shared_stores.postgres.transaction() as connection:
        connection.execute("UPDATE devices SET retired_at = now() WHERE id = %s", [seeded.devices["south"][0]])
        connection.execute("UPDATE devices SET created_at = now() WHERE id = %s", [seeded.devices["north"][0]])
    fleet = read_fleet(shared_stores.postgres, YESTERDAY)
    assert [len(one.devices) for one in fleet] == [2, 1]
    assert fleet[0].time_zone == "Asia/Kolkata"
    assert len(fleet[0].users) == 5
    assert [len(one.devices) for one in read_fleet(shared_stores.postgres, YESTERDAY, ["north"], max_devices=1)] == [1]
    with pytest.raises(LookupError, match="no organization nowhere"):
        read_fleet(shared_stores.postgres, YESTERDAY, ["north", "nowhere"])
