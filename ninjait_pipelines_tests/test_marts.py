"""Declared marts: what every mart does, whatever it computes."""

from collections.abc import Collection, Iterator
from datetime import date
from typing import Any
from uuid import UUID

import dagster as dg
import pyarrow as pa
import pytest

from ninjait_pipelines import partitions
from ninjait_pipelines.left_out import LeftOut, nothing_is_left_out
from ninjait_pipelines.marts import (
    Done,
    Rows,
    Window,
    check,
    computed_together,
    declared,
    equal,
    mart,
    none_of,
    some_of,
)
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines_tests.runs import Killed, content, killed, passed, run

ORGANIZATION = UUID(int=1)
DAY = "2026-03-02"
DECLARED: dict[str, Any] = {
    "name": "technician_performance",
    "group_name": "tests",
    "partitions_def": partitions.DAILY,
    "kinds": {"python"},
}
source: list[dict[str, Any]] = []  # what the mart computes its rows from


def row(technician: int, closed: int, day: str = DAY) -> dict[str, Any]:
    return {
        "day": date.fromisoformat(day),
        "organization_id": ORGANIZATION,
        "technician_id": UUID(int=technician),
        "tickets_closed": closed,
        "mean_hours_to_close": 1.5,
        "median_hours_to_close": 1.0,
        "mean_first_response_minutes": None,
        "first_response_breaches": 0,
        "resolution_breaches": 0,
    }


@mart(**DECLARED)
def _figures(window: Window, left_out: LeftOut) -> Rows:
    """Figures of the day."""
    return [one for one in source if one["day"] == window.day]


_figures_left_nothing_out = nothing_is_left_out(_figures)


@check(_figures)
def _all_are_there(window: Window, clickhouse: ClickHouse, left_out: int) -> dg.AssetCheckResult:
    """As many as the source has."""
    query = "SELECT count() FROM technician_performance WHERE day = {day:Date}"
    expected = sum(one["day"] == window.day for one in source)
    return equal("rows expected", expected, "in ClickHouse", clickhouse.scalar(query, day=window.day) + left_out)


@mart(**DECLARED)
def _by_columns(window: Window) -> Rows:
    """The same, as a table of Arrow."""
    rows = [{name: str(v) if isinstance(v, UUID) else v for name, v in one.items()} for one in source]
    return pa.Table.from_pylist(rows)


@pytest.fixture(autouse=True)
def rows() -> Any:
    source[:] = [row(1, 3), row(2, 5), row(1, 7, "2026-03-03")]
    yield
    source.clear()


def figures(stores: Stores) -> list[tuple[Any, ...]]:
    return [(one[0].isoformat(), one[2].int, one[3]) for one in content(stores, "technician_performance")]


def test_a_run_replaces_its_slice_only_and_twice_is_once(stores: Stores) -> None:
    run(stores, _figures, span=(DAY, "2026-03-03"))
    source[:] = [row(1, 4)]
    for _ in range(2):
        run(stores, _figures, key=DAY)
    assert figures(stores) == [(DAY, 1, 4), ("2026-03-03", 1, 7)]


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_its_write_it_shows_the_old_or_the_new_and_a_rerun_heals_it(stores: Stores, after: bool) -> None:
    run(stores, _figures, key=DAY)
    old, new = [(DAY, 1, 3), (DAY, 2, 5)], [(DAY, 2, 6)]
    source[:] = [row(2, 6)]
    with killed(ClickHouse, "replace_slice", after=after), pytest.raises(Killed):
        run(stores, _figures, key=DAY)
    assert figures(stores) == (new if after else old)
    run(stores, _figures, key=DAY)
    assert figures(stores) == new


def test_a_row_that_cannot_be_stored_is_left_out_and_named(stores: Stores) -> None:
    source[1]["tickets_closed"] = -1
    result = run(stores, _figures, _figures_left_nothing_out, _all_are_there, key=DAY)
    assert figures(stores) == [(DAY, 1, 3)]
    assert passed(result) == {"technician_performance_left_nothing_out": False, "_all_are_there": True}
    (evaluation,) = (one for one in result.get_asset_check_evaluations() if not one.passed)
    assert str(ORGANIZATION) in str(evaluation.description)


