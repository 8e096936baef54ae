"""Dragonfly (or Redis): latest values, API response caches, leaderboards, reports. All of it can be rebuilt."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    OutOfSpace,
    Store,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    tls_failure,
)

# An older run never overwrites what a newer one wrote: as_of is ISO 8601 in UTC of fixed width, so text order is time
# order. Of documents about different weeks the later week's is newer. ARGV: lifetime in milliseconds (0: for ever),
# then for each key its value, and its week and as_of. What is none of our documents has no version and is replaced: it
# would keep the key, and the run that writes it, from ever being right again.
VERSION_OF = """
local function version_of(key)
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
    if version_of(key) <= version then
        if ARGV[1] == '0' then redis.call('SET', key, value) else redis.call('SET', key, value, 'PX', ARGV[1]) end
        stored = stored + 1
    end
end
return stored
"""
# Of the keys of one script, so that it holds up other clients for some milliseconds at most.
KEYS_AT_ONCE = 500
# Words of an error that passes when somebody acts -> what to do.
_PASSING = {
    "maxmemory": "Its memory is full: drain the queues, or raise maxmemory.",
    "Out of memory": "Its memory is full: drain the queues, or raise maxmemory.",
    "read only replica": "It is a replica: has the primary moved?",
    "MISCONF": "It cannot write to its disk: look whether that is full, and into the server's log.",
    "LOADING": "It is reading its data: wait.",
}
PROBE = "ninjait:write-probe"


class _Retry(Retry):
    """Passes two errors on at once: a refused password, which redis-py counts among the broken connections, and
    silence, because a server that hangs would hang for every further try."""

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


@contextmanager
def errors(url: str) -> Iterator[None]:
    """Turns the client's errors into ours."""
    try:
        yield
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise StoreRefused("Dragonfly", url, error, "Check DRAGONFLY_URL.") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        if failed := tls_failure("Dragonfly", url, error, "DRAGONFLY_URL", "DRAGONFLY_CA_FILE"):
            raise failed from error
        raise StoreUnavailable("Dragonfly", url, error, "See what runs with: ninjait status.") from error
    except redis.exceptions.RedisError as error:
        # redis-py puts the command before the server's words, which may hold what somebody sent.
        said = str(error).rpartition(" of pipeline caused error: ")[2]
        error.args = (said,)
        if is_out_of_space(said):
            raise OutOfSpace("Dragonfly", url, said) from error
        for words, advice in _PASSING.items():
            if words in said:
                raise StoreUnavailable("Dragonfly", url, said, advice) from error
        raise StoreFailed("Dragonfly", url, said, "Read Dragonfly's words above.") from error


class Dragonfly(Store):
    """Dragonfly through redis-py; wrap what you do with `client` in `errors(store.url)`.

    with Dragonfly(url="redis://:password@127.0.0.1:6379/0").open() as store:
        store.set_if_newer("org:1:summary", {"as_of": "2026-01-01T00:00:00.000000+00:00"}, timedelta(minutes=5))
    """

    title = "Dragonfly"
    oldest = "6.2"  # of Redis, whose version Valkey and others say for compatibility
    oldest_dragonfly: ClassVar[str] = "1.40"

    url: str = Field(description="redis://:password@host:port/database; rediss:// with TLS")
    timeout_seconds: float = Field(default=5, description="Longest wait for a connection or an answer, seconds")

    _text: ClassVar[bool] = True
    _client: redis.Redis | None = PrivateAttr(default=None)

    @property
    def client(self) -> redis.Redis:
        """The official client; answers are text. It tries three times to connect or when the connection broke."""
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
        with errors(self.url):
            info: dict[str, Any] = self.client.info()
        return str(info.get("dragonfly_version") or info["redis_version"]), info.get("used_memory")

    def oldest_of(self, version: str) -> str:
        """Dragonfly counts in another way than Redis."""
        return self.oldest_dragonfly if version.startswith("df-") else self.oldest

    def probe(self) -> None:
        """A key that is gone after a millisecond."""
        with errors(self.url):
            self.client.set(PROBE, 1, px=1)

    def set_if_newer(self, key: str, value: dict[str, Any], ttl: timedelta | None = None) -> bool:
        """Stores a JSON document that has an `as_of` (see `keys.as_of_text`); False where the key holds a newer one.

        Where it has a `week` too (ISO date), a later week is newer than an earlier one, whatever their as_of.
        """
        return self.set_many_if_newer([(key, value)], ttl) == 1

    def set_many_if_newer(self, values: Iterable[tuple[str, dict[str, Any]]], ttl: timedelta | None = None) -> int:
        """The same for many, in few round trips; returns how many were stored."""
        milliseconds = int(ttl.total_seconds() * 1000) if ttl else 0
        every = [(key, msgspec.json.encode(value), value.get("week", "") + value["as_of"]) for key, value in values]
        stored = 0
        with errors(self.url):
            script = self.client.register_script(_SET_IF_NEWER)
            for first in range(0, len(every), KEYS_AT_ONCE):
                some = every[first : first + KEYS_AT_ONCE]
                stored += script(
                    [key for key, *_ in some], [milliseconds, *chain.from_iterable(rest for _, *rest in some)]
                )
        return stored
