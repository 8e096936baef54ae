"""The three hourly assets: 5 minutes, 1 hour, ClickHouse. Full resolution is read once for all three.

An hour that full resolution takes no points for any more is made tier from tier, in this order: device_metrics_hourly
is made from a lower tier, which must have been brought up to date first. So is what is asked for without the others.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import dagster as dg
import msgspec
import pyarrow as pa

from ninjait_pipelines.automation import fill_missing
from ninjait_pipelines.marts import Done, Window, computed_together, declared, replace
from ninjait_pipelines.metrics.model import HOUR, RETENTION, WIDTH, WINDOWS, Tier, tier_of
from ninjait_pipelines.metrics.windows import aggregate_windows, merge_windows
from ninjait_pipelines.partitions import HOURLY
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.store import StoreError, StoreFailed
from ninjait_pipelines.rollup.hours import (
    SAMPLE_TIMES,
    SamplesLost,
    batches,
    fewer,
    hourly_rows,
    hours_at_once,
    per_hour,
    sample_times,
    source_tier,
    still_whole,
)
from ninjait_pipelines.settings import THRESHOLDS

# Older hours have no full resolution to be made from.
LOOKBACK = RETENTION[Tier.RAW]
# An hour's last samples are still on their way when it ends: rolled up at once, every hour would be rolled up twice.
# Written as "not between :00 and :06", so that gaps are filled at once, at whatever minute Dagster starts. The schedule
# every_hour has requested the hour a minute earlier.
_GRACE = ~dg.AutomationCondition.cron_tick_passed("0 * * * *").since(
    dg.AutomationCondition.cron_tick_passed(f"{THRESHOLDS.rollup_grace_minutes + 1} * * * *")
)
# It has no partitions and is materialized every few seconds: it neither starts a roll-up nor holds one up.
_AGENT_METRICS = dg.AssetSelection.assets("agent_metrics")
# None of the three has FOLLOW_UPSTREAM: they are requested in one tick, and the sensor late_hours requests all three
# again. Dagster would take a range run's update of one for a new update upstream of the next, and run it three times.
CATCH_UP = fill_missing(LOOKBACK, ignoring=_AGENT_METRICS) & _GRACE
# How often a run fills an hour again that other runs fill at the same time. After that the hour is left as late.
MAX_ROUNDS = 3
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
NAMES = {
    Tier.FIVE_MINUTES: "device_metrics_5m",
    Tier.ONE_HOUR: "device_metrics_1h",
}
HOURLY_ROWS = "device_metrics_hourly"
ROLLUP = (*NAMES.values(), HOURLY_ROWS)
_declared = partial(declared, group_name="rollup", automation_condition=CATCH_UP)


@computed_together(
    _declared(
        NAMES[Tier.FIVE_MINUTES],
        "metrics_5m",
        "Full resolution -> 5-minute aggregates. Grain: device and 5 minutes with at least one sample.",
        deps=["agent_metrics"],
        kinds={"influxdb"},
    ),
    _declared(
        NAMES[Tier.ONE_HOUR],
        "metrics_1h",
        "1-hour aggregates, from the same read as the 5-minute ones. Grain: device and hour with at least one sample.",
        deps=[NAMES[Tier.FIVE_MINUTES]],
        kinds={"influxdb"},
    ),
    _declared(
        HOURLY_ROWS,
        HOURLY_ROWS,
        "Hourly rows in ClickHouse, from the same read as the tiers. Grain: device and hour with at least one sample.",
        deps=[NAMES[Tier.ONE_HOUR]],
        kinds={"clickhouse"},
    ),
    partitions_def=HOURLY,
)
def device_metrics_hours(
    windows: list[Window], asked: Collection[str], metrics_store: MetricsStore, clickhouse: ClickHouse
) -> Iterator[Done]:
    """The three roll-ups of an hour, from one read of full resolution where it still has the hour."""
    hours, now = [window.start for window in windows], clickhouse.now()
    # The lower tiers may have late points of older hours, which full resolution does not have.
    together = [hour for hour in hours if len(asked) == len(ROLLUP) and tier_of(hour, now) is Tier.RAW]
    others = sorted(set(hours) - set(together))
    run = RollUp(metrics_store, clickhouse)
    run.from_one_read(together)
    for source, target in ((Tier.RAW, Tier.FIVE_MINUTES), (Tier.FIVE_MINUTES, Tier.ONE_HOUR)):
        if NAMES[target] in asked:
            filled = [*_filled(metrics_store, clickhouse, source, target, others), *run.filled[target].values()]
            yield from (Done(NAMES[target], one.hour, one.rows, one.metadata()) for one in filled)
    if HOURLY_ROWS in asked:
        rolled_up = [*roll_up(others, metrics_store, clickhouse, now), *run.finish()]
        yield from (Done(HOURLY_ROWS, one.hour, one.rows, one.metadata()) for one in rolled_up)


class Filled(NamedTuple):
    """An hour of a tier, and the rows that were written for it: None if its source has begun to expire."""

    hour: datetime
    written: int | None
    seconds: float

    @property
    def rows(self) -> int:
        return self.written or 0

    def metadata(self) -> dict[str, Any]:
        return {"source_expired": self.written is None, "duration_seconds": self.seconds}


def _filled(
    store: MetricsStore, clickhouse: ClickHouse, source: Tier, target: Tier, hours: Sequence[datetime]
) -> list[Filled]:
    started = time.perf_counter()
    written = bring_up_to_date(store, clickhouse, source, target, hours) if hours else {}
    seconds = (time.perf_counter() - started) / max(len(hours), 1)
    return [Filled(hour, written.get(hour), seconds) for hour in hours]


class RollUp:
    """A roll-up of both tiers and of device_metrics_hourly, from one read of full resolution."""

    def __init__(self, store: MetricsStore, clickhouse: ClickHouse) -> None:
        self._store, self._clickhouse = store, clickhouse
        self.filled: dict[Tier, dict[datetime, Filled]] = {tier: {} for tier in NAMES}
        self._rolled_up: dict[datetime, RolledUp] = {}
        self._failure: Exception | None = None

    def from_one_read(self, hours: list[datetime]) -> None:
        """Rolls up hours that full resolution takes points for, oldest first, a few at a time."""
        before = samples_by_hour(self._clickhouse, hours) if hours else {}
        at_once = None
        for stretch in batches(hours, lambda _: None, len(hours)):
            while stretch:
                [again, *_] = batches(stretch, lambda _: None, at_once)
                stretch = stretch[len(again) :]
                last = again[-1]
                for _ in range(MAX_ROUNDS):
                    some = batches(again, lambda _: None, at_once)
                    again = [hour for together in some for hour in self._round(together, before)]
                    if not again:
                        break
                at_once = hours_at_once(self.filled[Tier.ONE_HOUR][last].rows)

    def _round(self, hours: list[datetime], before: dict[datetime, int]) -> list[datetime]:
        """Returns the hours that other runs filled meanwhile.

        1. Record the start of the 5-minute tier's run, read, and write that tier: see `bring_up_to_date`.
        2. Record its end, at once with the start of the 1-hour tier's run. That tier has the version of this moment, as
           if the 5-minute tier were read now: whatever else was written to it disturbed step 1.
           Dying before: as in `bring_up_to_date`; the 1-hour tier is older than the 5-minute tier, and the hour late.
        3. Write the 1-hour tier, record its end. Dying before: as in `bring_up_to_date`.
        4. Replace the rows, of the version before the read. Dying before: they are missing or late. If they cannot be
           replaced, the tiers of all hours are filled nevertheless, and `finish` raises.
        5. If another run of an hour ended meanwhile, the hour is filled again. Dying before: it is late.
        """
        started, as_of = time.perf_counter(), self._clickhouse.now()
        _record_tier_runs(self._clickhouse, hours, (Tier.FIVE_MINUTES, as_of, NEVER))
        # Repeated as a whole if the store is away: writing windows again changes nothing.
        five, windows, of_hour, times = self._store.call(lambda: _fill_first_tier(self._store, hours))
        filled_at = self._clickhouse.now()
        ends, starts = (Tier.FIVE_MINUTES, as_of, filled_at), (Tier.ONE_HOUR, filled_at, NEVER)
        _record_tier_runs(self._clickhouse, hours, ends, starts)
        one = _write(self._store, Tier.ONE_HOUR, windows)
        _record_tier_runs(self._clickhouse, hours, (Tier.ONE_HOUR, filled_at, self._clickhouse.now()))
        seconds = (time.perf_counter() - started) / len(hours)
        for tier, written in ((Tier.FIVE_MINUTES, five), (Tier.ONE_HOUR, one)):
            self.filled[tier] |= {hour: Filled(hour, written.get(hour, 0), seconds) for hour in hours}
        self._replace(hours, hourly_rows(of_hour, Tier.RAW, times), before, as_of, seconds)
        disturbed = {*_disturbed(self._clickhouse, hours, Tier.FIVE_MINUTES, as_of)}
        return sorted(disturbed.union(_disturbed(self._clickhouse, hours, Tier.ONE_HOUR, filled_at)))

    def _replace(
        self, hours: list[datetime], rows: pa.Table, before: dict[datetime, int], as_of: datetime, seconds: float
    ) -> None:
        if not self._failure:
            try:
                found = _replace_rows(hours, rows, Tier.RAW, before, self._store, self._clickhouse, as_of, seconds)
                self._rolled_up |= {one.hour: one for one in found}
            except (SamplesLost, StoreError) as error:
                self._failure = error

    def finish(self) -> list["RolledUp"]:
        """Steps 2 and 3 of `roll_up`, or raises why rows could not be replaced."""
        if self._failure:
            raise self._failure
        return _record(self._clickhouse, list(self._rolled_up.values()))


def _fill_first_tier(
    store: MetricsStore, hours: list[datetime]
) -> tuple[Counter[datetime], pa.Table, pa.Table, pa.Table]:
    """Writes the 5-minute tier. Returns its rows per hour, the windows of the 1-hour tier, made from it, those that
    rows are made of, from the samples themselves: the same but for the rounding of sums; and when samples came."""
    written = Counter[datetime]()
    of_tier, of_samples, times = [WINDOWS.empty_table()], [WINDOWS.empty_table()], [SAMPLE_TIMES.empty_table()]
    widths = [WIDTH[Tier.FIVE_MINUTES], HOUR]
    for five, hour in store.first_tiers(hours[0], hours[-1] + HOUR, widths):
        written.update(_write(store, Tier.FIVE_MINUTES, five))
        of_tier.append(aggregate_windows(five, HOUR))
        of_samples.append(hour)
        times.append(sample_times(five))
    hourly = (merge_windows(pa.concat_tables(of)) for of in (of_tier, of_samples))
    return written, *hourly, pa.concat_tables(times)


def _write(store: MetricsStore, tier: Tier, windows: pa.Table) -> dict[datetime, int]:
    """Writes windows to a tier, and returns their number per hour."""
    if refused := store.write_aggregates(tier, windows):
        problem = f"it refused {len(refused)} windows of {tier}, the first with: {refused[0].message}"
        raise StoreFailed(store.title, store.address, problem, "Mend the tier, then rerun the partition.")
    return {hour: rows for hour, (rows, _) in per_hour(windows["time"], windows["samples"]).items()}


def bring_up_to_date(
    store: MetricsStore, clickhouse: ClickHouse, source: Tier, target: Tier, hours: Sequence[datetime]
) -> dict[datetime, int]:
    """Fills a tier and records its version; returns the rows written per hour, as `fill_tier` does.

    1. Record the start of the run before it reads: what arrives from now on makes the hours late. Dying here: an hour
       that another run filled meanwhile is late for a quarter of an hour, because this run may have overwritten it.
    2. Read and write. Dying in it: as above; a rerun writes the same windows.
    3. Record the end of the run. Dying before: as above. After: the hours have this version.
    4. If another run of an hour ended meanwhile, either may have overwritten the other: the run that sees this, the
       last to end, fills the hour again. Dying before: the hour is late.
    """
    written: dict[datetime, int] = {}
    again = hours
    for _ in range(MAX_ROUNDS):
        as_of = clickhouse.now()
        _record_tier_runs(clickhouse, again, (target, as_of, NEVER))
        written |= fill_tier(store, source, target, again, as_of)
        _record_tier_runs(clickhouse, again, (target, as_of, clickhouse.now()))
        again = _disturbed(clickhouse, again, target, as_of)
        if not again:
            break
    return written


def _record_tier_runs(
    clickhouse: ClickHouse, hours: Sequence[datetime], *runs: tuple[Tier, datetime, datetime]
) -> None:
    """runs: tier, as_of and done_at."""
    rows = [(hour, str(tier), as_of, done_at) for tier, as_of, done_at in runs for hour in hours]
    hour, tier, as_of, done_at = zip(*rows, strict=True)
    columns = {
        "hour": pa.array(hour, pa.timestamp("s", "UTC")),
        "tier": pa.array(tier, pa.string()),
        "as_of": pa.array(as_of, pa.timestamp("us", "UTC")),
        "done_at": pa.array(done_at, pa.timestamp("us", "UTC")),
    }
    clickhouse.insert("rolled_up_tiers", pa.table(columns))


def _disturbed(clickhouse: ClickHouse, hours: Sequence[datetime], target: Tier, as_of: datetime) -> list[datetime]:
    """The hours of which another run ended after this one began."""
    rows = clickhouse.rows(sql("rollup/disturbed"), hours=list(hours), tier=str(target), as_of=as_of)
    return [row["hour"] for row in rows]


def fill_tier(
    store: MetricsStore, source: Tier, target: Tier, hours: Sequence[datetime], now: datetime
) -> dict[datetime, int]:
    """Aggregates hours of one tier into the next, oldest first; returns the rows written per hour.

    Dying half-way: a rerun replaces what was written. Hours whose source has begun to expire are left out and stay as
    they are: half an hour's samples would replace the whole hour.
    """
    written = {hour: 0 for hour in hours if still_whole(source, hour, now)}
    for together in batches(list(written), lambda _: None):
        written |= _write(store, target, store.aggregate(source, together[0], together[-1] + HOUR, WIDTH[target]))
    return written


class RolledUp(msgspec.Struct, frozen=True):
    """The result of one hour of device_metrics_hourly."""

    hour: datetime
    as_of: datetime
    tier: Tier
    rows: int
    samples: int
    seconds: float

    def metadata(self) -> dict[str, Any]:
        return {"samples": self.samples, "source_tier": str(self.tier), "duration_seconds": self.seconds}


def roll_up(
    hours: list[datetime], metrics_store: MetricsStore, clickhouse: ClickHouse, as_of: datetime
) -> list[RolledUp]:
    """Rolls up consecutive hours into device_metrics_hourly, oldest first. Tiers expire by `as_of` too, which is taken
    before the first read: what arrives from then on makes its hour late.

    Raises HourExpired, SamplesLost, StoreError; the rows of the hours that failed stay as they were.

    1. Read and replace a few hours at a time. Dying here: they are still missing or late, and are done again.
    2. Count what ClickHouse has now. Dying here: as above.
    3. Record the hours as rolled up. From here on only a later arrival makes them late.
    """
    before = samples_by_hour(clickhouse, hours) if hours else {}
    done: list[RolledUp] = []
    for together in batches(hours, lambda hour: source_tier(hour, as_of)):
        started = time.perf_counter()
        tier = source_tier(together[0], as_of)
        rows = _rows_of(tier, together[0], together[-1] + HOUR, metrics_store, clickhouse)
        seconds = (time.perf_counter() - started) / len(together)
        done += _replace_rows(together, rows, tier, before, metrics_store, clickhouse, as_of, seconds)
    return _record(clickhouse, done)


def _rows_of(
    tier: Tier, start: datetime, stop: datetime, metrics_store: MetricsStore, clickhouse: ClickHouse
) -> pa.Table:
    """The rows of some hours, made from a tier. The 1-hour tier does not say when samples came: the rows say what they
    said before."""
    windows = metrics_store.aggregate(tier, start, stop, HOUR)
    if tier is Tier.ONE_HOUR:
        times = clickhouse.arrow(sql("rollup/sample_times"), start=start, stop=stop).cast(SAMPLE_TIMES)
    else:
        times = sample_times(metrics_store.aggregate(tier, start, stop, WIDTH[Tier.FIVE_MINUTES]))
    return hourly_rows(windows, tier, times)


def _replace_rows(
    hours: list[datetime],
    rows: pa.Table,
    tier: Tier,
    before: dict[datetime, int],
    metrics_store: MetricsStore,
    clickhouse: ClickHouse,
    as_of: datetime,
    seconds: float,
) -> list[RolledUp]:
    started = time.perf_counter()
    found = per_hour(rows["timestamp"], rows["sample_count"])
    _refuse_loss(before, {hour: found[hour][1] for hour in found}, hours, f"{metrics_store.title} ({tier})")
    replace(clickhouse, HOURLY_ROWS, rows, as_of, hours)
    seconds += (time.perf_counter() - started) / len(hours)
    return [RolledUp(hour, as_of, tier, *found.get(hour, (0, 0)), seconds) for hour in hours]


def _record(clickhouse: ClickHouse, done: list[RolledUp]) -> list[RolledUp]:
    if done:
        hours = [one.hour for one in done]
        expected = {one.hour: one.samples for one in done}
        _refuse_loss(expected, samples_by_hour(clickhouse, hours), hours, "ClickHouse after the write")
        clickhouse.insert("rolled_up_hours", _rollup_log(done))
    return done


def samples_by_hour(clickhouse: ClickHouse, hours: list[datetime]) -> dict[datetime, int]:
    """Samples of each of these consecutive hours that has rows in device_metrics_hourly."""
    rows = clickhouse.rows(sql("rollup/samples_by_hour"), start=hours[0], stop=hours[-1] + HOUR)
    return {row["hour"]: row["samples"] for row in rows}


def _refuse_loss(before: dict[datetime, int], after: dict[datetime, int], hours: list[datetime], where: str) -> None:
    """An expired tier or a different metrics store reads as empty; believing it would delete good rows."""
    if lost := fewer(before, after, hours):
        raise SamplesLost(
            f"{where} has fewer samples than were rolled up: {'; '.join(lost[:5])}. Nothing was deleted. If they were "
            "deleted on purpose, delete the hour's rows from device_metrics_hourly_versions, then rerun."
        )


def _rollup_log(done: list[RolledUp]) -> pa.Table:
    return pa.table(
        {
            "hour": pa.array([hour.hour for hour in done], pa.timestamp("s", "UTC")),
            "as_of": pa.array([hour.as_of for hour in done], pa.timestamp("us", "UTC")),
            "source_tier": [str(hour.tier) for hour in done],
            "row_count": pa.array([hour.rows for hour in done], pa.uint32()),
        }
    )