@pytest.mark.parametrize(("name", "value"), [("tickets_closd", 1), ("tickets_closed", None)])
def test_a_column_unknown_or_missing_is_an_error_and_changes_nothing(stores: Stores, name: str, value: Any) -> None:
    """A column that a later migration added was dropped in silence."""
    run(stores, _figures, key=DAY)
    if value is None:
        del source[0][name]
    else:
        source[0][name] = value
    with pytest.raises(KeyError, match=name):
        run(stores, _figures, key=DAY)
    assert figures(stores) == [(DAY, 1, 3), (DAY, 2, 5)]


def test_columns_are_as_good_as_rows(stores: Stores) -> None:
    source[:] = [row(1, 3), row(2, 5)]
    run(stores, _by_columns, key=DAY)
    by_columns = figures(stores)
    run(stores, _figures, key=DAY)
    assert figures(stores) == by_columns == [(DAY, 1, 3), (DAY, 2, 5)]


def test_columns_with_a_row_like_a_marker_are_an_error_and_change_nothing(stores: Stores) -> None:
    """The view takes such a row for a version: all rows of the day of before it would be gone."""
    run(stores, _by_columns, key=DAY)
    before = figures(stores)
    source[:] = [row(1, 4), row(2, 5) | {"organization_id": UUID(int=0)}]
    with pytest.raises(ValueError, match="as versions of slices have it"):
        run(stores, _by_columns, key=DAY)
    assert figures(stores) == before


def test_an_asset_shows_its_docstring_and_the_columns_that_the_database_has() -> None:
    spec = _figures.specs_by_key[dg.AssetKey("technician_performance")]
    assert spec.description == "Figures of the day."
    assert spec.kinds >= {"clickhouse", "python"}


def test_results_name_what_is_wrong() -> None:
    assert none_of([], "devices").passed
    result = none_of((f"d{n:02}" for n in range(12)), "devices are late", ": look at them")
    assert (result.passed, result.description) == (
        False,
        "12 devices are late: d00, d01, d02, d03, d04, d05, d06, d07, d08, d09, ...: look at them",
    )
    assert some_of(["b", "a"]) == "a, b"
    assert equal("rows", 1, "in ClickHouse", 2).metadata["in_ClickHouse"].value == 2


DAYS = (DAY, "2026-03-03")
TWINS = ("elder", "younger")
computed: list[tuple[str, str]] = []  # what the twins are computed for: asset and day; none other
days_at_once: list[int] = []


@computed_together(
    *(declared(name, "technician_performance", f"The {name}.", group_name="tests") for name in TWINS),
    partitions_def=partitions.DAILY,
)
def _twins(windows: list[Window], asked: Collection[str]) -> Iterator[Done]:
    """Two of one read."""
    days_at_once.append(len(windows))
    for name in TWINS:
        for window in windows:
            if name in asked and (name, window.day.isoformat()) in computed:
                yield Done(name, window.start, 7, {"of": window.day.isoformat()})
    if asked == {*TWINS} and len(computed) < 4:
        raise RuntimeError("one is missing")


@pytest.mark.parametrize(
    ("days", "only", "materialized"),
    [
        (4, (), TWINS),
        (2, (), TWINS[:1]),
        (3, (), TWINS[:1]),
        (1, (), ()),
        (2, TWINS[:1], TWINS[:1]),
        (4, TWINS[1:], TWINS[1:]),
    ],
)
@pytest.mark.usefixtures("rows")
def test_of_assets_computed_together_those_are_done_whose_windows_all_are(
    stores: Stores, days: int, only: tuple[str, ...], materialized: tuple[str, ...]
) -> None:
    computed[:] = [(name, day) for name in TWINS for day in DAYS][:days]
    days_at_once.clear()
    result = run(stores, _twins, span=DAYS, only=only, fails=set(materialized) != set(only or TWINS))
    events = [event.materialization for event in result.get_asset_materialization_events()]
    found = {(one.asset_key.to_user_string(), one.partition): one.metadata for one in events}
    assert set(found) == {(name, day) for name in materialized for day in DAYS}
    for (_, day), metadata in found.items():
        assert (metadata["dagster/partition_row_count"].value, metadata["of"].value) == (7, day)
    assert days_at_once == [2]


def test_assets_computed_together_show_the_columns_that_the_database_has() -> None:
    [elder, younger] = _twins.specs
    assert (elder.description, younger.description) == ("The elder.", "The younger.")
    assert elder.metadata["dagster/column_schema"] == _figures.metadata_by_key[_figures.key]["dagster/column_schema"]
    assert elder.owners == list(_figures.owners_by_key[_figures.key])
