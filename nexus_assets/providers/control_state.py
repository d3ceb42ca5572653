"""What all processes agree on about a provider: kept in Redis, or in this process while Redis is away.

Breakers, budgets and the call log keep their state here. Its keys have no lifetime, because Redis may drop a key that
has one when memory is short, and a forgotten budget is a broken one. A fetch never fails for want of Redis: the first
failure is a warning, after which this process keeps its own state and asks Redis again every `patience_s` seconds.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

import redis
from pydantic import SecretStr
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from nexus_assets.providers.redaction import redact

T = TypeVar("T")

Step = Callable[[bytes | None, float], tuple[bytes | None, T]]
"""From what stands in a key and the clock (Unix seconds) to what shall stand there, None to remove it, and a result."""

_log = logging.getLogger(__name__)

# Long enough for a busy machine, because a budget that is no longer shared may be exceeded. A command whose answer is
# late is not sent again: it may have been carried out.
_CONNECT_S = 1.0
_ANSWER_S = 5.0
_RETRY = Retry(ConstantBackoff(0.05), 1, supported_errors=(redis.ConnectionError,))


class ControlState:
    """State that is shared through Redis, or this process's own. Usable from several threads.

    Args:
        redis_url: `redis://[:password@]host:port/number`; None for this process's own state.
        patience_s: Seconds until Redis is asked again after it failed.
    """

    def __init__(self, redis_url: SecretStr | None, *, patience_s: float = 30.0) -> None:
        self.client: redis.Redis | None = None
        self._patience_s = patience_s
        self._asked_again_at = 0.0
        self._warned = False
        self._lock = threading.RLock()
        self._own: dict[str, bytes] = {}
        self._objects: dict[str, Any] = {}
        if redis_url is None:
            self._warn("no Redis is configured (NEXUS_REDIS_URL)")
            return
        try:
            self.client = redis.Redis.from_url(
                redis_url.get_secret_value(),
                socket_timeout=_ANSWER_S,
                socket_connect_timeout=_CONNECT_S,
                retry=_RETRY,
                client_name="nexus_assets",
            )
        except ValueError:
            self._warn("the URL of Redis (NEXUS_REDIS_URL) cannot be read")

    @property
    def shared(self) -> bool:
        """Whether Redis is used at the moment."""
        return self.client is not None and time.monotonic() >= self._asked_again_at

    def ask(self, shared: Callable[[redis.Redis], T], alone: Callable[[], T]) -> T:
        """The result of `shared`, or, while Redis is away, of `alone`."""
        if self.shared:
            try:
                result = shared(cast(redis.Redis, self.client))
            except redis.RedisError as error:
                self._asked_again_at = time.monotonic() + self._patience_s
                self._warn(f"Redis failed ({redact(str(error)) or type(error).__name__})")
            else:
                self._recovered()
                return result
        return alone()

    def update(self, key: str, step: Step[T]) -> T:
        """Read, decide and write one key as if nobody else were there. `step` may be called several times.

        The clock is that of Redis, so that machines whose clocks differ agree; alone it is this machine's.
        """
        return self.ask(lambda client: self._update_shared(client, key, step), lambda: self._update_own(key, step))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """This process's own object of that name, made when it is asked for first."""
        with self._lock:
            if name not in self._objects:
                self._objects[name] = make()
            return self._objects[name]

    def now(self) -> float:
        """The clock that `update` goes by, in Unix seconds."""
        return self.ask(clock_of, time.time)

    def _update_shared(self, client: redis.Redis, key: str, step: Step[T]) -> T:
        def transact(pipeline: Any) -> tuple[bytes | None, T]:
            current = pipeline.get(key)
            new, result = step(current, clock_of(pipeline))
            pipeline.multi()
            if new is not None and new != current:
                pipeline.set(key, new)
            elif new is None and current is not None:
                pipeline.delete(key)
            return new, result

        new, result = cast(Any, client).transaction(transact, key, value_from_callable=True)
        # Should Redis go away, this process goes on from what it knew.
        self._keep(key, new)
        return result

    def _update_own(self, key: str, step: Step[T]) -> T:
        with self._lock:
            new, result = step(self._own.get(key), time.time())
            self._keep(key, new)
            return result

    def _keep(self, key: str, value: bytes | None) -> None:
        with self._lock:
            if value is None:
                self._own.pop(key, None)
            else:
                self._own[key] = value

    def _warn(self, what: str) -> None:
        with self._lock:
            if self._warned:
                return
            self._warned = True
        _log.warning(
            "%s: circuit breakers, rate budgets and call statistics of providers hold for this process only. Limits "
            "may be exceeded where several processes fetch. Run `nexus up`, or see to the Redis of NEXUS_REDIS_URL.",
            what[0].upper() + what[1:],
        )

    def _recovered(self) -> None:
        if self._warned:
            with self._lock:
                self._warned = False
            _log.info("Redis answers again: breakers, budgets and call statistics of providers are shared.")


def clock_of(client: Any) -> float:
    """The clock of a Redis server, in Unix seconds."""
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


@lru_cache(maxsize=8)
def control_state(redis_url: SecretStr | None) -> ControlState:
    """The one state of this process for a Redis; every provider is to use it."""
    return ControlState(redis_url)
