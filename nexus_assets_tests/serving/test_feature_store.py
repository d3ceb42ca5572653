"""The feature store against a real Redis: keys, payloads, lifetimes, order."""

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from nexus_assets import redis_contract as contract
from nexus_assets.feature_store import FeatureStore
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.redis_contract import Slot
from nexus_assets_tests.serving.stored_rows import (
    HOUR,
    LEARNED,
    SECOND,
    TEN,
    feature_rows,
    price_rows,
)


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
