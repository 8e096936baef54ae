"""Ids, inserts and errors of ClickHouse."""

import socket
import threading
from contextlib import suppress

import pyarrow as pa
import pytest

from ninjait_pipelines.resources.clickhouse import ClickHouse, check_no_bytes
from ninjait_pipelines.resources.store import StoreError, StoreFailed, StoreRefused, StoreUnavailable
from ninjait_pipelines_tests.resources.store_helpers import opened


@pytest.mark.usefixtures("retries_at_once")
@pytest.mark.parametrize(
    ("answer", "kind", "limit"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", StoreUnavailable, 9),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", StoreRefused, 1),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\ncode 60", StoreFailed, 1),
        (b"", StoreUnavailable, 9),
    ],
)
def test_a_server_that_is_no_clickhouse(
    stack: dict[str, str], answer: bytes, kind: type[StoreError], limit: int
) -> None:
    """A proxy's 401 and another server's 404 were tried again for seconds, and a page with the words "code 60" was
    taken for a missing table."""
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # closed
                while True:
                    client, _ = server.accept()
                    seen.append(len(client.recv(65536)))
                    client.sendall(answer)
                    client.close()

        threading.Thread(target=serve, daemon=True).start()
        host = f"127.0.0.1:{server.getsockname()[1]}"
        with opened(stack, "clickhouse", host=host) as clickhouse, pytest.raises(kind) as error:
            clickhouse.rows("SELECT 1")
    assert "migrate" not in str(error.value)
    assert 1 <= len(seen) <= limit


def test_clickhouse_gives_uuids_as_text_and_exact_versions(stack: dict[str, str]) -> None:
    text = "0f0c7f52-6b0e-5a43-9d3c-6e0a3c1b7a11"
    with opened(stack, "clickhouse") as clickhouse:
        table = clickhouse.arrow("SELECT {id:UUID} AS id, NULL::Nullable(UUID) AS nothing", id=text)
        assert table.to_pylist() == [{"id": text, "nothing": None}]
        now = clickhouse.now()
        assert clickhouse.scalar("SELECT {now:DateTime64(6, 'UTC')}", now=now) == now


BYTES = pa.binary(16)


AS_BYTES = {
    "sixteen bytes": BYTES,
    "any bytes": pa.large_binary(),
    "a view of bytes": pa.binary_view(),
    "a UUID": pa.uuid(),
    "in a list": pa.list_(BYTES),
    "in a map": pa.map_(pa.string(), BYTES),
    "in a struct in a list": pa.list_(pa.struct([("id", pa.uuid())])),
    "in a dictionary": pa.dictionary(pa.int8(), pa.binary()),
}


@pytest.mark.parametrize("type_", AS_BYTES.values(), ids=AS_BYTES)
def test_ids_never_travel_as_bytes(type_: pa.DataType) -> None:
    """The ledger sent its ids as 16 bytes: ClickHouse before 26.1 refused every drain's rows, and 26.1 to 26.3 stored
    another id without an error."""
    with pytest.raises(ValueError, match="column message_id is"):
        check_no_bytes(pa.schema([("queue", pa.string()), ("message_id", type_)]))


def test_an_insert_of_bytes_is_refused_before_it_is_sent() -> None:
    clickhouse = ClickHouse(url="http://127.0.0.1:1", user="", password="", database="")
    with pytest.raises(ValueError, match="column message_id is"):
        clickhouse.insert("message_deliveries", pa.schema([("message_id", BYTES)]).empty_table())
