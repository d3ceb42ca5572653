"""What calling each provider was like: counts, latencies, the last success and the last failure.

Kept in Redis by all processes together, or in this process while Redis is away. Keys, without a lifetime, two for each
provider:
    nexus:calls:{provider}            hash: calls, failures, since, last_success, last_failure (Unix seconds), reason
    nexus:calls:{provider}:latencies  list of the newest KEPT_LATENCIES latencies in milliseconds, newest first
"""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import redis

from nexus_assets.providers.budgets import RateBudget
from nexus_assets.providers.control_state import ControlState
from nexus_assets.providers.redaction import redact

KEPT_LATENCIES = 1000

_LONGEST_REASON = 300


@dataclass(frozen=True)
class CallSummary:
    """What calling one provider was like since `since`.

    Attributes:
        provider: Its name.
        calls: Requests that were sent, retries included.
        failures: Those of them that failed, for whatever reason.
        p50_s, p95_s, p99_s: Seconds from sending to the last byte of the answer, or to the failure, of the newest
            KEPT_LATENCIES calls (nearest rank); None before the first.
        since: When the first call was counted; None before it.
        last_success, last_failure: When, in UTC; None where there was none.
        reason: What the last failure was; never a key.
        remaining: Requests that the budget allows now, by window (`8 a minute`); empty without a budget.
        shared: False where only this process's own calls are known, because Redis is away.
    """

    provider: str
    calls: int
    failures: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    since: datetime | None
    last_success: datetime | None
    last_failure: datetime | None
    reason: str
    remaining: dict[str, int]
    shared: bool


@dataclass
class _OwnLog:
    counts: dict[str, Any] = field(default_factory=dict)
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))
    lock: threading.Lock = field(default_factory=threading.Lock)


class CallLog:
    """Writes and reads the log.

    Args:
        state: Where all processes meet.
    """

    def __init__(self, state: ControlState) -> None:
        self._state = state

    def record(self, provider: str, latency_s: float, failure: str | None = None) -> None:
        """Count one call that took `latency_s` seconds; `failure` is what went wrong, None for a success."""
        milliseconds = round(latency_s * 1000, 1)
        values: dict[Any, Any] = {"last_success" if failure is None else "last_failure": time.time()}
        if failure is not None:
            values["reason"] = redact(failure)[:_LONGEST_REASON]

        def shared(client: redis.Redis) -> None:
            key = _key(provider)
            with client.pipeline(transaction=True) as pipeline:
                pipeline.hincrby(key, "calls", 1)
                pipeline.hincrby(key, "failures", 0 if failure is None else 1)
                pipeline.hsetnx(key, "since", time.time())
                pipeline.hset(key, mapping=values)
                pipeline.lpush(f"{key}:latencies", milliseconds)
                pipeline.ltrim(f"{key}:latencies", 0, KEPT_LATENCIES - 1)
                pipeline.execute()

        def alone() -> None:
            own = self._own(provider)
            with own.lock:
                own.counts["calls"] = own.counts.get("calls", 0) + 1
                own.counts["failures"] = own.counts.get("failures", 0) + (failure is not None)
                own.counts.setdefault("since", time.time())
                own.counts.update(values)
                own.latencies.appendleft(milliseconds)

        self._state.ask(shared, alone)

    def summary(self, provider: str, budget: RateBudget | None = None) -> CallSummary:
        """What the log holds about a provider, with what its budget allows now."""

        def shared(client: redis.Redis) -> tuple[dict[str, Any], list[float], bool]:
            key = _key(provider)
            counts = cast(dict[bytes, bytes], client.hgetall(key))
            latencies = cast(list[bytes], client.lrange(f"{key}:latencies", 0, KEPT_LATENCIES - 1))
            return {name.decode(): text.decode() for name, text in counts.items()}, [*map(float, latencies)], True

        def alone() -> tuple[dict[str, Any], list[float], bool]:
            own = self._own(provider)
            with own.lock:
                return dict(own.counts), list(own.latencies), False

        counts, latencies, is_shared = self._state.ask(shared, alone)
        ordered = sorted(latencies)
        return CallSummary(
            provider=provider,
            calls=int(counts.get("calls", 0)),
            failures=int(counts.get("failures", 0)),
            p50_s=_percentile(ordered, 50),
            p95_s=_percentile(ordered, 95),
            p99_s=_percentile(ordered, 99),
            since=_instant(counts.get("since")),
            last_success=_instant(counts.get("last_success")),
            last_failure=_instant(counts.get("last_failure")),
            reason=counts.get("reason", ""),
            remaining=budget.remaining() if budget else {},
            shared=is_shared,
        )

    def _own(self, provider: str) -> _OwnLog:
        return self._state.once(_key(provider), _OwnLog)


def _key(provider: str) -> str:
    return f"nexus:calls:{provider}"


def _percentile(ordered_ms: Sequence[float], percent: int) -> float | None:
    if not ordered_ms:
        return None
    return ordered_ms[math.ceil(len(ordered_ms) * percent / 100) - 1] / 1000


def _instant(seconds: Any) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(float(seconds), UTC)
