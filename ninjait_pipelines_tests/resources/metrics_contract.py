"""What every `MetricsStore` promises. An implementation subclasses `MetricsContract` and brings the fixture `store`."""

import itertools
import math
import random
import statistics
import struct
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ninjait_pipelines.metrics.model import (
    AGGREGATES,
    COUNTER_GAP,
    COUNTERS,
    FIELDS,
    POINTS,
    VOLUMES,
    WIDTH,
    WINDOWS,
    Tier,
)
from ninjait_pipelines.metrics.windows import late_windows
from ninjait_pipelines.resources.metrics_store import MetricsStore

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MILLISECOND = timedelta(milliseconds=1)
FIVE_MINUTES = 5 * MINUTE

Sample = tuple[str, str, datetime, dict[str, float]]  # organization, device, time, the fields that it carries
Key = tuple[str, str, datetime]

Reading = tuple[str, str, str, datetime, float | None, float | None]  # organization, device, interface, time, in, out

few_examples = settings(
    max_examples=12,
    deadline=None,
    # differing_executors: each store runs the same tests as a class of its own, maybe in one process.
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.differing_executors,
    ],
)


def yesterday() -> datetime:
    """Midnight: young enough for every tier, and complete."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - DAY


def new_id() -> str:
    return str(uuid.uuid4())


def points(samples: Iterable[Sample]) -> pa.Table:
    rows = [{"organization_id": o, "device_id": d, "time": t, **fields} for o, d, t, fields in samples]
    return pa.Table.from_pylist(rows, schema=POINTS)


def counters(readings: Iterable[Reading], source: str = "telegraf") -> pa.Table:
    names = [name for name in COUNTERS.names if name != "source"]
    rows = [dict(zip(names, one, strict=True)) | {"source": source} for one in readings]
    return pa.Table.from_pylist(rows, schema=COUNTERS)


def volumes(readings: Iterable[tuple[Any, ...]]) -> pa.Table:
    """Of (organization, device, source, disk, volume, time, used, total, free)."""
    return pa.Table.from_pylist([dict(zip(VOLUMES.names, one, strict=True)) for one in readings], schema=VOLUMES)


def windows_of(samples: Iterable[Sample], every: timedelta) -> dict[Key, dict[str, float | None]]:
    """What `aggregate` must give, in plain Python. Of samples with one key the last counts, field by field."""
    kept: dict[Key, dict[str, float]] = defaultdict(dict)
    for organization, device, moment, fields in samples:
        kept[organization, device, moment] |= fields
    grouped: dict[Key, list[dict[str, float]]] = defaultdict(list)
    for (organization, device, moment), fields in sorted(kept.items(), key=lambda item: item[0][2]):
        seconds = moment.timestamp() // every.total_seconds() * every.total_seconds()
        grouped[organization, device, datetime.fromtimestamp(seconds, UTC)].append(fields)
    return {key: _aggregates(group) for key, group in sorted(grouped.items())}


def _aggregates(group: list[dict[str, float]]) -> dict[str, float | None]:
    result: dict[str, float | None] = {"samples": float(len(group))}
    for name in FIELDS:
        values = [fields[name] for fields in group if name in fields]
        result[f"{name}_sum"] = math.fsum(values) if values else None
        result[f"{name}_count"] = float(len(values))
        result[f"{name}_min"] = min(values, default=None)
        result[f"{name}_max"] = max(values, default=None)
        result[f"{name}_last"] = values[-1] if values else None
    return result


def increases_of(readings: Iterable[Reading]) -> list[Sample]:
    """What readings of counters are worth as samples, in plain Python: each in its hour, of which a series is read with
    the hour before."""
    samples: dict[Key, dict[str, float]] = {}
    series: dict[tuple[Any, ...], list[tuple[datetime, float, bool]]] = defaultdict(list)
    for organization, device, interface, moment, *values in sorted(readings, key=lambda reading: reading[3]):
        samples.setdefault((organization, device, moment), {})
        own = moment.replace(minute=0, second=0, microsecond=0)
        for name, value in zip(("network_in", "network_out"), values, strict=True):
            for hour in (own, own + HOUR):
                if value is not None:
                    series[organization, device, interface, name, hour].append((moment, value, hour == own))
    for (organization, device, _, name, _), rows in series.items():
        for moment, increase in _increases_in_an_hour(rows):
            sample = samples[organization, device, moment]
            sample[name] = sample.get(name, 0.0) + increase
    return [(*key, fields) for key, fields in samples.items()]


def _increases_in_an_hour(rows: list[tuple[datetime, float, bool]]) -> list[tuple[datetime, float]]:
    """Of the rows that are the hour's own (the others are of the hour before), by the rules of contracts.md."""
    found: list[tuple[datetime, float]] = []
    resets = 0
    chains: list[list[tuple[datetime, float, bool]]] = []
    for row in rows:
        if not chains or row[0] - chains[-1][-1][0] > COUNTER_GAP:
            chains.append([])
        chains[-1].append(row)
    for chain in chains:
        rises = [(b - a) / (t - s).total_seconds() for (s, a, _), (t, b, _) in itertools.pairwise(chain) if b > a]
        usual = statistics.median(rises) if rises else 0.0
        wrapping = _wrapping(chain)
        limit = max(4 * usual, 2**17)
        baseline, goes_on = chain[0][1], 0
        for at in range(1, len(chain)):
            moment, value, own = chain[at]
            seconds = (moment - chain[at - 1][0]).total_seconds()
            through, increase = value + 2**32 - baseline, 0.0
            again = at + 1 < len(chain) and chain[at + 1][1] >= baseline
            near = baseline >= 3 * 2**30 and value < 2**30 and through <= limit * seconds
            far = through <= wrapping * seconds
            if at < goes_on:
                pass
            elif value < baseline < 2**32 and ((near and not again) or far):
                increase, baseline = through, value
            elif value >= baseline or value < baseline / 2 or value < 1024:
                goes_on = _where_it_goes_on(chain, at, baseline, max(usual, wrapping / 4))
                resets += own and (value < baseline or at < goes_on)
                if at >= goes_on:
                    increase, baseline = (value - baseline if value >= baseline else value), value
            if own:
                found.append((moment, increase))
    return [(moment, 0.0 if resets > 3 else increase) for moment, increase in found]


