"""Phrases that read as translated, in the product's text and the documents: what a native engineer writes instead."""

import re
from collections.abc import Iterator

import pytest

from ninjait_pipelines.paths import ROOT

_COUNTED = r"rows?|lines?|bytes|messages?|samples?|points?|objects?|files?|times|[kmg]b|kib|mib|megabits?|heartbeats?"
_EACH = "second|minute|hour|day|week|month|year|device|message|organization|sample|tick|partition|copy|reading"
# Pattern -> what to write. Patterns match in any case.
BETTER = {
    r"\banew\b": "again, or from scratch",
    r"\bby (itself|themselves)\b": "automatically, or alone",
    r"\b(no|some)body\b": "what is missing: no organization, without an owner, unknown",
    r"\ball the same\b": "still, or anyway",
    r"\bwhoever\b": "anyone who, callers that",
    r"\bheld cop(y|ies)\b": "quarantined message",
    r"\bmost_(?!common\b)[a-z]": "max_",
    r"\b(is|are) told\b": "learns, gets, is passed",
    rf"\b({_COUNTED}) an? ({_EACH})\b(?! time)": "per",
    r"(^ *(#|\"\"\"|-) ?|\n\n *)(?-i:Of) (?!course)": "the subject first, not its genitive",
}
# Where such a word is a name.
NAMES = {"nobody": ("NOBODY", "`nobody`", '"nobody"', "nobody.pw_", "nobody =")}

FILES = sorted(
    [
        *(ROOT / "ninjait_pipelines").rglob("*.py"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    ]
)


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, phrase and the better one."""
    lines = text.splitlines()
    for pattern, better in BETTER.items():
        for found in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE):
            number = text.count("\n", 0, found.end())
            if not any(name in lines[number] for name in NAMES.get(found[0].casefold(), ())):
                yield number + 1, found[0].strip(), better


def test_text_reads_as_written_in_english() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {phrase!r}: write {better}"
        for path in FILES
        for number, phrase, better in findings(path.read_text())
    ]
    assert len(FILES) > 100
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "# A reading after a gap only begins anew.",
        "late days follow by themselves",
        "Nobody knows which.",
        "a sample that is late is kept all the same",
        "whoever reads it",
        "the number of held copies",
        "DrainConfig.most_messages",
        "the drain is told of it",
        "# One row a device and window",
        "10 megabits a second",
        "# Of a report, what is whole numbers",
        '    """Of several agents, the first by name."""',
    ],
)
def test_phrases_are_found(line: str) -> None:
    assert len(list(findings(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "NOBODY = str(uuid.UUID(int=0))",
        "as the user `nobody`, which must be able to reach the folder",
        "carry the same bytes a second time",
        "within the hour a sample falls into",
        "Counter(reasons).most_common()",
        "Of course a rerun is free.",
    ],
)
def test_names_and_plain_english_pass(line: str) -> None:
    assert list(findings(line)) == []
