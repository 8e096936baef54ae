"""The three tables that a message's rows go to: gauges, counters, volumes."""

import uuid
from typing import Any

import pytest

from ninjait_pipelines.contract import ContractViolation
from ninjait_pipelines.ingest.decode.model import Decoded, Rejection
from ninjait_pipelines.ingest.decode.parts import Core
from ninjait_pipelines.ingest.decode.tables import (
    COUNTER,
    GAUGE,
    NAMES,
    TIME_IN,
    VOLUME,
    columns_of,
    disk_and_volume,
    fill,
    index_of_cores,
    metric_columns,
    row_of_cores,
    table_of,
)
from ninjait_pipelines.ingest.decode.volumes import Place
from ninjait_pipelines.metrics.model import FIELDS


@pytest.mark.parametrize(
    ("interface", "place", "table"),
    [(None, None, GAUGE), ("eth0", None, COUNTER), ("", None, COUNTER), (None, Place("sda1", "/"), VOLUME)],
)
def test_a_reading_goes_to_the_table_of_its_part(interface: Any, place: Place | None, table: int) -> None:
    assert table_of(interface, place) == table


def test_the_time_is_where_each_table_has_it() -> None:
    assert [names[at] for names, at in zip(NAMES, TIME_IN, strict=True)] == ["time"] * 3


@pytest.mark.parametrize(
    ("place", "code"),
    [(Place("", ""), "empty"), (Place("a\nb", "/"), "invalid_text"), (Place("sda1", "/" * 256), "too_long")],
)
def test_names_of_disks_and_volumes_follow_the_contract(place: Place, code: str) -> None:
    assert disk_and_volume(Place("", "/")) == ("", "/"), "an agent need not report the disk"
    with pytest.raises(ContractViolation, match=code):
        disk_and_volume(place)


def test_cores_make_one_row_of_their_device_s_load() -> None:
    cores = [Core(index, ("o", "d"), 1000, (number,), busy) for index, number, busy in ((7, 0, 10.0), (4, 1, 20.0))]
    row = dict(zip(NAMES[GAUGE], row_of_cores(cores), strict=True))
    assert row == {"organization_id": "o", "device_id": "d", "time": 1000, **dict.fromkeys(FIELDS), "cpu": 15.0}
    assert index_of_cores(cores) == 7, "the entry that completed them"


def test_a_message_of_one_device_is_columns_at_once() -> None:
    values = [[float(at), None] for at in range(len(FIELDS))]
    columns = metric_columns("o", "d", [1, 2], values)
    assert list(columns) == list(NAMES[GAUGE])
    assert (columns["organization_id"], columns["time"], columns["memory"]) == (("o", "o"), [1, 2], [1.0, None])
    with pytest.raises(ValueError, match="zip"):
        metric_columns("o", "d", [1, 2], values[1:])


def test_without_rows_there_are_no_columns() -> None:
    """A message without counters must not look like one whose counters are empty lists: it has none."""
    assert columns_of(("a", "b"), []) == {}
    assert columns_of(("a", "b"), [[1, 2], [3, None]]) == {"a": [1, 3], "b": [2, None]}
    with pytest.raises(ValueError, match="zip"):
        columns_of(("a", "b"), [[1, 2], [3]])


def filled(*organizations: str) -> Decoded:
    decoded = Decoded(uuid.uuid4(), rejections=[Rejection(9, None, "", "bad_line")])
    gauges, volumes = ({"organization_id": [one]} if one else {} for one in organizations)
    fill(decoded, [gauges, {}, volumes], [[0], [], [1, 2]])
    return decoded


def test_a_message_s_points_are_its_rows_and_its_rejections() -> None:
    decoded = filled("a", "a")
    assert (decoded.points, decoded.rows, decoded.counter_rows, decoded.volume_rows) == (4, [0], [], [1, 2])


def test_a_message_is_of_an_organization_if_all_its_rows_are() -> None:
    assert [
        filled(*organizations).organization_id for organizations in (("a", "a"), ("a", ""), ("a", "b"), ("", ""))
    ] == [
        "a",
        "a",
        None,
        None,
    ]
