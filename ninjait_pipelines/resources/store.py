"""What all stores share: opening and closing, errors that a person can act on, and what is worth a retry."""

import re
import ssl
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import dagster as dg
import msgspec
from pybreaker import CircuitBreaker, CircuitBreakerError
from pydantic import Field, PrivateAttr
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_exponential_jitter

from ninjait_pipelines.settings import UserError
from ninjait_pipelines.urls import redacted, without_password


class StoreError(UserError):
    """A store that did not do what it was asked.

    The message has the store, its address without the password, what happened and what to do. Neither it nor the
    client's error that it is raised from has a secret in its words: both are kept in Dagster's events.
    """

    def __init__(self, store: str, url: str, problem: object, advice: str) -> None:
        text = " ".join(str(problem).split()).rstrip(".") or type(problem).__name__
        super().__init__(f"{store} at {without_password(url)}: {redacted(text, url)}. {advice}")
        for cause in causes(sys.exception()):
            cause.args = tuple(redacted(word, url) if isinstance(word, str) else word for word in cause.args)
            # Some clients' errors make their words of these, not of args.
            words = {name: word for name, word in getattr(cause, "__dict__", {}).items() if isinstance(word, str)}
            cause.__dict__.update({name: redacted(word, url) for name, word in words.items()})


class StoreUnavailable(StoreError):
    """The store does not answer, or not in time. Worth a retry."""


class StoreRefused(StoreError):
    """The store refuses our credentials or rights. A retry changes nothing."""


