"""ClickHouse's HTTP interface in front of chDB: one process owns the data folder, every other speaks HTTP with it.

Requests and responses belong here, what an engine does with a statement is in clickhouse_engine. Run as
`python -m ninjait_pipelines.local.stack.clickhouse_http --data DIR --port PORT`, with CLICKHOUSE_USER,
CLICKHOUSE_PASSWORD and CLICKHOUSE_DATABASE in the environment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import email
import email.policy
import hmac
import logging
import os
import resource
import tempfile
import time
import uuid
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import anyio.to_thread
import uvicorn
from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ninjait_pipelines.local.stack.clickhouse_engine import Engine, EngineError, Run, Statement
from ninjait_pipelines.local.stack.clickhouse_sql import (
    quote_name,
    refusal,
    result_format,
    split_insert,
    values_may_call,
)
from ninjait_pipelines.local.stack.http_codecs import DECODE_ERRORS, DECODERS, ENCODERS, Plain, negotiate
from ninjait_pipelines.sql_words import first_word

log = logging.getLogger(__name__)

THREADS = 32
HEAD_BYTES = 256 << 10
BODY_IN_MEMORY = 16 << 20
PIECE = 1 << 20
VALUES_AS_EXPRESSIONS = (
    "input_format_values_interpret_expressions",
    "input_format_values_deduce_templates_of_expressions",
)

# Parameters of a request that are about HTTP, not settings of the query.
TRANSPORT = frozenset(
    (  # noqa: SIM905 -- as a list it would be 24 lines
        "query database default_format user password query_id quota_key role session_id session_timeout session_check "
        "compress decompress buffer_size wait_end_of_query client_protocol_version send_progress_in_http_headers "
        "http_headers_progress_interval_ms enable_http_compression http_zlib_compression_level http_response_headers "
        "cancel_http_readonly_queries_on_client_close log_comment add_http_cors_header"
    ).split()
)
CONTENT_TYPES = dict.fromkeys(("JSON", "JSONCOMPACT", "JSONSTRINGS"), "application/json; charset=UTF-8")
CONTENT_TYPES |= dict.fromkeys(("NATIVE", "ROWBINARY", "ARROW", "ARROWSTREAM", "PARQUET"), "application/octet-stream")
CONTENT_TYPES |= {
    "JSONEACHROW": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWITHNAMES": "text/csv; charset=UTF-8; header=present",
    "TABSEPARATED": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Login:
    user: str
    password: str

    def accepts(self, user: str, password: str) -> bool:
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        return hmac.compare_digest(password.encode(), self.password.encode()) and same_user


class Front:
    """The ASGI endpoint of `/`: authenticate, read the request, run the statement, send its result."""

    def __init__(self, engine: Engine, login: Login) -> None:
        self._engine = engine
        self._login = login
        # The engine is called in threads, one call at a time per request: a client that reads its result slowly
        # holds a connection but no thread.
        self._threads = CapacityLimiter(THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        query_id = request.query_params.get("query_id") or str(uuid.uuid4())
        headers = _headers(query_id)
        with new_spool(BODY_IN_MEMORY) as body:
            try:
                authenticate(self._login, request)
                if not request.query_params.get("query") and request.method != "POST":
                    await PlainTextResponse("Ok.\n", headers=headers)(scope, receive, send)
                    return
                # The whole body is here before the engine sees it: a client that dies while sending writes nothing.
                await spool_body(request, body)
                statement, arguments = read_statement(request, body)
                await self._execute(statement, arguments, request, headers, send)
            except ClientDisconnect:
                return
            except EngineError as error:
                await self._error(error, headers)(scope, receive, send)

    async def _execute(
        self, statement: Statement, arguments: dict[str, str], request: Request, headers: dict[str, str], send: Send
    ) -> None:
        run = Run(self._engine, statement)
        async with contextlib.AsyncExitStack() as held:
            held.push_async_callback(self._in_thread, run.close)
            held.callback(asyncio.create_task(self._cancel_when_client_leaves(request.receive, run)).cancel)
            await self._in_thread(run.start)
            answer = Answer(run, arguments, request.headers, headers)
            await answer.send(send, self._in_thread)

    async def _cancel_when_client_leaves(self, receive: Receive, run: Run) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await self._in_thread(run.cancel)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)

    def _error(self, error: EngineError, headers: dict[str, str]) -> Response:
        text = str(error)
        trailer = "" if "(version " in text else f" (version {self._engine.version})"
        headers = headers | {"X-ClickHouse-Exception-Code": str(error.code)}
        return PlainTextResponse(f"{text}{trailer}\n", status_code=error.status, headers=headers)


class Answer:
    """A statement's result on its way to the client."""

    def __init__(self, run: Run, arguments: dict[str, str], asked: Headers, headers: dict[str, str]) -> None:
        self._run = run
        wanted = arguments.get("enable_http_compression", "0") not in ("", "0")
        self._encoding = negotiate(asked.get("accept-encoding", "")) if wanted else None
        self._encoder = ENCODERS[self._encoding]() if self._encoding else Plain()
        self._tag = uuid.uuid4().hex[:16]
        self._headers = headers | self._own_headers()

    def _own_headers(self) -> dict[str, str]:
        name = self._run.statement.format
        headers = {"X-ClickHouse-Exception-Tag": self._tag}
        if self._run.statement.reads:
            headers["Content-Type"] = CONTENT_TYPES.get(name.upper(), "text/plain; charset=UTF-8")
            headers["X-ClickHouse-Format"] = name
        return headers | ({"Content-Encoding": self._encoding} if self._encoding else {})

    async def send(self, send: Send, in_thread: Callable[[Callable[[], Any]], Any]) -> None:
        headers = self._headers | {"X-ClickHouse-Summary": self._run.summary()}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        try:
            while not self._run.cancelled and (piece := await in_thread(self._next_piece)) is not None:
                if piece:
                    await send(_piece(piece))
            if not self._run.cancelled:
                await send(_piece(self._encoder.flush(), last=True))
        except EngineError as error:
            # The status is long gone. The text goes out as a real server's does, and the last, empty chunk never
            # does: no client takes the half for the whole.
            await send(_piece(self._encoder.compress(self._exception(error)) + self._encoder.flush()))
            log.warning("a result broke off: %s", error)

    def _next_piece(self) -> bytes | None:
        chunk = self._run.next_chunk()
        return None if chunk is None else self._encoder.compress(chunk)

    def _exception(self, error: EngineError) -> bytes:
        message = str(error).encode()
        tag = self._tag.encode()
        size = str(len(message)).encode()
        return b"\r\n__exception__\r\n%b\r\n%b\n%b %b\r\n__exception__\r\n" % (tag, message, size, tag)


