"""What all stores share: opening and closing, errors that a person can act on, and retries."""

import re
import ssl
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Self, TypeVar

import dagster as dg
import msgspec
from pybreaker import CircuitBreaker, CircuitBreakerError
from pydantic import Field, PrivateAttr
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_exponential_jitter

from ninjait_pipelines.errors import UserError
from ninjait_pipelines.urls import redacted, without_password

T = TypeVar("T")
SEE_STATUS = "Check what is running: ninjait status."


class StoreError(UserError):
    """A store did not do what it was asked to.

    The message names the store, its address without the password, what happened and what to do. Secrets are removed
    from it and from the client's errors that caused it, because Dagster's events keep both.
    """

    def __init__(self, store: str, url: str, problem: object, advice: str) -> None:
        text = " ".join(str(problem).split()).rstrip(".") or type(problem).__name__
        super().__init__(f"{store} at {without_password(url)}: {redacted(text, url)}. {advice}")
        for cause in causes(sys.exception()):
            cause.args = tuple(redacted(value, url) if isinstance(value, str) else value for value in cause.args)
            # Some clients' errors make their message from attributes, not from args.
            texts = {name: value for name, value in getattr(cause, "__dict__", {}).items() if isinstance(value, str)}
            cause.__dict__.update({name: redacted(value, url) for name, value in texts.items()})


class StoreUnavailable(StoreError):
    """The store does not answer, or not in time. Worth retrying."""


class StoreRefused(StoreError):
    """The store refuses our credentials or rights. Retrying changes nothing."""


class StoreFailed(StoreError):
    """The store answers that the request itself is wrong. Retrying changes nothing."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and all those that caused it or that it wraps; clients wrap one for each step of connecting."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            wrapped = (
                getattr(cause, "reason", None),
                getattr(cause, "exception", None),
                *getattr(cause, "exceptions", ()),
            )
            waiting += [cause.__cause__, cause.__context__, *wrapped, *cause.args]


# Errors about certificates, for clients that pass on only the text: OpenSSL's, libpq's, curl's.
_UNTRUSTED = re.compile(
    r"certificate verify failed:? ?([^(\n]*)|(server certificate for .+ does not match host name \"[^\"]*\")"
    r"|(root certificate file \"[^\"]*\" does not exist)|(SSL peer certificate[^.\n]*)"
    r"|(hostname '[^']*' doesn't match [^.\n]*)"
)
_NO_TLS = re.compile(r"WRONG_VERSION_NUMBER|wrong version number|HTTP_REQUEST|server does not support SSL")


def tls_failure(title: str, url: str, error: BaseException, setting: str, ca_setting: str) -> StoreFailed | None:
    """The error for a server whose certificate is not trusted, or that does not speak TLS; None for any other error.

    Neither is worth retrying.
    """
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message
        else:
            found = _UNTRUSTED.search(str(cause))
            reason = (found[found.lastindex or 0] or found[0]) if found else ""
        if reason:
            problem = f"its certificate is not trusted: {reason.strip(' .,:')}"
            return StoreFailed(title, url, problem, untrusted_advice(setting, ca_setting))
        if _NO_TLS.search(str(cause)):
            advice = f"Do scheme and port of {setting} belong together, and does the server have TLS?"
            return StoreFailed(title, url, "it does not answer in TLS", advice)
    return None


def untrusted_advice(setting: str, ca_setting: str) -> str:
    """What to do about a certificate that is not trusted."""
    return (
        f"Set {ca_setting} (or CA_FILE) to the certificate of the authority that signed it, and use in {setting} a "
        "host name that it was issued for."
    )


class OutOfSpace(StoreUnavailable):
    """The store answers, but has no disk space left. Worth retrying: it passes once someone frees some."""

    def __init__(self, store: str, url: str, problem: object) -> None:
        advice = "Free space on its disk; what was not written stays where it came from, and is written then."
        super().__init__(store, url, f"it is out of disk space: {problem}", advice)


_OUT_OF_SPACE = re.compile(
    r"no space left|not enough space|disk (?:is |quota )?(?:full|exceeded)|disk full|out of disk|NOT_ENOUGH_SPACE"
    r"|OutOfDiskSpace|StorageFull|InsufficientStorage|low on disk",
    re.I,
)


def is_out_of_space(problem: object) -> bool:
    """Whether the message of any of the stores says that its disk is full.

    Only for messages that quote no data: otherwise a sender could stop everyone with a host named `StorageFull`.
    """
    return bool(_OUT_OF_SPACE.search(str(problem)))


# How long an optional store that was unavailable is not asked again.
PAUSE_SECONDS = 30.0


@contextmanager
def translated(translate: Callable[[Exception], StoreError | None]) -> Iterator[None]:
    """Raises what `translate` makes of an error in its place; an error that it gives None for stays what it is."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if translation := translate(error):
            raise translation from error
        raise