class StoreFailed(StoreError):
    """The store answers, and says that the request itself is wrong. A retry changes nothing."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all those that it came from or wraps; clients wrap one for each step of connecting."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            inside = (getattr(one, "reason", None), getattr(one, "exception", None), *getattr(one, "exceptions", ()))
            waiting += [one.__cause__, one.__context__, *inside, *one.args]


# What is said of certificates where the client passes on words only: OpenSSL's, libpq's, curl's.
_UNTRUSTED = re.compile(
    r"certificate verify failed:? ?([^(\n]*)|(server certificate for .+ does not match host name \"[^\"]*\")"
    r"|(root certificate file \"[^\"]*\" does not exist)|(SSL peer certificate[^.\n]*)"
    r"|(hostname '[^']*' doesn't match [^.\n]*)"
)
_NO_TLS = re.compile(r"WRONG_VERSION_NUMBER|wrong version number|HTTP_REQUEST|server does not support SSL")


def tls_failure(title: str, url: str, error: BaseException, setting: str, ca_setting: str) -> StoreFailed | None:
    """The error for a server whose certificate is not trusted, or that speaks no TLS; None where it is something else.

    Waiting mends neither, so neither is worth a retry.
    """
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            words = cause.verify_message
        else:
            found = _UNTRUSTED.search(str(cause))
            words = (found[found.lastindex or 0] or found[0]) if found else ""
        if words:
            advice = (
                f"Name the file of the authority that signed it in {ca_setting} (or CA_FILE), and in {setting} a host "
                "that it is made out for."
            )
            return StoreFailed(title, url, f"its certificate is not trusted: {words.strip(' .,:')}", advice)
        if _NO_TLS.search(str(cause)):
            advice = f"Do scheme and port of {setting} belong together, and has the server TLS?"
            return StoreFailed(title, url, "it does not answer in TLS", advice)
    return None


class OutOfSpace(StoreUnavailable):
    """The store answers, and has no disk space left to write to. Worth a retry: it passes once somebody makes room."""

    def __init__(self, store: str, url: str, problem: object) -> None:
        advice = "Make room on its disk; what was not written is kept where it came from, and is written then."
        super().__init__(store, url, f"it is out of disk space: {problem}", advice)


_OUT_OF_SPACE = re.compile(
    r"no space left|not enough space|disk (?:is |quota )?(?:full|exceeded)|disk full|out of disk|NOT_ENOUGH_SPACE"
    r"|OutOfDiskSpace|StorageFull|InsufficientStorage|low on disk",
    re.I,
)


def is_out_of_space(problem: object) -> bool:
    """Whether a store's words say that its disk is full, in the words of whichever store.

    Only for words that are the store's own: an error about a request may quote what somebody sent, who would then stop
    everybody by a host called `StorageFull`.
    """
    return bool(_OUT_OF_SPACE.search(str(problem)))


# How long an optional store that was away is left alone.
PAUSE_SECONDS = 30.0


class StoreStatus(msgspec.Struct, frozen=True):
    """One store's health. `latency_seconds` is one round trip; `size_bytes` what its data takes, None where unknown.

    `oldest` is the oldest version that is supported, empty where the store says none. Without an optional store the
    pipeline goes on; `note` says what is different meanwhile. `spooled_messages`, of
    `spooled_bytes`, wait in files until the store takes them; None for a store that has no spool.
    """

    store: str
    address: str
    ok: bool
    version: str = ""
    latency_seconds: float | None = None
    size_bytes: int | None = None
    problem: str = ""
    optional: bool = False
    note: str = ""
    spooled_messages: int | None = None
    spooled_bytes: int | None = None
    oldest: str = ""


def _circuit_breaker() -> CircuitBreaker:
    """Opens at the first StoreUnavailable; any other error is an answer."""
    return CircuitBreaker(
        fail_max=1,
        reset_timeout=PAUSE_SECONDS,
        exclude=[lambda error: not isinstance(error, StoreUnavailable)],
        throw_new_error_on_trip=False,
    )


def retrying(attempts: int = 4, first_wait: float = 0.2, max_seconds: float = 30) -> Retrying:
    """Tries again, with growing and jittered waits, only what StoreUnavailable says is worth it.

    No try begins after `max_seconds`: a server that hangs until a long time-out would hang for every further one.
    """
    return Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        stop=stop_after_attempt(attempts) | stop_after_delay(max_seconds),
        wait=wait_exponential_jitter(initial=first_wait, max=5),
        reraise=True,
    )


class Store(dg.ConfigurableResource, ABC):
    """A store, through its official client: opened at its first use, closed by `open()` or by Dagster at the run's end.

    A subclass connects in one place and keeps what it got in `_client`, which `close` closes, and turns its client's
    errors into the StoreErrors above.
    """

    title: ClassVar[str]
    oldest: ClassVar[str] = ""  # the oldest version that is supported; empty where the store says none

    url: str = Field(description="Where the store is, with user and password")
    ca_file: str | None = Field(
        default=None, description="Certificates (PEM) of the authorities that sign the store's; None: the system's"
    )

    _client: Any = PrivateAttr(default=None)
    _breaker: CircuitBreaker = PrivateAttr(default_factory=_circuit_breaker)

    def __repr__(self) -> str:
        """Without the fields, of which some are secret."""
        return f"{type(self).__name__}({self.address})"

    __str__ = __repr__

    @property
    def address(self) -> str:
        """Where the store is, without a password."""
        return without_password(self.url)

    @abstractmethod
    def _ping(self) -> tuple[str, int | None]:
        """(version, bytes that its data takes), by one round trip."""

    def server_version(self) -> str:
        """What the server says of its version, also before it has what the pipeline puts into it."""
        return self._ping()[0]

    def oldest_of(self, version: str) -> str:
        """The oldest version that is supported of the product whose version this is."""
        return self.oldest

    def probe(self) -> None:
        """Writes next to nothing, and raises a StoreError where the store takes no write: one that is out of disk space
        still answers every question. Here nothing, for stores that no drain writes to."""

    def close(self) -> None:
        """Closes the connections, if any were opened. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def elsewhere(self, **changes: Any) -> Self:
        """The same store by a connection of its own, with other settings; open it by `open()`."""
        other = self.model_copy(update=changes)
        other._client = None
        return other

    @contextmanager
    def open(self) -> Iterator[Self]:
        """`with ClickHouse(...).open() as clickhouse:` closes the connections at the end, whatever happens."""
        try:
            yield self
        finally:
            self.close()

    @contextmanager
    def optional(self) -> Iterator[None]:
        """Round calls that the pipeline can do without: a store that was away is not asked again for a while.

        Raises StoreUnavailable at once then, so that a dead store costs one time-out and not one a batch. After
        PAUSE_SECONDS one call is let through. Calls outside of it always reach the store.
        """
        try:
            with self._breaker.calling():
                yield
        except CircuitBreakerError as error:
            problem = f"it was away less than {PAUSE_SECONDS:g} seconds ago, and is left alone until then"
            raise StoreUnavailable(self.title, self.url, problem, "See what runs with: ninjait status.") from error

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Dagster's hook at the end of a run."""
        self.close()

    def status(self, clock: Callable[[], float] = time.perf_counter) -> StoreStatus:
        """The store's health; a store that is away, or takes no writes, is a status, not an exception."""
        started = clock()
        try:
            version, size = self._ping()
        except StoreError as error:
            return StoreStatus(self.title, self.address, ok=False, problem=str(error))
        latency, oldest = clock() - started, self.oldest_of(version)
        found = StoreStatus(
            self.title, self.address, True, version, latency_seconds=latency, size_bytes=size, oldest=oldest
        )
        try:
            self.probe()
        except StoreFailed:  # the schema is not there yet, which `migrate status` is for
            return found
        except StoreError as error:
            return msgspec.structs.replace(found, ok=False, problem=f"It answers, and takes no writes. {error}")
        return found
