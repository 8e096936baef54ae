"""One bad row stops only itself, and is named: in the run's metadata, and by the check of its partition."""

from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.left_out import MAX_NAMED, LeftOut, latest, nothing_is_left_out
from ninjait_pipelines.partitions import DAILY, range_tags

FIRST, LAST = "2026-03-08", "2026-03-09"


def test_what_cannot_be_computed_is_left_out_with_its_reason() -> None:
    left_out = LeftOut()
    assert list(left_out.each([1, 0, 2], lambda row: f"row {row}", lambda row: 2 / row)) == [2.0, 1.0]
    assert left_out.metadata() == {"left_out": 1, "left_out_names": "row 0 (ZeroDivisionError: division by zero)"}


def test_a_run_that_is_ended_is_no_bad_row() -> None:
    def ended(_: int) -> None:
        raise KeyboardInterrupt

    left_out = LeftOut()
    with pytest.raises(KeyboardInterrupt):
        list(left_out.each([1], str, ended))
    assert left_out.reasons == {}


def test_an_error_of_the_source_stops_the_run() -> None:
    """A store that fails while its rows are read has not left out a row: it has read none."""

    def rows() -> Any:
        yield 1
        raise OSError("the connection is gone")

    with pytest.raises(OSError, match="is gone"):
        list(LeftOut().each(rows(), str, str))


def test_names_are_sorted_and_bounded_and_the_count_is_not() -> None:
    left_out = LeftOut()
    list(left_out.each(range(100, 0, -1), lambda row: f"row {row:03}", lambda row: 1 / 0))
    metadata = left_out.metadata()
    named = str(metadata["left_out_names"]).split("; ")
    assert (metadata["left_out"], len(named), named[0][:7], named[-1][:7]) == (100, MAX_NAMED, "row 001", "row 020")


def runs(bad: dict[str, str], instance: dg.DagsterInstance, partitioned: bool = True) -> dict[str | None, Any]:
    """A run of a mart that leaves out `bad` (partition -> its row), and its check: the evaluations by partition."""
    partitions: dict[str, Any] = {"partitions_def": DAILY, "backfill_policy": dg.BackfillPolicy.single_run()}

    @dg.asset(**partitions if partitioned else {})
    def mart(context: dg.AssetExecutionContext) -> None:
        for key in context.partition_keys if partitioned else [None]:
            left_out = LeftOut()
            list(left_out.each([bad[key or ""]] if (key or "") in bad else [], str, lambda _: 1 / 0))
            context.add_asset_metadata(left_out.metadata(), partition_key=key)

    tags = range_tags(FIRST, LAST) if partitioned else {}
    result = dg.materialize([mart, nothing_is_left_out(mart)], instance=instance, tags=tags)
    return {found.partition: found for found in result.get_asset_check_evaluations()}


def test_the_check_of_a_partition_is_about_that_partition() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        found = runs({LAST: "device 5"}, instance)
        assert {day: one.passed for day, one in found.items()} == {FIRST: True, LAST: False, None: False}
        assert found[LAST].check_name == "mart_left_nothing_out"
        assert found[LAST].description == "1 left out: device 5 (ZeroDivisionError: division by zero)"
        assert not found[LAST].blocking
        again = runs({}, instance)
        assert all(one.passed for one in again.values()), "what was mended is forgotten"
        assert again[LAST].description == "Nothing was left out."


def test_an_asset_without_partitions_has_one_result() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        [found] = runs({"": "device 5"}, instance, partitioned=False).values()
        assert (found.passed, found.metadata["left_out"].value) == (False, 1)
        assert latest(instance, dg.AssetKey("mart"), None)[0] == 1


def test_what_never_ran_left_nothing_out() -> None:
    """Nor did a run from before it was recorded."""
    with dg.DagsterInstance.ephemeral() as instance:
        assert latest(instance, dg.AssetKey("mart"), None) == (0, "")
        instance.report_runless_asset_event(dg.AssetMaterialization("mart", partition=FIRST))
        assert latest(instance, dg.AssetKey("mart"), FIRST) == (0, "")
