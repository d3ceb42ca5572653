"""The whole graph over real prices and a real database."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import talib

from nexus_assets.database import Database
from nexus_assets.market_store import MarketStore
from nexus_assets.planning import Ledger, stale_days
from nexus_assets.resources import open_sources
from nexus_assets.schemas import ASSET_TABLES, BARS, CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, PAIR_RANKINGS
from nexus_assets.settings import settings
from nexus_assets.transforms import correlations
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.graphs import Graph, graph

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY")
ENDS = ("EURUSD", "USDJPY")
PRICES = ("market/raw_ohlc", "market/bars")
FEATURES = ("features/indicators", "features/labels")
LOADED_FROM, FIRST_DAY, END_DAY = date(2021, 3, 1), date(2021, 3, 22), date(2021, 3, 30)
"""Three weeks of warm-up, then a week that begins after New York's clock and ends after Europe's was changed."""


@pytest.fixture(scope="module")
def redis_address(services) -> str:
    return services.redis_url


@pytest.fixture(scope="module")
def loaded(databases: DatabaseMaker, redis_address: str, real_data: Path) -> Iterator[Graph]:
    """A week of three pairs, each stage as one rectangle."""
    url = databases.migrated()
    with graph(
        MarketStore(Database(url)), url, redis_address,
        symbols=" ".join(SYMBOLS), start_day="2021-02-01", feature_timeframes="1h",
        files_root=str(real_data / "oanda_h1"),
    ) as made:  # fmt: skip
        made.run(PRICES, ENDS, LOADED_FROM, END_DAY)
        made.run(FEATURES, ENDS, FIRST_DAY, END_DAY)
        made.run_days(("analytics/correlation_matrix", "analytics/pair_rankings"), FIRST_DAY, END_DAY)
        yield made


def stored(store: MarketStore, table: str, columns: str) -> pd.DataFrame:
    return store.database.frame(f"SELECT symbol, timeframe, ts, {columns} FROM {table} ORDER BY 1, 2, 3")


def test_every_asset_is_described_owned_and_has_its_table_s_columns(loaded: Graph) -> None:
    specs = {spec.key.to_user_string(): spec for spec in loaded.definitions.resolve_all_asset_specs()}
    assert set(specs) == {"/".join(table.asset_key) for table in ASSET_TABLES} | {"features/training_set"}
    assert specs["features/training_set"].description
    for table in ASSET_TABLES:
        spec = specs["/".join(table.asset_key)]
        assert spec.description
        assert spec.owners
        assert spec.code_version
        assert spec.group_name == table.schema
        columns = spec.metadata["dagster/column_schema"].columns  # pyright: ignore[reportAttributeAccessIssue]
        assert [column.name for column in columns] == table.column_names
    assert {key: sorted(dep.asset_key.to_user_string() for dep in spec.deps) for key, spec in specs.items()} == {
        "market/raw_ohlc": [],
        "market/bars": ["market/raw_ohlc"],
        "features/indicators": ["market/bars"],
        "features/labels": ["market/bars"],
        "features/dataset_splits": ["features/labels"],
        "features/training_set": ["features/dataset_splits", "features/indicators", "features/labels"],
        "analytics/correlation_matrix": ["market/bars"],
        "analytics/pair_rankings": ["analytics/correlation_matrix"],
    }


def test_every_delivered_row_is_in_raw_ohlc(loaded: Graph, real_data: Path) -> None:
    for symbol in SYMBOLS:
        file = pd.read_parquet(real_data / "oanda_h1" / f"{symbol}.parquet")
        wanted = file[
            (file["ts"] >= pd.Timestamp(LOADED_FROM, tz="UTC")) & (file["ts"] < pd.Timestamp(END_DAY, tz="UTC"))
        ]
        found = loaded.store.database.frame(
            "SELECT open, high, low, close FROM market.raw_ohlc WHERE symbol = %s ORDER BY ts", (symbol,)
        )
        assert len(wanted) > 400
        np.testing.assert_array_equal(found.to_numpy(), wanted[["open", "high", "low", "close"]].to_numpy())


def test_every_check_was_evaluated_and_passed(loaded: Graph) -> None:
    keys = [
        key
        for key in loaded.definitions.get_repository_def().asset_graph.asset_check_keys
        if key.asset_key.path[-1] != "dataset_splits"
    ]
    records = loaded.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    verdicts = {key.name: records[key].evaluation.passed for key in keys}  # pyright: ignore[reportOptionalMemberAccess]
    # The newest prices are of 2021: freshness is the one gate that must warn.
    assert verdicts == {name: name != "freshness" for name in verdicts}
    assert len(verdicts) == 13


def test_a_verdict_refers_to_what_it_judged_and_no_check_lists_the_asset_s_partitions(
    loaded: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be 100,000 partitions; an hourly update has seven checks."""
    listed = []
    list_all = dg.MultiPartitionsDefinition.get_partition_keys

    def counted(*arguments: Any, **named: Any) -> Sequence[str]:
        listed.append(arguments)
        return list_all(*arguments, **named)

    monkeypatch.setattr(dg.MultiPartitionsDefinition, "get_partition_keys", counted)
    run = loaded.run(PRICES, ENDS, END_DAY - timedelta(days=2), END_DAY)
    # The two that are evaluated inside of an asset's step judge before its materialisation is recorded.
    verdicts = [e for e in run.get_asset_check_evaluations() if "accounted_for" not in e.check_name]
    newest = loaded.instance.fetch_materializations(dg.AssetKey(BARS.asset_key), limit=1).records[0]
    assert {v.target_materialization_data.storage_id for v in verdicts if v.target_materialization_data} == {
        newest.storage_id
    }
    assert len(verdicts) == 6
    assert listed == []


