"""The ClickHouse front as its clients see it, against the real engine."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import lz4.frame
import psutil
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from ninjait_pipelines.local.stack.engines import ClickHouse
from ninjait_pipelines.local.stack.local import LocalStack, find
from ninjait_pipelines_tests.local.stack.conftest import connect
from ninjait_pipelines_tests.local.stack.raw_http import Raw
from ninjait_pipelines_tests.resources.queue_contract import eventually

SLOW = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) = 1"


def front_of(stack: LocalStack) -> psutil.Process:
    process = find(ClickHouse(stack.home / "clickhouse", 0, ""))
    assert process
    return process


@pytest.mark.parametrize("compress", [True, False, "lz4", "zstd", "gzip"])
def test_types_survive_in_both_directions(settings: dict[str, str], compress: bool | str) -> None:
    now = datetime(2026, 3, 29, 1, 30, 0, 123000, tzinfo=UTC)
    row = (1, "ü'\\\t\0", Decimal("12345678901234.5678"), uuid.UUID(int=7), ["a"], None, now)
    columns = "a UInt64, b String, c Decimal(18, 4), d UUID, e Array(LowCardinality(String)), f Nullable(Int8)"
    with connect(settings, compress=compress) as client:
        client.command(
            f"CREATE OR REPLACE TABLE types ({columns}, g DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY a"
        )
        summary = client.insert("types", [row] * 5000)
        assert summary.written_rows == 5000
        result = client.query("SELECT * FROM types", tz_mode="aware").result_rows
        assert (len(result), result[-1]) == (5000, row)


def test_arrow_in_and_out(client: Client, table: str) -> None:
    numbers = pa.table({"n": pa.array(range(100_000), pa.uint64()), "s": [str(n) for n in range(100_000)]})
    client.insert_arrow(table, numbers)
    assert client.query_arrow(f"SELECT * FROM {table} ORDER BY n", use_strings=True).to_pydict() == numbers.to_pydict()
    with client.query_arrow_stream(f"SELECT n FROM {table}") as batches:
        assert sum(batch.num_rows for batch in batches) == 100_000


def test_an_insert_of_some_megabytes_is_one_part(client: Client, table: str) -> None:
    client.insert(table, [[n, "x" * 20] for n in range(200_000)])
    assert client.query(f"SELECT uniqExact(_part), count() FROM {table}").result_rows == [(1, 200_000)]


def test_a_torn_insert_leaves_nothing(client: Client, raw: Raw, table: str) -> None:
    whole = client.raw_query("SELECT number AS n, toString(number) AS s FROM numbers(200000)", fmt="Native")
    status, headers, _ = raw("POST", whole[: len(whole) // 2], query=f"INSERT INTO {table} FORMAT Native")
    assert (status, headers["x-clickhouse-exception-code"]) == (500, "33")
    assert client.command(f"SELECT count() FROM {table}") == 0


def test_a_client_that_dies_while_sending_leaves_nothing(client: Client, raw: Raw, table: str) -> None:
    connection = http.client.HTTPConnection(raw.address.netloc)
    login = {"X-ClickHouse-User": raw.user, "X-ClickHouse-Key": raw.password, "Content-Length": "1000000"}
    connection.putrequest("POST", f"/?query={quote(f'INSERT INTO {table} FORMAT CSV')}")
    for name, value in login.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"1,a\n" * 1000)
    connection.close()
    time.sleep(0.2)
    assert client.command(f"SELECT count() FROM {table}") == 0


def test_an_error_in_the_middle_of_a_stream_is_never_taken_for_its_end(client: Client, raw: Raw) -> None:
    sql = "SELECT throwIf(number = 3000000), number FROM numbers(4000000)"
    with (
        pytest.raises(StreamFailureError, match="throwIf"),
        client.query_row_block_stream(sql) as blocks,
    ):
        for _ in blocks:
            pass
    with pytest.raises(http.client.IncompleteRead):
        raw("POST", sql.encode())


def test_wrong_logins_are_refused(settings: dict[str, str], raw: Raw) -> None:
    assert raw(query="SELECT 1")[0] == 200
    key = {"X-ClickHouse-User": raw.user, "X-ClickHouse-Key": raw.password}
    assert raw(query="SELECT 1", headers=key)[0] == 200
    assert raw(query="SELECT 1", headers={}, user=raw.user, password=raw.password)[0] == 200
    wrong = ({"X-ClickHouse-Key": "x"}, {"X-ClickHouse-User": "default"})
    for headers in ({}, {"Authorization": "Basic !"}, *(key | part for part in wrong)):
        status, answer, body = raw("POST", b"SELECT 1", headers=headers)
        assert (status, answer["x-clickhouse-exception-code"]) == (403, "516")
        assert raw.password.encode() not in body
    with pytest.raises(DatabaseError) as refused:
        connect(settings, password="wrong")
    assert refused.value.code == 516


def test_curl_and_grafana_reach_it(raw: Raw, table: str) -> None:
    assert raw(path="/ping", headers={})[2] == raw()[2] == b"Ok.\n"
    assert raw(query="SELECT 1 AS a FORMAT JSONEachRow")[2] == b'{"a":1}\n'
    assert json.loads(raw(query="SELECT 1 AS a", default_format="JSONCompact")[2])["data"] == [[1]]
    assert raw("POST", b"1,a\n2,b\n", query=f"INSERT INTO {table} FORMAT CSV")[0] == 200
    assert raw("POST", f"INSERT INTO {table} VALUES (3, 'c')".encode())[0] == 200
    assert raw("POST", b"FROM numbers(2)", query="SELECT number")[2] == b"0\n1\n"
    assert raw("POST", f"SELECT n FROM {table} ORDER BY n".encode())[2] == b"1\n2\n3\n"
    asking = {"X-ClickHouse-User": raw.user, "X-ClickHouse-Key": raw.password, "Accept-Encoding": "gzip"}
    status, headers, body = raw(query="SELECT timezone()", headers=asking, enable_http_compression="1", query_id="mine")
    assert (status, zlib.decompress(body, wbits=31), headers["x-clickhouse-query-id"]) == (200, b"UTC\n", "mine")
    assert json.loads(headers["x-clickhouse-summary"])["result_rows"] == "1"


def test_get_cannot_write(raw: Raw, table: str) -> None:
    for sql in (
        f"INSERT INTO {table} VALUES (1, 'a')",
        f"DROP TABLE {table}",
        f"TRUNCATE TABLE {table}",
    ):
        for more in ({}, {"readonly": "0"}):
            assert raw(query=sql, **more)[1].get("x-clickhouse-exception-code") == "164", sql
    assert raw(query="SELECT 1 SETTINGS readonly = 0")[1]["x-clickhouse-exception-code"] == "164"
    assert raw("POST", b"SELECT 1 INTO OUTFILE '/tmp/ninjait-never'")[0] == 400


def test_reading_writes_no_file_either(raw: Raw, tmp_path: Path) -> None:
    """The engine's readonly mode refused every write but that of `INSERT INTO FUNCTION file(...)`, by GET too."""
    target = f"FUNCTION file('{tmp_path / 'written.csv'}', 'CSV', 'a UInt8')"
    for sql in (
        f"INSERT INTO {target} SELECT 1",
        f"INSERT INTO TABLE {target} VALUES (1)",
        f"/**/ insert into {target} FORMAT CSV\n1",
    ):
        assert raw(query=sql)[1]["x-clickhouse-exception-code"] == "164", sql
        assert raw("POST", sql.encode(), readonly="2")[1]["x-clickhouse-exception-code"] == "164", sql
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip.compress), ("lz4", lz4.frame.compress)])
def test_a_torn_compressed_body_is_refused_and_frames_in_a_row_are_all_read(
    raw: Raw, client: Client, table: str, name: str, compress: Callable[[bytes], bytes]
) -> None:
    """An lz4 body that had lost its last bytes was answered with 200, with 18,080 of its 100,000 rows missing; and of
    two gzip files sent in a row the second was dropped."""

    def send(body: bytes) -> int:
        encoding = {"X-ClickHouse-User": raw.user, "X-ClickHouse-Key": raw.password, "Content-Encoding": name}
        return raw("POST", body, headers=encoding, query=f"INSERT INTO {table} FORMAT CSV")[0]

    rows = b"1,b\n" * 100_000
    for lost in (1, 50):
        assert send(compress(rows)[:-lost]) == 400
    assert client.command(f"SELECT count() FROM {table}") == 0
    assert send(compress(b"1,a\n") + compress(rows) + compress(b"")) == 200
    assert client.command(f"SELECT count() FROM {table}") == 100_001


