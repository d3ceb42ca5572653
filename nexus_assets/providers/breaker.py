"""A circuit breaker per provider: after repeated failures it is left alone, then tried with one call.

All processes share it. Why not pybreaker 1.4.1: its half-open state lets every process through (8 of 8 that asked at
once made a trial call), and its Redis storage has no claim on the trial that could be added from outside.

State: the key `nexus:breaker:{provider}`, without a lifetime, holds JSON:
    failures      failures in a row
    opened_at     Unix seconds by Redis's clock; null while closed
    trial         token of the one trial call; null where none is under way
    trial_ends_at when the trial counts as lost, because its process was killed
    reason        the last failure, without keys
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from nexus_assets.errors import BudgetExhaustedError, CircuitOpenError, ProviderError, RateLimitedError
from nexus_assets.providers.control_state import ControlState
from nexus_assets.providers.redaction import redact

FAILURES = 5
COOLDOWN_S = 60.0

_LONGEST_REASON = 300


@dataclass(frozen=True)
class BreakerReading:
    """Where a breaker stands.

    Attributes:
        state: `closed` (calls go through), `open` (none does), `half_open` (one may, or does).
        failures: Failures in a row.
        opens_in_s: Seconds until the next call may be tried; 0 where it may be now.
        reason: The last failure; empty where the last call worked.
    """

    state: Literal["closed", "open", "half_open"]
    failures: int
    opens_in_s: float
    reason: str


@dataclass(frozen=True)
class _State:
    failures: int = 0
    opened_at: float | None = None
    trial: str | None = None
    trial_ends_at: float = 0.0
    reason: str = ""


_STORED = TypeAdapter(_State)


class CircuitBreaker:
    """The breaker of one provider.

    Args:
        provider: Name of the provider.
        state: Where all processes meet.
        failures: Failures in a row that open it.
        cooldown_s: Seconds without calls after it opened.
    """

    def __init__(
        self, provider: str, state: ControlState, *, failures: int = FAILURES, cooldown_s: float = COOLDOWN_S
    ) -> None:
        self.provider = provider
        self._state = state
        self._failures = failures
        self._cooldown_s = cooldown_s
        self._key = f"nexus:breaker:{provider}"

    @contextmanager
    def guard(self, longest_s: float) -> Iterator[None]:
        """Around one call that takes at most `longest_s` seconds.

        A transient error counts as a failure. A rate limit or a permanent error does not: the provider answered. Where
        no call was made (a budget was exhausted, the process is stopping) nothing is counted.

        Raises:
            CircuitOpenError: the call must not be made.
        """
        token = self.admit(longest_s)
        try:
            yield
        except (BudgetExhaustedError, CircuitOpenError):
            self.abandoned(token)
            raise
        except ProviderError as error:
            if error.transient and not isinstance(error, RateLimitedError):
                self.failed(token, str(error))
            else:
                self.succeeded(token)
            raise
        except BaseException:
            self.abandoned(token)
            raise
        self.succeeded(token)

    def admit(self, longest_s: float) -> str:
        """Permission for one call that takes at most `longest_s` seconds. Returns the token to report it under.

        Raises:
            CircuitOpenError: it is open, or another call is the trial.
        """
        token = secrets.token_hex(8)

        def step(text: bytes | None, now: float) -> tuple[bytes | None, tuple[_State, float]]:
            state = _read(text)
            wait = self._wait(state, now)
            if state.opened_at is not None and wait == 0:
                claimed = _State(state.failures, state.opened_at, token, now + longest_s, state.reason)
                return _write(claimed), (claimed, 0.0)
            return text, (state, wait)

        state, wait = self._state.update(self._key, step)
        if wait > 0:
            raise CircuitOpenError(
                f"{self.provider} is not asked for another {wait:.0f} s: {self._describe(state)}",
                next_step="Another provider is asked meanwhile; `nexus status` shows when this one is back.",
                retry_after=wait,
            )
        return token

    def succeeded(self, token: str) -> None:
        """The call worked: the breaker closes if it was the trial, or forgets earlier failures."""

        def step(text: bytes | None, now: float) -> tuple[bytes | None, None]:
            state = _read(text)
            # A call that began before the breaker opened says nothing about the provider now.
            return (text if state.opened_at is not None and state.trial != token else None), None

        self._state.update(self._key, step)

    def failed(self, token: str, reason: str) -> None:
        """The call failed: one more failure, or the trial is over and a new cooldown begins."""

        def step(text: bytes | None, now: float) -> tuple[bytes | None, None]:
            state = _read(text)
            if state.opened_at is not None and state.trial != token:
                return text, None
            count = state.failures + 1
            opened_at = now if state.opened_at is not None or count >= self._failures else None
            return _write(_State(count, opened_at, reason=redact(reason)[:_LONGEST_REASON])), None

        self._state.update(self._key, step)

    def abandoned(self, token: str) -> None:
        """The call was not made, or its outcome is unknown: if it was the trial, the next call is."""

        def step(text: bytes | None, now: float) -> tuple[bytes | None, None]:
            state = _read(text)
            if state.trial != token:
                return text, None
            return _write(_State(state.failures, state.opened_at, reason=state.reason)), None

        self._state.update(self._key, step)

    def reading(self) -> BreakerReading:
        """Where it stands now."""

        def step(text: bytes | None, now: float) -> tuple[bytes | None, BreakerReading]:
            state = _read(text)
            wait = self._wait(state, now)
            if state.opened_at is None:
                return text, BreakerReading("closed", state.failures, 0.0, state.reason)
            cooling = now < state.opened_at + self._cooldown_s
            return text, BreakerReading("open" if cooling else "half_open", state.failures, wait, state.reason)

        return self._state.update(self._key, step)

    def _wait(self, state: _State, now: float) -> float:
        if state.opened_at is None:
            return 0.0
        # Should Redis's clock be set back, nothing stays open longer than it was meant to.
        cooling = min(state.opened_at + self._cooldown_s - now, self._cooldown_s)
        return max(0.0, cooling, state.trial_ends_at - now if state.trial else 0.0)

    @staticmethod
    def _describe(state: _State) -> str:
        if state.trial:
            return f"one call is trying it after {state.failures} failures in a row, the last: {state.reason}"
        return f"it failed {state.failures} times in a row, the last: {state.reason}"


def _read(text: bytes | None) -> _State:
    try:
        return _STORED.validate_json(text or b"{}")
    except ValidationError:
        # Not ours, or of another version: the next call writes it anew.
        return _State()


def _write(state: _State) -> bytes:
    return _STORED.dump_json(state)
