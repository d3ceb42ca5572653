"""Rate budgets: kept by processes together through the real Redis, counted by a server, and on their own."""

import threading
import time

import pytest
import redis
from pydantic import SecretStr

from nexus_assets.errors import BudgetExhaustedError, SettingsError
from nexus_assets.providers.budgets import DEFAULT_WINDOWS, LONGEST_HOLD_S, RateBudget, Window, parse_windows
from nexus_assets.providers.control_state import ControlState
from nexus_assets_tests.providers.hammering import processes, spend_budget
from nexus_assets_tests.providers.loopback import loopback

MINUTELY = (Window(3, 60),)


def state_of(redis_url: str | None) -> ControlState:
    return ControlState(SecretStr(redis_url) if redis_url else None)


def away(state: ControlState) -> None:
    """Take Redis away from a state."""
    assert state.client
    state.client.connection_pool.close()
    state.client.connection_pool = redis.ConnectionPool(host="127.0.0.1", port=1)


@pytest.fixture(params=["shared", "alone"])
def state(request: pytest.FixtureRequest) -> ControlState:
    """State in Redis, and in this process."""
    return state_of(request.getfixturevalue("redis_url") if request.param == "shared" else None)


def test_eight_processes_at_once_never_exceed_it_and_use_all_of_it(redis_url: str) -> None:
    windows = (Window(7, 60), Window(4, 1))
    with loopback() as server, processes(8, spend_budget, redis_url, server.url, windows, 2, 12.0) as started:
        for process in started:
            process.join(20)
        assert [process.exitcode for process in started] == [0] * 8
    assert server.most_in_any(1.0) <= 4
    # On a busy machine a permit may come too late to be used.
    assert 6 <= len(server.asked) <= 7


def test_an_exhausted_budget_is_told_at_once_with_when_to_ask_again(state: ControlState) -> None:
    budget = RateBudget("asked", state, MINUTELY)
    for _ in range(3):
        budget.acquire(0)
    began = time.monotonic()
    with pytest.raises(BudgetExhaustedError, match=r"budget of 3 a minute is used up") as caught:
        budget.acquire(30)
    assert time.monotonic() - began < 1
    assert caught.value.retry_after == pytest.approx(65, abs=2)


def test_waiting_ends_when_the_oldest_permit_does(state: ControlState) -> None:
    budget = RateBudget("asked", state, (Window(2, 1),), margin_s=0)
    budget.acquire(0)
    began = time.monotonic()
    time.sleep(0.5)
    budget.acquire(0)
    budget.acquire(3)
    assert time.monotonic() - began == pytest.approx(1.0, abs=0.3)


def test_the_longer_window_is_not_spent_on_what_the_shorter_one_refuses(
    state: ControlState, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = (Window(100, 3600), Window(1, 60))
    # As when many look at once, and all of them see that there is room.
    hurried = RateBudget("asked", state, windows)
    monkeypatch.setattr(hurried, "_room", lambda item: (0.0, 1))
    hurried.acquire(0)
    for _ in range(5):
        with pytest.raises(BudgetExhaustedError):
            hurried.acquire(0)
    assert RateBudget("asked", state, windows).remaining() == {"1 a minute": 0, "100 an hour": 99}


def test_what_remains_is_told_by_window(state: ControlState) -> None:
    budget = RateBudget("twelve_data", state)
    for _ in range(3):
        budget.acquire(0)
    assert budget.remaining() == {"8 a minute": 5, "800 a day": 797}
    assert RateBudget("yahoo", state).remaining() == {}


def test_the_default_budgets_are_those_that_the_services_tell() -> None:
    assert {name: [str(window) for window in windows] for name, windows in DEFAULT_WINDOWS.items()} == {
        "oanda": ["100 a second"],
        "eodhd": ["1000 a minute"],
        "alpha_vantage": ["5 a minute"],
        "twelve_data": ["8 a minute", "800 a day"],
        "polygon": ["5 a minute"],
    }


def test_budgets_are_read_from_text_as_people_write_them() -> None:
    assert parse_windows("8/minute; 800/day") == (Window(8, 60), Window(800, 86400))
    assert parse_windows("10 per 2 second") == (Window(10, 2),)
    assert parse_windows("  ") == parse_windows("unlimited") == ()
    with pytest.raises(SettingsError, match="'8 a fortnight'"):
        parse_windows("8 a fortnight")


def test_a_budget_that_allows_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="0 requests in 60 seconds"):
        Window(0, 60)


