"""How often the daemon looks at backfills; that what is launched in the UI still ends right is in selections/."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from nexus_assets import prompt_backfills

LOOK_SECONDS = 5.0


@dataclass
class Backfill:
    """What the daemon's loop knows of a backfill."""

    backfill_id: str
    status: str = "REQUESTED"


class Daemon:
    """The two functions of Dagster's daemon, here with a clock of their own and a record of what they are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looked: list[str] = []
        self.futures: dict[str, Future[None]] = {}
        self.seconds = LOOK_SECONDS
        self.error: Exception | None = None
        self.now = 1_000.0
        self.loop = SimpleNamespace(execute_backfill_iteration_loop=self.execute_backfill_iteration_loop)
        self.jobs = SimpleNamespace(execute_backfill_jobs=self.execute_backfill_jobs)
        monkeypatch.setattr(prompt_backfills, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setitem(sys.modules, "dagster._daemon.daemon", self.loop)
        monkeypatch.setitem(sys.modules, "dagster._daemon.backfill", self.jobs)
        prompt_backfills.look_at_backfills_sooner.__wrapped__()

    def execute_backfill_iteration_loop(
        self, context: Any, logger: Any, event: Any, **arguments: Any
    ) -> Iterator[float]:
        while True:
            began = time.monotonic()
            event.wait(30.0)
            yield time.monotonic() - began

    def execute_backfill_jobs(
        self, context: Any, logger: Any, backfills: Sequence[Backfill], **arguments: Any
    ) -> Iterator[None]:
        for backfill in backfills:
            self.looked.append(backfill.backfill_id)
            self.now += self.seconds
            if self.error:
                raise self.error
            yield

    def tick(self, *backfills: Backfill) -> list[str]:
        """The backfills that one iteration of the loop looks at."""
        self.looked.clear()
        list(self.jobs.execute_backfill_jobs(None, None, backfills, backfill_futures=self.futures))
        return list(self.looked)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    return Daemon(monkeypatch)


def test_a_backfill_rests_three_times_as_long_as_the_look_at_it_took(daemon: Daemon) -> None:
    assert daemon.tick(Backfill("one")) == ["one"]
    daemon.now += 2 * LOOK_SECONDS
    assert daemon.tick(Backfill("one")) == []
    daemon.now += 1.2 * LOOK_SECONDS
    assert daemon.tick(Backfill("one")) == ["one"]


def test_a_new_one_and_one_that_is_to_be_cancelled_need_not_wait_for_the_rest_of_another(daemon: Daemon) -> None:
    daemon.tick(Backfill("one"))
    assert daemon.tick(Backfill("one"), Backfill("two")) == ["two"]
    assert daemon.tick(Backfill("one", "CANCELING"), Backfill("two")) == ["one"]


def test_one_that_a_thread_looks_at_rests_from_that_look_s_end_on(daemon: Daemon) -> None:
    daemon.seconds = 0.0
    daemon.futures["one"] = look = Future()
    daemon.tick(Backfill("one"))
    daemon.now += LOOK_SECONDS
    assert daemon.tick(Backfill("one")) == []
    look.set_result(None)
    assert daemon.tick(Backfill("one")) == []
    daemon.now += 3.2 * LOOK_SECONDS
    assert daemon.tick(Backfill("one")) == ["one"]


def test_one_whose_look_failed_is_looked_at_again(daemon: Daemon) -> None:
    daemon.error = ConnectionError("the database is away")
    with pytest.raises(ConnectionError):
        daemon.tick(Backfill("one"), Backfill("two"))
    daemon.error = None
    daemon.now += 3.2 * LOOK_SECONDS
    assert daemon.tick(Backfill("one"), Backfill("two")) == ["one", "two"]


def test_the_loop_waits_two_seconds_and_ends_at_once_with_the_daemon(daemon: Daemon) -> None:
    shutdown = threading.Event()
    waits = daemon.loop.execute_backfill_iteration_loop(None, None, shutdown)
    assert prompt_backfills.INTERVAL_SECONDS <= next(waits) < 20
    shutdown.set()
    assert next(waits) < prompt_backfills.INTERVAL_SECONDS


def test_a_process_that_is_no_daemon_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dagster._daemon.daemon", raising=False)
    jobs = SimpleNamespace(execute_backfill_jobs=print)
    monkeypatch.setitem(sys.modules, "dagster._daemon.backfill", jobs)
    prompt_backfills.look_at_backfills_sooner.__wrapped__()
    assert jobs.execute_backfill_jobs is print
