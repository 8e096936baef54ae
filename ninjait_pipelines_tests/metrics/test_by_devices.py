"""Streams that are read side by side, in parts of whole devices."""

from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninjait_pipelines.metrics.first_tier import by_devices

# Devices in order, each with some rows, cut anywhere; as the store gives them: as text, or as a dictionary.
streams = st.lists(
    st.tuples(st.lists(st.sampled_from("abcdefgh")).map(sorted), st.integers(1, 5), st.booleans()),
    min_size=1,
    max_size=3,
)


def parts(devices: list[str], size: int, coded: bool) -> list[pa.Table]:
    column = pa.array(devices, pa.string())
    whole = pa.table({"device_id": column, "row": pa.array(range(len(devices)), pa.int64())})
    found = [whole.slice(at, size) for at in range(0, len(devices), size)]
    return [one.set_column(0, "device_id", one["device_id"].dictionary_encode()) for one in found] if coded else found


@settings(deadline=None)
@given(streams)
def test_each_device_comes_once_with_all_its_rows(given_streams: list[tuple[list[str], int, bool]]) -> None:
    seen: set[str] = set()
    rows: list[list[tuple[str, int]]] = [[] for _ in given_streams]
    for part in by_devices(*(parts(*of) for of in given_streams)):
        devices = {device for one in part for device in one["device_id"].to_pylist()}
        assert devices
        assert not devices & seen
        seen |= devices
        for found, one in zip(rows, part, strict=True):
            found += zip(one["device_id"].to_pylist(), one["row"].to_pylist(), strict=True) if len(one) else []
    for found, (devices, _, _) in zip(rows, given_streams, strict=True):
        assert found == list(zip(devices, range(len(devices)), strict=True))


def test_parts_come_before_the_streams_end() -> None:
    """Else all of a fleet would be in memory."""
    read = []

    def stream() -> Iterator[pa.Table]:
        for number in range(100):
            read.append(number)
            yield pa.table({"device_id": [f"{number:03}", f"{number:03}"]})

    next(by_devices(stream(), []))
    assert len(read) == 2


@pytest.mark.parametrize("devices", [["b", "a"], ["a", "b", "a"]])
@pytest.mark.parametrize("size", [1, 5])
def test_a_stream_that_is_not_in_order_is_an_error(devices: list[str], size: int) -> None:
    """Parts of one device would be computed as if they were all of it."""
    with pytest.raises(ValueError, match="not in order"):
        list(by_devices(parts(devices, size, False)))
