"""What a server's own words about its version mean, beside the oldest version that is supported."""

import re

# The first number with dots is the version ("16.2 (Debian 16.2-1)", "df-v1.40.0"), or else what the text begins with.
_VERSION = re.compile(r"\d+(?:\.\d+)+")
_BARE = re.compile(r"v?(\d+)(?!\d*-)")

NEWER = "Which versions are supported: docs/contracts.md#servers."


def numbers(text: str) -> tuple[int, ...] | None:
    """The version's numbers; None where the text has none, as of a server that somebody built himself."""
    found = _VERSION.search(text) or _BARE.match(text)
    return tuple(map(int, re.findall(r"\d+", found[0]))) if found else None


def too_old(version: str, oldest: str) -> bool:
    """Whether `version` is surely older than `oldest`; what cannot be compared is not."""
    found, wanted = numbers(version), numbers(oldest)
    return found is not None and wanted is not None and found < wanted


def problem(version: str, oldest: str) -> str:
    """What is to be said of a server that says `version`; empty where it is new enough, or no version is asked for."""
    if too_old(version, oldest):
        return f"version {version} is too old, {oldest} is the oldest that is supported"
    if oldest and numbers(version) is None:
        return f"says version '{version}', which cannot be compared with {oldest}, the oldest that is supported"
    return ""
