"""Compares the version that a server reports with the oldest supported one."""

import re

# The version is the first number with dots ("16.2 (Debian 16.2-1)", "df-v1.40.0"), or else a number at the beginning.
_VERSION = re.compile(r"\d+(?:\.\d+)+")
_BARE = re.compile(r"v?(\d+)(?!\d*-)")

NEWER = "Which versions are supported: docs/contracts.md#servers."


def numbers(text: str) -> tuple[int, ...] | None:
    """The version's numbers; None if the text has none, as with a server built from source."""
    found = _VERSION.search(text) or _BARE.match(text)
    return tuple(map(int, re.findall(r"\d+", found[0]))) if found else None


def too_old(version: str, oldest: str) -> bool:
    """Whether `version` is certainly older than `oldest`; False if they cannot be compared."""
    found, wanted = numbers(version), numbers(oldest)
    return found is not None and wanted is not None and found < wanted


def problem(version: str, oldest: str) -> str:
    """What is wrong with a server's version; empty if it is new enough, or if no version is required."""
    if too_old(version, oldest):
        return f"version {version} is too old, the oldest supported is {oldest}"
    if oldest and numbers(version) is None:
        return f"reports version '{version}', which cannot be compared with {oldest}, the oldest supported"
    return ""