def _piece(body: bytes, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}


def _headers(query_id: str) -> dict[str, str]:
    return {
        "X-ClickHouse-Query-Id": query_id,
        "X-ClickHouse-Timezone": "UTC",
        "X-ClickHouse-Server-Display-Name": "ninjait-local",
    }


def authenticate(login: Login, request: Request) -> None:
    """Headers, then Basic, then URL parameters, in a real server's order. The reason never says which part is wrong."""
    if not login.accepts(*credentials(request)):
        reason = "Authentication failed: password is incorrect, or there is no user with such name"
        raise EngineError.of(516, reason, "AUTHENTICATION_FAILED")


def credentials(request: Request) -> tuple[str, str]:
    headers, params = request.headers, request.query_params
    if "x-clickhouse-user" in headers:
        return headers["x-clickhouse-user"], headers.get("x-clickhouse-key", "")
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = b64decode(value, validate=True).decode().partition(":")
        except (Base64Error, UnicodeDecodeError):
            return "", ""
        return user, password
    return params.get("user", ""), params.get("password", "")


async def spool_body(request: Request, body: BinaryIO) -> None:
    """The whole body, decoded. One that ends inside a compressed frame is refused: with what came before its end
    taken for everything, a torn insert would be acknowledged."""
    name = request.headers.get("content-encoding", "").lower()
    if name not in DECODERS:
        raise EngineError.of(48, f"Content-Encoding {name} is not supported by the local front", "NOT_IMPLEMENTED")
    decoder = None
    try:
        async for piece in request.stream():
            while piece:
                if decoder is None or decoder.eof:  # several frames may follow one another
                    decoder = DECODERS[name]()
                body.write(decoder.decompress(piece))
                piece = decoder.unused_data or b""
    except DECODE_ERRORS as error:
        raise EngineError.of(117, f"The body is not valid {name}: {error}", "INCORRECT_DATA") from None
    if decoder is not None and not decoder.eof:
        raise EngineError.of(117, f"The body is not valid {name}: it ends in the middle", "INCORRECT_DATA")
    body.seek(0)


def read_statement(request: Request, body: BinaryIO) -> tuple[Statement, dict[str, str]]:
    """The statement of a request, and the request's arguments from URL, form and headers."""
    arguments = dict(request.query_params)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        arguments |= form_fields(request.headers["content-type"], body.read())
        body = new_spool(0)
    arguments.setdefault("database", request.headers.get("x-clickhouse-database", ""))
    arguments.setdefault("default_format", request.headers.get("x-clickhouse-format", ""))
    for name in ("compress", "decompress"):
        if arguments.get(name, "0") not in ("", "0"):
            raise EngineError.of(
                48, f"`{name}` is not supported by the local front; use HTTP's encodings", "NOT_IMPLEMENTED"
            )
    return build_statement(arguments, body, readonly=request.method != "POST"), arguments


