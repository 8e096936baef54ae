"""What the front reads out of a statement before the engine sees it."""

from __future__ import annotations

import pytest

from ninjait_pipelines.local.stack.clickhouse_sql import quote_name, quote_string, refusal, result_format
from ninjait_pipelines.local.stack.clickhouse_sql import split_insert as split


@pytest.mark.parametrize(
    ("text", "format", "statement", "data"),
    [
        (b"INSERT INTO t FORMAT Native\n\x01\x02", "Native", "INSERT INTO t ", b"\x01\x02"),
        (b"insert into t (a, b) format CSV\r\n1,2", "CSV", "insert into t (a, b) ", b"1,2"),
        (b"INSERT INTO t FORMAT JSONEachRow {}", "JSONEachRow", "INSERT INTO t ", b"{}"),
        (b"INSERT INTO t VALUES (1)", "Values", "INSERT INTO t ", b" (1)"),
        (b"-- why\n/* FORMAT x */ INSERT INTO t FORMAT TSV\n\n", "TSV", "-- why\n/* FORMAT x */ INSERT INTO t ", b"\n"),
        (b"INSERT INTO `FORMAT CSV` SETTINGS a='FORMAT TSV' FORMAT CSV\n", "CSV", None, b""),
        (b"INSERT INTO format FORMAT CSV\nx", "CSV", "INSERT INTO format ", b"x"),
        (
            b"INSERT INTO db.values (values, format) VALUES (1)",
            "Values",
            "INSERT INTO db.values (values, format) ",
            b" (1)",
        ),
        ("INSERT INTO tä FORMAT CSV\nü".encode(), "CSV", "INSERT INTO tä ", "ü".encode()),
        (b"INSERT INTO t SELECT a FROM input('a Int8') FORMAT CSV\n1", "CSV", None, b"1"),
    ],
)
def test_an_insert_is_parted_from_its_data(text: bytes, format: str, statement: str | None, data: bytes) -> None:
    insert = split(text)
    assert insert is not None
    assert (insert.format, text[insert.data_at :]) == (format, data)
    assert statement is None or insert.statement == statement


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT 1 FORMAT CSV",
        b"INSERT INTO t SELECT 1",
        b"INSERT INTO t SELECT name, format FROM x",
        b"INSERT INTO t WITH 1 AS values SELECT values",
        b"INSERT INTO t",
        b"",
    ],
)
def test_other_statements_have_no_data(text: bytes) -> None:
    assert split(text) is None


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", None),
        ("SELECT 1\n FORMAT Native", "Native"),
        ("SELECT 1 format JSON;", "JSON"),
        ("SELECT 1 FORMAT CSV SETTINGS max_threads = 1", "CSV"),
        ("SELECT 'FORMAT CSV'", None),
        ("SELECT format x FROM t", None),
        ("SELECT 1 -- FORMAT CSV", None),
    ],
)
def test_the_format_clause(sql: str, expected: str | None) -> None:
    assert result_format(sql) == expected


def test_what_is_refused() -> None:
    assert refusal("SELECT 1; SELECT 2") == "Multi-statements are not allowed"
    assert refusal("SELECT 1 INTO OUTFILE '/tmp/x'") == "INTO OUTFILE is not allowed"
    assert refusal("INSERT INTO t FROM INFILE '/etc/passwd'") == "FROM INFILE is not allowed"
    assert refusal("SELECT ';', 'INTO OUTFILE' ; -- ; SELECT 2") is None


def test_quotes() -> None:
    assert quote_string("a'b\\c") == r"'a\'b\\c'"
    assert quote_name("a`b") == r"`a\`b`"