def test_a_long_address_is_read(raw: Raw) -> None:
    """clickhouse-connect binds parameters in the URL: at 64 KiB it was "Invalid HTTP request"."""
    assert raw(query="SELECT length({text:String})", param_text="x" * 200_000)[2] == b"200000\n"


def test_forms_and_encodings_that_are_not_understood(raw: Raw) -> None:
    """A form with bytes that are no text was a 500 and a traceback in the log."""
    login = {"X-ClickHouse-User": raw.user, "X-ClickHouse-Key": raw.password}
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    form = b'--x\r\nContent-Disposition: form-data; name="query"%s\r\n\r\nSELECT \xff\r\n--x--\r\n'
    for body, headers, more, code in (
        (form % b"", multipart, {}, "62"),
        (form % b'; filename="f"', multipart, {}, "48"),
        (b"SELECT 1", {"Content-Encoding": "br"}, {}, "48"),
        (b"SELECT 1", {}, {"decompress": "1"}, "48"),
    ):
        assert raw("POST", body, headers=login | headers, **more)[1]["x-clickhouse-exception-code"] == code


def test_nothing_of_a_request_reaches_the_next(client: Client, settings: dict[str, str], raw: Raw) -> None:
    seen = b"SELECT currentDatabase(), getSetting('max_block_size'), getSetting('readonly') FORMAT CSV"
    client.command("CREATE DATABASE IF NOT EXISTS other")
    raw.database = None
    before = raw("POST", seen)[2]
    assert raw("POST", seen, database="other", max_block_size="77", readonly="2")[2] == b'"other",77,2\n'
    assert raw("POST", b"SELECT {p:String}", param_p="x")[0] == 200
    assert raw("POST", b"SELECT {p:String}")[1]["x-clickhouse-exception-code"] == "456"
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: raw("POST", seen)[2], range(40))) == {before}
    with connect(settings, database="other") as second:
        assert second.command("SELECT currentDatabase()") == "other"
        assert client.command("SELECT currentDatabase()") == settings["CLICKHOUSE_DATABASE"]
    assert raw("POST", b"SELECT 1", database="nowhere")[1]["x-clickhouse-exception-code"] == "81"