def test_a_provider_that_asked_to_be_left_alone_is_left_alone_by_all(redis_url: str) -> None:
    first, second = (RateBudget("asked", state_of(redis_url), ()) for _ in range(2))
    first.hold_off(120)
    first.hold_off(1)
    with pytest.raises(BudgetExhaustedError, match="left alone") as caught:
        second.acquire(60)
    assert caught.value.retry_after == pytest.approx(120, abs=2)
    RateBudget("another", state_of(redis_url), ()).acquire(0)


def test_a_hold_ends_and_is_never_longer_than_an_hour(state: ControlState) -> None:
    budget = RateBudget("asked", state, ())
    budget.hold_off(0.3)
    budget.acquire(1)
    budget.hold_off(1e9)
    with pytest.raises(BudgetExhaustedError) as caught:
        budget.acquire(0)
    assert caught.value.retry_after == pytest.approx(LONGEST_HOLD_S, abs=2)


def test_machines_whose_clocks_differ_share_one_budget(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true_time = time.time
    for skew in (-3600, 0, 3600):
        monkeypatch.setattr(time, "time", lambda skew=skew: true_time() + skew)
        RateBudget("asked", state_of(redis_url), MINUTELY).acquire(0)
    for skew in (-3600, 0, 3600):
        monkeypatch.setattr(time, "time", lambda skew=skew: true_time() + skew)
        with pytest.raises(BudgetExhaustedError):
            RateBudget("asked", state_of(redis_url), MINUTELY).acquire(0)


def test_what_was_sent_still_counts_when_redis_goes_away_or_forgets(redis_url: str) -> None:
    state = state_of(redis_url)
    budget = RateBudget("asked", state, MINUTELY)
    for _ in range(3):
        budget.acquire(0)
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    with pytest.raises(BudgetExhaustedError) as caught:
        budget.acquire(5)
    assert caught.value.retry_after == pytest.approx(65, abs=2)
    away(state)
    with pytest.raises(BudgetExhaustedError):
        budget.acquire(0)


def test_without_redis_it_holds_for_this_process_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    state = state_of("redis://127.0.0.1:1/0")
    for _ in range(3):
        RateBudget("asked", state, MINUTELY).acquire(0)
    with pytest.raises(BudgetExhaustedError):
        RateBudget("asked", state, MINUTELY).acquire(0)
    assert len(caplog.records) == 1


def test_threads_of_one_process_never_exceed_it(state: ControlState) -> None:
    budget = RateBudget("asked", state, MINUTELY)
    permits = []

    def ask() -> None:
        try:
            budget.acquire(0)
            permits.append(1)
        except BudgetExhaustedError:
            return

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(permits) == 3


def test_its_state_has_no_lifetime_and_a_bounded_size(redis_url: str) -> None:
    budget = RateBudget("asked", state_of(redis_url), (Window(2, 1),), margin_s=0)
    for _ in range(3):
        budget.acquire(3)
    budget.hold_off(1)
    with redis.Redis.from_url(redis_url) as client:
        keys = sorted(client.keys("*"))  # pyright: ignore[reportArgumentType]
        assert keys == [b"nexus:budget:asked/2/1/second", b"nexus:budget:held"]
        assert [client.ttl(key) for key in keys] == [-1, -1]
        assert client.llen("nexus:budget:asked/2/1/second") == 2
