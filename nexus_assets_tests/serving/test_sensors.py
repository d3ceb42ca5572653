"""The sensor and its decision, against a real database and a real Redis.

Ticks are asked for directly; what a tick would find is written into the database as a run would write it.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import orjson
import pandas as pd
import pytest
from sqlalchemy.engine import Connection

from nexus_assets import serving
from nexus_assets.database import Database
from nexus_assets.errors import DatabaseError, FeatureStoreError
from nexus_assets.event_log import BatchingPostgresEventLogStorage
from nexus_assets.feature_store import FeatureStore
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.market_store import MarketStore
from nexus_assets.redis_contract import Slot
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, PAIR_RANKINGS, Table
from nexus_assets.sensors import LOOK_EVERY, Cursor, feature_store_sensor, must_look
from nexus_assets.settings import load_settings
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.serving.stored_rows import (
    HOUR,
    LEARNED,
    SECOND,
    TEN,
    correlation_rows,
    feature_rows,
    price_rows,
    ranking_rows,
)

INDICATORS = dg.AssetKey(INDICATOR_ROWS.asset_key)
QUIET = "Nothing was materialised since the last look."
SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")


@dataclass
class Market:
    """The stored market, Redis and a Dagster instance, as the sensor sees them. `cursor` is that of the last tick."""

    database: Database
    features: FeatureStore
    instance: dg.DagsterInstance
    cursor: str | None = None
    said: str = field(default="", init=False)

    def write(self, table: Table, rows: pd.DataFrame) -> None:
        """Put rows of our own into a table, over those of the same key."""
        key = " AND ".join(f"{name} = %s" for name in table.key)
        with self.database.transaction() as connection:
            for values in rows[list(table.key)].itertuples(index=False, name=None):
                connection.execute(f"DELETE FROM {table.qualified} WHERE {key}", values)  # pyright: ignore[reportArgumentType, reportCallIssue]
            self.database.copy(connection, table, rows)

    def materialise(self, *keys: str, rows: pd.DataFrame | None = None) -> None:
        """Write rows of features.indicators, and then the event of each partition, as a run does."""
        if rows is not None:
            self.write(INDICATOR_ROWS, rows)
        for key in keys:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(INDICATORS, partition=key))

    def tick(self) -> Cursor:
        """One evaluation of the sensor with the cursor of the one before. Returns the new cursor."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"market_store": MarketStore(self.database), "feature_store": self.features},
        )
        result = feature_store_sensor(context)
        assert isinstance(result, dg.SensorResult)
        assert not result.run_requests
        assert result.skip_reason is not None
        self.cursor, self.said = result.cursor, str(result.skip_reason.skip_message)
        cursor = Cursor.parse(self.cursor)
        assert cursor is not None
        return cursor

    def served(self) -> dict[str, datetime]:
        """ts of the served 1h vector of each symbol."""
        return {symbol: vector.ts for symbol, vector in self.features.latest(SYMBOLS).items()}


@pytest.fixture
def market(database: Database, features: FeatureStore) -> Iterator[Market]:
    with database.transaction() as connection:
        for table in (INDICATOR_ROWS, BARS, CORRELATION_MATRIX, PAIR_RANKINGS):
            connection.execute(f"TRUNCATE {table.qualified}")  # pyright: ignore[reportArgumentType, reportCallIssue]
    with dg.DagsterInstance.ephemeral() as instance:
        yield Market(database, features, instance)


def hourly(**rows: Any) -> pd.DataFrame:
    """One 1h vector for each symbol=ts."""
    return feature_rows(*({"symbol": symbol, "ts": ts} for symbol, ts in rows.items()))


# The five situations --------------------------------------------------------------------------------------------------


def test_the_first_tick_serves_everything_though_no_event_says_so(market: Market) -> None:
    market.write(INDICATOR_ROWS, hourly(EURUSD=TEN, GBPUSD=TEN, XAUUSD=TEN))
    assert market.tick() == Cursor(tick=0, marks={})
    assert market.served() == {"EURUSD": TEN, "GBPUSD": TEN, "XAUUSD": TEN}
    assert market.said.startswith("Pushed 3 vectors (EURUSD 1h 2024-01-04T10:00:00Z, ")