def test_what_only_a_session_would_keep_is_refused(client: Client, raw: Raw) -> None:
    """Accepted and forgotten, a `SET` would leave its client believing in a limit that nothing keeps."""
    for sql in ("SET max_block_size = 77", "USE default", "CREATE TEMPORARY TABLE mine (n UInt8)"):
        with pytest.raises(DatabaseError, match="their request here"):
            client.command(sql)
    assert client.command("SELECT getSetting('max_block_size')", settings={"max_block_size": 88}) == 88
    assert raw("POST", b"SELECT 1", session_id="any", session_timeout="-1")[2] == b"1\n"


def test_slow_queries_do_not_hold_up_fast_ones(raw: Raw, client: Client, table: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        slow = [pool.submit(raw, "POST", b"SELECT sleepEachRow(0.5) FROM numbers(6)") for _ in range(8)]
        time.sleep(0.2)
        for n in range(10):
            client.insert(table, [[n, ""]])
            assert client.command(f"SELECT count() FROM {table}") == n + 1
        assert not any(future.done() for future in slow)
        assert {future.result()[0] for future in slow} == {200}


def test_the_query_of_a_client_that_left_is_stopped(raw: Raw) -> None:
    processes = (
        f"SELECT count() FROM system.processes WHERE query LIKE '%{'sipHash64'}%' AND query NOT LIKE '%processes%'"
    )
    connection = raw.socket(SLOW)
    assert eventually(lambda: raw(query=processes)[2] == b"1\n", seconds=5)
    connection.close()
    assert eventually(lambda: raw(query=processes)[2] == b"0\n", seconds=5)


def test_a_client_killed_in_a_stream_leaks_nothing(raw: Raw, shared_stack: LocalStack) -> None:
    stream = "SELECT number, toString(number) FROM numbers(10000000000) -- endless"
    processes = "SELECT count() FROM system.processes WHERE query LIKE '%endless%' AND query NOT LIKE '%processes%'"
    front = front_of(shared_stack)
    raw(query="SELECT 1")
    before = len(front.net_connections())
    connections = [raw.socket(stream) for _ in range(40)]
    for connection in connections:
        assert connection.recv(100_000)
    assert raw(query=processes)[2] == b"40\n"
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    assert eventually(lambda: raw(query=processes)[2] == b"0\n", seconds=5)
    assert eventually(lambda: len(front.net_connections()) <= before, seconds=5)


def test_a_large_result_streams_in_constant_memory(client: Client, shared_stack: LocalStack) -> None:
    front = front_of(shared_stack)
    client.query("SELECT number, toString(number) FROM numbers(100000)")
    before, peak, rows = front.memory_info().rss, 0, 0
    sql = "SELECT number, repeat('x', 100) FROM numbers(4000000)"
    with client.query_column_block_stream(sql) as blocks:
        for block in blocks:
            rows += len(block[0])
            peak = max(peak, front.memory_info().rss)
    assert rows == 4_000_000  # 430 MB
    assert peak - before < 120 << 20


def insert_until(
    settings: dict[str, str], table: str, number: int, acknowledged: list[int], stop: threading.Event
) -> None:
    with connect(settings) as client:
        for n in range(number * 1_000_000, (number + 1) * 1_000_000):
            if stop.is_set():
                return
            try:
                client.insert(table, [[n]], column_names=["n"], column_type_names=["UInt64"])
            except Exception:  # noqa: BLE001 - the front is gone: whatever this was, it was not acknowledged
                return
            acknowledged.append(n)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_no_acknowledged_insert_is_lost(own_stack: LocalStack, sent: signal.Signals) -> None:
    settings = own_stack.up()
    with connect(settings) as client:
        client.command("CREATE TABLE acked (n UInt64) ENGINE = MergeTree ORDER BY n")
    acknowledged: list[int] = []
    stop = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(insert_until, settings, "acked", number, acknowledged, stop)
        assert eventually(lambda: len(acknowledged) > 200, 20)
        front = front_of(own_stack)
        os.kill(front.pid, sent)
        assert eventually(lambda: not own_stack.running()["clickhouse"], seconds=5)
        stop.set()
    assert eventually(lambda: not front.is_running() or front.status() == psutil.STATUS_ZOMBIE, seconds=5)
    settings = own_stack.up()
    with connect(settings) as client:
        stored = {row[0] for row in client.query("SELECT n FROM acked").result_rows}
        assert set(acknowledged) - stored == set()
        assert client.command("SELECT count() = uniqExact(n) FROM acked") == 1
