"""Stamps of late samples: one for each set of fields, however many metrics there are."""

import pytest

from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.metrics.windows import STAMPED, STAMPS, stamped_fields

NAMES = [f"field_{number}" for number in range(60)]


def stamps(groups: list[tuple[int, list[str]]]) -> list[int]:
    """All stamps that sets of fields may have; the first group's empty set has one."""
    return [first + number for first, names in groups for number in range(2 ** len(names))]


@pytest.mark.parametrize("count", [1, 9, 10, 17, 18, 30, 38])
def test_no_two_sets_share_a_stamp_and_none_reaches_the_next_instant(count: int) -> None:
    """With a tenth field two late samples a millisecond apart would have fallen on one stamp."""
    groups = stamped_fields(NAMES[:count])
    assert [name for _, names in groups for name in names] == NAMES[:count]
    found = stamps(groups)  # type: ignore[arg-type]
    assert len(found) == len(set(found))
    assert (min(found), max(found) <= STAMPS) == (1, True)


def test_a_field_more_changes_no_stamp() -> None:
    """What lies in the stores has them."""
    for count in range(1, 38):
        for (first, names), (later_first, later_names) in zip(
            stamped_fields(NAMES[:count]), stamped_fields(NAMES[: count + 1]), strict=False
        ):
            assert (first, list(names)) == (later_first, list(later_names)[: len(names)])
    assert STAMPED[0] == (1, list(FIELDS)[:9])


def test_more_fields_than_there_are_stamps_are_refused_when_they_are_declared() -> None:
    with pytest.raises(ValueError, match="there are no stamps for late samples of field_38"):
        stamped_fields(NAMES[:39])