def test_a_tick_with_nothing_new_does_no_work_and_counts_itself(market: Market) -> None:
    market.materialise("2024-01-04|EURUSD", rows=hourly(EURUSD=TEN))
    first = market.tick()
    market.write(INDICATOR_ROWS, hourly(EURUSD=TEN + HOUR))  # and no event
    assert market.tick() == Cursor(tick=1, marks=first.marks)
    assert market.said == QUIET
    assert market.served() == {"EURUSD": TEN}


def test_a_new_vector_of_one_symbol_is_pushed_alone(market: Market) -> None:
    market.materialise(*(f"2024-01-04|{s}" for s in SYMBOLS), rows=hourly(EURUSD=TEN, GBPUSD=TEN, XAUUSD=TEN))
    first = market.tick()
    market.materialise("2024-01-04|GBPUSD", rows=hourly(GBPUSD=TEN + HOUR))
    second = market.tick()
    assert market.said == "Pushed 1 vector (GBPUSD 1h 2024-01-04T11:00:00Z)."
    assert market.served() == {"EURUSD": TEN, "GBPUSD": TEN + HOUR, "XAUUSD": TEN}
    assert second.tick == 1
    assert set(second.marks) == {"features/indicators"}
    assert second.marks["features/indicators"] > first.marks["features/indicators"]


def test_new_vectors_of_all_symbols_are_pushed_in_one_tick(market: Market) -> None:
    keys = [f"2024-01-04|{symbol}" for symbol in SYMBOLS]
    market.materialise(*keys, rows=hourly(EURUSD=TEN, GBPUSD=TEN, XAUUSD=TEN))
    market.tick()
    market.materialise(*keys, rows=hourly(EURUSD=TEN + HOUR, GBPUSD=TEN + HOUR, XAUUSD=TEN + HOUR))
    market.tick()
    assert market.served() == dict.fromkeys(SYMBOLS, TEN + HOUR)


@pytest.mark.usefixtures("impatient")
def test_a_failed_read_of_redis_fails_the_tick_and_keeps_the_cursor(market: Market) -> None:
    """A Redis that cannot be read is not one that serves nothing, nor one that is up to date."""
    market.materialise("2024-01-04|EURUSD", rows=hourly(EURUSD=TEN))
    market.tick()
    before = market.cursor
    market.materialise("2024-01-04|EURUSD", rows=hourly(EURUSD=TEN + HOUR))
    reachable, market.features = market.features, FeatureStore("redis://127.0.0.1:1/0")
    with pytest.raises(FeatureStoreError, match=r"Redis at 127\.0\.0\.1:1 could not read"):
        market.tick()
    assert market.cursor == before
    market.features = reachable
    market.tick()
    assert market.served() == {"EURUSD": TEN + HOUR}


def test_a_failed_read_of_the_database_fails_the_tick_and_keeps_the_cursor(
    market: Market, databases: DatabaseMaker
) -> None:
    """The schema is not there: that is not a database without news."""
    market.materialise("2024-01-04|EURUSD", rows=hourly(EURUSD=TEN))
    migrated, market.database = market.database, Database(databases.empty(), patience=1)
    with pytest.raises(DatabaseError, match=r"features\.indicators"):
        market.tick()
    assert market.cursor is None
    market.database = migrated
    market.tick()
    assert market.served() == {"EURUSD": TEN}


# Events only wake -----------------------------------------------------------------------------------------------------


def test_every_tenth_tick_compares_whatever_the_events_say(market: Market) -> None:
    market.materialise("2024-01-04|EURUSD", rows=hourly(EURUSD=TEN))
    market.tick()
    market.write(INDICATOR_ROWS, hourly(EURUSD=TEN + HOUR))  # and no event
    while market.tick().tick < LOOK_EVERY - 1:
        assert market.said == QUIET
    assert market.tick().tick == LOOK_EVERY
    assert market.served() == {"EURUSD": TEN + HOUR}


def test_a_cursor_of_another_form_is_a_first_tick() -> None:
    for text in (None, "", "17", "{}", '{"tick": 3}', '{"tick": 3, "marks": 5}', "not json"):
        assert Cursor.parse(text) is None
    cursor = Cursor(3, {"features/indicators": 12})
    assert Cursor.parse(cursor.dump()) == cursor
    assert orjson.loads(cursor.dump()) == {"tick": 3, "marks": {"features/indicators": 12}}


