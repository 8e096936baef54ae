"""Marts and their checks, declared: a function computes the rows of one window, and this module does everything else.

A mart is named after its function and described by its docstring; its columns and its slice are those of its table. A
run takes its partitions in turn:

1. Take the version from ClickHouse's clock, before any source is read: what comes later makes the day late.
2. Compute the rows. Those that cannot be computed or stored are left out and named by `<mart>_left_nothing_out`.
3. Replace the slice. Dying before, or in it: `replace_slice` says what readers see; rerunning the partition heals it.
4. Record that the day is of this version, if late days are noticed. Dying before: the day is computed once more.

Several that are made from one read are `computed_together`.

Business rules do not belong here.
"""

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple, Protocol

import dagster as dg
import msgspec
import pyarrow as pa

from ninjait_pipelines import partitions
from ninjait_pipelines.late_days import is_late, record_day
from ninjait_pipelines.left_out import LeftOut, latest
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_schema import column_schema, mart_columns, mart_rows
from ninjait_pipelines.resources.clickhouse_versions import refuse_marker, refuse_markers, slices_from
from ninjait_pipelines.resources.postgres import check_times

OWNERS = ["team:data-engineering"]
# A week of hours, or half a year of days: what one run may lose by dying, and what Dagster records in a few seconds.
BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=168)
MAX_NAMED = 10
# The first of these columns that a mart has names a row that is left out.
KEYS = ("id", "event_id", "ticket_id", "organization_id")


class Window(NamedTuple):
    """A partition: [start, end), UTC."""

    start: datetime
    end: datetime

    @property
    def day(self) -> date:
        """Its first day."""
        return self.start.date()


