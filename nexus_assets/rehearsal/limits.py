"""Rate limits as the APIs count them: so many units in any stretch of so many seconds."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `units` in any `seconds` seconds. `name` says which limit it is: `second`, `minute`, `day`."""

    units: int
    seconds: float
    name: str = "minute"


class Window:
    """Counts what was let through under one limit. Safe between threads."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that only grow."""
        self.limit = limit
        self._clock = clock
        self._spent: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def take(self, units: int) -> tuple[float | None, int]:
        """Count `units` if they fit.

        Returns:
            (None where they fitted, else the seconds until they would; units spent in the window, these included).
        """
        with self._lock:
            now = self._clock()
            while self._spent and self._spent[0][0] <= now - self.limit.seconds:
                self._spent.popleft()
            used = sum(spent for _, spent in self._spent) + units
            if used <= self.limit.units:
                self._spent.append((now, units))
                return None, used
            excess = used - self.limit.units
            for at, spent in self._spent:
                excess -= spent
                if excess <= 0:
                    return at + self.limit.seconds - now, used
            return self.limit.seconds, used
