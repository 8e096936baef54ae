"""A device's latest reading, as the platform reads it."""

from datetime import datetime, timedelta, timezone

from ninjait_pipelines.metrics.latest import latest_reading
from ninjait_pipelines.metrics.model import FIELDS


def test_a_reading_has_every_field_and_its_time_in_utc() -> None:
    time = datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    point = dict.fromkeys(FIELDS) | {"organization_id": "o", "device_id": "d", "time": time, "cpu": 5.0}
    about = {"organization_id": "o", "device_id": "d", "as_of": "2026-03-01T12:00:00.000000+00:00"}
    assert latest_reading(point) == ("device:d:latest", dict.fromkeys(FIELDS) | {"cpu": 5.0} | about)
