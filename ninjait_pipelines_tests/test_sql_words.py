"""What a statement is, by its words."""

import subprocess
import sys

import pytest

from ninjait_pipelines.sql_words import READS, first_word, tokens


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (" /* x */ with 1 as a select a", "WITH"),
        ("-- SELECT\nDROP TABLE t", "DROP"),
        ("#! SELECT\nINSERT INTO t", "INSERT"),
        ("(SELECT 1)", "("),
        ("'SELECT'", "'SELECT'"),
        (" ", ""),
        ("", ""),
    ],
)
def test_the_first_word_is_no_comment(sql: str, expected: str) -> None:
    assert first_word(sql) == expected


def test_what_writes_is_no_reading() -> None:
    for word in ("INSERT", "ALTER", "DROP", "KILL", "SET", "SYSTEM", "CREATE", "OPTIMIZE", "'SELECT'", ""):
        assert word not in READS


def test_words_in_quotes_are_none() -> None:
    found = [token.text for token in tokens("SELECT `a b`, 'it''s', $x$ KILL $x$ FROM t") if token.word]
    assert found == ["SELECT", "FROM", "t"]


def test_it_imports_nothing_heavy() -> None:
    """The local ClickHouse front is one process more that would hold Dagster in memory."""
    code = "import sys, ninjait_pipelines.sql_words; print(*sys.modules.keys() & {'dagster', 'pyarrow', 'pydantic'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
