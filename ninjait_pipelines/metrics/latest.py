"""A device's latest reading as the platform reads it. Ingest writes it; `device_caches` fills in missing ones."""

from collections.abc import Mapping
from typing import Any

from ninjait_pipelines.keys import as_of_text, device_latest
from ninjait_pipelines.metrics.model import FIELDS


def latest_reading(point: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Key and value of a device's latest reading, from a row of POINTS; fields without a value are null."""
    device_id, as_of = point["device_id"], as_of_text(point["time"])
    about = {"organization_id": point["organization_id"], "device_id": device_id, "as_of": as_of}
    return device_latest(device_id), about | {name: point[name] for name in FIELDS}