def _wrapping(chain: list[tuple[datetime, float, bool]]) -> float:
    """The bytes a second up to which falls are wraps."""
    steps = [
        (n, (t - s).total_seconds(), b - a) for n, ((s, a, _), (t, b, _)) in enumerate(itertools.pairwise(chain), 1)
    ]
    rises = [(seconds, step) for _, seconds, step in steps if step > 0]
    falls = [(n, seconds, step + 2**32) for n, seconds, step in steps if step < 0]
    fastest = 2 * max((step / seconds for seconds, step in rises), default=0.0)
    wraps = [(n, seconds, step) for n, seconds, step in falls if step <= fastest * seconds]
    if not rises or not wraps or len(wraps) < 0.75 * len(falls) or max(value for _, value, _ in chain) >= 2**32:
        return 0.0
    through = sum(step for _, _, step in wraps) / sum(seconds for _, seconds, _ in wraps)
    if through > 4 * sum(step for _, step in rises) / sum(seconds for seconds, _ in rises):
        return 0.0
    values, back = [value for _, value, _ in chain], 0
    for n, _, _ in wraps:
        after = next((later for later in range(n + 1, len(values)) if values[later] >= values[n - 1]), None)
        back += after is not None and values[after] - values[n - 1] <= (values[after] - values[after - 1]) / 16
    return fastest if 2 * back < len(wraps) else 0.0


def _where_it_goes_on(chain: list[tuple[datetime, float, bool]], at: int, baseline: float, usual: float) -> int:
    """The first of these readings that is not another's, where those from `at` on are."""
    apart = [not baseline / 2 <= value <= 2 * baseline for _, value, _ in chain]
    after = next((n for n in range(at, len(chain)) if not apart[n]), at)
    if after == at or chain[after][1] < baseline:
        return at

    def believed(grown: float, since: int, to: int, anyway: int) -> bool:
        return grown <= max(4 * usual, anyway) * (chain[to][0] - chain[since][0]).total_seconds()

    stepped = [chain[at][1] - baseline, chain[after][1] - chain[after - 1][1]]
    if believed(stepped[0], at - 1, at, 10 * 2**17) and believed(stepped[1], after - 1, after, 10 * 2**17):
        return at
    return after if believed(chain[after][1] - baseline, at - 1, after, 2**17) else at


def by_key(windows: pa.Table, organization: str | None = None) -> dict[Key, dict[str, Any]]:
    """The windows (of one organization) in their order, in the form of `windows_of`, which knows nothing of hours."""
    assert windows.schema == WINDOWS
    windows = windows.drop_columns(["covered", "several_senders"])
    rows = {(row.pop("organization_id"), row.pop("device_id"), row.pop("time")): row for row in windows.to_pylist()}
    assert len(rows) == windows.num_rows
    assert list(rows) == sorted(rows)
    return {key: row for key, row in rows.items() if organization in (None, key[0])}