class Columns(Protocol):
    """A table by columns: pyarrow's, or that of any library that gives Arrow, such as polars."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Rows = Iterable[Mapping[str, Any]] | Columns


class Computation(msgspec.Struct):
    """What the function of a window may have, as a parameter of that name; its other parameters are resources.

    left_out: leaves out and names what cannot be computed; metadata: what else the run records of the partition.
    """

    window: Window
    as_of: datetime
    left_out: LeftOut = msgspec.field(default_factory=LeftOut)
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)


def mart(table: str | None = None, **options: Any) -> Callable[[Callable[..., Rows]], dg.AssetsDefinition]:
    """Makes the asset of a mart from a function of a window (see Computation) that returns its rows, without `as_of`.

    table: where they are stored, if its name is another; options: those of `computed`.

        @mart(group_name="tickets", partitions_def=partitions.DAILY, kinds={"postgres"})
        def ticket_events(window: Window, postgres: Postgres) -> Rows:
    """

    def decorate(rows_of: Callable[..., Rows]) -> dg.AssetsDefinition:
        name = options.get("name", rows_of.__name__)
        stored = table or name

        def write(clickhouse: ClickHouse, run: Computation, rows: Rows) -> int:
            return replace(clickhouse, stored, content(stored, rows, run.left_out), run.as_of, [run.window.start])

        kinds = {"clickhouse", *options["kinds"]}
        return _asset(rows_of, write, metadata=_columns(name), **{**options, "kinds": kinds})

    return decorate


def replace(clickhouse: ClickHouse, table: str, rows: pa.Table, as_of: datetime, starts: Sequence[datetime]) -> int:
    """Makes the rows all that the windows from these starts have, step 3, and returns their number."""
    slices = [slice_ for start in starts for slice_ in slices_from(table, start)]
    return clickhouse.replace_slice(table, rows, as_of, slices)


def computed(**options: Any) -> Callable[[Callable[..., int]], dg.AssetsDefinition]:
    """As `mart`, of a function that writes its window itself, to whichever stores, and returns the number of rows.

    options: `notices_late_days`: see step 4; what else `dg.asset` takes.
    """

    def decorate(compute: Callable[..., int]) -> dg.AssetsDefinition:
        return _asset(compute, lambda _clickhouse, _run, count: count, **options)

    return decorate


class Done(msgspec.Struct, frozen=True):
    """The result of one window of one asset; `metadata` is what the run records beside the number of rows."""

    asset: str
    start: datetime
    rows: int
    metadata: dict[str, Any]


def declared(name: str, columns_of: str, description: str, **options: Any) -> dg.AssetSpec:
    """One of the assets of `computed_together`; columns_of: the table that has its columns; options: of AssetSpec."""
    options = {"owners": OWNERS, "metadata": _columns(columns_of), **options}
    return dg.AssetSpec(name, description=description, **options)


def computed_together(*assets: dg.AssetSpec, **options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Makes assets whose windows a function computes from one read; a run may ask for any of them.

    The function takes all `windows` of the run, so that it reads as many at once as it likes, and the names `asked`
    for; its other parameters are resources. It takes the versions itself, and yields what is Done. What it raises fails
    the assets of which a window is missing, and no others. options: of dg.multi_asset.
    """

    def decorate(compute: Callable[..., Iterator[Done]]) -> dg.AssetsDefinition:
        @dg.multi_asset(
            name=compute.__name__,
            description=_description(compute),
            specs=assets,
            can_subset=True,
            backfill_policy=BACKFILL,
            required_resource_keys=set(_resources(compute, ("windows", "asked"))),
            **options,
        )
        def together(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
            keys = {start: (key, Window(start, end)) for key, start, end in partitions.windows(context)}
            asked = {key.to_user_string() for key in context.selected_asset_keys}
            given = {"windows": [window for _, window in keys.values()], "asked": asked}
            missing = {name: set(keys) for name in asked}
            for done in compute(**_arguments(compute, given, context)):
                metadata = {"dagster/partition_row_count": done.rows, **done.metadata}
                context.add_asset_metadata(metadata, asset_key=done.asset, partition_key=keys[done.start][0])
                missing[done.asset].remove(done.start)
                if not missing[done.asset]:
                    yield dg.MaterializeResult(asset_key=done.asset)

        return together

    return decorate


def _columns(table: str) -> dict[str, Any]:
    return {"dagster/column_schema": column_schema(table)}


def _asset(
    compute: Callable[..., Any],
    write: Callable[[ClickHouse, Computation, Any], int],
    notices_late_days: bool = False,
    **options: Any,
) -> dg.AssetsDefinition:
    stores = _resources(compute, Computation.__struct_fields__)
    options = {"name": compute.__name__, "description": _description(compute), "owners": OWNERS, **options}
    options.setdefault("backfill_policy", BACKFILL)

    @dg.asset(required_resource_keys={"clickhouse", *stores}, **options)
    def asset(context: dg.AssetExecutionContext) -> None:
        clickhouse: ClickHouse = context.resources.clickhouse
        for key, start, end in partitions.windows(context):
            started = time.perf_counter()
            run = Computation(Window(start, end), clickhouse.now())
            count = write(clickhouse, run, compute(**_arguments(compute, msgspec.structs.asdict(run), context)))
            if notices_late_days:
                record_day(clickhouse, options["name"], run.window.day, run.as_of)
            rows, duration = {"dagster/partition_row_count": count}, {"duration_seconds": time.perf_counter() - started}
            metadata = {**rows, **run.metadata, **run.left_out.metadata(), **duration}
            context.add_asset_metadata(metadata, partition_key=key)

    return asset


def content(table: str, rows: Rows, left_out: LeftOut) -> pa.Table:
    """What the table holds of these rows; of rows by columns all or, with an error, nothing."""
    if not isinstance(rows, Iterable) or isinstance(rows, pa.Table):
        columns = mart_columns(table, pa.table(rows))
        refuse_markers(columns)
        return columns
    rows = list(rows)
    try:
        return _checked(table, rows)
    except KeyError:
        raise
    except Exception:  # noqa: BLE001 -- converting row by row finds the bad one
        key = next(name for name in KEYS if name in rows[0])

        def checked(row: Mapping[str, Any]) -> Mapping[str, Any]:
            _checked(table, [row])
            return row

        return mart_rows(table, list(left_out.each(rows, lambda row: f"{table} {row[key]}", checked)))


def _checked(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    for row in rows:
        check_times(row)
        refuse_marker(row)
    return mart_rows(table, rows)


class Examined(msgspec.Struct):
    """What the function of a check may have, as a parameter of that name; its other parameters are resources.

    left_out: how much the partition's last run left out, which another check names.
    """

    window: Window | None
    left_out: int


def check(
    asset: dg.AssetsDefinition,
    blocking: bool = False,
    unless_late: bool = False,
    name: str | None = None,
    description: str | None = None,
) -> Callable[[Callable[..., dg.AssetCheckResult]], dg.AssetChecksDefinition]:
    """Makes a check of a function of a window (see Examined), for each partition of a run.

    unless_late: a day that repairs itself has lost nothing, and passes; name and description: else the function's name
    and docstring.
    """

    def decorate(examine: Callable[..., dg.AssetCheckResult]) -> dg.AssetChecksDefinition:
        stores = _resources(examine, Examined.__struct_fields__)

        @dg.asset_check(
            asset=asset,
            name=name or examine.__name__,
            description=description or _description(examine),
            partitions_def=asset.partitions_def,
            blocking=blocking,
            required_resource_keys={*stores, *({"clickhouse"} if unless_late else ())},
        )
        def checked(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
            def of(window: Window | None) -> dg.AssetCheckResult:
                run = Examined(window, _left_out(context.instance, asset, window))
                result = examine(**_arguments(examine, msgspec.structs.asdict(run), context))
                return _unless_late(context.resources.clickhouse, asset, window, result) if unless_late else result

            return partitions.per_partition(context, lambda *window: of(Window(*window))) if partitioned else of(None)

        return checked

    partitioned = asset.partitions_def is not None
    return decorate


def _left_out(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, window: Window | None) -> int:
    definition, key = asset.partitions_def, None
    if window and isinstance(definition, dg.TimeWindowPartitionsDefinition):
        key = definition.get_partition_key_for_timestamp(window.start.timestamp())
    return latest(instance, asset.key, key)[0]


def _unless_late(
    clickhouse: ClickHouse, asset: dg.AssetsDefinition, window: Window | None, result: dg.AssetCheckResult
) -> dg.AssetCheckResult:
    late = not result.passed and window is not None and is_late(clickhouse, asset.key.to_user_string(), window.day)
    description = f"{result.description} The rest came later; it repairs itself." if late else result.description
    metadata: dict[str, Any] = {**result.metadata, "late": late}
    return result._replace(passed=result.passed or late, description=description, metadata=metadata)


def equal(name: str, expected: int, other_name: str, found: int) -> dg.AssetCheckResult:
    """Passes where both counts are the same."""
    return dg.AssetCheckResult(
        passed=expected == found,
        description=f"{expected} {name}, {found} {other_name}.",
        metadata={name.replace(" ", "_"): expected, other_name.replace(" ", "_"): found},
    )


def none_of(wrong: Iterable[str], what: str, advice: str = "", **result: Any) -> dg.AssetCheckResult:
    """Passes where nothing is wrong, else names the first of it; result: what else the result has."""
    wrong = list(wrong)
    description = f"{len(wrong)} {what}: {some_of(wrong)}{advice}" if wrong else "None."
    return dg.AssetCheckResult(passed=not wrong, description=description, **result)


def some_of(names: Iterable[str], limit: int = MAX_NAMED) -> str:
    """The first of them, for people."""
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (", ..." if len(ordered) > limit else "")


def _resources(function: Callable[..., Any], given: tuple[str, ...]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in given]


def _arguments(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
) -> dict[str, Any]:
    wanted = inspect.signature(function).parameters
    return {name: given[name] if name in given else getattr(context.resources, name) for name in wanted}


def _description(function: Callable[..., Any]) -> str:
    """The docstring, its lines joined: Dagster's UI wraps them itself."""
    return " ".join((inspect.getdoc(function) or "").split())
