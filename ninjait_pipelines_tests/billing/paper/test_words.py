"""The words of a document: each language has all of them."""

import pytest

from ninjait_pipelines.billing.paper.words import WORDS
from ninjait_pipelines.billing.rating.document import UNITS

# A language without a singular, or whose word has none.
SINGULAR = {name for name in WORDS["en"] if name.endswith(".one")}


@pytest.mark.parametrize("language", WORDS)
def test_a_language_has_every_word(language: str) -> None:
    words = WORDS[language]
    assert words.keys() - SINGULAR == WORDS["en"].keys() - SINGULAR
    assert all(text.count("{}") == WORDS["en"][name].count("{}") for name, text in words.items())


def test_what_a_document_may_say_has_a_word() -> None:
    said = {
        "category": ("S", "Z", "E", "AE", "K", "G", "O", "L", "M", "B"),
        "basis": ("registered", "reporting", "last_day", "peak", "average"),
        "unit": (*UNITS.values(), "packages"),
    }
    assert {f"{kind}.{one}" for kind, names in said.items() for one in names} <= WORDS["en"].keys()
    assert {"invoice", "credit_note", "draft", "void"} <= WORDS["en"].keys()
