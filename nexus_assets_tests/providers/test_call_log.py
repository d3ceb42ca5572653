"""The call log: written by processes together into the real Redis, and on its own."""

from datetime import UTC, datetime, timedelta

import pytest
import redis
from pydantic import SecretStr

from nexus_assets.providers.budgets import RateBudget
from nexus_assets.providers.call_log import KEPT_LATENCIES, CallLog
from nexus_assets.providers.control_state import ControlState
from nexus_assets.providers.redaction import remember
from nexus_assets_tests.providers.hammering import processes, record_calls


@pytest.fixture(params=["shared", "alone"])
def state(request: pytest.FixtureRequest) -> ControlState:
    """State in Redis, and in this process."""
    shared = request.param == "shared"
    return ControlState(SecretStr(request.getfixturevalue("redis_url")) if shared else None)


def test_a_provider_that_was_never_called_has_an_empty_summary(state: ControlState) -> None:
    summary = CallLog(state).summary("logged")
    assert (summary.calls, summary.failures, summary.p50_s, summary.since, summary.last_success) == (0, 0, *[None] * 3)


def test_the_summary_has_counts_percentiles_and_instants(state: ControlState) -> None:
    log = CallLog(state)
    for milliseconds in range(1, 202):
        log.record("logged", milliseconds / 1000, "it broke" if milliseconds == 7 else None)
    log.record("other", 9.0)
    summary = log.summary("logged")
    assert (summary.calls, summary.failures, summary.reason) == (201, 1, "it broke")
    # Nearest rank: the smallest value that at least that share of all does not exceed.
    assert (summary.p50_s, summary.p95_s, summary.p99_s) == (0.101, 0.191, 0.199)
    now = datetime.now(UTC)
    for instant in (summary.since, summary.last_failure, summary.last_success):
        assert instant is not None
        assert now - instant < timedelta(seconds=10)
    assert summary.shared is (state.client is not None)


def test_the_summary_carries_what_the_budget_allows(state: ControlState) -> None:
    budget = RateBudget("alpha_vantage", state)
    budget.acquire(0)
    assert CallLog(state).summary("alpha_vantage", budget).remaining == {"5 a minute": 4}


def test_the_reason_of_a_failure_is_kept_without_keys_and_cut(state: ControlState) -> None:
    remember([SecretStr("a-secret-of-call-log")])
    CallLog(state).record("logged", 0.1, "refused a-secret-of-call-log " + "x" * 1000)
    reason = CallLog(state).summary("logged").reason
    assert reason.startswith("refused REDACTED xxx")
    assert len(reason) == 300


def test_processes_count_together_and_lose_nothing(redis_url: str) -> None:
    with processes(4, record_calls, redis_url, 100) as started:
        for process in started:
            process.join(20)
    summary = CallLog(ControlState(SecretStr(redis_url))).summary("logged")
    assert (summary.calls, summary.failures, summary.p50_s) == (400, 100, 0.1)


def test_it_stays_small_and_has_no_lifetime(redis_url: str) -> None:
    log = CallLog(ControlState(SecretStr(redis_url)))
    for _ in range(KEPT_LATENCIES + 20):
        log.record("logged", 0.1)
    with redis.Redis.from_url(redis_url) as client:
        keys = sorted(client.keys("*"))  # pyright: ignore[reportArgumentType]
        assert keys == [b"nexus:calls:logged", b"nexus:calls:logged:latencies"]
        assert client.llen("nexus:calls:logged:latencies") == KEPT_LATENCIES
        assert [client.ttl(key) for key in keys] == [-1, -1]
    assert log.summary("logged").calls == KEPT_LATENCIES + 20
