"""One connection to Redis: batches of compared writes, reads, messages, and errors that say where and what next.

What belongs here: talking to Redis. What keys and values mean is in redis_contract.py.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from nexus_assets.errors import FeatureStoreError
from nexus_assets.redis_contract import Write

BATCH = 500
"""Values per script: it runs alone inside Redis."""

_TIMEOUT_S = 5.0
# A supervisor restarts a killed Redis within 2 s; five tries last about 3 s. A write that is tried again is compared
# again, so it cannot be done twice.
_RETRY = (ExponentialBackoff(cap=1.0, base=0.1), 5)

WRITTEN = frozenset({"new", "corrected", "healed"})
"""Outcomes after which the key holds another value than before. The others: current, refreshed (the same value, its
lifetime anew), older (refused, because what stands there is newer), or `failed: reason`."""

_COMPARE_AND_SET = """
local FIELDS = {'ts', 'known_at', 'code_version', 'contract'}
local INSTANT = '^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d'

local function version_of(text)
  if type(text) ~= 'string' then return nil end
  local ok, value = pcall(cjson.decode, text)
  if not ok or type(value) ~= 'table' then return nil end
  if type(value.ts) ~= 'string' or not value.ts:find(INSTANT) then return nil end
  if type(value.known_at) ~= 'string' or not value.known_at:find(INSTANT) then return nil end
  if type(value.code_version) ~= 'number' or type(value.contract) ~= 'number' then return nil end
  return value
end

local function order(a, b)
  for _, name in ipairs(FIELDS) do
    if a[name] ~= b[name] then return a[name] > b[name] and 1 or -1 end
  end
  return 0
end

local function judge(key, version_key, payload, new, keep_alive)
  local text = redis.pcall('GET', version_key)
  if text == false then return 'new' end
  local old = version_of(text)
  if old == nil then return 'healed' end
  if old.timeframe ~= new.timeframe then return 'new' end
  local sign = order(new, old)
  if sign < 0 then return 'older' end
  if sign > 0 then return new.ts == old.ts and 'corrected' or 'new' end
  local stored = redis.pcall('GET', key)
  if stored ~= false and stored ~= payload then return 'corrected' end
  return keep_alive and 'refreshed' or 'current'
end

local outcomes = {}
for i = 1, #KEYS / 2 do
  local key, version_key = KEYS[2 * i - 1], KEYS[2 * i]
  local payload, version, ttl = ARGV[4 * i - 3], ARGV[4 * i - 2], ARGV[4 * i - 1]
  local outcome = judge(key, version_key, payload, cjson.decode(version), ARGV[4 * i] == '1')
  if outcome ~= 'current' and outcome ~= 'older' then
    local answer
    if ttl == '0' then answer = redis.pcall('SET', key, payload)
    else answer = redis.pcall('SET', key, payload, 'PX', ttl) end
    if not answer.err and version_key ~= key then answer = redis.pcall('SET', version_key, version) end
    if answer.err then outcome = 'failed: ' .. answer.err end
  end
  outcomes[i] = outcome
end
return outcomes
"""


class RedisConnection:
    """A client of one Redis database, usable from several threads.

    Args:
        url: `redis://[:password@]host:port/number`.

    Raises:
        FeatureStoreError: the URL is none, or, from every method, Redis could not be reached or refused.
    """

    def __init__(self, url: str) -> None:
        try:
            self.client = redis.Redis.from_url(
                url,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(*_RETRY),
                client_name="nexus_assets",
            )
        except ValueError as error:
            raise FeatureStoreError(
                "The URL of Redis cannot be read.", next_step="Write it as redis://:password@host:port/0."
            ) from error
        arguments = self.client.connection_pool.connection_kwargs
        self.address = arguments.get("path") or f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"
        self._compare_and_set = self.client.register_script(_COMPARE_AND_SET)

    def compare_and_set(self, writes: Sequence[Write]) -> list[str]:
        """Write each value unless a newer one stands there; atomic for each BATCH. Returns the outcome of each."""
        outcomes: list[str] = []
        for first in range(0, len(writes), BATCH):
            batch = writes[first : first + BATCH]
            keys = [key for write in batch for key in (write.key, write.version_key)]
            arguments: list[bytes | int | str] = []
            for write in batch:
                lifetime = 0 if write.ttl is None else int(write.ttl.total_seconds() * 1000)
                arguments += (write.payload, write.version, lifetime, int(write.keep_alive))
            with self.asking(f"write {len(batch)} values"):
                answer = cast(list[bytes], self._compare_and_set(keys=keys, args=arguments))
            outcomes += (outcome.decode() for outcome in answer)
        return outcomes

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key in one request; None where there is none, or one that is no string."""
        if not keys:
            return []
        with self.asking(f"read {len(keys)} keys"):
            return cast(list[bytes | None], self.client.mget(keys))

    def delete(self, keys: Sequence[str]) -> int:
        """Remove the keys. Returns how many there were."""
        with self.asking(f"remove {len(keys)} keys"):
            return cast(int, self.client.delete(*keys))

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send each (channel, content), in this order, in one request."""
        if not messages:
            return
        with self.asking(f"publish {len(messages)} messages"), self.client.pipeline(transaction=False) as pipeline:
            for channel, content in messages:
                pipeline.publish(channel, content)
            pipeline.execute()

    @contextmanager
    def asking(self, action: str) -> Iterator[None]:
        """Turn an error of the client into one of ours that names the address and the action."""
        try:
            yield
        except redis.RedisError as error:
            raise FeatureStoreError(
                f"Redis at {self.address} could not {action}: {error or type(error).__name__}.",
                next_step="Run `nexus up`, or see that NEXUS_REDIS_URL names a running Redis and its password.",
            ) from error
