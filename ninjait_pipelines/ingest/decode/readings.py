"""Decodes a third-party message entry by entry, and finds out what is wrong with it and where."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ninjait_pipelines import contract
from ninjait_pipelines.contract import ContractViolation, check_size
from ninjait_pipelines.ingest.decode.hosts import Devices, LeftOutCounts, folded, host_in, shortened
from ninjait_pipelines.ingest.decode.model import HOST_REASONS, Decoded, Period, Rejection, SenderRegistry
from ninjait_pipelines.ingest.decode.parts import ALL_CORES, Core, complete_processors, memory_total, volume_total
from ninjait_pipelines.ingest.decode.rejections import UNREADABLE, name_form, rejected_message, rejection
from ninjait_pipelines.ingest.decode.routing import organization_of
from ninjait_pipelines.ingest.decode.tables import (
    GAUGE,
    NAMES,
    VOLUME,
    columns_of,
    disk_and_volume,
    fill,
    index_of_cores,
    row_of_cores,
    table_of,
)
from ninjait_pipelines.ingest.decode.third_party import MAX_BYTES, MEMORY_TOTAL, TOTAL, Format, Reading, text_of
from ninjait_pipelines.messages import Message, identity
from ninjait_pipelines.metrics.interfaces import is_left_out
from ninjait_pipelines.metrics.model import FIELDS

_CPU = list(FIELDS).index("cpu")


def decode_third_party(message: Message, format_: Format, registry: SenderRegistry, period: Period) -> Decoded:
    """Decodes a message with any number of faults. A point is an entry that holds a reading, or cannot be read."""
    organization = organization_of(message.routing_key)
    refusal = registry.refusal(organization)
    text = ""
    try:
        check_size(message.body, MAX_BYTES)
        text = text_of(message.body)
        entries = format_.entries(text)
        if refusal:
            raise ContractViolation(refusal, "routing_key")
    except (ContractViolation, UnicodeDecodeError, RecursionError) as error:
        violation = error if isinstance(error, ContractViolation) else ContractViolation(UNREADABLE[type(error)])
        unpacked = error.object if isinstance(error, UnicodeDecodeError) else text.encode()
        violation = name_form(violation, unpacked, format_.forms)
        decoded = rejected_message(message, {"routing_key": message.routing_key}, violation)
        decoded.host = host_in(message.body)
    else:
        decoded = Decoded(message_id=identity(message.queue, message.body, message.message_id))
        rows = _Rows(format_, Devices(organization, registry), period, registry.interfaces_left_out)
        _decode_entries(entries, format_, rows, decoded)
    decoded.agent = format_.source
    decoded.organization_id = decoded.organization_id or (None if refusal else organization)
    return decoded


def _decode_entries(entries: Sequence[Any], format_: Format, rows: "_Rows", decoded: Decoded) -> None:
    rejections: list[Rejection] = []
    for index, entry in enumerate(entries):
        reading = None
        try:
            reading = format_.read(entry)
            rows.add(index, reading)
        except ContractViolation as violation:
            rejections.append(_rejection(index, violation, format_.shown(entry), reading))
    for index, reading in rows.single_cores():
        try:
            rows.add_core(index, reading)
        except ContractViolation as violation:
            rejections.append(_rejection(index, violation, format_.shown(entries[index]), reading))
    rows.finish(len(entries))
    decoded.rejections = sorted(rejections, key=lambda rejection: rejection.index or 0)
    decoded.unknown_fields, decoded.host, decoded.left_out = rows.unknown, rows.host, list(rows.left_out.values())
    fill(decoded, [columns_of(names, table) for names, table in zip(NAMES, rows.tables, strict=True)], rows.indexes)


def _rejection(index: int, violation: ContractViolation, entry: Any, reading: Reading | None) -> Rejection:
    """The host's name is kept in full if the host may still be registered: its messages are found by it then."""
    rejected = rejection(index, violation, reading.shown() if reading else entry)
    if reading and violation.code in HOST_REASONS:
        return msgspec.structs.replace(rejected, value=repr(reading.host))
    return rejected


