"""chDB as a shared engine: connections, and one statement's life from settings to the last chunk.

Nothing of HTTP belongs here. Every function blocks, and the front calls them in threads.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import chdb

from ninjait_pipelines.local.stack.clickhouse_sql import (
    forbidden_call,
    may_call_forbidden,
    quote_name,
    quote_string,
)
from ninjait_pipelines.sql_words import READS, first_word

COPY_BYTES = 1 << 20
MEMORY_PER_QUERY = 4 << 30
MEMORY_OF_SERVER = 8 << 30
MARK_CACHE = 256 << 20

# chDB encodes each block of a stream as a document of its own. Only where documents laid end to end are again a
# document can a result be streamed; results in other formats are built in memory first.
STREAMABLE = frozenset({"NATIVE", "TABSEPARATED", "TSV", "CSV", "ROWBINARY", "JSONEACHROW", "NDJSON", "JSONLINES"})

_CODE = re.compile(r"Code: (\d+)\. ")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")

# The statuses of a real server; 500 for every other code.
STATUS_OF_CODE = (
    {194: 401, 48: 501, 229: 413, 381: 411, 159: 408, 209: 503, 76: 503, 439: 503}
    | dict.fromkeys((192, 193, 512, 516), 403)
    | dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 38, 41, 43, 44, 53, 62, 72, 117), 400)
    | dict.fromkeys((167, 168, 223, 321, 376, 427, 441, 675, 676), 400)
    | dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 336), 404)
)


class EngineError(Exception):
    """An error as ClickHouse words it, with its code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        return STATUS_OF_CODE.get(self.code, 500)

    @classmethod
    def of(cls, code: int, reason: str, name: str) -> EngineError:
        return cls(code, f"Code: {code}. DB::Exception: {reason}. ({name})")

    @classmethod
    def from_engine(cls, error: Exception) -> EngineError:
        """chDB raises errors as text; what it puts before `Code:` is not ClickHouse's and is cut off."""
        text = str(error).strip()
        match = _CODE.search(text)
        if match is None:
            return cls(1002, f"Code: 1002. DB::Exception: {text}. (UNKNOWN_EXCEPTION)")
        return cls(int(match.group(1)), text[match.start() :])


@dataclass(frozen=True)
class Statement:
    """One request's statement with everything that may influence it."""

    sql: str
    format: str = "TabSeparated"
    params: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    database: str | None = None
    insert_format: str | None = None
    data: BinaryIO | None = None

    @property
    def reads(self) -> bool:
        return first_word(self.sql) in READS

    @property
    def streams(self) -> bool:
        return first_word(self.sql) in ("SELECT", "WITH") and self.format.upper() in STREAMABLE


# What the one user may do: all that people and the pipeline do in databases. Missing are the sources, with which a
# statement reads and writes files of this process and asks other servers: file(), url(), s3(), remote(), their table
# engines, dictionaries, backups, functions from files. chDB alone confines none of them.
GRANTS = (
    "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP DATABASE, DROP TABLE, DROP VIEW, "
    "TRUNCATE, OPTIMIZE, KILL QUERY, SYSTEM FLUSH LOGS, dictGet"
)
# Settings that name files or servers, that hold SQL, or that choose another parser: `check` does not see into them.
FIXED_SETTINGS = (
    *("format_schema", "output_format_schema", "format_template_row", "format_template_resultset"),
    *("input_format_record_errors_file_path", "rename_files_after_processing", "format_avro_schema_registry_url"),
    *("url_base", "s3_base", "additional_result_filter", "additional_table_filters", "parallel_replicas_custom_key"),
    *("select", "filter", "order", "sort", "dialect", "polyglot_dialect"),
)
# Compiling an expression costs more than it saves on a local stack's few rows: a seventh of the engine's time in tests.
UNCOMPILED = ("compile_expressions", "compile_aggregate_expressions", "compile_sort_description")


def _known_settings() -> list[str]:
    """Those of FIXED_SETTINGS that this version has: it does not start with rules for others."""
    connection = chdb.connect(":memory:")
    try:
        names = ", ".join(map(quote_string, FIXED_SETTINGS))
        result = connection.query(f"SELECT name FROM system.settings WHERE name IN ({names})", "TSVRaw")  # noqa: S608
        return str(result.bytes().decode()).split()
    finally:
        connection.close()


def _write_rules(folder: Path) -> Path:
    """The engine's configuration: its file."""
    fixed = "".join(f"<{name}><readonly/></{name}>" for name in _known_settings())
    uncompiled = "".join(f"<{name}>0</{name}>" for name in UNCOMPILED)
    users, config = folder / "users.xml", folder / "config.xml"
    users.write_text(
        f"<clickhouse><profiles><default>{uncompiled}<constraints>{fixed}</constraints></default></profiles>"
        "<quotas><default/></quotas><users><default><password></password><networks><ip>::/0</ip></networks>"
        "<profile>default</profile><quota>default</quota>"
        f"<grants><query>GRANT {GRANTS} ON *.*</query></grants></default></users></clickhouse>"
    )
    config.write_text(f"<clickhouse><users_config>{users}</users_config></clickhouse>")
    return config


