"""Training sets as they were known: the same bits after any number of corrections."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pytest

from nexus_assets.as_known import KnownMarket
from nexus_assets.database import Database
from nexus_assets.errors import TrainingSetError
from nexus_assets.market_store import MarketStore
from nexus_assets.providers.interface import BAR_COLUMNS, Delivery, Request, empty_rejected
from nexus_assets.services import ServiceState
from nexus_assets.settings import Settings, load_settings
from nexus_assets.training_request import TimeSplit, request
from nexus_assets.training_sets import assemble
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.graphs import Graph, graph

SYMBOLS = ("EURUSD", "GBPUSD")
LOADED_FROM, FIRST_DAY, END_DAY = date(2021, 1, 4), date(2021, 3, 8), date(2021, 4, 2)
FEATURES = ["rsi_14", "natr_14@4h", "hv_50", "correlation@GBPUSD"]
PRICES = ("market/raw_ohlc", "market/bars")


@pytest.fixture(scope="module")
def loaded(databases: DatabaseMaker, services: ServiceState) -> Iterator[Graph]:
    """Three months of two pairs with invented prices, through the graph."""
    url = databases.migrated()
    with graph(
        MarketStore(Database(url)), url, services.redis_url, symbols=" ".join(SYMBOLS), start_day="2021-01-01"
    ) as made:
        made.run(PRICES, SYMBOLS, LOADED_FROM, END_DAY)
        derive(made)
        yield made


def derive(made: Graph) -> None:
    made.run(("features/indicators", "features/labels"), SYMBOLS, FIRST_DAY, END_DAY)
    made.run_days(("analytics/correlation_matrix",), FIRST_DAY - timedelta(days=8), END_DAY)


@pytest.fixture(scope="module")
def config() -> Settings:
    return load_settings(symbols=SYMBOLS, start_day=date(2021, 1, 1))


def hashes(loaded: Graph, config: Settings, instant: datetime | None = None, **changes: Any) -> dict[str, str]:
    """The hash of each column of a training set, stored or as known."""
    wanted: dict[str, Any] = {
        "symbols": ["EURUSD"], "start": FIRST_DAY + timedelta(days=1), "end": END_DAY, "features": FEATURES,
        "label": "forward_return_24h", "split": None, "timeframe": "1h", "as_known": instant, **changes,
    }  # fmt: skip
    reader = loaded.store if instant is None else known(loaded, config, instant)
    data = assemble(reader, request(**wanted, config=config), config)
    assert len(data) > 80
    return data.manifest()["hashes"]["columns"]


def known(loaded: Graph, config: Settings, instant: datetime) -> KnownMarket:
    return KnownMarket(loaded.store, instant, priority=lambda symbol: ("synthetic",), config=config)


def now(loaded: Graph) -> datetime:
    return loaded.store.settled_until()


def correct(loaded: Graph, symbol: str, count: int, seed: int) -> None:
    """Deliver a month again with other values in some bars."""
    start, end = datetime(2021, 3, 1, tzinfo=UTC), datetime(2021, 4, 2, tzinfo=UTC)
    rows = loaded.store.read_raw(symbol, "1h", start, end)
    random = np.random.default_rng(seed)
    chosen = random.choice(len(rows), count, replace=False)
    factor = np.ones(len(rows))
    factor[chosen] += random.uniform(1e-5, 1e-3, count)
    rows[["open", "high", "low", "close"]] = rows[["open", "high", "low", "close"]].mul(factor, axis=0)
    counts = loaded.store.append_delivery(
        Delivery(
            provider="synthetic", request=Request(symbol, "1h", start, end), bars=rows[list(BAR_COLUMNS)],
            rejected=empty_rejected(), equal_repeats=0, price_kind=rows["price_kind"].iloc[0],
            volume_kind=rows["volume_kind"].iloc[0], instrument_kind=rows["instrument_kind"].iloc[0], source="a test",
        ), run_id=None,
    )  # fmt: skip
    assert counts.changed == count


def test_what_is_stored_is_what_is_known_now(loaded: Graph, config: Settings) -> None:
    assert hashes(loaded, config) == hashes(loaded, config, now(loaded))
    # The last 4h bar of the loaded days ends on a day that was not materialised; so end before its labels.
    end = date(2021, 3, 30)
    four = {"timeframe": "4h", "features": ["rsi_14", "adx_14"], "label": "barrier_return", "end": end}
    assert hashes(loaded, config, **four) == hashes(loaded, config, now(loaded), **four)


def test_a_training_set_as_known_keeps_its_bits_through_a_thousand_corrections(loaded: Graph, config: Settings) -> None:
    instant, before = now(loaded), hashes(loaded, config)
    for symbol in SYMBOLS:
        correct(loaded, symbol, 500, seed=len(symbol))
    between = now(loaded)
    assert hashes(loaded, config, instant) == before
    loaded.run(("market/bars",), SYMBOLS, date(2021, 3, 1), END_DAY)
    derive(loaded)
    corrected = hashes(loaded, config)
    changed = {name for name in before if before[name] != corrected[name]}
    assert changed == {*FEATURES, "forward_return_24h", "known_at"}
    assert hashes(loaded, config, instant) == before
    assert hashes(loaded, config, between) == corrected


def test_history_that_was_loaded_later_may_count_as_known_when_it_happened(loaded: Graph, config: Settings) -> None:
    instant, lag = datetime(2021, 3, 24, 12, 5, tzinfo=UTC), timedelta(minutes=4)
    asked = request(
        ["EURUSD"], FIRST_DAY, END_DAY, ["rsi_14"], "barrier_label", None, "1h", instant, config=config,
        assume_published=lag,
    )  # fmt: skip
    with pytest.raises(TrainingSetError, match="pass assume_published"):
        assemble(known(loaded, config, instant), asked, config)

    def rows(lag: timedelta) -> pd.DataFrame:
        reader = KnownMarket(
            loaded.store, instant, priority=lambda symbol: ("synthetic",), config=config, assume_published=lag
        )
        return assemble(reader, asked, config).pandas()

    assert rows(lag)["horizon_end"].max() == pd.Timestamp("2021-03-24 12:00", tz="UTC")
    assert rows(timedelta(minutes=6))["horizon_end"].max() == pd.Timestamp("2021-03-24 11:00", tz="UTC")
    for wrong in ({"as_known": None, "lag": lag}, {"as_known": instant, "lag": -lag}):
        with pytest.raises(TrainingSetError, match="says nothing here"):
            request(
                ["EURUSD"], FIRST_DAY, END_DAY, ["rsi_14"], "barrier_label", None, "1h", wrong["as_known"],
                config=config, assume_published=wrong["lag"],
            )  # fmt: skip


def test_a_label_is_known_only_when_its_horizon_had_passed(loaded: Graph, config: Settings) -> None:
    # Bars that had not ended by the instant did not exist, whenever their prices were delivered.
    loaded.store.database.run(
        lambda connection: connection.execute("UPDATE market.raw_ohlc SET known_at = ts + interval '62 minutes'")
    )
    instant = datetime(2021, 3, 24, 12, 5, tzinfo=UTC)
    rows = assemble(
        known(loaded, config, instant),
        request(["EURUSD"], FIRST_DAY, END_DAY, ["rsi_14"], "barrier_label", None, "1h", instant, config=config),
        config,
    ).pandas()
    assert rows["horizon_end"].max() == pd.Timestamp("2021-03-24 12:00", tz="UTC")
    assert rows["known_at"].max() <= pd.Timestamp(instant)


def test_an_instant_that_is_not_settled_is_refused(loaded: Graph, config: Settings, databases: DatabaseMaker) -> None:
    with pytest.raises(TrainingSetError, match="is not settled"):
        known(loaded, config, datetime.now(UTC) + timedelta(hours=1))
    before = now(loaded)
    with psycopg.connect(databases.url_of(loaded.store.database)) as delivering:
        loaded.store.database.lock(delivering, "market.raw_ohlc EURUSD")
        assert before < now(loaded)
        with pytest.raises(TrainingSetError, match="is not settled"):
            known(loaded, config, datetime.now(UTC))
        known(loaded, config, before)


def test_a_moving_split_is_not_known_for_a_past_instant(config: Settings) -> None:
    asked = (["EURUSD"], FIRST_DAY, END_DAY, ["rsi_14"], "barrier_label")
    with pytest.raises(TrainingSetError, match="is not known for a past instant"):
        request(*asked, "train", "1h", "2021-04-01", config=config)
    fixed = config.model_copy(update={"train_end": date(2021, 3, 20), "validation_end": date(2021, 3, 27)})
    made = request(*asked, "train", "1h", "2021-04-01", config=fixed)
    assert made.split == TimeSplit("train", datetime(2021, 3, 20, tzinfo=UTC), datetime(2021, 3, 27, tzinfo=UTC))
