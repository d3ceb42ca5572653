"""Backfills that the daemon looks at within two seconds, not within thirty.

Dagster's daemon looks at backfills every 30 seconds and has no setting for it: what people select in the UI waits 15
seconds on average before anything happens, and again between one layer of assets and the next. A look at a backfill of
tens of thousands of partitions takes seconds; such a backfill then rests three times as long as it was looked at.
"""

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

INTERVAL_SECONDS = 2.0
REST = 3.0
"""How long a backfill rests, in lengths of the last look at it."""
LONGEST_REST_SECONDS = 28.0
"""With the interval no longer than Dagster's own."""


class _Looks:
    """When each backfill may be looked at again. A change of its state, such as a wish to cancel it, is due at once."""

    def __init__(self) -> None:
        self._due: dict[tuple[str, Any], float] = {}
        self._lock = threading.Lock()

    def begin(self, backfills: Sequence[Any]) -> list[Any]:
        """Those of all backfills that are due; they are not due again before `end`."""
        now = time.monotonic()
        with self._lock:
            self._due = {_of(each): self._due.get(_of(each), 0.0) for each in backfills}
            due = [each for each in backfills if now >= self._due[_of(each)]]
            self._due |= {_of(each): float("inf") for each in due}
        return due

    def end(self, backfill: Any, began: float) -> None:
        """The look at a backfill is over."""
        now = time.monotonic()
        with self._lock:
            self._due[_of(backfill)] = now + min(REST * (now - began), LONGEST_REST_SECONDS)


def _of(backfill: Any) -> tuple[str, Any]:
    return backfill.backfill_id, backfill.status


class _SoonerEvent:
    """The daemon's shutdown event, for its loop over backfills, which only waits on it."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def wait(self, seconds: float) -> bool:
        """Wait, but not as long; True when the daemon is to end."""
        return self._event.wait(min(seconds, INTERVAL_SECONDS))


@functools.cache
def look_at_backfills_sooner() -> None:
    """Let the daemon that this process is look at backfills sooner; in any other process nothing changes."""
    daemon, backfill = sys.modules.get("dagster._daemon.daemon"), sys.modules.get("dagster._daemon.backfill")
    if daemon is None or backfill is None:
        return
    loop: Callable[..., Any] = daemon.execute_backfill_iteration_loop
    look: Callable[..., Any] = backfill.execute_backfill_jobs
    looks = _Looks()

    @functools.wraps(loop)
    def sooner(context: Any, logger: Any, shutdown_event: threading.Event, **arguments: Any) -> Iterator[Any]:
        return loop(context, logger, _SoonerEvent(shutdown_event), **arguments)

    @functools.wraps(look)
    def rested(
        context: Any, logger: Any, backfills: Sequence[Any], *, backfill_futures: dict[str, Future[Any]], **more: Any
    ) -> Iterator[Any]:
        due, began = looks.begin(backfills), time.monotonic()
        try:
            yield from look(context, logger, due, backfill_futures=backfill_futures, **more)
        finally:
            for each in due:
                in_flight = backfill_futures.get(each.backfill_id)
                if in_flight is None:
                    looks.end(each, began)
                else:
                    in_flight.add_done_callback(lambda _, each=each: looks.end(each, began))

    setattr(daemon, loop.__name__, sooner)
    setattr(backfill, look.__name__, rested)
