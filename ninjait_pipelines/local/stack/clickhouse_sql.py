"""The little of SQL that the ClickHouse front must understand before the engine sees it.

Where a statement ends and its inline data begins, which format a result has, and whether a statement is one the
front refuses. Everything else about SQL is the engine's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ninjait_pipelines.sql_words import Token, tokens

_AFTER_FORMAT = re.compile(rb"[ \t\f]*\r?\n?")


@dataclass(frozen=True)
class Insert:
    """An INSERT with its data beside it: `statement` carries no FORMAT clause, the data begins at byte `data_at`."""

    statement: str
    format: str
    data_at: int


def split_insert(text: bytes) -> Insert | None:
    """The INSERT statement at the head of `text` and where its data starts; None if it is no INSERT with data."""
    # latin-1 maps one byte to one character, so that positions in the string are positions in the bytes
    stream = tokens(text.decode("latin-1"))
    first = next(stream, None)
    if first is None or not first.is_word("INSERT"):
        return None
    previous, selects, reads_input, depth = first, False, False, 0
    for token in stream:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        names_table = previous.text == "." or previous.is_word("INTO", "TABLE", "FUNCTION")
        if depth == 0 and not names_table:
            selects = selects or token.is_word("SELECT", "WITH")
            if token.is_word("VALUES") and not selects:
                return Insert(_utf8(text[: token.start]), "Values", token.end)
            if token.is_word("FORMAT") and (reads_input or not selects):
                return _insert_with_format(text, token.start, next(stream, None))
        reads_input = reads_input or token.is_word("INPUT")
        previous = token
    return None


def _insert_with_format(text: bytes, end: int, name: Token | None) -> Insert | None:
    if name is None or not name.word:
        return None
    if name.text.upper() == "VALUES":
        return Insert(_utf8(text[:end]), "Values", name.end)
    gap = _AFTER_FORMAT.match(text, name.end)
    return Insert(_utf8(text[:end]), name.text, gap.end() if gap else name.end)


def result_format(sql: str) -> str | None:
    """The name in the statement's FORMAT clause, if it has one."""
    found = list(tokens(sql))
    for position in range(len(found) - 2, -1, -1):
        clause, name, rest = found[position], found[position + 1], found[position + 2 :]
        # if anything else follows the name, `format` is a column with an alias
        if clause.is_word("FORMAT") and name.word and (not rest or rest[0].text == ";" or rest[0].is_word("SETTINGS")):
            return name.text
    return None


def refusal(sql: str) -> str | None:
    """Why the front does not run this statement, although the engine (a local one) would."""
    previous: Token | None = None
    ended = False
    for token in tokens(sql):
        if previous is None and token.is_word("SET", "USE"):
            return "SET and USE end with their request here: give settings and database with the request instead"
        if token.is_word("TEMPORARY") and previous is not None and previous.is_word("CREATE"):
            return "Temporary tables end with their request here, which has no sessions"
        if ended and token.text != ";":
            return "Multi-statements are not allowed"
        if token.is_word("OUTFILE") and previous is not None and previous.is_word("INTO"):
            return "INTO OUTFILE is not allowed"
        if token.is_word("INFILE") and previous is not None and previous.is_word("FROM"):
            return "FROM INFILE is not allowed"
        ended = ended or token.text == ";"
        previous = token
    return None


# file('/etc/passwd') as an expression, and python('name'), which reads variables of this process, need no right;
# sqlite() makes its file, and executable() looks for its program, before the engine asks for theirs. disk(), in the
# settings of a table or database, is a folder or a server of the caller's choice; EmbeddedRocksDB takes a folder, too.
# Engines need no parentheses: FileLog reads in the process's working folder, QueryRunner runs what is inserted into it,
# DataLakeCatalog asks a server.
ENGINES = frozenset({"FILELOG", "QUERYRUNNER", "DATALAKECATALOG"})
FORBIDDEN = ENGINES | {
    *("FILE", "PYTHON", "SQLITE", "EXECUTABLE", "EXECUTABLEPOOL", "DISK", "EMBEDDEDROCKSDB", "EVAL", "FILESYSTEM"),
    "FORMAT",
}
SCALARS = frozenset({"FILE", "PYTHON"})
# The FORMAT clause at the end, which every insert has, calls nothing.
_MAYBE_FORBIDDEN = re.compile(rf"{'|'.join(FORBIDDEN - {'FORMAT'})}|format(?!\s+\w+\s*\Z)|\\", re.IGNORECASE)
# A function's name may stand where one expects a function: arrayMap(file, ['/etc/passwd']), * APPLY file.
_TAKES_FUNCTION = re.compile(r"(array|map)\w+|apply", re.IGNORECASE)
# In VALUES any word like them may be a call: blanks, comments and escapes are ClickHouse's to tell.
_WORD = re.compile(rb"(?<!\w)(?:file|python|format)(?!\w)|[`\"][^`\"\n]*\\", re.IGNORECASE)


def may_call_forbidden(sql: str) -> bool:
    """Whether it is worth asking the engine what it reads there: a quoted name may have escapes."""
    return _MAYBE_FORBIDDEN.search(sql) is not None


def forbidden_call(sql: str) -> str | None:
    """The first function of FORBIDDEN that a statement calls, in the engine's own spelling of it."""
    found = list(tokens(sql))
    takes_function = any(token.word and _TAKES_FUNCTION.fullmatch(token.text) for token in found)
    for at, token in enumerate(found):
        name = token.text if token.word else token.text.strip('`"')
        if name.upper() not in FORBIDDEN:
            continue
        before, after = found[max(0, at - 1) : at], found[at + 1 : at + 2]
        is_called = (takes_function and name.upper() in SCALARS) or (bool(after) and after[0].text == "(")
        is_called = is_called or (name.upper() in ENGINES and bool(before) and before[-1].text == "=")
        if name.upper() == "FORMAT" and _is_pattern(found[at + 2 : at + 4]):
            continue
        is_table = bool(before) and (before[-1].text == "." or before[-1].is_word("INTO", "TABLE", "VIEW", "EXISTS"))
        if is_called and not is_table:
            return name
    return None


def _is_pattern(arguments: list[Token]) -> bool:
    """Whether these tokens begin the arguments of the function format('{}...', ...). The table function format(Values,
    text) reads text as expressions, whatever they call, and its format may be computed."""
    return (
        len(arguments) == 2 and arguments[0].text[:1] == "'" and "{" in arguments[0].text and arguments[1].text in ",)"
    )


def values_may_call(data: bytes) -> bool:
    """Whether the VALUES of an insert, which the engine reads as expressions, may call one of them."""
    return _WORD.search(data) is not None


def quote_string(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_name(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _utf8(text: bytes) -> str:
    return text.decode("utf-8", errors="replace")
