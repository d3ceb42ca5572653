"""Training sets as they were served: every row from what was known at its own decision, compared row by row."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from psycopg import sql

from nexus_assets.as_known import KnownMarket
from nexus_assets.as_served import ServedMarket
from nexus_assets.database import Database
from nexus_assets.errors import TrainingSetError
from nexus_assets.market_store import MarketStore
from nexus_assets.providers.interface import BAR_COLUMNS, Delivery, Request, empty_rejected
from nexus_assets.schemas import INDICATOR_ROWS, LABELS
from nexus_assets.services import ServiceState
from nexus_assets.settings import Settings, load_settings
from nexus_assets.training_request import request
from nexus_assets.training_sets import assemble
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.graphs import Graph, graph

SYMBOLS = ("EURUSD", "GBPUSD")
LOADED_FROM, FIRST_DAY, END_DAY = date(2021, 1, 4), date(2021, 3, 15), date(2021, 4, 2)
LATENCY = timedelta(minutes=5)
COLUMNS = ["sma_15", "rsi_14", "hv_50", "known_at"]


@pytest.fixture(scope="module")
def loaded(databases: DatabaseMaker, services: ServiceState) -> Iterator[Graph]:
    """Three months of two pairs as if they had been collected live, two minutes after each bar; then revised: some
    bars hours later, some days later, one withdrawn, and one that came late in the first place."""
    url = databases.migrated()
    with graph(
        MarketStore(Database(url)), url, services.redis_url, symbols=" ".join(SYMBOLS), start_day="2021-01-01"
    ) as made:
        made.run(("market/raw_ohlc", "market/bars"), SYMBOLS, LOADED_FROM, END_DAY)
        made.run(("features/labels",), SYMBOLS, FIRST_DAY, END_DAY)
        execute(made, "UPDATE market.raw_ohlc SET known_at = ts + interval '62 minutes', backfilled = false")
        random = np.random.default_rng(5)
        for day, hour in ((16, 9), (17, 14), (22, 3), (24, 12)):
            ts = datetime(2021, 3, day, hour, tzinfo=UTC)
            revise(made, "EURUSD", ts, ts + timedelta(hours=int(random.integers(3, 60))), 1.0004)
        late = datetime(2021, 3, 25, 10, tzinfo=UTC)
        execute(
            made,
            f"UPDATE market.raw_ohlc SET known_at = ts + interval '9 hours' WHERE ts = '{late}' AND symbol = 'EURUSD'",
        )
        gone = datetime(2021, 3, 26, 8, tzinfo=UTC)
        counts = made.store.withdraw("EURUSD", "1h", "synthetic", [gone], run_id=None)
        at(made, counts.delivery_id, gone + timedelta(hours=30))
        revise(made, "GBPUSD", datetime(2021, 3, 23, 15, tzinfo=UTC), datetime(2021, 3, 25, 4, tzinfo=UTC), 0.9995)
        yield made


def execute(made: Graph, statement: str) -> None:
    made.store.database.run(lambda connection: connection.execute(sql.SQL(statement)))  # pyright: ignore


def at(made: Graph, delivery: int, instant: datetime) -> None:
    execute(made, f"UPDATE market.raw_ohlc SET known_at = '{instant}' WHERE delivery_id = {delivery}")


def revise(made: Graph, symbol: str, ts: datetime, learned: datetime, factor: float) -> None:
    rows = made.store.read_raw(symbol, "1h", ts, ts + timedelta(hours=1))
    rows[["open", "high", "low", "close"]] *= factor
    counts = made.store.append_delivery(
        Delivery(
            provider="synthetic", request=Request(symbol, "1h", ts, ts + timedelta(hours=1)),
            bars=rows[list(BAR_COLUMNS)], rejected=empty_rejected(), equal_repeats=0,
            price_kind=rows["price_kind"].iloc[0], volume_kind=rows["volume_kind"].iloc[0],
            instrument_kind=rows["instrument_kind"].iloc[0], source="a test",
        ), run_id=None,
    )  # fmt: skip
    assert counts.changed == 1
    at(made, counts.delivery_id, learned)


@pytest.fixture(scope="module")
def config() -> Settings:
    return load_settings(symbols=SYMBOLS, start_day=date(2021, 1, 1))


def served(made: Graph, config: Settings, latency: timedelta = LATENCY, **more: timedelta) -> ServedMarket:
    return ServedMarket(made.store, latency, priority=lambda symbol: ("synthetic",), config=config, **more)


@pytest.mark.parametrize(
    ("timeframe", "first", "hours"),
    [("1h", datetime(2021, 3, 16, tzinfo=UTC), 330), ("4h", datetime(2021, 3, 22, 21, tzinfo=UTC), 150)],
)
def test_every_row_is_what_was_known_at_its_own_decision(
    loaded: Graph, config: Settings, timeframe: str, first: datetime, hours: int
) -> None:
    end = first + timedelta(hours=hours)
    rows = served(loaded, config).read_columns(INDICATOR_ROWS, COLUMNS, "EURUSD", timeframe, first, end).to_pandas()
    step = timedelta(hours=int(timeframe[0]))
    oracle, missing = [], []
    for ts in pd.date_range(first, end, freq=step, inclusive="left"):
        decision = ts.to_pydatetime() + step + LATENCY
        known = KnownMarket(loaded.store, decision, priority=lambda symbol: ("synthetic",), config=config)
        found = known.read_columns(INDICATOR_ROWS, COLUMNS, "EURUSD", timeframe, ts, ts + step).to_pandas()
        (oracle if len(found) else missing).append(found if len(found) else ts)
    pd.testing.assert_frame_equal(rows, pd.concat(oracle, ignore_index=True), check_exact=True)
    if timeframe == "1h":
        # Nine hours late: at its own decision it was not there.
        assert pd.Timestamp("2021-03-25 10:00", tz="UTC") in missing
        assert pd.Timestamp("2021-03-26 08:00", tz="UTC") in set(rows["ts"])  # withdrawn thirty hours later
    newest = KnownMarket(
        loaded.store, loaded.store.settled_until(), priority=lambda symbol: ("synthetic",), config=config
    ).read_columns(INDICATOR_ROWS, COLUMNS, "EURUSD", timeframe, first, end).to_pandas()  # fmt: skip
    assert not newest["sma_15"].equals(rows["sma_15"])


def test_correlations_are_those_of_the_end_of_their_day(loaded: Graph, config: Settings) -> None:
    first, end = date(2021, 3, 22), date(2021, 3, 31)
    rows = served(loaded, config).read_pair("EURUSD", "GBPUSD", "1h", first, end).to_pandas()
    oracle = []
    for number in range((end - first).days):
        day = first + timedelta(days=number)
        decision = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) + LATENCY
        known = KnownMarket(loaded.store, decision, priority=lambda symbol: ("synthetic",), config=config)
        oracle.append(known.read_pair("EURUSD", "GBPUSD", "1h", day, day + timedelta(days=1)).to_pandas())
    filled = [frame for frame in oracle if len(frame)]
    pd.testing.assert_frame_equal(rows, pd.concat(filled, ignore_index=True), check_exact=True)


def test_a_training_set_as_served_has_outcomes_as_corrected(loaded: Graph, config: Settings) -> None:
    asked = request(
        ["EURUSD"], FIRST_DAY, "2021-03-26", ["rsi_14", "natr_14@4h"], "forward_return_24h", None, "1h", None,
        config=config, as_served=LATENCY,
    )  # fmt: skip
    data = assemble(served(loaded, config), asked, config)
    labels = loaded.store.read_columns(
        LABELS, ["forward_return_24h"], "EURUSD", "1h", asked.start, asked.end
    ).to_pandas().set_index("ts")["forward_return_24h"]  # fmt: skip
    rows = data.pandas().set_index("ts")
    assert len(rows) > 150
    pd.testing.assert_series_equal(rows["forward_return_24h"], labels.loc[rows.index], check_exact=True)
    assert data.manifest()["rebuild"]["query"]["as_served_seconds"] == 300.0


def test_without_time_to_learn_a_bar_nothing_was_served(loaded: Graph, config: Settings) -> None:
    market = served(loaded, config, timedelta(minutes=1))
    first, end = datetime(2021, 3, 22, tzinfo=UTC), datetime(2021, 3, 24, tzinfo=UTC)
    assert market.read_columns(INDICATOR_ROWS, COLUMNS, "EURUSD", "1h", first, end).num_rows == 0


def test_raw_bars_as_served_are_those_of_their_own_decision(loaded: Graph) -> None:
    rows = loaded.store.database.rows(
        "SELECT s.ts, s.known_at > c.known_at AS newer, s.close = c.close AS same FROM "
        "market.raw_ohlc_as_served('5 minutes') AS s FULL JOIN market.raw_ohlc_as_corrected AS c "
        "USING (symbol, timeframe, ts, provider) WHERE coalesce(s.known_at <> c.known_at, true) AND "
        "coalesce(s.symbol, c.symbol) = 'EURUSD' ORDER BY coalesce(s.ts, c.ts)"
    )
    # Four revised and one withdrawn are served as they were; one that came late was not served at all.
    assert [row["ts"] is None for row in rows].count(True) == 1
    assert len(rows) == 6


def test_a_latency_that_says_nothing_is_refused(config: Settings) -> None:
    asked = (["EURUSD"], FIRST_DAY, END_DAY, ["rsi_14"], "barrier_label", None, "1h")
    with pytest.raises(TrainingSetError, match="as_served"):
        request(*asked, "2021-04-01", config=config, as_served=LATENCY)
    with pytest.raises(TrainingSetError, match="as_served"):
        request(*asked, None, config=config, as_served=-LATENCY)