def without_last(windows: dict[Key, dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    return {key: {n: v for n, v in row.items() if not n.endswith("_last")} for key, row in windows.items()}


def of(windows: pa.Table, organization: str) -> pa.Table:
    return windows.filter(pc.equal(windows["organization_id"], organization))


# Eighths below 2**40: every sum of them is exact in every order, so that windows can be compared with ==.
exact = st.integers(min_value=0, max_value=2**40).map(lambda number: number / 8)
some_fields = st.dictionaries(st.sampled_from(list(FIELDS)), exact, min_size=1)
# Milliseconds of two hours, gathered about the boundaries of windows, where mistakes are made.
boundaries = st.sampled_from(range(0, 7_200_000, 300_000))
moments = st.one_of(boundaries, boundaries.map(lambda ms: ms + 299_999), st.integers(0, 7_199_999))
histories = st.lists(st.tuples(st.integers(0, 1), moments, some_fields), min_size=1, max_size=40)


def samples_of(history: Sequence[tuple[int, int, dict[str, float]]], start: datetime) -> list[Sample]:
    organization, devices = new_id(), (new_id(), new_id())
    return [(organization, devices[device], start + ms * MILLISECOND, fields) for device, ms, fields in history]


# Seconds since the reading before, its growth, and whether the device booted in between; by device and interface.
steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 1),
        st.sampled_from([30, 60, 299, 300, 1_800, 3_599, 3_600, 3_601, 5_000]),
        st.integers(0, 2**40),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


def readings_of(history: Sequence[tuple[int, int, int, int, bool]], start: datetime) -> list[Reading]:
    """Monotone counters that begin anew at a boot; both counters of a reading, or one of them."""
    organization, devices, interfaces = new_id(), (new_id(), new_id()), ("eth0", "Wi-Fi 2, \\guest=1")
    at: dict[tuple[int, int], tuple[datetime, float]] = {}
    readings: list[Reading] = []
    for device, interface, seconds, growth, booted in history:
        moment, value = at.get((device, interface), (start, 0.0))
        moment, value = moment + seconds * SECOND, float(growth) if booted else value + growth
        at[device, interface] = moment, value
        out = None if growth % 3 == 0 else value / 2
        readings.append((organization, devices[device], interfaces[interface], moment, value, out))
    return readings


class MetricsContract:
    """The promises, edges first."""

    @pytest.fixture
    def store(self) -> MetricsStore:
        raise NotImplementedError("the implementation brings it, empty")

    def test_an_empty_store_gives_empty_tables(self, store: MetricsStore) -> None:
        start = yesterday()
        assert store.read(start, start + DAY).equals(POINTS.empty_table())
        for tier in Tier:
            assert store.aggregate(tier, start, start + DAY, HOUR).equals(WINDOWS.empty_table())
        assert store.latest(start, start + DAY).equals(POINTS.empty_table())

    def test_nothing_to_do_is_nothing_done(self, store: MetricsStore) -> None:
        store.declare()
        store.declare()
        store.write(POINTS.empty_table())
        store.write_counters(COUNTERS.empty_table())
        store.write_volumes(VOLUMES.empty_table())
        store.write_aggregates(Tier.ONE_HOUR, WINDOWS.empty_table())
        store.delete([])
        store.delete([new_id()])

    @pytest.mark.parametrize(
        ("start", "stop", "every", "words"),
        [
            (30 * SECOND, HOUR, FIVE_MINUTES, "start=.*is not a multiple of 0:05:00"),
            (timedelta(), 59 * MINUTE, HOUR, "stop=.*is not a multiple of 1:00:00"),
            (timedelta(), MILLISECOND, HOUR, "stop=.*is not a multiple"),
            (HOUR, HOUR, HOUR, "is not before stop"),
            (HOUR, timedelta(), HOUR, "is not before stop"),
        ],
    )
    def test_a_window_that_is_not_aligned_is_refused(
        self, store: MetricsStore, start: timedelta, stop: timedelta, every: timedelta, words: str
    ) -> None:
        for tier in Tier:
            with pytest.raises(ValueError, match=words):
                store.aggregate(tier, yesterday() + start, yesterday() + stop, every)

    def test_a_window_in_local_time_is_refused(self, store: MetricsStore) -> None:
        start = yesterday()
        for local in (start.replace(tzinfo=None), start.replace(tzinfo=timezone(5 * HOUR))):
            with pytest.raises(ValueError, match="is not in UTC"):
                store.aggregate(Tier.RAW, local, start + DAY, HOUR)

    def test_points_come_back_in_order_with_their_nulls(self, store: MetricsStore) -> None:
        start, organizations, devices = (
            yesterday(),
            sorted([new_id(), new_id()]),
            sorted([new_id(), new_id(), new_id()]),
        )
        samples = [
            (organization, device, start + n * 30 * SECOND, {name: float(n)})
            for organization in organizations
            for device in devices
            for n, name in enumerate(FIELDS)
        ]
        shuffled = random.Random(7).sample(samples, len(samples))
        store.write(points(shuffled))
        assert store.read(start, start + HOUR).equals(points(samples))
        assert store.read(start, start + HOUR, [devices[1]]).equals(points(s for s in samples if s[1] == devices[1]))
        assert store.read(start, start + HOUR, [*devices, *(new_id() for _ in range(98))]).equals(points(samples))
        assert store.read(start, start + HOUR, [new_id()]).num_rows == 0

    def test_windows_are_half_open(self, store: MetricsStore) -> None:
        start, organization, device = yesterday() + HOUR, new_id(), new_id()
        moments = [start - MILLISECOND, start, start + HOUR - MILLISECOND, start + HOUR]
        store.write(points((organization, device, moment, {"cpu": float(n)}) for n, moment in enumerate(moments)))
        assert store.read(start, start + HOUR)["cpu"].to_pylist() == [1.0, 2.0]
        (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
        assert (row["time"], row["samples"], row["cpu_min"], row["cpu_max"], row["cpu_last"]) == (
            start,
            2.0,
            1.0,
            2.0,
            2.0,
        )

    def test_a_window_without_a_sample_has_no_row(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        store.write(points((organization, device, start + n * HOUR, {"cpu": 1.0}) for n in (0, 3)))
        windows = store.aggregate(Tier.RAW, start, start + 5 * HOUR, HOUR)
        assert windows["time"].to_pylist() == [start, start + 3 * HOUR]

    def test_a_field_that_no_sample_carries_is_null(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        samples: list[Sample] = [
            (organization, device, start, {"cpu": 1.0, "memory": 7.0}),
            (organization, device, start + SECOND, {"cpu": 0.0}),
        ]
        store.write(points(samples))
        windows = store.aggregate(Tier.RAW, start, start + HOUR, HOUR)
        assert by_key(windows) == windows_of(samples, HOUR)
        (row,) = windows.to_pylist()
        # The last memory is that of the last sample which had one; the zero of cpu is a value, and not a null.
        assert (row["samples"], row["cpu_last"], row["memory_last"], row["memory_count"]) == (2.0, 0.0, 7.0, 1.0)
        assert [row[f"uptime_{aggregate}"] for aggregate in AGGREGATES] == [None, 0.0, None, None, None]

    def test_written_twice_is_written_once(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        table = points((organization, device, start + n * SECOND, {"network_in": float(n)}) for n in range(100))
        store.write(table)
        once = store.aggregate(Tier.RAW, start, start + HOUR, FIVE_MINUTES)
        store.write(table)
        assert store.read(start, start + HOUR).equals(table)
        assert store.aggregate(Tier.RAW, start, start + HOUR, FIVE_MINUTES).equals(once)

    def test_of_one_key_in_a_batch_the_later_row_wins(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        store.write(points((organization, device, start, {"cpu": value}) for value in (3.0, 1.0, 2.0)))
        assert store.read(start, start + HOUR)["cpu"].to_pylist() == [2.0]

    def test_of_one_key_in_two_batches_the_later_batch_wins(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        for value in (3.0, 1.0, 2.0):
            store.write(points([(organization, device, start, {"cpu": value})]))
        (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
        assert (row["samples"], row["cpu_sum"], row["cpu_max"], row["cpu_last"]) == (1.0, 2.0, 2.0, 2.0)

    @pytest.mark.parametrize("batches", [1, 3])
    def test_a_reading_that_comes_in_pieces_is_one_point(self, store: MetricsStore, batches: int) -> None:
        """collectd sends cpu, memory and disk of one instant as messages of their own: a later one that replaced the
        whole point would leave the last piece only."""
        start, organization, device = yesterday(), new_id(), new_id()
        pieces: list[Sample] = [
            (organization, device, start, {"cpu": 1.0, "memory": 5.0}),
            (organization, device, start, {"disk_used": 3.0}),
            (organization, device, start, {"memory": 4.0, "uptime": 0.0}),
        ]
        for first in range(0, 3, 3 // batches):
            assert store.write(points(pieces[first : first + 3 // batches])) == []
        (row,) = store.read(start, start + HOUR).to_pylist()
        merged = {"cpu": 1.0, "memory": 4.0, "disk_used": 3.0, "uptime": 0.0}
        assert {name: row[name] for name in FIELDS} == dict.fromkeys(FIELDS) | merged
        assert by_key(store.aggregate(Tier.RAW, start, start + HOUR, HOUR)) == windows_of(pieces, HOUR)

    @few_examples
    @given(history=histories, batches=st.integers(1, 4))
    def test_any_pieces_in_any_batches_merge(
        self, store: MetricsStore, history: list[tuple[int, int, dict[str, float]]], batches: int
    ) -> None:
        start = yesterday()
        samples = samples_of([(device, ms // 3_600_000, fields) for device, ms, fields in history], start)
        for first in range(batches):
            part = samples[len(samples) * first // batches : len(samples) * (first + 1) // batches]
            store.write(points(part))
        got = by_key(store.aggregate(Tier.RAW, start, start + HOUR, FIVE_MINUTES), samples[0][0])
        assert got == windows_of(samples, FIVE_MINUTES)

    def test_the_latest_of_each_field(self, store: MetricsStore) -> None:
        start, organization = yesterday(), new_id()
        one, other = sorted([new_id(), new_id()])
        store.write(
            points(
                [
                    (organization, other, start + SECOND, {"cpu": 9.0}),
                    (organization, one, start + 3 * SECOND, {"cpu": 3.0}),
                    (organization, one, start, {"cpu": 1.0, "memory": 7.0}),
                    (organization, one, start + HOUR, {"cpu": 99.0}),
                ]
            )
        )
        store.write_counters(counters([(organization, one, "eth0", start + 9 * SECOND, 1.0, 1.0)]))
        rows = store.latest(start, start + HOUR).to_pylist()
        assert [(row["device_id"], row["time"], row["cpu"], row["memory"]) for row in rows] == [
            (one, start + 3 * SECOND, 3.0, 7.0),
            (other, start + SECOND, 9.0, None),
        ]
        assert {row["uptime"] for row in rows} == {None}
        assert store.latest(start, start + HOUR, [other, new_id()]).to_pylist() == rows[1:]

    def test_counters_become_increases(self, store: MetricsStore) -> None:
        """A baseline before the window, two interfaces at one instant, a reboot, a gap; beside points."""
        start, organization, device = yesterday() + HOUR, new_id(), new_id()
        readings: list[Reading] = [
            (organization, device, "eth0", start - MINUTE, 100.0, 10.0),
            (organization, device, "eth0", start, 130.0, 10.0),
            (organization, device, "wlan0", start, 1_000.0, 1_000.0),  # the first of its series: worth nothing
            (organization, device, "eth0", start + MINUTE, 150.0, None),
            (organization, device, "wlan0", start + MINUTE, 1_004.0, 1_001.0),
            (organization, device, "eth0", start + 2 * MINUTE, 7.0, 3.0),  # booted
            (organization, device, "eth0", start + 2 * MINUTE + COUNTER_GAP, 9.0, 4.0),
            (organization, device, "eth0", start + 3 * MINUTE + 2 * COUNTER_GAP, 500.0, 5.0),  # too long after
        ]
        for _ in range(2):  # the second time changes nothing
            assert store.write_counters(counters(readings)) == []
        sample: Sample = (organization, device, start + 9 * SECOND, {"cpu": 1.0})
        store.write(points([sample]))
        expected = windows_of([*increases_of(readings), sample], HOUR)
        first = expected[organization, device, start]
        assert (first["samples"], first["network_in_sum"], first["network_out_sum"]) == (4.0, 61.0, 4.0)
        got = by_key(store.aggregate(Tier.RAW, start, start + 4 * HOUR, HOUR))
        del expected[organization, device, start - HOUR]
        assert without_last(got) == without_last(expected)
        assert got[organization, device, start]["network_in_last"] == 7.0
        alone = got[organization, device, start + 2 * HOUR]
        assert (alone.pop("samples"), set(alone.values())) == (1.0, {None, 0.0})

    def test_a_reading_of_nothing_but_a_baseline_is_a_window(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        store.write_counters(counters([(organization, device, "eth0", start, 5.0, 5.0)]))
        (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
        assert (row["samples"], row["network_in_sum"], row["network_in_count"]) == (1.0, None, 0.0)

    def test_counters_of_one_device_id_in_two_organizations_are_apart(self, store: MetricsStore) -> None:
        start, device = yesterday(), new_id()
        readings: list[Reading] = [
            (organization, device, "eth0", start + n * MINUTE, factor * n, None)
            for factor, organization in ((1.0, new_id()), (100.0, new_id()))
            for n in range(1, 4)
        ]
        store.write_counters(counters(readings))
        got = by_key(store.aggregate(Tier.RAW, start, start + HOUR, HOUR))
        assert got == windows_of(increases_of(readings), HOUR)

    def test_of_two_agents_on_one_device_one_counts(self, store: MetricsStore) -> None:
        """Telegraf rounds a reading's time down, collectd does not: in order of time their one counter went down every
        30 s, and each fall was 9 GB. And an agent of ours that sends increases was added to both."""
        start, organization, device = yesterday(), new_id(), new_id()
        for source, late, behind in (("telegraf", 0, 0), ("collectd", 300, 600)):
            readings: list[Reading] = [
                (
                    organization,
                    device,
                    "eth0",
                    start + n * 30 * SECOND + late * MILLISECOND,
                    9e9 + n * 30_000 - behind,
                    None,
                )
                for n in range(20)
            ]
            store.write_counters(counters(readings, source))
        store.write(points((organization, device, start + n * MINUTE, {"network_in": 7.0}) for n in range(10)))
        five = store.aggregate(Tier.RAW, start, start + HOUR, FIVE_MINUTES)
        assert (five["network_in_sum"].to_pylist(), five["several_senders"].to_pylist()) == (
            [270_000.0, 300_000.0],
            [1.0, 1.0],
        )
        assert five["samples"].to_pylist() == [25.0, 25.0], "whoever counts, every instant is a sample"
        (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
        assert (row["network_in_sum"], row["several_senders"]) == (570_000.0, 1.0)

    def test_an_agent_that_sends_more_increases_counts_instead_of_counters(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        store.write(points((organization, device, start + n * MINUTE, {"network_in": 7.0}) for n in range(10)))
        readings: list[Reading] = [
            (organization, device, "eth0", start + n * MINUTE, n * 100.0, n * 100.0) for n in range(5)
        ]
        store.write_counters(counters(readings))
        (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
        assert (row["network_in_sum"], row["network_out_sum"], row["samples"]) == (70.0, None, 15.0)

    @pytest.mark.parametrize("every", [HOUR, FIVE_MINUTES])
    def test_the_agent_that_covers_most_of_the_hour_counts(self, store: MetricsStore, every: timedelta) -> None:
        """An agent of ours every 60 s all the hour, and Telegraf every 10 s for a quarter of it; then the other way
        round; then half an hour of each, one after the other."""
        start, organization = yesterday(), new_id()
        for own, theirs, expected, several in (
            ((0, 60), (0, 15), 6_000.0, 1.0),
            ((30, 45), (0, 60), 35_900.0, 1.0),
            ((0, 30), (30, 60), 3_000.0 + 17_900.0, 0.0),
            ((30, 60), (0, 30), 17_900.0 + 3_000.0, 0.0),
        ):
            device = new_id()
            store.write(points((organization, device, start + n * MINUTE, {"network_in": 100.0}) for n in range(*own)))
            readings: list[Reading] = [
                (organization, device, "eth0", start + n * 10 * SECOND, 1e9 + n * 100.0, None)
                for n in range(theirs[0] * 6, theirs[1] * 6)
            ]
            store.write_counters(counters(readings))
            rows = store.aggregate(Tier.RAW, start, start + HOUR, every).to_pylist()
            rows = [row for row in rows if row["device_id"] == device]
            assert sum(row["network_in_sum"] or 0.0 for row in rows) == expected, (own, theirs)
            assert max(row["several_senders"] for row in rows) == several, (own, theirs)

    def test_an_interface_that_is_left_out_now_does_not_count_in_hours_that_are_run_again(
        self, store: MetricsStore
    ) -> None:
        """Readings of a bridge that were written before bridges were left out."""
        start, organization, device = yesterday(), new_id(), new_id()
        readings: list[Reading] = [
            (organization, device, name, start + n * MINUTE, n * 100.0, n * 100.0)
            for name in ("eth0", "br0", "eth0.20")
            for n in range(10)
        ]
        store.write_counters(counters(readings))
        (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
        assert (row["network_in_sum"], row["network_out_sum"], row["samples"]) == (900.0, 900.0, 10.0)

    def test_what_was_written_without_a_source_goes_on(self, store: MetricsStore) -> None:
        """Rows of 0.3.0 have none: in the hour of the upgrade they are the same agent's."""
        start, organization, device = yesterday(), new_id(), new_id()
        readings: list[Reading] = [
            (organization, device, "eth0", start + n * MINUTE, n * 100.0, None) for n in range(10)
        ]
        store.write_counters(counters(readings[:5], ""))
        store.write_counters(counters(readings[5:]))
        (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
        assert (row["network_in_sum"], row["several_senders"]) == (900.0, 0.0)

    def test_two_machines_under_one_name_make_no_gigabytes(self, store: MetricsStore) -> None:
        """Their counters in turn are a reset each time: 30 an hour are none, and the device has several senders."""
        start, organization, device = yesterday(), new_id(), new_id()
        readings: list[Reading] = [
            (organization, device, "eth0", start + n * 30 * SECOND, (9e9, 1e9)[n % 2] + n * 1000.0, None)
            for n in range(60)
        ]
        store.write_counters(counters(readings))
        for every in (HOUR, FIVE_MINUTES):
            found = store.aggregate(Tier.RAW, start, start + HOUR, every)
            assert set(found["network_in_sum"].to_pylist()) == {0.0}
            assert set(found["several_senders"].to_pylist()) == {1.0}

    def test_what_samples_cover(self, store: MetricsStore) -> None:
        """At 10 s for 20 minutes, at 5 minutes all the hour, of counters only: in windows of every tier."""
        start, organization = yesterday(), new_id()
        fast, slow, counted = sorted(new_id() for _ in range(3))
        store.write(points((organization, fast, start + n * 10 * SECOND, {"cpu": 1.0}) for n in range(120)))
        store.write(points((organization, slow, start + MINUTE + n * FIVE_MINUTES, {"memory": 1.0}) for n in range(12)))
        store.write_counters(counters((organization, counted, "eth0", start + n * MINUTE, 1.0, 1.0) for n in range(30)))
        store.write_aggregates(Tier.FIVE_MINUTES, store.aggregate(Tier.RAW, start, start + HOUR, FIVE_MINUTES))
        store.write_aggregates(Tier.ONE_HOUR, store.aggregate(Tier.FIVE_MINUTES, start, start + HOUR, HOUR))
        for tier in Tier:
            assert store.aggregate(tier, start, start + HOUR, HOUR)["covered"].to_pylist() == [20.0, 60.0, 30.0]

    def test_volumes_are_one_disk(self, store: MetricsStore) -> None:
        """Each disk once, a round that a boundary cuts as a whole, and every tier alike; a device that says itself what
        its disks hold is believed."""
        start, organization = yesterday(), new_id()
        device, direct = sorted([new_id(), new_id()])
        readings = [
            (organization, one, "telegraf", disk, volume, moment, used, total, None)
            for one in (device, direct)
            for moment, used in ((start, 10.0), (start + FIVE_MINUTES - SECOND, 12.0), (start + FIVE_MINUTES, 14.0))
            for disk, volume, total in (("sda1", "/", 100.0), ("sda1", "/mnt", 100.0), ("", "C:, \\a=1 %", 50.0))
            if moment < start + FIVE_MINUTES or volume == "/"
        ]
        for _ in range(2):
            assert store.write_volumes(volumes(readings)) == []
        store.write(points([(organization, direct, start, {"disk_used": 7.0, "memory_total": 9.0})]))
        five = store.aggregate(Tier.RAW, start, start + HOUR, FIVE_MINUTES)
        assert five.filter(pc.equal(five["device_id"], device))["disk_used_last"].to_pylist() == [24.0, 26.0]
        store.write_aggregates(Tier.FIVE_MINUTES, five)
        store.write_aggregates(Tier.ONE_HOUR, store.aggregate(Tier.FIVE_MINUTES, start, start + HOUR, HOUR))
        whole = store.aggregate(Tier.RAW, start, start + HOUR, HOUR)
        for tier in Tier:
            assert by_key(store.aggregate(tier, start, start + HOUR, HOUR)) == by_key(whole)
        one, other = whole.to_pylist()
        assert (one["samples"], one["disk_used_min"], one["disk_used_last"], one["disk_total_last"]) == (
            3.0,
            24.0,
            26.0,
            150.0,
        )
        assert one["disk_free_last"] is None
        assert (other["samples"], other["disk_used_last"], other["disk_total_last"]) == (4.0, 7.0, None)

    def test_the_latest_has_disks_of_volumes(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        store.write(points([(organization, device, start, {"cpu": 1.0})]))
        readings = [
            (organization, device, "collectd", "", volume, start + n * SECOND, n + 1.0, None, free)
            for n in range(3)
            for volume, free in (("root", 9.0), ("data", 10.0))
        ]
        store.write_volumes(volumes(readings))
        (row,) = store.latest(start, start + HOUR).to_pylist()
        assert (row["cpu"], row["disk_used"], row["disk_total"], row["disk_free"]) == (1.0, 6.0, 25.0, 19.0)
        assert store.latest(start, start + HOUR, [device]).to_pylist() == [row]

    @few_examples
    @given(history=steps, hours=st.integers(1, 7), every=st.sampled_from([FIVE_MINUTES, HOUR]))
    def test_increases_add_up_however_the_hours_are_read(
        self, store: MetricsStore, history: list[tuple[int, int, int, int, bool]], hours: int, every: timedelta
    ) -> None:
        start = yesterday()
        readings = readings_of(history, start)
        for part in (readings[1::2], readings[::2], readings[::-1]):  # out of order, and then all of them once more
            store.write_counters(counters(part))
        last = max(moment for _, _, _, moment, _, _ in readings)
        got: dict[Key, dict[str, Any]] = {}
        while start <= last:
            got |= by_key(store.aggregate(Tier.RAW, start, start + hours * HOUR, every), readings[0][0])
            start += hours * HOUR
        got |= by_key(store.aggregate(Tier.RAW, start, start + 42 * HOUR, every), readings[0][0])  # nothing more
        assert got == windows_of(increases_of(readings), every)

    @few_examples
    @given(history=histories, read_at=steps)
    def test_samples_are_counted_as_they_are_aggregated(
        self,
        store: MetricsStore,
        history: list[tuple[int, int, dict[str, float]]],
        read_at: list[tuple[int, int, int, int, bool]],
    ) -> None:
        """What roll-ups are checked by: points, and each device's instants of counters and of volumes, by hour."""
        start, stop = yesterday() - DAY, yesterday() + DAY
        samples, readings = samples_of(history, start), readings_of(read_at, start)
        disks = [
            (organization, device, "collectd", "", interface, moment, 1.0, None, None)
            for organization, device, interface, moment, *_ in readings[::2]
        ]
        for _ in range(2):
            store.write(points(samples))
            store.write_counters(counters(readings))
            store.write_volumes(volumes(disks))
        for tier in Tier:
            windows = store.aggregate(tier, start, stop, HOUR)
            aggregated = defaultdict[datetime, int](int)
            for time, number in zip(windows["time"].to_pylist(), windows["samples"].to_pylist(), strict=True):
                aggregated[time] += int(number)
            assert store.count_samples(tier, start, stop) == aggregated
            if tier is not Tier.ONE_HOUR:
                below = list(Tier)[list(Tier).index(tier) + 1]
                store.write_aggregates(below, store.aggregate(tier, start, stop, WIDTH[below]))

    def test_samples_are_counted_in_whole_hours(self, store: MetricsStore) -> None:
        start = yesterday()
        store.write(points((new_id(), new_id(), start + n * HOUR, {"cpu": 1.0}) for n in range(4)))
        assert store.count_samples(Tier.RAW, start + HOUR, start + 3 * HOUR) == {start + n * HOUR: 1 for n in (1, 2)}
        for wrong in (start + SECOND, start.replace(tzinfo=None)):
            with pytest.raises(ValueError, match="start="):
                store.count_samples(Tier.RAW, wrong, start + 3 * HOUR)

    def test_organizations_are_apart_even_with_one_device_id(self, store: MetricsStore) -> None:
        start, device = yesterday(), new_id()
        ours, theirs = sorted([new_id(), new_id()])
        store.write(points([(theirs, device, start, {"cpu": 9.0}), (ours, device, start, {"cpu": 1.0})]))
        assert store.read(start, start + HOUR)["cpu"].to_pylist() == [1.0, 9.0]
        windows = store.aggregate(Tier.RAW, start, start + HOUR, HOUR)
        assert (windows["organization_id"].to_pylist(), windows["cpu_sum"].to_pylist()) == ([ours, theirs], [1.0, 9.0])

    def test_a_window_written_again_is_replaced(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        for tier in (Tier.FIVE_MINUTES, Tier.ONE_HOUR):
            for value in (3.0, 2.0):
                store.write(points([(organization, device, start, {"cpu": value})]))
                store.write_aggregates(tier, store.aggregate(Tier.RAW, start, start + HOUR, HOUR))
            assert by_key(store.aggregate(tier, start, start + HOUR, HOUR)) == windows_of(
                [(organization, device, start, {"cpu": 2.0})], HOUR
            )

    def test_points_are_no_windows(self, store: MetricsStore) -> None:
        with pytest.raises(ValueError, match="metrics"):
            store.write_aggregates(Tier.RAW, WINDOWS.empty_table())

    def test_deleting_a_device_takes_it_out_of_all_tiers(self, store: MetricsStore) -> None:
        start, organization, gone, stays = yesterday(), new_id(), new_id(), new_id()
        table = points((organization, device, start, {"cpu": 1.0}) for device in (gone, stays))
        store.write(table)
        read = counters((organization, device, "eth0", start, 1.0, 1.0) for device in (gone, stays))
        store.write_counters(read)
        store.write_volumes(
            volumes((organization, one, "telegraf", "sda1", "/", start, 1.0, 2.0, 1.0) for one in (gone, stays))
        )
        for tier in (Tier.FIVE_MINUTES, Tier.ONE_HOUR):
            store.write_aggregates(tier, store.aggregate(Tier.RAW, start, start + HOUR, HOUR))
        store.delete([gone])
        assert store.read(start, start + HOUR)["device_id"].to_pylist() == [stays]
        for tier in Tier:
            assert store.aggregate(tier, start, start + HOUR, HOUR)["device_id"].to_pylist() == [stays]
        # Nothing of the deletion waits for what is written after it.
        store.write(table)
        store.write_counters(read)
        assert store.read(start, start + HOUR).num_rows == 2
        assert store.aggregate(Tier.RAW, start, start + HOUR, HOUR).num_rows == 2

    def test_windows_of_any_width(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        samples: list[Sample] = [
            (organization, device, start + n * 90 * SECOND, {"cpu": float(n), "uptime": n / 8}) for n in range(1_920)
        ]
        store.write(points(samples))
        for every in (30 * SECOND, MINUTE, 15 * MINUTE, 6 * HOUR, DAY):
            assert by_key(store.aggregate(Tier.RAW, start, start + 2 * DAY, every)) == windows_of(samples, every)

    def test_sums_of_any_floats_are_right_to_the_last_bits(self, store: MetricsStore) -> None:
        start, organization, chance = yesterday(), new_id(), random.Random(11)
        devices = [new_id() for _ in range(5)]
        samples: list[Sample] = [
            (organization, device, start + n * 30 * SECOND, {name: chance.uniform(0, 1e12) for name in FIELDS})
            for device in devices
            for n in range(240)
        ]
        store.write(points(samples))
        got, expected = by_key(store.aggregate(Tier.RAW, start, start + 2 * HOUR, HOUR)), windows_of(samples, HOUR)
        assert list(got) == list(expected)
        for key, row in expected.items():
            assert got[key] == pytest.approx(row, rel=1e-13)

    @few_examples
    @given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
    def test_every_finite_float_survives_bit_by_bit(self, store: MetricsStore, values: list[float]) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        store.write(points((organization, device, start + n * SECOND, {"cpu": v}) for n, v in enumerate(values)))
        back = store.read(start, start + HOUR, [device])["cpu"].to_pylist()
        assert [struct.pack("d", value) for value in back] == [struct.pack("d", value) for value in values]
        (row,) = by_key(store.aggregate(Tier.RAW, start, start + HOUR, HOUR), organization).values()
        assert (row["cpu_min"], row["cpu_max"], row["cpu_last"]) == (min(values), max(values), values[-1])

    @few_examples
    @given(history=histories)
    def test_tiers_compose(self, store: MetricsStore, history: list[tuple[int, int, dict[str, float]]]) -> None:
        """raw -> 5 minutes -> 1 hour -> 1 day gives what raw -> 1 hour and raw -> 1 day give."""
        start = yesterday()
        samples = samples_of(history, start)
        organization = samples[0][0]
        store.write(points(samples))
        five = of(store.aggregate(Tier.RAW, start, start + 2 * HOUR, FIVE_MINUTES), organization)
        assert by_key(five) == windows_of(samples, FIVE_MINUTES)
        store.write_aggregates(Tier.FIVE_MINUTES, five)
        hours = of(store.aggregate(Tier.FIVE_MINUTES, start, start + 2 * HOUR, HOUR), organization)
        assert by_key(hours) == windows_of(samples, HOUR)
        store.write_aggregates(Tier.ONE_HOUR, hours)
        assert by_key(store.aggregate(Tier.ONE_HOUR, start, start + DAY, DAY), organization) == windows_of(samples, DAY)

    @few_examples
    @given(history=histories, late=histories)
    def test_late_windows_compose(
        self,
        store: MetricsStore,
        history: list[tuple[int, int, dict[str, float]]],
        late: list[tuple[int, int, dict[str, float]]],
    ) -> None:
        """A sample that came after full resolution had ended stands beside the window that it belongs to, however near
        to a boundary it lies. (Which of the two is the last of that window, nobody can say any more.)"""
        start = yesterday()
        taken = {(device, ms) for device, ms, _ in history}
        samples = samples_of([*history, *(sample for sample in late if sample[:2] not in taken)], start)
        organization, on_time, behind = samples[0][0], samples[: len(history)], samples[len(history) :]
        behind = list({sample[:3]: sample for sample in behind}.values())
        store.write(points(on_time))
        five = of(store.aggregate(Tier.RAW, start, start + 2 * HOUR, FIVE_MINUTES), organization)
        store.write_aggregates(Tier.FIVE_MINUTES, five)
        for _ in range(2):  # a drain that dies before its acknowledgement writes them again
            store.write_aggregates(Tier.FIVE_MINUTES, late_windows(points(behind)))
        for every in (FIVE_MINUTES, HOUR):
            got = by_key(store.aggregate(Tier.FIVE_MINUTES, start, start + 2 * HOUR, every), organization)
            assert without_last(got) == without_last(windows_of([*on_time, *behind], every))

    def test_the_pieces_of_a_late_reading_add_up(self, store: MetricsStore) -> None:
        """The first piece came in time and is in its window; two came a week later, in messages of their own, twice."""
        start, organization, device = yesterday(), new_id(), new_id()
        pieces: list[Sample] = [
            (organization, device, start, {"cpu": 1.0, "memory": 8.0}),
            (organization, device, start, {"disk_used": 2.0}),
            (organization, device, start, {"network_in": 4.0, "network_out": 16.0}),
        ]
        store.write(points(pieces[:1]))
        store.write_aggregates(Tier.FIVE_MINUTES, store.aggregate(Tier.RAW, start, start + HOUR, FIVE_MINUTES))
        for _ in range(2):
            for piece in pieces[1:]:
                assert store.write_aggregates(Tier.FIVE_MINUTES, late_windows(points([piece]))) == []
        store.write_aggregates(Tier.ONE_HOUR, store.aggregate(Tier.FIVE_MINUTES, start, start + HOUR, HOUR))
        # One instant, which is a sample for each time that it came apart.
        expected = windows_of(pieces, HOUR)[organization, device, start] | {"samples": 3.0}
        for tier in (Tier.FIVE_MINUTES, Tier.ONE_HOUR):
            assert by_key(store.aggregate(tier, start, start + HOUR, HOUR)) == {(organization, device, start): expected}

    def test_late_pieces_of_different_fields_never_share_an_instant(self) -> None:
        moment, names = yesterday(), list(FIELDS)
        chosen = [
            {name: 1.0 for bit, name in enumerate(names) if number >> bit & 1} for number in range(2 ** len(names))
        ]
        rows = late_windows(points(("o", "d", moment, fields) for fields in chosen))
        assert sum(rows["samples"].to_pylist()) == len(chosen)
        carried = [tuple(row[f"{name}_count"] for name in names) for row in rows.to_pylist()]
        stamped = rows["time"].to_pylist()
        # Of more than nine fields a point is several rows: those of one stamp carry the same fields.
        assert len(set(stamped)) == len(set(zip(stamped, carried, strict=True))) >= len(set(carried)) >= 2**9
        assert moment < min(stamped)
        assert max(stamped) < moment + MILLISECOND

    def test_counters_of_a_device_with_many_interfaces(self, store: MetricsStore) -> None:
        """Equal readings are an increase of nothing; a wrap at 32 bits is one."""
        start, organization, device = yesterday(), new_id(), new_id()
        readings: list[Reading] = [
            (organization, device, f"eth{number}", start + n * MINUTE, value, None)
            for number in range(300)
            for n, value in enumerate((2.0**32 - 8, 2.0**32 - 8, 2.0**32 - 1, 5.0))
        ]
        store.write_counters(counters(readings))
        (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
        assert (row["samples"], row["network_in_count"], row["network_out_count"]) == (4.0, 3.0, 0.0)
        assert (row["network_in_sum"], row["network_in_min"], row["network_in_last"]) == (300 * 13.0, 0.0, 300 * 6.0)

    def test_late_samples_on_the_boundaries_stay_in_their_windows(self, store: MetricsStore) -> None:
        start, organization, device = yesterday(), new_id(), new_id()
        moments = [start, start + FIVE_MINUTES - MILLISECOND, start + FIVE_MINUTES, start + HOUR - MILLISECOND]
        samples: list[Sample] = [(organization, device, moment, {"cpu": float(n)}) for n, moment in enumerate(moments)]
        store.write_aggregates(Tier.FIVE_MINUTES, late_windows(points(samples)))
        for every in (FIVE_MINUTES, HOUR):
            got = by_key(store.aggregate(Tier.FIVE_MINUTES, start, start + HOUR, every))
            assert got == windows_of(samples, every)

    def test_an_hour_of_a_fleet_takes_seconds(self, store: MetricsStore) -> None:
        start, organization, chance = yesterday(), new_id(), random.Random(5)
        devices = [new_id() for _ in range(1_000)]
        for half in range(2):
            moments = [start + half * 30 * MINUTE + n * 36 * SECOND for n in range(50)]
            batch = [
                (organization, device, moment, {"cpu": chance.random(), "memory": 1.0, "network_in": 8.0})
                for moment in moments
                for device in devices
            ]
            table = points(batch)
            store.write(table)
        windows = store.aggregate(Tier.RAW, start, start + HOUR, HOUR)
        assert windows.num_rows == 1_000
        assert set(windows["network_in_sum"].to_pylist()) == {800.0}
        assert pc.sum(windows["samples"]).as_py() == 100_000
