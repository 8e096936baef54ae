"""Stores in buckets of their own, and data that several of the InfluxDB tests use."""

import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime

from influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS

from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines_tests.resources.metrics_contract import (
    Sample,
    new_id,
)

SETTINGS = {"url": "INFLUXDB_URL", "token": "INFLUXDB_TOKEN", "organization": "INFLUXDB_ORG"}


# A server that the shell points at, with its organization and a token that may create buckets in it. Read at import:
# the suite takes the settings out of the environment.
GIVEN = {name: os.environ.get(setting, "") for name, setting in SETTINGS.items()}


@contextmanager
def opened(server: dict[str, str], **more: object) -> Iterator[InfluxDB]:
    """A store in buckets of its own, which are deleted at the end."""
    store = InfluxDB(**{**server, "bucket": f"contract-{uuid.uuid4()}", **more})
    with store.open():
        store.declare()
        try:
            yield store
        finally:
            with closing(admin(server)) as client:
                for tier in Tier:
                    found = client.buckets_api().find_bucket_by_name(store.bucket_of(tier))
                    client.buckets_api().delete_bucket(found)


def admin(server: dict[str, str]) -> InfluxDBClient:
    return InfluxDBClient(server["url"], server["token"], org=server["organization"])


ORGANIZATION, LONG = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"


def sample(moment: datetime, cpu: float = 1.0) -> Sample:
    return (new_id(), new_id(), moment, {"cpu": cpu})


def write_by_hand(store: InfluxDB, line: str, tier: Tier = Tier.RAW) -> None:
    api = store.client.write_api(write_options=SYNCHRONOUS)
    api.write(store.bucket_of(tier), record=line, write_precision="us")


NASTY = [
    "",
    " ",
    ",",
    "=",
    "\\",
    "a\\",
    "\\,",
    "a b",
    "\n",
    "\r\n",
    "\t",
    "%",
    "%5C",
    '"',
    "'",
    "\x00",
    "\x7f",
    "ü😀",
    "#",
]