def build_statement(arguments: dict[str, str], body: BinaryIO, readonly: bool) -> Statement:
    params = {name[6:]: value for name, value in arguments.items() if name.startswith("param_")}
    settings = {n: v for n, v in arguments.items() if n not in TRANSPORT and not n.startswith("param_")}
    if readonly and settings.get("readonly", "0") == "0":
        settings["readonly"] = "2"
    common: dict[str, Any] = {"params": params, "settings": settings}
    common["database"] = arguments.get("database") or None
    query = arguments.get("query", "").encode()
    head = query or body.read(HEAD_BYTES)
    if first_word(head.decode("latin-1")) == "INSERT" and settings.get("readonly", "0") != "0":
        # The engine would refuse the insert into a table, but write the file of an INSERT INTO FUNCTION file().
        raise EngineError.of(164, "Cannot execute query in readonly mode", "READONLY")
    insert = split_insert(head)
    if insert is not None and not (insert.format == "Values" and params and not query):
        # Data may follow the statement in the URL too, but hardly ever does: what is there goes before the body.
        rest = head[insert.data_at :] if query else b""
        body.seek(0 if query else insert.data_at)
        data = joined(rest, body) if rest.strip() else body
        if insert.format.upper() == "VALUES":
            settings |= only_literals(data, insert.statement)
        return Statement(checked(insert.statement), insert_format=insert.format, data=data, **common)
    body.seek(0)
    if insert is not None:
        only_literals(body, "parameters need " + VALUES_AS_EXPRESSIONS[0])
    text = decode((query + b"\n" if query else b"") + body.read()).strip()
    return Statement(checked(text), result_format(text) or arguments.get("default_format") or "TabSeparated", **common)


def only_literals(data: BinaryIO, statement: str) -> dict[str, str]:
    """Settings with which the VALUES that follow are no expressions, where these might read a file of this process."""
    start, tail = data.tell(), b""
    found = False
    while not found and (piece := data.read(PIECE)):
        found = values_may_call(tail + piece)
        tail = (tail + piece)[-HEAD_BYTES:]  # what is cut at a piece's end is seen with the next
    data.seek(start)
    if found and "input_format_values" in statement.lower():
        raise EngineError.of(497, "These VALUES are literals only: file and python are not called", "ACCESS_DENIED")
    return dict.fromkeys(VALUES_AS_EXPRESSIONS, "0") if found else {}


def new_spool(in_memory: int) -> BinaryIO:
    """A file that stays in memory while it is small; its disk space goes with its last reference."""
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=in_memory))


def joined(head: bytes, body: BinaryIO) -> BinaryIO:
    file = new_spool(BODY_IN_MEMORY)
    file.write(head)
    while piece := body.read(PIECE):
        file.write(piece)
    file.seek(0)
    return file


def decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise EngineError.of(62, "Syntax error: the query is not valid UTF-8", "SYNTAX_ERROR") from None


def checked(sql: str) -> str:
    if reason := refusal(sql) if sql else "Syntax error: Empty query":
        raise EngineError.of(62, reason, "SYNTAX_ERROR")
    return sql


def form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a multipart form; clickhouse-connect sends parameters that way when they are long."""
    message = email.message_from_bytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=email.policy.HTTP
    )
    fields = {}
    for part in message.iter_parts():
        if part.get_filename() is not None:
            raise EngineError.of(48, "External data is not supported by the local front", "NOT_IMPLEMENTED")
        name = part.get_param("name", header="content-disposition")
        fields[str(name)] = decode(cast(bytes, part.get_payload(decode=True)))
    return fields


async def ping(_: Request) -> Response:
    return PlainTextResponse("Ok.\n")


async def unknown_path(request: Request, _: Exception) -> Response:
    return PlainTextResponse(f"There is no handle {request.url.path}\n", status_code=404)


def build_app(engine: Engine, login: Login) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        engine.close()

    routes = [Route("/ping", ping), Route("/", Front(engine, login), methods=["GET", "HEAD", "POST"])]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: unknown_path})


def main() -> None:
    parser = argparse.ArgumentParser(description="ClickHouse's HTTP interface in front of chDB")
    parser.add_argument("--data", type=Path, required=True, help="folder that chDB keeps its data in")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    options = parser.parse_args()
    os.umask(0o077)
    # The engine's threads hold some files each; many clients at once go beyond the usual soft limit of 1024.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    engine = Engine(options.data)
    engine.text(f"CREATE DATABASE IF NOT EXISTS {quote_name(os.environ.get('CLICKHOUSE_DATABASE', 'default'))}")
    login = Login(os.environ["CLICKHOUSE_USER"], os.environ["CLICKHOUSE_PASSWORD"])
    app = build_app(engine, login)
    # SIGTERM waits for the requests under way: an insert that is being written is acknowledged before we go.
    # h11, because httptools refuses an address of more than 64 KiB; a real server takes 1 MiB.
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=20,
        http="h11",
        h11_max_incomplete_event_size=1 << 20,
    )


if __name__ == "__main__":
    # The zone of the process is the zone of the server, and it is read when the engine opens.
    os.environ["TZ"] = "UTC"
    time.tzset()
    main()
