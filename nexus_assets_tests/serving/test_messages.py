"""Prices, correlations and messages of the feature store, against a real Redis."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
import redis

from nexus_assets import redis_contract as contract
from nexus_assets.feature_store import FeatureStore
from nexus_assets_tests.serving.stored_rows import (
    HOUR,
    LEARNED,
    SOON,
    TEN,
    correlation_rows,
    feature_rows,
    price_rows,
    ranking_rows,
)


class Listener:
    """What was published since it was made."""

    def __init__(self, client: redis.Redis, *channels: str) -> None:
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(*channels)
        for _ in channels:
            self._pubsub.get_message(timeout=2)

    def heard(self) -> list[tuple[str, dict[str, Any]]]:
        """Channel and content of each message; waits until 0.2 s pass without one."""
        messages = []
        while (message := self._pubsub.get_message(timeout=0.2)) is not None:
            messages.append((message["channel"], json.loads(message["data"])))
        return messages


def test_data_ready_is_published_once_per_push_with_symbols_and_ts(features: FeatureStore, raw: redis.Redis) -> None:
    listener = Listener(raw, contract.DATA_READY)
    features.push_features(feature_rows({"symbol": "XAUUSD"}, {}, {"timeframe": "4h", "ts": TEN - 2 * HOUR}))
    key = "features:{}:latest".format
    assert listener.heard() == [
        (
            "data_ready",
            {
                "contract": 1,
                "symbols": ["EURUSD", "XAUUSD"],
                "vectors": [
                    {"symbol": "XAUUSD", "timeframe": "1h", "ts": "2024-01-04T10:00:00Z", "key": key("XAUUSD")},
                    {"symbol": "EURUSD", "timeframe": "1h", "ts": "2024-01-04T10:00:00Z", "key": key("EURUSD")},
                    {"symbol": "EURUSD", "timeframe": "4h", "ts": "2024-01-04T08:00:00Z", "key": key("EURUSD:4h")},
                ],
            },
        )
    ]


def test_a_burst_of_volatility_is_announced(features: FeatureStore, raw: redis.Redis) -> None:
    listener = Listener(raw, contract.VOLATILITY_ALERTS)
    features.push_features(
        feature_rows(
            {"hv_20": 0.145, "hv_50": 0.1},
            {"symbol": "GBPUSD", "hv_20": 0.1449, "hv_50": 0.1},
            {"symbol": "USDJPY", "hv_20": None, "hv_50": 0.1},
            {"symbol": "USDCHF", "hv_20": 0.0, "hv_50": 0.0},
        )
    )
    heard = listener.heard()
    assert [(channel, content["symbol"]) for channel, content in heard] == [("volatility_alerts", "EURUSD")]
    assert heard[0][1]["ratio"] == pytest.approx(1.45)


def test_the_same_vector_again_changes_nothing_and_is_not_announced(features: FeatureStore, raw: redis.Redis) -> None:
    features.push_features(feature_rows({}))
    listener = Listener(raw, contract.DATA_READY)
    pushed = features.push_features(feature_rows({}))
    assert (pushed.written, pushed.unchanged, listener.heard()) == ({}, 1, [])


# Prices ---------------------------------------------------------------------------------------------------------------


def test_a_price_lives_for_five_minutes_and_is_announced_once(features: FeatureStore, raw: redis.Redis) -> None:
    listener = Listener(raw, contract.PRICE_UPDATES)
    features.push_prices(price_rows({}), now=SOON)
    features.push_prices(price_rows({}), now=SOON)
    assert 295 < raw.ttl("market:EURUSD:latest") <= 300  # pyright: ignore[reportOperatorIssue]
    payload = json.loads(raw.get("market:EURUSD:latest"))  # pyright: ignore[reportArgumentType]
    assert payload == {
        "contract": 1, "symbol": "EURUSD", "timeframe": "1h", "ts": "2024-01-04T10:00:00Z",
        "bar_end": "2024-01-04T11:00:00Z", "known_at": "2024-01-04T11:00:01.250000Z", "price": 1.095,
        "open": 1.09, "high": 1.1, "low": 1.08, "close": 1.095, "volume": 1200.0, "spread": None,
        "provider": "synthetic", "price_kind": "mid", "volume_kind": "ticks", "instrument_kind": "spot",
    }  # fmt: skip
    assert listener.heard() == [("price_updates", payload)]


def test_a_price_is_kept_alive_until_the_next_bar_is_due(features: FeatureStore, raw: redis.Redis) -> None:
    features.push_prices(price_rows({}), now=SOON)
    raw.delete("market:EURUSD:latest")  # expired
    features.push_prices(price_rows({}), now=TEN + 2 * HOUR + timedelta(minutes=4, seconds=59))
    assert set(features.prices(["EURUSD"])) == {"EURUSD"}
    raw.delete("market:EURUSD:latest")
    features.push_prices(price_rows({}), now=TEN + 2 * HOUR + timedelta(minutes=5))
    assert features.prices(["EURUSD"]) == {}


def test_an_older_price_never_replaces_a_newer_one_even_after_that_expired(
    features: FeatureStore, raw: redis.Redis
) -> None:
    features.push_prices(price_rows({"ts": TEN + HOUR, "close": 1.0955}), now=SOON)
    raw.delete("market:EURUSD:latest")  # expired
    pushed = features.push_prices(price_rows({}), now=SOON)
    assert features.prices(["EURUSD"]) == {}
    assert pushed.older == ["EURUSD"]


# Correlations ---------------------------------------------------------------------------------------------------------

FRIDAY = date(2024, 1, 5)
THURSDAY = date(2024, 1, 4)
SATURDAY = datetime(2024, 1, 6, 0, 20, tzinfo=UTC)


def test_correlations_and_best_pairs_are_served_for_a_day(features: FeatureStore, raw: redis.Redis) -> None:
    matrix = correlation_rows(FRIDAY, ("EURUSD", "GBPUSD", 0.8), ("EURUSD", "XAUUSD", float("nan")))
    rankings = ranking_rows(FRIDAY, ("EURUSD", "XAUUSD", 0.1, "uncorrelated"), ("EURUSD", "GBPUSD", 0.8, "high"))
    features.push_correlations(matrix, rankings, now=SATURDAY)
    served, best = features.correlations(), features.best_pairs()
    assert served is not None
    assert best is not None
    assert (served["day"], served["symbols"]) == ("2024-01-05", ["EURUSD", "GBPUSD", "XAUUSD"])
    assert [pair["correlation"] for pair in served["pairs"]] == [0.8, None]
    assert [(pair["rank"], pair["symbol_b"], pair["category"]) for pair in best["pairs"]] == [
        (1, "XAUUSD", "uncorrelated"),
        (2, "GBPUSD", "high"),
    ]
    for key in ("correlation:latest", "pairs:best"):
        assert 86_390 < raw.ttl(key) <= 86_400  # pyright: ignore[reportOperatorIssue]


def test_at_most_twenty_pairs_are_best(features: FeatureStore) -> None:
    pairs = [("EURUSD", f"S{n:02}", n / 100, "uncorrelated") for n in range(25)]
    features.push_correlations(correlation_rows(FRIDAY), ranking_rows(FRIDAY, *pairs), now=SATURDAY)
    best = features.best_pairs()
    assert best is not None
    assert [pair["rank"] for pair in best["pairs"]] == list(range(1, 21))


def test_a_changed_category_is_announced_once(features: FeatureStore, raw: redis.Redis) -> None:
    before = ranking_rows(THURSDAY, ("EURUSD", "GBPUSD", 0.75, "high"), ("EURUSD", "XAUUSD", 0.1, "uncorrelated"))
    after = ranking_rows(
        FRIDAY, ("EURUSD", "XAUUSD", 0.1, "uncorrelated"), ("EURUSD", "GBPUSD", 0.5, "moderate"),
        ("GBPUSD", "XAUUSD", 0.9, "high"),
    )  # fmt: skip
    listener = Listener(raw, contract.CORRELATION_ALERTS)
    for _ in range(2):
        features.push_correlations(correlation_rows(FRIDAY), pd.concat([before, after]), now=SATURDAY)
    assert listener.heard() == [
        (
            "correlation_alerts",
            {
                "contract": 1, "day": "2024-01-05", "previous_day": "2024-01-04", "timeframe": "1h",
                "symbol_a": "EURUSD", "symbol_b": "GBPUSD", "correlation": 0.5, "category": "moderate",
                "previous_correlation": 0.75, "previous_category": "high",
            },
        )
    ]  # fmt: skip


def test_fridays_correlations_outlive_the_weekend_and_not_the_week(features: FeatureStore, raw: redis.Redis) -> None:
    matrix, none = correlation_rows(FRIDAY, ("EURUSD", "GBPUSD", 0.8)), ranking_rows(FRIDAY)
    features.push_correlations(matrix, none, now=SATURDAY)
    for days, alive in ((3, True), (4, False)):
        raw.delete("correlation:latest")  # expired
        features.push_correlations(matrix, none, now=SATURDAY + timedelta(days=days))
        assert (features.correlations() is not None) is alive


def test_correlations_of_an_older_day_are_refused(features: FeatureStore) -> None:
    features.push_correlations(correlation_rows(FRIDAY, ("A", "B", 0.5)), ranking_rows(FRIDAY), now=SATURDAY)
    later = LEARNED + timedelta(days=9)
    older = correlation_rows(THURSDAY, ("A", "B", 0.1), known_at=later)
    pushed = features.push_correlations(older, ranking_rows(THURSDAY), now=SATURDAY)
    served = features.correlations()
    assert served is not None
    assert served["day"] == "2024-01-05"
    assert pushed.older == ["correlation:latest"]
