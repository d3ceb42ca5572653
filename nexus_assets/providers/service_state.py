"""What calling each market-data service is like now: its breaker, its calls and latencies, what its budget leaves."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from nexus_assets.providers.connections import Connections
from nexus_assets.providers.registry import Sources


@dataclass(frozen=True)
class ServiceState:
    """One service, as all processes see it.

    Attributes:
        service: Its name.
        breaker: `closed` (it is asked), `open` (it is not), `half_open` (it is tried with one call).
        failures_in_row: What the breaker counts.
        opens_in_s: Seconds until it may be tried; 0 where it may be asked.
        calls, failures: Requests sent, retries included, and those of them that failed, since `since`.
        p50_s, p95_s, p99_s: Latencies of the newest 1,000 calls, seconds; None before the first.
        remaining: Requests that the budget allows now, by window; empty without a budget.
        last_success, last_failure: UTC; None where there was none.
        reason: The last failure; never a key.
        shared: False where only this process's own calls are known, because Redis is away.
    """

    service: str
    breaker: str
    failures_in_row: int
    opens_in_s: float
    calls: int
    failures: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    remaining: dict[str, int]
    since: datetime | None
    last_success: datetime | None
    last_failure: datetime | None
    reason: str
    shared: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = asdict(self)
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in told.items()}

    @property
    def budget(self) -> str:
        """What the budget leaves, in words."""
        return ", ".join(f"{left} of {window}" for window, left in self.remaining.items())


def service_states(sources: Sources) -> list[ServiceState]:
    """The services in use, the preferred one first."""
    if sources.connections is None:
        return []
    return [state_of(sources.connections, name) for name in sources.services]


def state_of(connections: Connections, service: str) -> ServiceState:
    """One service."""
    from nexus_assets.providers.breaker import CircuitBreaker
    from nexus_assets.providers.call_log import CallLog

    client = connections.client(service)
    reading = (client.breaker or CircuitBreaker(service, connections.state)).reading()
    calls = (client.calls or CallLog(connections.state)).summary(service, client.budget)
    return ServiceState(
        service=service,
        breaker=reading.state,
        failures_in_row=reading.failures,
        opens_in_s=round(reading.opens_in_s, 1),
        calls=calls.calls,
        failures=calls.failures,
        p50_s=calls.p50_s,
        p95_s=calls.p95_s,
        p99_s=calls.p99_s,
        remaining=calls.remaining,
        since=calls.since,
        last_success=calls.last_success,
        last_failure=calls.last_failure,
        reason=calls.reason,
        shared=calls.shared,
    )