def test_each_partition_tells_its_rows_and_the_newest_shows_a_plot(loaded: Graph) -> None:
    records = loaded.instance.fetch_materializations(dg.AssetKey(BARS.asset_key), limit=1000).records
    told = {r.asset_materialization.partition: r.asset_materialization.metadata for r in records}  # pyright: ignore
    assert told["2021-03-24|EURUSD"]["dagster/row_count"].value == 24 + 6 + 1
    assert told["2021-03-27|EURUSD"]["dagster/row_count"].value == 0
    plots = {str(key): str(values["closes"].value) for key, values in told.items() if "closes" in values}
    assert sorted(plots) == [f"2021-03-29|{symbol}" for symbol in SYMBOLS]
    assert all("data:image/png;base64," in plot and len(plot) < 60_000 for plot in plots.values())


def test_rankings_are_stale_when_a_correlation_changed_between_their_reading_and_their_writing(
    loaded: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, store, rank = END_DAY - timedelta(days=1), loaded.store, correlations.rank
    day = newest - timedelta(days=3)
    before = store.read_slice(CORRELATION_MATRIX, symbol=None, first_day=day, end_day=newest)

    def overtaken(past: pd.DataFrame, **where: Any) -> pd.DataFrame:
        halved = before.assign(correlation=before["correlation"] / 2)
        store.replace(CORRELATION_MATRIX, halved, symbol=None, first_day=day, end_day=newest)
        return rank(past, **where)

    def stale() -> set[date]:
        config = settings()
        ledger = Ledger.read(store, SYMBOLS, LOADED_FROM, END_DAY, config=config, sources=open_sources(config))
        return stale_days(ledger, PAIR_RANKINGS, SYMBOLS, newest, END_DAY, config=config)

    assert stale() == set()
    with monkeypatch.context() as patch:
        patch.setattr(correlations, "rank", overtaken)
        loaded.run_days(("analytics/pair_rankings",), newest, END_DAY)
    assert stale() == {newest}
    store.replace(CORRELATION_MATRIX, before, symbol=None, first_day=day, end_day=newest)
    loaded.run_days(("analytics/pair_rankings",), FIRST_DAY, END_DAY)
    assert stale() == set()


def pictures(run: dg.ExecuteInProcessResult) -> set[str]:
    """The pictures in the metadata of what a run materialised."""
    told = [event.materialization.metadata for event in run.get_asset_materialization_events()]
    return {name for values in told for name, value in values.items() if "data:image/png" in str(value.value)}


def test_a_run_of_a_backfill_draws_a_month_and_not_a_day_and_a_day_by_itself_is_drawn(loaded: Graph) -> None:
    one = ("EURUSD", "EURUSD")
    newest = END_DAY - timedelta(days=1)
    drawn = {"closes", "gaps"}
    assert pictures(loaded.run(PRICES, ENDS, newest, END_DAY)) == drawn | {"coverage"}
    assert pictures(loaded.run(PRICES, one, newest, END_DAY)) == drawn
    assert pictures(loaded.run(PRICES, one, newest, END_DAY, backfill="abcdefgh")) == set()
    assert pictures(loaded.run(PRICES, one, END_DAY - timedelta(days=28), END_DAY, backfill="abcdefgh")) == drawn


def test_indicators_equal_talib_on_the_same_fixed_slice(loaded: Graph) -> None:
    rng = random.Random(7)
    rows = loaded.store.database.frame(
        "SELECT * FROM features.indicators WHERE slice_start IS NOT NULL ORDER BY symbol, ts"
    )
    assert len(rows) > 300
    for _, row in rows.iloc[rng.sample(range(len(rows)), 50)].iterrows():
        day = row["ts"].normalize()
        bars = stored(loaded.store, "market.bars", "open, high, low, close")
        bars = bars[(bars["symbol"] == row["symbol"]) & (bars["timeframe"] == "1h") & (bars["ts"] <= row["ts"])]
        piece = pd.concat([bars[bars["ts"] < day].tail(250), bars[bars["ts"] >= day]])
        high, low, close = (piece[name].to_numpy() for name in ("high", "low", "close"))
        assert row["slice_start"] == piece["ts"].iloc[0]
        assert row["rsi_14"] == talib.RSI(close, timeperiod=14)[-1]
        assert row["adx_14"] == talib.ADX(high, low, close, timeperiod=14)[-1]
        assert row["macd_hist"] == talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)[2][-1]
        assert row["atr_14"] == talib.ATR(high, low, close, timeperiod=14)[-1]


