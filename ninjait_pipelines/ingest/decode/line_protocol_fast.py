"""The fast path for line protocol: a message of plain lines is decoded a field at a time, not a line at a time."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, compress, repeat
from operator import itemgetter
from typing import Any

import msgspec

from ninjait_pipelines import contract
from ninjait_pipelines.contract import Field, check_size, field_value
from ninjait_pipelines.ingest.decode import line_protocol, telegraf
from ninjait_pipelines.ingest.decode.hosts import Devices, LeftOutCounts, folded, shortened
from ninjait_pipelines.ingest.decode.model import Columns, Decoded, Period, SenderRegistry
from ninjait_pipelines.ingest.decode.parts import ALL_CORES, Core, complete_processors
from ninjait_pipelines.ingest.decode.routing import organization_of
from ninjait_pipelines.ingest.decode.tables import (
    GAUGE,
    NAMES,
    TIME_IN,
    disk_and_volume,
    fill,
    index_of_cores,
    row_of_cores,
    table_of,
)
from ninjait_pipelines.ingest.decode.telegraf import LINE_PROTOCOL
from ninjait_pipelines.ingest.decode.third_party import MAX_BYTES, MAX_ENTRIES, Target, converted, unpacked
from ninjait_pipelines.messages import Message, identity
from ninjait_pipelines.metrics.interfaces import is_left_out

_HOST = Field(contract.name)
_TIME, _CPU = (NAMES[GAUGE].index(name) for name in ("time", "cpu"))
_Part = list[list[Any]]  # the numbers of the lines that the rows come from, then their columns


def decode_good_lines(message: Message, registry: SenderRegistry, period: Period) -> Decoded | None:
    """Decodes a message in which every line is plain and good; None if any is not."""
    try:
        check_size(message.body, MAX_BYTES)
        text = line_protocol.plain(unpacked(message.body))
        organization = organization_of(message.routing_key)
        if not 0 < text.count("\n") <= MAX_ENTRIES or registry.refusal(organization):
            return None
        lines = _PlainLines(text, Devices(organization, registry), registry.interfaces_left_out)
        columns, indexes = lines.tables()
    except ValueError:
        return None
    for table, oldest in zip(columns, (period.oldest, period.oldest_counter, period.oldest_counter), strict=True):
        if table and (min(table["time"]) < oldest or max(table["time"]) > period.newest):
            return None
    decoded = Decoded(message_id=identity(message.queue, message.body, message.message_id))
    fill(decoded, columns, indexes)
    decoded.organization_id = decoded.organization_id or organization
    decoded.unknown_fields = lines.unknown
    decoded.agent, decoded.host = LINE_PROTOCOL.source, lines.host
    decoded.left_out = list(lines.left_out.values())
    return decoded


class _LinesOfKey(msgspec.Struct, gc=False):
    """The lines of a plain text that share a key, by their places in the text.

    `start` is a row without time and values, empty if nothing of these lines is stored. known: (a comma and the field's
    name, its column, rule).
    """

    series: telegraf.Series
    lines: list[line_protocol.PlainLine]
    start: Sequence[Any] = ()
    table: int = GAUGE
    known: Sequence[tuple[str, int, contract.Rule]] = ()

    def columns(self, text: str) -> tuple[list[list[Any]], list[int]]:
        """The columns of all these lines, and how many values of each line are stored. Raises ValueError."""
        _, spaces, ends = zip(*self.lines, strict=True)
        columns = [[value] * len(ends) for value in self.start]
        columns[TIME_IN[self.table]] = line_protocol.times_at(text, ends)
        stored = [0] * len(ends)
        for name, column, rule in self.known:
            texts = line_protocol.values_at(text, name, spaces, ends)
            if all(texts):
                columns[column] = converted(rule, texts)
                stored = [count + 1 for count in stored]
            elif any(texts):
                rows = [row for row, value in enumerate(texts) if value]
                for row, value in zip(rows, converted(rule, list(filter(None, texts))), strict=True):
                    columns[column][row] = value
                    stored[row] += 1
        if self.series.derived and min(stored) < len(self.known):
            stored = [count + self._derive(columns, row, text, count) for row, count in enumerate(stored)]
        return columns, stored

    def _derive(self, columns: Sequence[list[Any]], row: int, text: str, stored: int) -> int:
        """Adds values that follow from several fields of a line; returns how many fields are used for nothing else.
        Raises ValueError."""
        if stored == len(self.known):
            return 0

        def number(name: str) -> float | None:
            _, space, end = self.lines[row]
            value = line_protocol.values_at(text, name, [space], [end])[0]
            return line_protocol.number_of(value) if value else None

        names = NAMES[self.table]
        present = {name for name, column in zip(names, columns, strict=True) if column[row] is not None}
        used: set[str] = set()
        for target, value, sources in telegraf.derived(self.series, present, number):
            columns[names.index(target.field)][row] = target.convert(value)
            used.update(sources)
        return len(used - {name for name, _ in self.series.known})


@lru_cache(maxsize=64)
def _columns_of(known: Sequence[tuple[str, Target]], names: Sequence[str]) -> Sequence[tuple[str, int, contract.Rule]]:
    return [(name, names.index(target.field), target.convert) for name, target in known]


class _PlainLines:
    """The lines of a plain text, by key. Raises ContractViolation for a bad key."""

    def __init__(self, text: str, devices: Devices, interfaces_left_out: Sequence[str]) -> None:
        self._text = text
        self._devices = devices
        self._interfaces_left_out = interfaces_left_out
        self._hosts_with_total: set[str] = set()  # they report all their cores together
        self.host = ""  # the first one
        self.left_out = LeftOutCounts(devices)
        keys = line_protocol.lines_by_key(text)
        self.unknown = text.count("=") - sum(key.count("=") * len(lines) for key, lines in keys.items())
        self._keys = [self._of_key(telegraf.series(key), lines) for key, lines in keys.items()]

    def _of_key(self, series: telegraf.Series, lines: list[line_protocol.PlainLine]) -> _LinesOfKey:
        if not self.host and series.host:
            self.host = shortened(series.host)
        return self._stored(series, lines) if self._is_stored(series) else _LinesOfKey(series, lines)

    def _is_stored(self, series: telegraf.Series) -> bool:
        if series.interface is not None and is_left_out(series.interface, self._interfaces_left_out):
            return False
        return bool(series.known or series.derived)

    def _stored(self, series: telegraf.Series, lines: list[line_protocol.PlainLine]) -> _LinesOfKey:
        if series.core == ALL_CORES:
            self._hosts_with_total.add(folded(series.host))
        table = table_of(series.interface, series.place)
        start: list[Any] = [*self._device(series)]
        if series.interface is not None:
            start += [series.source, contract.name(series.interface)]
        if series.place is not None:
            start += [series.source, *disk_and_volume(series.place)]
        names = NAMES[table]
        start += [None] * (len(names) - len(start))
        return _LinesOfKey(series, lines, start, table, _columns_of(series.known, names))

    def _device(self, series: telegraf.Series) -> tuple[str, str]:
        return self._devices[field_value("host", _HOST, {"host": series.host})]

    def tables(self) -> tuple[list[Columns], list[list[int]]]:
        """The columns of the three tables and the line number of each row. Rows are in the order of the lines, except
        that rows made of single cores come last. Raises ValueError."""
        parts: tuple[list[_Part], ...] = ([], [], [])
        left_out: list[
            tuple[line_protocol.PlainLine, telegraf.Series, int]
        ] = []  # (a line, series, number of such lines)
        for key in self._keys:
            if not key.start:
                left_out.append((key.lines[0], key.series, len(key.lines)))
            elif not key.series.core:
                columns, stored = key.columns(self._text)
                self.unknown -= sum(stored)
                part = [[number for number, _, _ in key.lines], *columns]
                if 0 in stored:
                    left_out += [(key.lines[row], key.series, 1) for row, count in enumerate(stored) if not count]
                    part = [list(compress(column, stored)) for column in part]
                parts[key.table].append(part)
        for line, series, readings in sorted(left_out, key=itemgetter(0)):
            self.left_out.add(series, line_protocol.first_name(self._text, line), readings)
        ordered = [_in_order(names, of_table) for names, of_table in zip(NAMES, parts, strict=True)]
        for processor in self._processors():
            row = index_of_cores(processor), *row_of_cores(processor)
            for column, value in zip(ordered[GAUGE], row, strict=True):
                column.append(value)
        tables: list[Columns] = [
            dict(zip(names, columns, strict=True)) if numbers else {}
            for names, (numbers, *columns) in zip(NAMES, ordered, strict=True)
        ]
        return tables, [numbers for numbers, *_ in ordered]

    def _processors(self) -> list[list[Core]]:
        """The complete sets of cores; other readings of single cores are left out. Raises ValueError."""
        readings: list[tuple[line_protocol.PlainLine, telegraf.Series, int, float | None, int]] = []
        for key in self._keys:
            if key.series.core and folded(key.series.host) not in self._hosts_with_total:
                columns, stored = key.columns(self._text)
                readings += zip(key.lines, repeat(key.series), columns[_TIME], columns[_CPU], stored, strict=False)
        readings.sort(key=itemgetter(0))
        cores = [
            Core(line[0], self._device(series), time, series.core or (), busy)
            for line, series, time, busy, _ in readings
            if busy is not None
        ]
        processors = complete_processors(cores, self._text.count("\n"))
        used = {core.index for processor in processors for core in processor}
        for line, series, _, _, count in readings:
            if line[0] in used:
                self.unknown -= count
            else:
                self.left_out.add(series, line_protocol.first_name(self._text, line))
        return processors


def _in_order(names: Sequence[str], parts: Sequence[_Part]) -> _Part:
    """The rows of all parts, in the order of their lines."""
    parts = [part for part in parts if part[0]]
    if len(parts) < 2:
        return parts[0] if parts else [[] for _ in ("line", *names)]
    together = [list(chain.from_iterable(columns)) for columns in zip(*parts, strict=True)]
    lines = together[0]
    order = itemgetter(*sorted(range(len(lines)), key=lines.__getitem__))
    return [column if column.count(None) == len(column) else list(order(column)) for column in together]