class Engine:
    """The one chDB of this process. A connection costs 0.2 ms, so that every request has its own and no setting,
    database or parameter can reach the next request."""

    def __init__(self, folder: Path) -> None:
        self._rules = tempfile.TemporaryDirectory(prefix="ninjait-clickhouse-")
        options = {
            "config-file": _write_rules(Path(self._rules.name)),
            "max_server_memory_usage": MEMORY_OF_SERVER,
            "mark_cache_size": MARK_CACHE,
        }
        self._address = f"{folder}?" + "&".join(f"{name}={value}" for name, value in options.items())
        # held open for as long as the process lives: the engine closes with its last connection
        self._anchor = self.connect()
        self.version = self.text("SELECT version()")

    def connect(self) -> Any:
        return chdb.connect(self._address)

    def text(self, sql: str) -> str:
        """Run a statement of the front's own, and give its result as text."""
        connection = self.connect()
        try:
            return str(connection.query(sql, "TSVRaw").bytes().decode()).strip()
        finally:
            connection.close()

    def kill(self, mark: str) -> None:
        self.text(f"KILL QUERY WHERE Settings['log_comment'] = {quote_string(mark)} ASYNC")

    def check(self, sql: str) -> None:
        """Raises EngineError for a call of one of the functions that no right covers.

        The engine formats the statement first, so that comments and quoted names hide nothing.
        """
        if not may_call_forbidden(sql):
            return
        try:
            plain = self.text(f"SELECT formatQuerySingleLine({quote_string(sql)})")
        except RuntimeError as error:
            raise EngineError.from_engine(error) from None
        if name := forbidden_call(plain):
            raise EngineError.of(497, f"The function {name} is not allowed on the local server", "ACCESS_DENIED")

    def close(self) -> None:
        self._anchor.close()
        self._rules.cleanup()


class Run:
    """One statement being executed. `start`, then `chunks`, then `close`; `cancel` may come from any thread."""

    def __init__(self, engine: Engine, statement: Statement) -> None:
        self.statement = statement
        self.cancelled = False
        self.rows = 0
        self.written_rows = 0
        self.written_bytes = 0
        self.read_rows = 0
        self.read_bytes = 0
        self._engine = engine
        self._mark = uuid.uuid4().hex
        self._began = time.monotonic()
        self._connection: Any = None
        self._chunks: Iterator[bytes | memoryview] = iter(())
        self._first: bytes | memoryview | None = None

    def start(self) -> None:
        """Run the statement as far as its first chunk: an error until then can still become an HTTP status."""
        try:
            self._check()
            self._open()
            if self.statement.data is not None:
                self._insert(self.statement.data)
            else:
                self._chunks = self._stream() if self.statement.streams else self._whole()
                self._first = next(self._chunks, None)
        except RuntimeError as error:  # ChdbError is one
            raise EngineError.from_engine(error) from None

    def next_chunk(self) -> bytes | memoryview | None:
        if self._first is not None:
            chunk, self._first = self._first, None
            return chunk
        try:
            return next(self._chunks, None)
        except RuntimeError as error:
            raise EngineError.from_engine(error) from None

    def cancel(self) -> None:
        """Stop a read whose client has left. A write is left to finish: half of it may already be there."""
        self.cancelled = True
        if self.statement.reads:
            self._engine.kill(self._mark)

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
        if self._connection is not None:
            self._connection.close()

    def summary(self) -> str:
        numbers = {
            "read_rows": self.read_rows,
            "read_bytes": self.read_bytes,
            "written_rows": self.written_rows,
            "written_bytes": self.written_bytes,
            "total_rows_to_read": self.read_rows,
            "result_rows": self.rows or self.written_rows,
            "elapsed_ns": int((time.monotonic() - self._began) * 1e9),
        }
        return json.dumps({name: str(value) for name, value in numbers.items()})

    def _check(self) -> None:
        statement = self.statement
        if statement.data is None:
            self._engine.check(statement.sql)
        else:
            self._engine.check(f"{statement.sql} FORMAT {statement.insert_format}")

    def _open(self) -> None:
        statement = self.statement
        self._connection = self._engine.connect()
        if statement.database:
            self._connection.query(f"USE {quote_name(statement.database)}")
        settings = {"max_memory_usage": str(MEMORY_PER_QUERY)} | statement.settings | {"log_comment": self._mark}
        if statement.data is not None:
            settings |= {f"param_{name}": value for name, value in statement.params.items()}
        for name in settings:
            if not _SETTING.fullmatch(name):
                raise EngineError.of(115, f"Unknown setting '{name}'", "UNKNOWN_SETTING")
        self._connection.query("SET " + ", ".join(f"{name} = {quote_string(v)}" for name, v in settings.items()))

    def _insert(self, data: BinaryIO) -> None:
        inserter = self._connection.send_insert(self.statement.sql, self.statement.insert_format)
        try:
            while piece := data.read(COPY_BYTES):
                inserter.append(piece)
            result = inserter.finish()
        finally:
            inserter.cancel()
        self.written_rows, self.written_bytes = result.rows_written, result.bytes_written

    def _stream(self) -> Iterator[bytes]:
        stream = self._connection.send_query(self.statement.sql, self.statement.format, params=self.statement.params)
        try:
            for block in stream:
                self.rows += block.rows_read()
                self.read_rows, self.read_bytes = self.rows, self.read_bytes + block.bytes_read()
                yield block.bytes()
        finally:
            stream.close()

    def _whole(self) -> Iterator[bytes | memoryview]:
        statement = self.statement
        result = self._connection.query(statement.sql, statement.format, params=statement.params)
        self.rows = result.rows_read() if statement.reads else 0
        self.read_rows, self.read_bytes = result.storage_rows_read(), result.storage_bytes_read()
        self.written_rows, self.written_bytes = result.rows_written(), result.bytes_written()
        data = result.bytes()
        del result
        for start in range(0, len(data), COPY_BYTES):
            yield memoryview(data)[start : start + COPY_BYTES]
