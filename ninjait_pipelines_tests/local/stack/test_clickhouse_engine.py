"""What a statement may do to the engine, and what its errors become."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from ninjait_pipelines.local.stack.clickhouse_engine import EngineError, Statement
from ninjait_pipelines_tests.local.stack.raw_http import Raw


def test_parameters_are_bound_by_the_server(client: Client, table: str) -> None:
    values: dict[str, Any] = {"text": "a'b\\c\td\n ü {x}", "list": [1, 2], "name": "n"}
    values["time"] = datetime(2026, 1, 2, tzinfo=UTC)
    moment = values["time"].replace(tzinfo=None)
    sql = "SELECT {text:String}, {list:Array(UInt8)}, {time:DateTime}, {name:Identifier} FROM (SELECT 5 AS n)"
    assert client.query(sql, parameters=values).result_rows == [(values["text"], [1, 2], moment, 5)]
    client.command(f"INSERT INTO {table} VALUES ({{n:UInt64}}, {{s:String}})", parameters={"n": 4, "s": "x;'y"})
    client.command(f"INSERT INTO {table} SELECT {{n:UInt64}}, {{s:String}}", parameters={"n": 5, "s": "z" * 50_000})
    client.command(f"DELETE FROM {table} WHERE n = {{n:UInt64}}", parameters={"n": 5})
    assert client.query(f"SELECT * FROM {table}").result_rows == [(4, "x;'y")]


def test_statements_the_pipeline_needs(client: Client) -> None:
    client.command("CREATE OR REPLACE TABLE versions (k UInt8, v UInt64, t DateTime) ENGINE = ReplacingMergeTree(v) "
                   "PARTITION BY k ORDER BY k TTL t + INTERVAL 1 DAY COMMENT 'x'")  # fmt: skip
    client.command("CREATE OR REPLACE VIEW latest AS SELECT k, v FROM versions FINAL")
    fresh = datetime.now(UTC)
    for version in (1, 2):
        client.insert("versions", [[1, version, fresh], [2, version, datetime(2020, 1, 1, tzinfo=UTC)]])
    assert client.query("SELECT * FROM latest WHERE k = 1").result_rows == [(1, 2)]
    client.command("OPTIMIZE TABLE versions FINAL")
    assert client.command("SELECT count() FROM versions WHERE k = 2") == 0
    client.command("CREATE OR REPLACE TABLE staging AS versions")
    client.command("ALTER TABLE staging REPLACE PARTITION 1 FROM versions")
    client.command("EXCHANGE TABLES staging AND versions")
    client.command("DELETE FROM versions WHERE v < 2")
    client.command("SYSTEM FLUSH LOGS")
    assert client.query("SELECT * FROM latest").result_rows == [(1, 2)]
    assert client.query("DESCRIBE TABLE versions").result_rows[0][0] == "k"
    assert client.query("SELECT k FROM versions LIMIT 0").column_names == ("k",)


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        ("SELEC 1", 400, 62),
        ("SELECT 1; SELECT 2", 400, 62),
        ("SELECT * FROM nowhere", 404, 60),
        ("SELECT 1 SETTINGS nonsense = 1", 404, 115),
        ("SELECT throwIf(number = 3000000) FROM numbers(4000000) FORMAT Null", 500, 395),
        ("SELECT sleepEachRow(0.1) FROM numbers(30) SETTINGS max_execution_time = 1", 408, 159),
        ("SELECT {x:String}", 500, 456),
        ("SELECT groupArray(number) FROM numbers(9000000) SETTINGS max_memory_usage = 20000000", 500, 241),
    ],
)
def test_errors_carry_status_and_code(raw: Raw, sql: str, status: int, code: int) -> None:
    answer, headers, body = raw("POST", sql.encode())
    assert (answer, headers["x-clickhouse-exception-code"]) == (status, str(code)), body
    assert body.startswith(b"Code: %d. DB::Exception: " % code)


# {read} is a file that is there, {write} one that is not.
READS_OR_WRITES_FILES = """
SELECT * FROM file('{read}', 'LineAsString')
SELECT * FROM FILE('{read}', LineAsString)
SELECT * FROM default.`{read}`
SELECT * FROM default.`{folder}/*`
DESCRIBE TABLE file('{read}', 'LineAsString')
SELECT * FROM fileCluster('default', '{read}', 'LineAsString')
SELECT * FROM filesystem('{folder}')
SELECT * FROM sqlite('{write}', 't')
SELECT * FROM executable('id', 'TSV', 'a String')
SELECT * FROM python('x')
SELECT file('{read}')
SELECT length(`file`('{read}'))
SELECT `\\x66ile`('{read}')
SELECT "fi\\x6ce"('{read}')
SELECT file /* a */ ('{read}')
SELECT '{read}' AS p, p APPLY(file)
SELECT arrayMap(f -> file(f), ['{read}'])
WITH (SELECT file('{read}')) AS f SELECT f
CREATE VIEW {table}_v (f String) AS SELECT file('{read}') AS f
ALTER TABLE {table} UPDATE s = file('{read}') WHERE 1
INSERT INTO {table} SELECT 1, file('{read}')
INSERT INTO {table} VALUES (1, file('{read}'))
INSERT INTO {table} VALUES (1, `file` /* a */ ('{read}'))
INSERT INTO {table} VALUES (1, `f\\x69le`('{read}'))
INSERT INTO {table} SETTINGS input_format_values_interpret_expressions = 1 VALUES (1, file('{read}'))
INSERT INTO FUNCTION file('{write}', 'CSV', 'a Int') VALUES (1)
INSERT INTO FUNCTION file('{write}', 'CSV', 'a Int') SELECT 1
INSERT INTO {table} FROM INFILE '{read}' FORMAT CSV
SELECT 1 INTO OUTFILE '{write}'
CREATE TABLE {table}_f (a Int) ENGINE = File(CSV, '{write}')
CREATE TABLE {table}_f ENGINE = MergeTree ORDER BY a AS SELECT * FROM file('{read}', 'LineAsString', 'a String')
CREATE TABLE {table}_f (a Int) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '{folder}/')
CREATE DATABASE {table}_f ENGINE = Filesystem('{folder}')
CREATE DATABASE {table}_f ENGINE = SQLite('{write}')
CREATE DICTIONARY {table}_f (a UInt64) PRIMARY KEY a SOURCE(FILE(path '{read}' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)
CREATE FUNCTION {table}_f AS (p) -> file(p)
ATTACH TABLE {table}_f FROM '{folder}' (a Int) ENGINE = MergeTree ORDER BY a
BACKUP TABLE {table} TO File('{write}')
SELECT 1 FORMAT Protobuf SETTINGS output_format_schema = '{write}'
SELECT 1 SETTINGS dialect = 'prql'
SELECT arrayMap(file, ['{read}'])
SELECT arrayMap((`fil\\x65` AS f), ['{read}'])
INSERT INTO {table} VALUES (1, file\u00a0('{read}'))
INSERT INTO {table} VALUES (1, file\ufeff('{read}'))
INSERT INTO {table} VALUES (1, arrayMap(file, ['{read}'])[1])
CREATE VIEW {table}_v (f Array(String)) SQL SECURITY NONE AS SELECT arrayMap(file, ['{read}']) AS f
SELECT * FROM {table} SETTINGS additional_result_filter = 'throwIf(1, file(\\'{read}\\')) = 1'
SELECT * FROM {table} SETTINGS additional_table_filters = {{'{table}': 'throwIf(1, file(\\'{read}\\')) = 1'}}
SELECT 1 SETTINGS parallel_replicas_custom_key = 'file(\\'{read}\\')'
SELECT 1 FORMAT Template SETTINGS format_template_row = '{read}'
SELECT 1 FORMAT Template SETTINGS format_template_resultset = '{read}'
SELECT * FROM format(CSV, 'a UInt8', 'x') SETTINGS input_format_record_errors_file_path = '{write}'
SELECT * FROM eval('SELECT file(''{read}'')')
SELECT * FROM format(Values, 's String', concat('(fi', 'le(\\'{read}\\'))'))
SELECT * FROM format(concat('Val', 'ues'), 's String', unhex(hex('(fi')) || 'le(\\'{read}\\'))')
WITH 'Values' AS f SELECT * FROM `form\\x61t`(f, 's String', concat('(fi', 'le(\\'{read}\\'))'))
CREATE VIEW {table}_v AS SELECT * FROM format(Values, 's String', concat('(fi', 'le(\\'{read}\\'))'))
INSERT INTO {table} VALUES (1, (SELECT s FROM format(Values, 's String', concat('(fi', 'le(\\'{read}\\'))'))))
CREATE TABLE {table}_f (s String) ENGINE = FileLog('.', 'LineAsString')
CREATE TABLE {table}_f (s String) ENGINE = `File\\x4cog`('.', 'LineAsString')
CREATE TABLE {table}_f (query String) ENGINE = QueryRunner
CREATE TABLE {table}_f (query String) ENGINE = `QueryR\\x75nner`
ALTER TABLE {table} MODIFY SETTING disk = disk(type = local, path = '{folder}/made/')
CREATE DATABASE {table}_f ENGINE = Atomic SETTINGS disk = disk(type = local, path = '{folder}/made/')
CREATE TABLE {table}_f (a Int) ENGINE = Log SETTINGS disk = `di\\x73k`(type = local, path = '{write}')
CREATE TABLE {table}_f (a Int) ENGINE = EmbeddedRocksDB(0, '{write}') PRIMARY KEY a
CREATE TABLE {table}_f (a Int) ENGINE = ExecutablePool('x', CSV)
SYSTEM SHUTDOWN
"""

ASKS_OTHERS = """
SELECT * FROM url('http://{host}/', 'CSV', 'a String')
SELECT * FROM s3('http://{host}/bucket/key', 'CSV', 'a String')
SELECT * FROM remote('{host}', 'system', 'one')
SELECT * FROM remoteSecure('{host}', 'system', 'one')
SELECT * FROM mysql('{host}', 'a', 'b', 'c', 'd')
SELECT * FROM postgresql('{host}', 'a', 'b', 'c', 'd')
SELECT * FROM mongodb('{host}', 'a', 'b', 'c', 'd', 'e String')
SELECT * FROM redis('{host}', 'k', 'k String')
INSERT INTO FUNCTION url('http://{host}/', 'CSV', 'a Int') SELECT 1
CREATE TABLE {table}_f (a Int) ENGINE = URL('http://{host}/', 'CSV')
CREATE DATABASE {table}_f ENGINE = PostgreSQL('{host}', 'a', 'b', 'c')
CREATE DATABASE {table}_f ENGINE = DataLakeCatalog('http://{host}/') SETTINGS catalog_type = 'rest', warehouse = 'a'
CREATE TABLE {table}_f (a Int) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = web, endpoint = 'http://{host}/')
SELECT * FROM format(AvroConfluent, 'a Int32', '\\0\\0\\0\\0\\1x') SETTINGS format_avro_schema_registry_url = 'http://{host}/'
"""


def test_no_statement_reads_or_writes_files_of_the_process(
    raw: Raw, client: Client, table: str, tmp_path: Path
) -> None:
    """Whoever had the local ClickHouse's password read and wrote as the user who had started it, /etc/passwd and
    ~/.ssh among them: chDB confines `file()` to nothing."""
    (tmp_path / "there").write_text("canary\n")
    places = {"read": tmp_path / "there", "write": tmp_path / "new", "folder": tmp_path, "table": table}
    for sql in filter(None, READS_OR_WRITES_FILES.format(**places).split("\n")):
        for method, body, more in (("POST", sql.encode(), {}), ("POST", b"", {"query": sql})):
            status, headers, answer = raw(method, body, **more)
            assert status >= 400, sql
            assert "x-clickhouse-exception-code" in headers
            assert b"canary" not in answer, sql
    assert client.command(f"SELECT count() FROM {table} WHERE s != ''") == 0
    assert [one.name for one in tmp_path.iterdir()] == ["there"]
    assert (
        raw("POST", f"INSERT INTO {table} VALUES ({{n:UInt8}}, file('/etc/hostname'))".encode(), param_n="1")[0] >= 400
    )
    assert raw(query="SELECT 1", dialect="prql")[0] >= 400


def test_no_statement_asks_other_servers(raw: Raw, table: str) -> None:
    """url() reached whatever listens on loopback: the other engines of the stack, and Dagster."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        host = f"127.0.0.1:{other.getsockname()[1]}"
        for sql in filter(None, ASKS_OTHERS.format(host=host, table=table).split("\n")):
            assert raw("POST", sql.encode())[1].get("x-clickhouse-exception-code") in ("497", "452"), sql
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_what_only_looks_like_a_file_is_let_through(raw: Raw, client: Client, table: str) -> None:
    for sql in (
        "SELECT 'file(1)', 'into outfile', file FROM (SELECT 1 AS file)",
        "SELECT 1 AS profile -- file('x')",
        "SELECT arrayMap(x -> x + 1, [1]) AS a, 'disk(1)' AS disk",
        "SELECT 'C:\\\\file (1)'",
        "SELECT format('{} of {}', 1, 'format(Values)') AS format FORMAT CSV",
        f"INSERT INTO {table} VALUES (1, 'file (1) `\\\\x66`'), (2, 'python(')",
        f"INSERT INTO {table} VALUES (3, upper('profile')), (toUInt8('4'), 'x')",
    ):
        status, _, answer = raw("POST", sql.encode())
        assert status == 200, (sql, answer)
    assert client.command(f"SELECT count() FROM {table}") == 4


