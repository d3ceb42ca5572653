"""Processes that use one provider at once, as a test's target; kept light, because each starts an interpreter."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from pydantic import SecretStr

from nexus_assets.errors import BudgetExhaustedError, CircuitOpenError, TransientProviderError
from nexus_assets.providers.breaker import CircuitBreaker
from nexus_assets.providers.budgets import RateBudget, Window
from nexus_assets.providers.call_log import CallLog
from nexus_assets.providers.control_state import ControlState
from nexus_assets.providers.http import HttpClient

# One interpreter imports what all of them need, and they are its forks.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


@contextmanager
def processes(count: int, target: Callable[..., None], *arguments: Any) -> Iterator[list[BaseProcess]]:
    """Processes that call `target(*arguments, barrier)`; all of them pass the barrier at once. Killed at the end."""
    barrier = _CONTEXT.Barrier(count + 1)
    started: list[BaseProcess] = [_CONTEXT.Process(target=target, args=(*arguments, barrier)) for _ in range(count)]
    try:
        for process in started:
            process.start()
        barrier.wait(60)
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()
            process.close()


def spend_budget(redis_url: str, url: str, windows: tuple[Window, ...], margin_s: int, seconds: float, barrier) -> None:
    """Send requests as fast as the budget allows, for some seconds."""
    budget = RateBudget("hammered", ControlState(SecretStr(redis_url)), windows, margin_s=margin_s)
    with HttpClient("hammered", budget=budget) as client:
        barrier.wait(60)
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            try:
                client.get(url, params={"process": os.getpid()}, deadline_s=left)
            except BudgetExhaustedError:
                break


def call_while_open(redis_url: str, url: str, cooldown_s: float, seconds: float, barrier) -> None:
    """Call a failing provider again and again, for some seconds."""
    breaker = CircuitBreaker("tried", ControlState(SecretStr(redis_url)), cooldown_s=cooldown_s)
    with HttpClient("tried", breaker=breaker) as client:
        barrier.wait(60)
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            try:
                client.get(url)
            except CircuitOpenError:
                time.sleep(0.02)
            except TransientProviderError:
                continue  # It was the trial, and failed.


def hold_trial(redis_url: str, cooldown_s: float, longest_s: float, barrier) -> None:
    """Become the trial of an open circuit and never end it."""
    CircuitBreaker("tried", ControlState(SecretStr(redis_url)), cooldown_s=cooldown_s).admit(longest_s)
    barrier.wait(60)
    time.sleep(60)


def record_calls(redis_url: str, count: int, barrier) -> None:
    """Count calls, every fourth of them a failure."""
    log = CallLog(ControlState(SecretStr(redis_url)))
    barrier.wait(60)
    for number in range(count):
        log.record("logged", 0.1, "it broke" if number % 4 == 0 else None)
