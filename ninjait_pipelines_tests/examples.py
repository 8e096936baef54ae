"""How many examples a property test tries."""

from hypothesis import settings


def examples(count: int) -> settings:
    """So many in `make test`, and under hypothesis' profile `fast` (conftest.py), which `make test-fast` uses, a tenth.
    No deadline: a machine may be busy."""
    return settings(max_examples=max(1, count * settings.default.max_examples // 100), deadline=None)