def test_one_partition_at_a_time_in_any_order_gives_the_same_bits(
    loaded: Graph, databases: DatabaseMaker, redis_address: str, real_data: Path
) -> None:
    url = databases.migrated()
    first = date(2021, 3, 26)
    with graph(
        MarketStore(Database(url)), url, redis_address,
        symbols=" ".join(SYMBOLS), start_day="2021-02-01", feature_timeframes="1h",
        files_root=str(real_data / "oanda_h1"),
    ) as other:  # fmt: skip
        other.run(("market/raw_ohlc",), ENDS, LOADED_FROM, END_DAY)
        other.run(("market/bars",), ENDS, LOADED_FROM, first)
        days = [first + timedelta(days=n) for n in range((END_DAY - first).days)]
        for day in sorted(days, reverse=True):
            other.run(("market/bars",), ENDS, day, day + timedelta(days=1))
        for day in random.Random(3).sample(days, len(days)):
            other.run(FEATURES, ("EURUSD", "EURUSD"), day, day + timedelta(days=1))
        for table in (BARS, INDICATOR_ROWS, LABELS):
            names = [name for name in table.column_names if name not in ("symbol", "timeframe", "ts", "known_at")]
            where = " WHERE symbol = 'EURUSD' AND ts >= '2021-03-26'"
            frames = [stored(one.store, f"{table.qualified}{where}", ", ".join(names)) for one in (loaded, other)]
            assert len(frames[0]) > 20
            pd.testing.assert_frame_equal(frames[0], frames[1], check_exact=True)


def test_the_same_run_again_touches_no_row(loaded: Graph) -> None:
    tables = ("market.raw_ohlc", "market.bars", "features.indicators", "features.labels")
    query = " UNION ALL ".join(
        f"SELECT '{table}' AS name, max(xmin::text::bigint) AS newest FROM {table}" for table in tables
    )
    before = loaded.store.database.rows(query)
    loaded.run(PRICES, ENDS, date(2021, 3, 25), END_DAY)
    loaded.run(FEATURES, ENDS, date(2021, 3, 25), END_DAY)
    assert loaded.store.database.rows(query) == before


def test_a_symbol_whose_file_is_broken_does_not_keep_the_others_from_being_stored(
    databases: DatabaseMaker, redis_address: str, real_data: Path, tmp_path: Path
) -> None:
    for symbol in ("EURUSD", "USDJPY"):
        (tmp_path / f"{symbol}.parquet").symlink_to(real_data / "oanda_h1" / f"{symbol}.parquet")
    (tmp_path / "GBPUSD.csv").write_text("this is no price file\n")
    url = databases.migrated()
    store = MarketStore(Database(url))
    with graph(
        store, url, redis_address, symbols=" ".join(SYMBOLS), start_day="2021-02-01", files_root=str(tmp_path)
    ) as broken:
        result = broken.run(("market/raw_ohlc",), ENDS, date(2021, 3, 2), date(2021, 3, 4), fails=True)
        failure = result.failure_data_for_node("market__raw_ohlc")
        assert failure is not None
        assert "GBPUSD 2021-03-02 to 2021-03-03" in failure.user_failure_data.description  # pyright: ignore
        recorded = broken.instance.fetch_materializations(dg.AssetKey(["market", "raw_ohlc"]), limit=10).records
        keys = {record.asset_materialization.partition for record in recorded}  # pyright: ignore
        assert keys == {f"2021-03-0{day}|{symbol}" for day in (2, 3) for symbol in ("EURUSD", "USDJPY")}
    rows = store.database.rows("SELECT symbol, count(*) AS rows FROM market.raw_ohlc GROUP BY 1 ORDER BY 1")
    assert rows == [{"symbol": "EURUSD", "rows": 48}, {"symbol": "USDJPY", "rows": 48}]


def test_a_timeframe_whose_warm_up_does_not_fit_the_history_has_no_rows(
    databases: DatabaseMaker, redis_address: str
) -> None:
    url = databases.migrated()
    store = MarketStore(Database(url))
    today = datetime.now(UTC).date()
    first = today - timedelta(days=40)
    with graph(
        store, url, redis_address, symbols="EURUSD", start_day=str(first), feature_timeframes="1h 1d", files_root=""
    ) as short:
        short.run(PRICES, ("EURUSD", "EURUSD"), first, today)
        short.run(FEATURES[:1], ("EURUSD", "EURUSD"), today - timedelta(days=4), today)
    rows = store.database.rows("SELECT timeframe, count(slice_start) > 0 AS warm FROM features.indicators GROUP BY 1")
    assert rows == [{"timeframe": "1h", "warm": True}]
