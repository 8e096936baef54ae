"""ClickHouse's SQL as words: enough to tell what kind of statement one is, without parsing it.

`ninjait sql` asks whether a statement only reads; the local ClickHouse front asks more. It starts with the local stack,
so nothing heavy is imported here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# The first words of statements that read.
READS = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "FROM", "("})

_TOKEN = re.compile(
    r"""(?P<skip>\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<other>'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|.)""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """A word, or a sign or quoted text, with its place in the statement."""

    text: str
    start: int
    end: int
    word: bool

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these words, given in upper case."""
        return self.word and self.text.upper() in words


def tokens(sql: str) -> Iterator[Token]:
    """Tokens without blanks and comments, lazily: binary data after a statement is never scanned."""
    for match in _TOKEN.finditer(sql):
        if match.lastgroup != "skip" and match.group("skip") is None:
            yield Token(match.group(), match.start(), match.end(), match.group("word") is not None)


def first_word(sql: str) -> str:
    """The statement's first word in upper case, or its first sign; empty if it has none."""
    token = next(tokens(sql), None)
    return token.text.upper() if token else ""