def test_a_smaller_event_id_wakes_as_well() -> None:
    seen = Cursor(3, {"features/indicators": 12})
    assert must_look(seen, {"features/indicators": 7})
    assert must_look(seen, {"features/indicators": 12, "market/bars": 13})
    assert not must_look(seen, {"features/indicators": 12})


class SlowEventLog(BatchingPostgresEventLogStorage):
    """Our event log, where the write of one thread takes its ids and then waits before it commits."""

    slow_thread: int | None = None
    ids_taken = threading.Event()
    may_commit = threading.Event()

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        if threading.get_ident() != self.slow_thread:
            with super()._connect() as connection:
                yield connection
            return
        SlowEventLog.slow_thread = None
        with super()._connect() as connection:
            connection = connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                yield connection
                self.ids_taken.set()
                assert self.may_commit.wait(timeout=30)


@pytest.fixture
def slow_market(market: Market, databases: DatabaseMaker) -> Iterator[Market]:
    """The market, with Dagster's events in PostgreSQL."""
    SlowEventLog.ids_taken.clear()
    SlowEventLog.may_commit.clear()
    url = databases.empty().replace("postgresql://", "postgresql+psycopg2://")
    storage = {"module": __name__, "class": "SlowEventLog", "config": {"postgres_url": url}}
    with dg.instance_for_test(overrides={"event_log_storage": storage}) as instance:
        assert isinstance(instance.event_log_storage, SlowEventLog)
        market.instance = instance
        yield market


def test_a_slow_batch_committed_behind_a_faster_one_is_pushed(slow_market: Market) -> None:
    """Its ids are smaller than those that the sensor has already seen; whoever follows ids would miss it."""
    market = slow_market

    def slow_run() -> None:
        SlowEventLog.slow_thread = threading.get_ident()
        market.materialise("2024-01-04|GBPUSD")

    market.materialise("2024-01-04|XAUUSD", rows=hourly(XAUUSD=TEN))
    market.tick()
    slow = threading.Thread(target=slow_run)
    slow.start()
    assert SlowEventLog.ids_taken.wait(timeout=30)
    market.materialise("2024-01-04|EURUSD", rows=hourly(EURUSD=TEN))
    market.tick()
    assert market.served() == {"XAUUSD": TEN, "EURUSD": TEN}

    market.write(INDICATOR_ROWS, hourly(GBPUSD=TEN))
    SlowEventLog.may_commit.set()
    slow.join(timeout=30)
    assert market.tick().tick == 2, "the tenth tick must not be what saves it"
    assert market.served() == {"XAUUSD": TEN, "EURUSD": TEN, "GBPUSD": TEN}

    records = market.instance.fetch_materializations(INDICATORS, limit=10).records
    ids = {record.partition_key: record.storage_id for record in records}
    assert ids["2024-01-04|GBPUSD"] < ids["2024-01-04|EURUSD"], "the events were not out of order"


# What is pushed -------------------------------------------------------------------------------------------------------


def test_what_a_step_has_pushed_already_is_not_pushed_again(market: Market) -> None:
    market.materialise("2024-01-04|EURUSD", rows=hourly(EURUSD=TEN))
    report = serving.push(MarketStore(market.database), market.features, load_settings(), ["EURUSD"])
    assert report.vectors.written == {Slot("EURUSD", "1h"): TEN}
    market.tick()
    assert market.said == "Nothing new: 1 vector served as stored."


def test_redis_holds_the_bits_of_the_database_in_every_feature_timeframe(market: Market) -> None:
    awkward = {name: 1 / (place + 3) for place, name in enumerate(INDICATOR_NAMES)}
    rows = feature_rows({**awkward, "mfi_14": None}, {**awkward, "timeframe": "4h", "ts": TEN - 2 * HOUR})
    market.write(INDICATOR_ROWS, rows)
    market.tick()
    hourly_vector = market.features.latest(["EURUSD"])["EURUSD"].features
    assert hourly_vector == {**awkward, "mfi_14": None}
    assert market.features.latest(["EURUSD"], "4h")["EURUSD"].features == awkward


def test_a_correction_of_the_newest_bar_is_pushed(market: Market) -> None:
    market.materialise("2024-01-04|EURUSD", rows=feature_rows({"rsi_14": 40.0}))
    market.tick()
    corrected = feature_rows({"rsi_14": 60.0, "known_at": LEARNED + SECOND})
    market.materialise("2024-01-04|EURUSD", rows=corrected)
    market.tick()
    assert market.features.latest(["EURUSD"])["EURUSD"].features["rsi_14"] == 60.0


