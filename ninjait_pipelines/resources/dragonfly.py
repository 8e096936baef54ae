"""Dragonfly (or Redis): latest values, API response caches, leaderboards, reports. All of it can be rebuilt."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from itertools import chain
from typing import Any, ClassVar

import msgspec
import redis
import redis.exceptions
from pydantic import Field, PrivateAttr
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from ninjait_pipelines.resources.store import (
    SEE_STATUS,
    OutOfSpace,
    Store,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    tls_failure,
)

# An older run never overwrites what a newer one wrote: as_of is ISO 8601 in UTC with fixed width, so text order is time
# order. A document about a later week is newer than one about an earlier week. ARGV: lifetime in milliseconds (0: no
# limit), then for each key its value, and its week and as_of. A value that is not one of our documents has no version
# and is replaced: otherwise no run could ever write that key again.
# `head`: our documents begin with their ids and `as_of`, and are not decoded as a whole unless they may have a week.
VERSION_OF = """
local function version_of(key, has_week)
    local head = redis.pcall('GETRANGE', key, 0, 255)
    local as_of = type(head) == 'string' and string.match(head, '^{[^{%[]-"as_of":"(%d%d%d%d%-[%d:T.+-]+)"')
    if as_of and not has_week and redis.call('GETRANGE', key, -1, -1) == '}' then return as_of end
    local held = redis.pcall('GET', key)
    local read, found = pcall(cjson.decode, held)
    if type(held) ~= 'string' or not read or type(found) ~= 'table' or type(found['as_of']) ~= 'string' then
        return ''
    end
    return (type(found['week']) == 'string' and found['week'] or '') .. found['as_of']