@pytest.mark.parametrize(
    ("said", "code", "status", "message"),
    [
        ("Code: 60. DB::Exception: No t. (UNKNOWN_TABLE)", 60, 404, "Code: 60. DB::Exception: No t. (UNKNOWN_TABLE)"),
        ("Query failed: Code: 241. DB::Exception: m\n", 241, 500, "Code: 241. DB::Exception: m"),
        ("the pipe broke", 1002, 500, "Code: 1002. DB::Exception: the pipe broke. (UNKNOWN_EXCEPTION)"),
    ],
)
def test_an_error_has_the_code_and_words_of_clickhouse(said: str, code: int, status: int, message: str) -> None:
    """Before `Code:` stands what chDB itself says; an error without a code is one all the same."""
    error = EngineError.from_engine(RuntimeError(said))
    assert (error.code, error.status, str(error)) == (code, status, message)


@pytest.mark.parametrize(
    ("sql", "format_", "reads", "streams"),
    [
        ("SELECT 1", "Native", True, True),
        ("-- why\nWITH 1 AS a SELECT a", "JSONEachRow", True, True),
        ("SELECT 1", "JSON", True, False),
        ("SHOW TABLES", "TabSeparated", True, False),
        ("INSERT INTO t SELECT 1", "Native", False, False),
        ("DROP TABLE t", "CSV", False, False),
    ],
)
def test_only_a_select_streams_and_only_in_formats_that_can_be_laid_end_to_end(
    sql: str, format_: str, reads: bool, streams: bool
) -> None:
    """Blocks of JSON laid end to end are no JSON; and a write is never cancelled half-way."""
    statement = Statement(sql, format_)
    assert (statement.reads, statement.streams) == (reads, streams)


@pytest.mark.parametrize("name", ["max_threads = 1, readonly", "a b", "1x", "", "x;"])
def test_the_name_of_a_setting_is_no_place_for_sql(raw: Raw, name: str) -> None:
    status, headers, _ = raw("POST", b"SELECT 1", **{name: "0"})
    assert (status, headers["x-clickhouse-exception-code"]) == (404, "115")
