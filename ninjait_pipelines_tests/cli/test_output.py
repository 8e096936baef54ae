"""What reaches a terminal, a pipe or a script, whatever was said by others."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
import typer

from ninjait_pipelines.cli.output import counted, fail, print_csv, print_json, print_table, safe
from ninjait_pipelines_tests.cli.forked import in_a_pipe, on_a_terminal

# A title, a cleared screen, C1's CSI, text that runs backwards, a line of its own, an answer typed for the person.
HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b31m\u202eb\rc\x08\x7f"


@pytest.mark.parametrize("form", ["--table", "--json", "--csv"])
def test_nothing_from_outside_reaches_a_terminal_as_a_command_to_it(stack: dict[str, str], form: str) -> None:
    """`ninjait sql` printed escapes raw, also as CSV."""
    as_hex = HOSTILE.encode().hex()
    sql = f"SELECT unhex('{as_hex}') AS a, [unhex('{as_hex}')] AS b, 'é日' AS \"c\x1b[31m\""
    options = [] if form == "--table" else [form]
    shown = on_a_terminal("sql", *options, sql, env=stack)
    assert [one for one in shown if not one.isprintable() and one != "\n"] == []
    assert "é日" in shown
    if form == "--json":
        assert json.loads(shown)[0]["a"] == HOSTILE
    piped = in_a_pipe("sql", *options, sql, env=stack).stdout
    assert ("\x1b]0;title" in piped) == (form == "--csv"), "a file has what there is"


def test_no_words_of_a_server_or_of_an_argument_reach_a_terminal_as_a_command(stack: dict[str, str]) -> None:
    for arguments in (
        ("sql", "SELECT throwIf(1, 'x\x1b[2J')"),
        ("quarantine", "show", "x\x1b[2J"),
        ("quarantine", "replay", "--set", "x\x1b[2J"),
        ("publish", "x\x1b[2J", "/dev/null"),
    ):
        shown = on_a_terminal(*arguments, env=stack)
        assert [one for one in shown if not one.isprintable() and one != "\n"] == [], arguments
        assert "[2J" in shown


@pytest.mark.parametrize(
    ("text", "kept", "shown"),
    [
        ("plain é日", "", "plain é日"),
        ("a\tb\nc", "", "a\\tb\\nc"),
        ("a\tb\nc", "\n\t", "a\tb\nc"),
        ("\x1b[2J\n", "\n", "\\x1b[2J\n"),
        ("\u202e\u2028", "", "\\u202e\\u2028"),
    ],
)
def test_what_is_not_printable_is_escaped_but_for_what_is_kept(text: str, kept: str, shown: str) -> None:
    assert safe(text, kept) == shown


@pytest.mark.parametrize(("count", "words"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12_345, "12,345 rows")])
def test_counts_have_their_noun(count: int, words: str) -> None:
    assert counted(count, "row") == words


def test_a_failure_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as failed:
        fail("the file \x1b[2J is away")
    assert failed.value.exit_code == 1
    assert capsys.readouterr() == ("", "ninjait: the file \\x1b[2J is away\n")


def test_json_has_times_ids_and_amounts_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    noon = datetime(2026, 3, 29, 12, tzinfo=UTC)
    print_json({"at": noon, "id": UUID(int=7), "amount": Decimal("1.50"), "none": float("inf"), "text": "\x9b\u2028é"})
    text = capsys.readouterr().out
    assert json.loads(text) == {
        "at": "2026-03-29T12:00:00Z",
        "id": str(UUID(int=7)),
        "amount": "1.50",
        "none": None,
        "text": "\x9b\u2028é",
    }
    assert [one for one in text if not one.isprintable() and one != "\n"] == []


def test_csv_quotes_what_would_break_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(("a", "b,c"), [(1, 'x"y'), (None, "two\nlines")])
    assert capsys.readouterr().out == 'a,"b,c"\r\n1,"x""y"\r\n,"two\nlines"\r\n'


def test_a_table_shows_none_as_blank_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "[b]count[/]"), [("[red]x[/]", 1), (None, None), ("two\nlines", 2)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["name        [b]count[/]", "[red]x[/]   1", "", "two\\nlines  2"]
