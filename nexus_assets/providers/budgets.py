"""Rate budgets: how many requests a provider allows, kept by all processes together.

Counting is done by `limits` (moving windows) in Redis, or in this process while Redis is away. A permit is taken for
every attempt, retries included, right before it is sent; a window is MARGIN_S longer than the provider's, because the
permit is older than the request's arrival by as long as connecting takes.

Keys, none with a lifetime, each bounded by its limit:
    nexus:budget:{provider}/{limit}/{seconds}/second   list of Unix seconds by Redis's clock, newest first
    nexus:budget:held                                  sorted set: until when each provider asked to be left alone
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import redis
from limits import RateLimitItem, RateLimitItemPerSecond, parse_many
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from nexus_assets.errors import BudgetExhaustedError, SettingsError
from nexus_assets.providers.control_state import ControlState, clock_of

MARGIN_S = 5
"""Seconds from a permit to the arrival of its request, at most: 2 until it is in our hands and 3 to connect."""

_STALE = 2 / 5
"""Share of the margin after which a permit that was long under way is not used."""

LONGEST_HOLD_S = 3600.0
"""A provider that asks to be left alone for longer is asked again after this."""

UNLIMITED = "unlimited"
MINUTE = 60
DAY = 86400

_PREFIX = "nexus:budget"
_HELD = f"{_PREFIX}:held"
_JITTER_S = 0.05


@dataclass(frozen=True)
class Window:
    """At most `requests` in any `seconds`."""

    requests: int
    seconds: int

    def __post_init__(self) -> None:
        if self.requests < 1 or self.seconds < 1:
            raise SettingsError(
                f"A budget of {self.requests} requests in {self.seconds} seconds allows nothing.",
                next_step="Give both as whole numbers from 1; leave the budget out for no limit.",
            )

    def __str__(self) -> str:
        names = {1: "a second", 60: "a minute", 3600: "an hour", 86400: "a day"}
        return f"{self.requests} {names.get(self.seconds) or f'in {self.seconds} s'}"


def parse_windows(text: str) -> tuple[Window, ...]:
    """Windows from text such as `8/minute; 800/day` or `10 per 2 second`; none from `unlimited` or an empty one.

    Raises:
        SettingsError: it cannot be read.
    """
    if text.strip().lower() in ("", UNLIMITED):
        return ()
    try:
        items = parse_many(text)
    except ValueError:
        raise SettingsError(
            f"The rate budget {text!r} cannot be read.",
            next_step=f"Write it as 8/minute, 8/minute; 800/day, or {UNLIMITED}.",
        ) from None
    return tuple(Window(item.amount, item.get_expiry()) for item in items)


DEFAULT_WINDOWS: Mapping[str, tuple[Window, ...]] = MappingProxyType(
    {
        "oanda": (Window(100, 1),),
        "eodhd": (Window(1000, MINUTE),),
        "alpha_vantage": (Window(5, MINUTE),),
        "twelve_data": (Window(8, MINUTE), Window(800, DAY)),
        "polygon": (Window(5, MINUTE),),
    }
)
"""What the services allow: OANDA to everybody, EODHD on paid plans, the others on free ones. Yahoo tells no limit."""


class RateBudget:
    """The budget of one provider.

    Args:
        provider: Name of the provider.
        state: Where all processes meet.
        windows: All of them hold; none for no limit.
        margin_s: Whole seconds that every window is longer than the provider's.
    """

    def __init__(
        self, provider: str, state: ControlState, windows: Sequence[Window] | None = None, *, margin_s: int = MARGIN_S
    ) -> None:
        self.provider = provider
        self.windows = tuple(DEFAULT_WINDOWS.get(provider, ()) if windows is None else windows)
        self._state = state
        self._margin_s = margin_s
        # Shortest first: a permit of a day must not be spent on a request that the minute refuses.
        self._items = {
            window: RateLimitItemPerSecond(window.requests, window.seconds + margin_s, namespace=provider)
            for window in sorted(self.windows, key=lambda window: window.seconds)
        }
        self._own = MovingWindowRateLimiter(state.once("budgets", MemoryStorage))
        self._shared = MovingWindowRateLimiter(_SharedStorage(state.client)) if state.client is not None else None

    def acquire(self, patience_s: float) -> None:
        """Wait until one request may be sent, for at most `patience_s` seconds, and count it.

        Raises:
            BudgetExhaustedError: it would take longer. This is told at once, not after waiting in vain.
        """
        gives_up_at = time.monotonic() + patience_s
        while True:
            wait, why = self._try()
            if wait == 0:
                return
            if time.monotonic() + wait > gives_up_at:
                raise BudgetExhaustedError(
                    f"{self.provider} may be asked again in {wait:.0f} s at the earliest: {why}. Waiting was allowed "
                    f"for {patience_s:.0f} s.",
                    next_step="Another provider is asked meanwhile; with a larger plan, raise the budget.",
                    retry_after=wait,
                )
            time.sleep(min(wait + random.uniform(0, _JITTER_S), max(0.0, gives_up_at - time.monotonic())))

    def hold_off(self, seconds: float) -> None:
        """Nobody is to ask the provider for so long: it said so (Retry-After). A longer hold stays."""
        until = self._state.now() + min(max(seconds, 0.0), LONGEST_HOLD_S)

        def alone() -> None:
            held = self._state.once("holds", dict)
            held[self.provider] = max(until, held.get(self.provider, 0.0))

        alone()
        self._state.ask(lambda client: client.zadd(_HELD, {self.provider: until}, gt=True), lambda: 0)

    def remaining(self) -> dict[str, int]:
        """Requests that may be sent now, by window (`8 a minute`); all 0 while the provider is held off."""
        held = self._held_for() > 0
        return {str(window): 0 if held else self._room(item)[1] for window, item in self._items.items()}

    def _try(self) -> tuple[float, str]:
        # Returns the seconds to wait, 0 with a permit, and what is waited for.
        held = self._held_for()
        if held > 0:
            return held, "it asked to be left alone until then"
        for window, item in self._items.items():
            wait, left = self._room(item)
            if left < 1:
                return max(wait, _JITTER_S), f"the budget of {window} is used up"
        began = time.monotonic()
        for window, item in self._items.items():
            if not self._hit(item):
                return _JITTER_S, f"the budget of {window} is used up"
        if time.monotonic() - began > max(self._margin_s, 1) * _STALE:
            return _JITTER_S, "permits come too late to be used"
        return 0.0, ""

    def _room(self, item: RateLimitItem) -> tuple[float, int]:
        # Seconds until the oldest permit ends, and permits left. What this process sent counts also where Redis does
        # not know of it: it may have been away, or have forgotten.
        reset, left = self._own.get_window_stats(item)
        own = reset - time.time(), left
        if self._shared is None:
            return own
        shared = self._shared

        def ask(client: redis.Redis) -> tuple[float, int]:
            stats = shared.get_window_stats(item)
            return stats.reset_time - clock_of(client), stats.remaining

        return min(own, self._state.ask(ask, lambda: own), key=lambda room: (room[1], -room[0]))

    def _hit(self, item: RateLimitItem) -> bool:
        if self._shared is None:
            return self._own.hit(item)
        shared = self._shared
        if not self._own.test(item) or not self._state.ask(lambda _: shared.hit(item), lambda: True):
            return False
        return self._own.hit(item)

    def _held_for(self) -> float:
        own = self._state.once("holds", dict).get(self.provider, 0.0)
        found = self._state.ask(lambda client: cast(float | None, client.zscore(_HELD, self.provider)), lambda: own)
        until = max(own, found or 0.0)
        # Should Redis's clock be set back, nothing is held longer than it may be.
        return max(0.0, min(until - self._state.now(), LONGEST_HOLD_S)) if until else 0.0


class _SharedStorage(RedisStorage):
    """The library's Redis storage on Redis's clock (machines' clocks differ) and without lifetimes.

    Args:
        client: Its connections are used.
    """

    def __init__(self, client: redis.Redis) -> None:
        super().__init__("redis://", connection_pool=client.connection_pool, key_prefix=_PREFIX)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        key = self.prefixed_key(key)
        acquired = self.lua_acquire_moving_window([key], [clock_of(self.storage), limit, expiry, amount])
        self.storage.persist(key)
        return bool(acquired)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        now = clock_of(self.storage)
        found = self.lua_moving_window([self.prefixed_key(key)], [now - expiry, limit])
        return (float(found[0]), int(found[1])) if found else (now, 0)