end
"""
_SET_IF_NEWER = f"""{VERSION_OF}
local stored = 0
for i, key in ipairs(KEYS) do
    local value, version = ARGV[2 * i], ARGV[2 * i + 1]
    if version_of(key, #version > #'2026-01-01T00:00:00.000000+00:00') <= version then
        if ARGV[1] == '0' then redis.call('SET', key, value) else redis.call('SET', key, value, 'PX', ARGV[1]) end
        stored = stored + 1
    end
end
return stored
"""
# ARGV: lifetime in milliseconds (0: no limit), as_of, then the revision of each key.
_RENEW = """
local renewed = {}
for i, key in ipairs(KEYS) do
    local head, as_of, revision = redis.pcall('GETRANGE', key, 0, 255)
    if type(head) == 'string' then
        as_of, revision = string.match(head, '^{[^{%[]-"as_of":"([^"]+)","revision":"([^"]+)"')
    end
    renewed[i] = revision == ARGV[i + 2] and #as_of == #ARGV[2] and 1 or 0
    if renewed[i] == 1 and as_of < ARGV[2] then
        redis.call('SETRANGE', key, string.find(head, '"as_of":"', 1, true) + 8, ARGV[2])
        if ARGV[1] ~= '0' then redis.call('PEXPIRE', key, ARGV[1]) end
    end
end
return renewed
"""
# Keys per script call: a script blocks other clients, and this many take a few milliseconds.
KEYS_AT_ONCE = 500
# Errors that pass once someone acts: text in the message -> what to do.
_PASSING = {
    "maxmemory": "Its memory is full: drain the queues, or raise maxmemory.",
    "Out of memory": "Its memory is full: drain the queues, or raise maxmemory.",
    "read only replica": "It is a replica: has the primary moved?",
    "MISCONF": "It cannot write to its disk: check whether that is full, and read the server's log.",
    "LOADING": "It is loading its data: wait.",
}
PROBE = "ninjait:write-probe"


class _Retry(Retry):
    """Raises two errors at once: a refused password, which redis-py treats as a broken connection, and a time-out,
    because a server that hangs would hang at every further attempt."""

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Any,
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        def may_pass(error: Exception) -> bool:
            at_once = isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.TimeoutError)
            return not at_once and (is_retryable is None or is_retryable(error))

        return super().call_with_retry(do, fail, may_pass, with_failure_count)


class Dragonfly(Store):
    """Dragonfly through redis-py; wrap what you do with `client` in `errors()`.

    with Dragonfly(url="redis://:password@127.0.0.1:6379/0").open() as store:
        store.set_if_newer("org:1:summary", {"as_of": "2026-01-01T00:00:00.000000+00:00"}, timedelta(minutes=5))
    """

    title = "Dragonfly"
    oldest = "6.2"  # of Redis; Valkey and others report the Redis version they are compatible with
    oldest_dragonfly: ClassVar[str] = "1.40"

    url: str = Field(description="redis://:password@host:port/database; rediss:// with TLS")
    timeout_seconds: float = Field(default=5, description="Longest wait for a connection or an answer, seconds")

    _text: ClassVar[bool] = True
    _client: redis.Redis | None = PrivateAttr(default=None)

    @property
    def client(self) -> redis.Redis:
        """The official client; answers are text. It retries three times if the connection fails or breaks."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> redis.Redis:
        tls = {"ssl_ca_certs": self.ca_file} if self.url.startswith("rediss:") else {}
        try:
            return redis.Redis.from_url(
                self.url,
                decode_responses=self._text,
                socket_timeout=self.timeout_seconds,
                socket_connect_timeout=self.timeout_seconds,
                retry=_Retry(ExponentialWithJitterBackoff(base=0.1, cap=2), 3),
                client_name="ninjait-pipelines",
                **tls,
            )
        except ValueError as error:
            raise StoreFailed(self.title, self.url, error, "Check DRAGONFLY_URL.") from error

    def _ping(self) -> tuple[str, int | None]:
        with self.errors():
            info: dict[str, Any] = self.client.info()
        return str(info.get("dragonfly_version") or info["redis_version"]), info.get("used_memory")

    def _translate(self, error: Exception) -> StoreError | None:
        match error:
            case redis.exceptions.AuthenticationError() | redis.exceptions.NoPermissionError():
                return StoreRefused("Dragonfly", self.url, error, "Check DRAGONFLY_URL.")
            case redis.exceptions.ConnectionError() | redis.exceptions.TimeoutError():
                untrusted = tls_failure("Dragonfly", self.url, error, "DRAGONFLY_URL", "DRAGONFLY_CA_FILE")
                return untrusted or StoreUnavailable("Dragonfly", self.url, error, SEE_STATUS)
            case redis.exceptions.RedisError():
                return self._server_error(error)
        return None

    def _server_error(self, error: redis.exceptions.RedisError) -> StoreError:
        # redis-py puts the command in front of the server's message, and that may quote what a sender sent.
        message = str(error).rpartition(" of pipeline caused error: ")[2]
        error.args = (message,)
        if is_out_of_space(message):
            return OutOfSpace("Dragonfly", self.url, message)
        for reason, advice in _PASSING.items():
            if reason in message:
                return StoreUnavailable("Dragonfly", self.url, message, advice)
        return StoreFailed("Dragonfly", self.url, message, "See Dragonfly's message above.")

    def oldest_of(self, version: str) -> str:
        """Dragonfly's version numbers are not Redis's."""
        return self.oldest_dragonfly if version.startswith("df-") else self.oldest

    def probe(self) -> None:
        """Writes a key that expires after a millisecond."""
        with self.errors():
            self.client.set(PROBE, 1, px=1)

    def set_if_newer(self, key: str, value: dict[str, Any], ttl: timedelta | None = None) -> bool:
        """Stores a JSON document that has an `as_of` (see `keys.as_of_text`); False where the key holds a newer one.

        Where it has a `week` too (ISO date), a later week is newer than an earlier one, whatever their as_of.
        """
        return self.set_many_if_newer([(key, value)], ttl) == 1

    def set_many_if_newer(self, values: Iterable[tuple[str, dict[str, Any]]], ttl: timedelta | None = None) -> int:
        """The same for many documents, in few round trips; returns how many were stored."""
        milliseconds = int(ttl.total_seconds() * 1000) if ttl else 0
        documents = [(key, msgspec.json.encode(value), value.get("week", "") + value["as_of"]) for key, value in values]
        stored = 0
        with self.errors():
            script = self.client.register_script(_SET_IF_NEWER)
            for first in range(0, len(documents), KEYS_AT_ONCE):
                batch = documents[first : first + KEYS_AT_ONCE]
                versions = chain.from_iterable(version for _, *version in batch)
                stored += script([key for key, *_ in batch], [milliseconds, *versions])
        return stored

    def renew(self, revisions: Mapping[str, str], as_of: str, ttl: timedelta | None = None) -> set[str]:
        """Renews the documents that have the `revision` that their key is given with, and returns their keys.

        A document's `as_of` becomes this one, and its lifetime begins again, unless it is newer. No others change.
        """
        milliseconds, keys = int(ttl.total_seconds() * 1000) if ttl else 0, list(revisions)
        renewed: set[str] = set()
        with self.errors():
            script = self.client.register_script(_RENEW)
            for first in range(0, len(keys), KEYS_AT_ONCE):
                batch = keys[first : first + KEYS_AT_ONCE]
                found = script(batch, [milliseconds, as_of, *(revisions[key] for key in batch)])
                renewed |= {key for key, one in zip(batch, found, strict=True) if one}
        return renewed