class StoreStatus(msgspec.Struct, frozen=True):
    """A store's health. `latency_seconds` is one round trip; `size_bytes` the size of its data, None if unknown.

    `oldest` is the oldest supported version, empty if the store has no versions. The pipeline continues without an
    optional store; `note` says what is different in the meantime. `spooled_messages`, of
    `spooled_bytes`, wait in files until the store accepts them; None for stores without a spool.
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
    """Opens at the first StoreUnavailable; after any other error the store counts as available."""
    return CircuitBreaker(
        fail_max=1,
        reset_timeout=PAUSE_SECONDS,
        exclude=[lambda error: not isinstance(error, StoreUnavailable)],
        throw_new_error_on_trip=False,
    )


def retrying(attempts: int = 4, first_wait: float = 0.2, max_seconds: float = 30) -> Retrying:
    """Retries after StoreUnavailable, with growing and jittered waits.

    No attempt begins after `max_seconds`: a server that hangs until a long time-out would do so at every attempt.
    """
    return Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        stop=stop_after_attempt(attempts) | stop_after_delay(max_seconds),
        wait=wait_exponential_jitter(initial=first_wait, max=5),
        reraise=True,
    )


class Store(dg.ConfigurableResource, ABC):
    """A store, through its official client: opened at first use, closed by `open()` or by Dagster at the run's end.

    A subclass connects in one place, keeps the client in `_client`, which `close` closes, and translates its client's
    errors into the StoreErrors above: `call` retries what may be repeated, `errors` wraps the rest.
    """

    title: ClassVar[str]
    oldest: ClassVar[str] = ""  # the oldest supported version; empty if the store has no versions

    url: str = Field(description="Where the store is, with user and password")
    ca_file: str | None = Field(
        default=None,
        description="Certificates (PEM) of the authorities that the store's is signed by; None: the system's",
    )

    _client: Any = PrivateAttr(default=None)
    _breaker: CircuitBreaker = PrivateAttr(default_factory=_circuit_breaker)

    def __repr__(self) -> str:
        """Without the fields, some of which are secret."""
        return f"{type(self).__name__}({self.address})"

    __str__ = __repr__

    @property
    def address(self) -> str:
        """The store's address, without a password."""
        return without_password(self.url)

    @abstractmethod
    def _ping(self) -> tuple[str, int | None]:
        """(version, size of its data in bytes), in one round trip."""

    def _translate(self, error: Exception) -> StoreError | None:
        """The StoreError for an error of the client; None for any other error."""
        return None

    def errors(self) -> AbstractContextManager[None]:
        """Raises the client's errors as StoreErrors."""
        return translated(self._translate)

    def call(self, function: Callable[[], T]) -> T:
        """The result of a call that may be repeated: translates its errors, and retries while the store is away."""

        def attempt() -> T:
            with self.errors():
                return function()

        return retrying()(attempt)

    def server_version(self) -> str:
        """The server's version; works before the pipeline's database, buckets or tables exist."""
        return self._ping()[0]

    def oldest_of(self, version: str) -> str:
        """The oldest supported version of the product that this version belongs to."""
        return self.oldest

    def probe(self) -> None:
        """Writes a little, and raises a StoreError if the store accepts no writes: one that is out of disk space still
        answers every query. Does nothing for stores that no drain writes to."""

    def close(self) -> None:
        """Closes the connections, if any are open. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def elsewhere(self, **changes: Any) -> Self:
        """The same store with other settings and a connection of its own; open it with `open()`."""
        other = self.model_copy(update=changes)
        other._client = None
        return other

    @contextmanager
    def open(self) -> Iterator[Self]:
        """`with ClickHouse(...).open() as clickhouse:` closes the connections at the end, in any case."""
        try:
            yield self
        finally:
            self.close()

    @contextmanager
    def optional(self) -> Iterator[None]:
        """For calls that the pipeline can do without: a store that was unavailable is not asked again for a while.

        During that time it raises StoreUnavailable at once, so that a dead store costs one time-out, not one per batch.
        After PAUSE_SECONDS one call is let through. Calls outside of this context always reach the store.
        """
        try:
            with self._breaker.calling():
                yield
        except CircuitBreakerError as error:
            problem = f"it was unavailable less than {PAUSE_SECONDS:g} seconds ago, and is not asked until then"
            raise StoreUnavailable(self.title, self.url, problem, SEE_STATUS) from error

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Dagster calls this at the end of a run."""
        self.close()

    def status(self, clock: Callable[[], float] = time.perf_counter) -> StoreStatus:
        """The store's health. A store that is unavailable or accepts no writes is a status, not an exception."""
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
        except StoreFailed:  # the schema does not exist yet; `migrate status` reports that
            return found
        except StoreError as error:
            return msgspec.structs.replace(found, ok=False, problem=f"It answers, but accepts no writes. {error}")
        return found