class _Rows:
    """The rows of the three tables, collected entry by entry."""

    def __init__(self, format_: Format, devices: Devices, period: Period, interfaces_left_out: Sequence[str]) -> None:
        self._source, self._devices, self._period = format_.source, devices, period
        self._one_read = format_.one_read
        self._interfaces_left_out = interfaces_left_out
        self.tables: tuple[list[list[Any]], ...] = ([], [], [])
        self.indexes: tuple[list[int], ...] = ([], [], [])
        self.unknown = 0
        self.host = ""  # the first one
        self.left_out = LeftOutCounts(devices)
        self._cores: list[tuple[int, Reading]] = []
        self._hosts_with_total: set[str] = set()  # they report all their cores together
        self._accepted_cores: dict[int, Core] = {}
        # By host, instant and place: the states that may make a total, and the row that it belongs to.
        self._states: dict[tuple[Any, ...], list[Reading]] = defaultdict(list)
        self._rows: dict[tuple[Any, ...], list[Any]] = {}
        # When the latest read of cores, of memory or of a volume began, and the parts that it has.
        self._reads: dict[tuple[Any, ...], tuple[int, set[tuple[Any, str]]]] = {}

    def add(self, index: int, reading: Reading) -> None:
        """Adds a reading. Raises ContractViolation, with the field."""
        self.unknown += reading.unknown
        if not self.host and isinstance(reading.host, str):
            self.host = shortened(reading.host)
        if self._one_read and (reading.core is not None or reading.state is not None):
            reading = self._at_its_read(reading)
        if reading.core == ALL_CORES:
            self._hosts_with_total.add(folded(reading.host))
        elif reading.core is not None:
            self._cores.append((index, reading))
            return
        if reading.interface is not None and _is_left_out(reading.interface, self._interfaces_left_out):
            self._leave_out(reading)
        elif reading.values:
            self._add_row(index, reading)
        elif reading.state is not None:
            self._states[_key(reading)].append(reading)
        elif reading.unknown:
            self.left_out.add(reading, reading.example)

    def _at_its_read(self, reading: Reading) -> Reading:
        """The reading with the time at which its read began, so that the parts of one read are one instant. A part that
        comes again begins the next read."""
        if reading.time is None:
            return reading
        key = folded(reading.host), reading.place, reading.core is None
        part = reading.core, reading.example
        began, parts = self._reads.get(key, (reading.time, set()))
        if part in parts or not began <= reading.time < began + self._one_read:
            began, parts = reading.time, set()
        parts.add(part)
        self._reads[key] = began, parts
        return msgspec.structs.replace(reading, time=began)

    def _leave_out(self, reading: Reading) -> None:
        self.unknown += len(reading.values)
        self.left_out.add(reading, reading.example)

    def _add_row(self, index: int, reading: Reading) -> None:
        table = table_of(reading.interface, reading.place)
        row = _row(reading, self._source, self._devices, self._period, NAMES[table])
        if reading.state is not None:
            self._states[_key(reading)].append(reading)
            if self._joins_another_row(reading, row):
                return
        self.tables[table].append(row)
        self.indexes[table].append(index)

    def _joins_another_row(self, reading: Reading, row: list[Any]) -> bool:
        """Whether the value fits into the row that another value list began for this volume and instant, and is there
        now."""
        first = self._rows.setdefault(_key(reading), row)
        if first is row or reading.place is None:
            return False
        column = NAMES[VOLUME].index(reading.values[0][0].field)
        if first[column] is not None:
            return False
        first[column] = row[column]
        return True

    def single_cores(self) -> Iterator[tuple[int, Reading]]:
        """The readings of single cores from hosts that do not report all cores together."""
        self.unknown += sum(
            len(reading.values) for _, reading in self._cores if folded(reading.host) in self._hosts_with_total
        )
        self._cores = [entry for entry in self._cores if folded(entry[1].host) not in self._hosts_with_total]
        yield from (entry for entry in self._cores if entry[1].values)

    def add_core(self, index: int, reading: Reading) -> None:
        """Adds a reading of a single core. Raises ContractViolation, with the field."""
        row = _row(reading, self._source, self._devices, self._period, NAMES[GAUGE])
        organization, device, time, *values = row
        self._accepted_cores[index] = Core(index, (organization, device), time, reading.core or (), values[_CPU])

    def finish(self, entries: int) -> None:
        """Adds what several entries make together; `entries` is the length of the message."""
        self._add_processors(entries)
        for key, states in self._states.items():
            without_values = [reading for reading in states if not reading.values]
            if _add_total(self._rows.get(key), states):
                self.unknown -= len(without_values)
            else:
                for reading in without_values:
                    self.left_out.add(reading, reading.example)

    def _add_processors(self, entries: int) -> None:
        accepted = self._accepted_cores
        # An instant with a rejected core has no load: the mean of its other cores would be a different number.
        rejected = {_key(reading) for index, reading in self._cores if reading.values and index not in accepted}
        cores = [
            accepted[index] for index, reading in self._cores if index in accepted and _key(reading) not in rejected
        ]
        processors = complete_processors(cores, entries)
        for processor in processors:
            self.tables[GAUGE].append(row_of_cores(processor))
            self.indexes[GAUGE].append(index_of_cores(processor))
        used = {core.index for processor in processors for core in processor}
        for index, reading in self._cores:
            if index not in used and (index in accepted or not reading.values):
                self._leave_out(reading)


def _add_total(row: list[Any] | None, states: Sequence[Reading]) -> bool:
    """Puts the total of the states into the row; whether there is one."""
    amounts = dict(reading.state for reading in states if reading.state)
    interface, place = states[0].interface, states[0].place
    total, target = (memory_total(amounts), MEMORY_TOTAL) if place is None else (volume_total(amounts), TOTAL)
    if row is None or total is None:
        return False
    try:
        row[NAMES[table_of(interface, place)].index(target.field)] = target.convert(total)
    except ContractViolation:  # larger than any memory or disk
        return False
    return True


def _key(reading: Reading) -> tuple[Any, ...]:
    return folded(reading.host), reading.time, reading.place


def _is_left_out(interface: Any, patterns: Sequence[str]) -> bool:
    return isinstance(interface, str) and is_left_out(interface, patterns)


def _row(reading: Reading, source: str, devices: Devices, period: Period, names: Sequence[str]) -> list[Any]:
    """The reading as a row with these columns. Raises ContractViolation, with the field."""
    host, time, interface = reading.host, reading.time, reading.interface
    organization, device = devices[host] if isinstance(host, str) else devices.__missing__(host)
    if time is None:
        raise ContractViolation("no_time", "time")
    values: dict[str, float] = {}
    field = "time"
    try:
        for target, value in reading.values:
            field = target.field
            values[field] = target.convert(value)
        part_of_device: list[str] = []
        if interface is not None:
            field = "interface"
            part_of_device = [reading.source or source, contract.name(interface)]
        if reading.place is not None:
            field = "volume"
            part_of_device = [source, *disk_and_volume(reading.place)]
        field = "time"
        time = period.check_counter(time) if part_of_device else period.check(time)
    except ContractViolation as violation:
        raise ContractViolation(violation.code, field) from None
    return [organization, device, *part_of_device, time, *map(values.get, names[3 + len(part_of_device) :])]