def test_numbers_that_changed_without_their_version_are_pushed(market: Market) -> None:
    """A bar that was delivered before the newest one and validated after it."""
    market.materialise("2024-01-04|EURUSD", rows=feature_rows({"rsi_14": 40.0}))
    market.tick()
    market.materialise("2024-01-04|EURUSD", rows=feature_rows({"rsi_14": 60.0}))
    market.tick()
    assert market.features.latest(["EURUSD"])["EURUSD"].features["rsi_14"] == 60.0


def test_a_redis_that_is_ahead_of_the_database_is_reported_and_left(market: Market) -> None:
    market.features.push_features(hourly(EURUSD=TEN + HOUR))
    market.write(INDICATOR_ROWS, hourly(EURUSD=TEN))
    market.tick()
    assert "Redis is ahead of the database for EURUSD 1h" in market.said
    assert market.served() == {"EURUSD": TEN + HOUR}


def test_an_emptied_redis_is_filled_by_the_next_look(market: Market) -> None:
    market.materialise("2024-01-04|EURUSD", rows=hourly(EURUSD=TEN))
    market.tick()
    assert market.features.forget(SYMBOLS, ["1h"]) > 0
    market.cursor = None
    market.tick()
    assert market.served() == {"EURUSD": TEN}


def test_a_row_without_indicators_is_not_served(market: Market) -> None:
    """A symbol with less history than the warm-up needs."""
    missing: dict[str, Any] = {**dict.fromkeys(INDICATOR_NAMES), "slice_start": None}
    market.write(INDICATOR_ROWS, feature_rows(missing))
    market.tick()
    assert market.served() == {}


def test_one_symbol_that_fails_keeps_no_other_and_fails_the_tick(market: Market) -> None:
    rows = hourly(EURUSD=TEN, GBPUSD=TEN, XAUUSD=TEN)
    rows.loc[1, "mom_10"] = float("inf")
    market.materialise("2024-01-04|GBPUSD", rows=rows)
    with pytest.raises(FeatureStoreError, match="Not pushed: GBPUSD 1h: mom_10 of GBPUSD 1h"):
        market.tick()
    assert market.served() == {"EURUSD": TEN, "XAUUSD": TEN}
    market.materialise("2024-01-04|GBPUSD", rows=hourly(GBPUSD=TEN))
    market.tick()
    assert market.served() == dict.fromkeys(SYMBOLS, TEN)


def test_prices_and_correlations_are_served_with_the_vectors(market: Market) -> None:
    friday, thursday, wednesday = (TEN.date() + timedelta(days=n) for n in (1, 0, -1))
    market.write(BARS, price_rows({}, {"ts": TEN + HOUR, "close": 1.0999}))
    market.write(CORRELATION_MATRIX, correlation_rows(thursday, ("EURUSD", "GBPUSD", 0.1)))
    market.write(CORRELATION_MATRIX, correlation_rows(friday, ("EURUSD", "GBPUSD", 0.5)))
    for day, category in ((wednesday, "high"), (thursday, "uncorrelated"), (friday, "moderate")):
        market.write(PAIR_RANKINGS, ranking_rows(day, ("EURUSD", "GBPUSD", 0.5, category)))
    market.tick()
    assert market.features.prices(SYMBOLS)["EURUSD"]["price"] == 1.0999
    served, best = market.features.correlations(), market.features.best_pairs()
    assert served is not None
    assert best is not None
    assert (served["day"], [pair["correlation"] for pair in served["pairs"]]) == ("2024-01-05", [0.5])
    assert (best["day"], [pair["category"] for pair in best["pairs"]]) == ("2024-01-05", ["moderate"])
    assert market.said == "Pushed 1 price (EURUSD); correlation:latest of 2024-01-05; pairs:best of 2024-01-05."


# The definition -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("automation", "status"), [("on", "RUNNING"), ("off", "STOPPED")])
def test_the_sensor_runs_unless_automation_is_off(automation: str, status: str) -> None:
    program = "from nexus_assets.sensors import feature_store_sensor as s; print(s.default_status.value)"
    environment = {"NEXUS_AUTOMATION": automation, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == status, done.stderr
