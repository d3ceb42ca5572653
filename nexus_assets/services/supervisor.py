"""Restarting servers that die while we serve."""

import threading
from collections.abc import Callable
from pathlib import Path

from nexus_assets.errors import ServiceError
from nexus_assets.services.lifecycle import heal

_LONGEST_PAUSE = 5.0


class Supervisor:
    """A thread that looks at both servers every `interval` seconds and starts again what has died.

    It does nothing after `nexus down`, whoever runs that. `report` is called (from the thread) with a sentence when
    something was restarted or could not be.
    """

    def __init__(self, home: Path, *, report: Callable[[str], None], interval: float = 0.25) -> None:
        self._home = home.resolve()
        self._report = report
        self._interval = interval
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin watching."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._watch, name="services supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and wait for a restart under way; the servers keep running."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> "Supervisor":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _watch(self) -> None:
        last_failure, pause = "", self._interval
        while not self._ending.wait(pause):
            try:
                started = heal(self._home)
                last_failure, pause = "", self._interval
            except (ServiceError, OSError) as error:
                # The next round tries again, later and later; the same failure is reported once.
                pause = min(2 * pause, _LONGEST_PAUSE)
                if str(error) != last_failure:
                    last_failure = str(error)
                    self._report(f"A server could not be restarted: {error}")
                continue
            for name in started:
                self._report(f"{name} had stopped and was started again")
