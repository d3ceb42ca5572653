"""The circuit breaker: shared by processes through the real Redis, and on its own."""

import logging
import time

import pytest
import redis
from pydantic import SecretStr

from nexus_assets.errors import (
    BudgetExhaustedError,
    CircuitOpenError,
    PermanentProviderError,
    RateLimitedError,
    TransientProviderError,
)
from nexus_assets.providers.breaker import CircuitBreaker
from nexus_assets.providers.control_state import ControlState
from nexus_assets_tests.providers.hammering import call_while_open, hold_trial, processes
from nexus_assets_tests.providers.loopback import Handler, loopback

KEY = "nexus:breaker:tried"


def breaker_of(redis_url: str | None, cooldown_s: float = 60.0) -> CircuitBreaker:
    return CircuitBreaker("tried", ControlState(SecretStr(redis_url) if redis_url else None), cooldown_s=cooldown_s)


def fail(breaker: CircuitBreaker, times: int = 1, error: Exception | None = None) -> None:
    for _ in range(times):
        with pytest.raises(type(error or TransientProviderError(""))), breaker.guard(10):
            raise error or TransientProviderError("It answered 503.")


@pytest.fixture(params=["shared", "alone"])
def any_redis_url(request: pytest.FixtureRequest) -> str | None:
    """A Redis, and none."""
    return request.getfixturevalue("redis_url") if request.param == "shared" else None


def test_five_failures_in_a_row_open_it_and_the_message_says_why_and_for_how_long(any_redis_url: str | None) -> None:
    breaker = breaker_of(any_redis_url)
    fail(breaker, 4)
    assert breaker.reading().state == "closed"
    fail(breaker)
    assert breaker.reading().state == "open"
    with pytest.raises(CircuitOpenError, match=r"5 times in a row, the last: It answered 503") as caught:
        breaker.admit(10)
    assert caught.value.retry_after == pytest.approx(60, abs=2)


def test_a_success_forgets_earlier_failures(any_redis_url: str | None) -> None:
    breaker = breaker_of(any_redis_url)
    fail(breaker, 4)
    with breaker.guard(10):
        pass
    fail(breaker, 4)
    assert breaker.reading().state == "closed"


def test_answers_that_are_no_fault_of_the_provider_do_not_open_it(any_redis_url: str | None) -> None:
    breaker = breaker_of(any_redis_url)
    for error in (PermanentProviderError("no key"), RateLimitedError("slow down"), BudgetExhaustedError("used up")):
        fail(breaker, 6, error)
    fail(breaker, 6, KeyboardInterrupt())  # pyright: ignore[reportArgumentType]
    assert breaker.reading().state == "closed"


def test_after_the_cooldown_one_call_goes_through_and_its_success_closes_it(any_redis_url: str | None) -> None:
    breaker = breaker_of(any_redis_url, cooldown_s=0.2)
    fail(breaker, 5)
    time.sleep(0.25)
    assert breaker.reading().state == "half_open"
    token = breaker.admit(10)
    with pytest.raises(CircuitOpenError, match="one call is trying it"):
        breaker.admit(10)
    breaker.succeeded(token)
    assert breaker.reading().state == "closed"
    breaker.admit(10)


def test_a_failed_trial_begins_a_new_cooldown(any_redis_url: str | None) -> None:
    breaker = breaker_of(any_redis_url, cooldown_s=0.3)
    fail(breaker, 5)
    time.sleep(0.35)
    fail(breaker)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.admit(10)
    assert caught.value.retry_after == pytest.approx(0.3, abs=0.1)


def test_calls_that_began_before_it_opened_neither_close_it_nor_prolong_it(any_redis_url: str | None) -> None:
    breaker = breaker_of(any_redis_url, cooldown_s=0.5)
    early, late = breaker.admit(10), breaker.admit(10)
    fail(breaker, 5)
    time.sleep(0.3)
    breaker.succeeded(early)
    breaker.failed(late, "it broke")
    assert breaker.reading().state == "open"
    assert breaker.reading().opens_in_s < 0.25


def test_a_trial_that_was_not_made_leaves_the_next_call_to_be_it(any_redis_url: str | None) -> None:
    breaker = breaker_of(any_redis_url, cooldown_s=0.1)
    fail(breaker, 5)
    time.sleep(0.15)
    fail(breaker, 1, BudgetExhaustedError("used up"))
    breaker.admit(10)


def test_eight_processes_make_one_trial_call_at_a_time(redis_url: str) -> None:
    def answer(handler: Handler) -> None:
        time.sleep(0.5)
        handler.reply(503)

    fail(breaker_of(redis_url, cooldown_s=0.2), 5)
    with loopback(answer) as server, processes(8, call_while_open, redis_url, server.url, 0.2, 2.0) as started:
        for process in started:
            process.join(20)
        assert [process.exitcode for process in started] == [0] * 8
    assert server.most_at_once == 1
    assert 2 <= len(server.asked) <= 4


def test_a_killed_trial_blocks_others_only_for_as_long_as_it_could_have_taken(redis_url: str) -> None:
    breaker = breaker_of(redis_url, cooldown_s=0.1)
    fail(breaker, 5)
    time.sleep(0.15)
    with processes(1, hold_trial, redis_url, 0.1, 1.5):
        pass
    with pytest.raises(CircuitOpenError):
        breaker.admit(1)
    time.sleep(breaker.reading().opens_in_s + 0.05)
    breaker.admit(1)


def test_its_state_has_no_lifetime_and_no_key(redis_url: str) -> None:
    breaker = breaker_of(redis_url)
    fail(breaker, 5)
    with redis.Redis.from_url(redis_url) as client:
        assert client.ttl(KEY) == -1


def test_what_somebody_else_wrote_into_its_key_is_a_closed_circuit(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for text in ("[1]", "nonsense", '{"failures": "many", "opened_at": []}'):
            client.set(KEY, text)
            breaker_of(redis_url).admit(10)


def test_without_redis_it_works_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        breaker = CircuitBreaker("tried", ControlState(SecretStr("redis://127.0.0.1:1/0"), patience_s=0))
        fail(breaker, 5)
        with pytest.raises(CircuitOpenError):
            breaker.admit(10)
    assert len(caplog.records) == 1
    assert "hold for this process only" in caplog.text


def test_when_redis_goes_away_an_open_circuit_stays_open(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    state = ControlState(SecretStr(redis_url))
    breaker = CircuitBreaker("tried", state)
    fail(breaker, 5)
    assert state.client
    state.client.connection_pool.close()
    state.client.connection_pool = redis.ConnectionPool(host="127.0.0.1", port=1)
    with pytest.raises(CircuitOpenError):
        breaker.admit(10)
    assert len(caplog.records) == 1
