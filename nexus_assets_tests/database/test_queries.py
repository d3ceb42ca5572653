"""Reading: what each query and view returns, and that the common ones use an index."""

import json
from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from nexus_assets import trading_calendar
from nexus_assets.database import Database
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, PAIR_RANKINGS, TABLES
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.database.rows import (
    KNOWN_AT,
    MONDAY,
    bar_rows,
    delivered_bars,
    delivery,
    indicator_rows,
    instant,
    no_quarantine,
)

FRIDAY = MONDAY + timedelta(days=4)
SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")


@pytest.fixture(scope="module")
def filled(store: MarketStore) -> MarketStore:
    """Three symbols over a week: hourly, 4h and 1d bars, hourly indicators, one delivery twice."""
    for symbol in SYMBOLS:
        bars = pd.concat([bar_rows(MONDAY, FRIDAY, t, symbol=symbol) for t in ("1h", "4h", "1d")], ignore_index=True)
        bars.loc[2, "suspect"] = "large_move"
        where = {"symbol": symbol, "first_day": MONDAY, "end_day": FRIDAY}
        store.replace_bars(bars, no_quarantine(), timeframes=("1h", "4h", "1d"), **where)
        store.replace(INDICATOR_ROWS, indicator_rows(MONDAY, FRIDAY, symbol=symbol), timeframes=("1h",), **where)
    store.append_delivery(delivery(), run_id=None)
    store.append_delivery(delivery(delivered_bars(price=1.2), equal_repeats=1), run_id=None)
    return store


def test_the_warm_up_is_counted_in_bars_that_end_before_the_days(filled: MarketStore) -> None:
    day = MONDAY + timedelta(days=2)
    read = filled.read_bars_with_warmup("EURUSD", "4h", day, day + timedelta(days=1), 5)
    ends = trading_calendar.bar_end(pd.DatetimeIndex(read["ts"]), "4h")
    assert len(read) == 5 + 6
    assert (ends[:5] <= pd.Timestamp(instant(day))).all()
    assert (ends[5:] > pd.Timestamp(instant(day))).all()
    assert read["ts"].is_monotonic_increasing
    assert read.dtypes.to_dict() == BARS.empty().dtypes.to_dict()


def test_a_short_history_gives_a_shorter_warm_up(filled: MarketStore) -> None:
    tuesday = MONDAY + timedelta(days=1)
    assert len(filled.read_bars_with_warmup("EURUSD", "1h", tuesday, tuesday + timedelta(days=1), 250)) == 48
    assert len(filled.read_bars_with_warmup("USDJPY", "1h", tuesday, tuesday + timedelta(days=1), 250)) == 0


def test_a_range_of_bars_is_half_open(filled: MarketStore) -> None:
    read = filled.read_bars("EURUSD", "1h", instant(MONDAY, 3), instant(MONDAY, 5))
    assert list(read["ts"]) == [instant(MONDAY, 3), instant(MONDAY, 4)]
    closes = filled.read_closes(["XAUUSD", "EURUSD"], "1h", instant(MONDAY, 3), instant(MONDAY, 5))
    assert list(closes.columns) == ["symbol", "ts", "close", "known_at"]
    assert list(closes["symbol"]) == ["EURUSD", "EURUSD", "XAUUSD", "XAUUSD"]


def test_the_newest_rows_come_in_the_order_of_the_symbols_and_only_where_there_are_any(filled: MarketStore) -> None:
    asked = ["XAUUSD", "USDJPY", "EURUSD"]
    newest = filled.newest_features(asked, "1h")
    assert list(newest["symbol"]) == ["XAUUSD", "EURUSD"]
    assert (newest["ts"] == instant(FRIDAY, -1)).all()
    assert newest.dtypes.to_dict() == INDICATOR_ROWS.empty().dtypes.to_dict()
    assert list(filled.newest_bars(asked, "1d")["symbol"]) == ["XAUUSD", "EURUSD"]


def test_the_views_of_the_newest_rows_agree_with_the_tables(filled: MarketStore) -> None:
    bars = filled.database.frame("SELECT * FROM market.bars_latest ORDER BY symbol, timeframe")
    every = filled.read_all(BARS).sort_values("ts").groupby(["symbol", "timeframe"], as_index=False).tail(1)
    every = every.sort_values(["symbol", "timeframe"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(bars, every[bars.columns])
    assert len(bars) == 9
    assert len(filled.database.frame("SELECT * FROM features.indicators_latest")) == 3


def test_raw_rows_are_read_as_corrected(filled: MarketStore) -> None:
    newest = filled.database.frame("SELECT * FROM market.raw_ohlc_as_corrected WHERE symbol = 'EURUSD' ORDER BY ts")
    assert newest["close"].tolist() == delivered_bars(price=1.2)["close"].tolist()


def test_deliveries_are_summed_and_compared_with_what_is_stored(filled: MarketStore) -> None:
    [row] = filled.database.rows("SELECT * FROM market.delivery_totals")
    assert {name: row[name] for name in ("deliveries", "delivered", "new", "changed", "unchanged", "stored")} == {
        "deliveries": 2, "delivered": 49, "new": 24, "changed": 24, "unchanged": 1, "stored": 48,
    }  # fmt: skip


def test_coverage_counts_a_bar_on_the_day_in_which_it_ends(filled: MarketStore) -> None:
    seen = filled.database.frame("SELECT timeframe, day, bars, suspects FROM market.coverage WHERE symbol = 'EURUSD'")
    for timeframe, bars_a_day in (("1h", 24), ("4h", 6), ("1d", 1)):
        of_timeframe = seen[seen["timeframe"] == timeframe].sort_values("day")
        assert list(of_timeframe["day"]) == [MONDAY + timedelta(days=n) for n in range(4)]
        assert (of_timeframe["bars"] == bars_a_day).all()
    assert seen["suspects"].sum() == 1


@pytest.mark.parametrize("first_day", [date(2024, 3, 6), date(2024, 10, 30)])
@pytest.mark.parametrize("timeframe", ["1m", "15m", "1h", "4h", "1d"])
def test_the_databases_day_of_a_bar_is_the_calendars_through_both_switches(
    database: Database, timeframe: str, first_day: date
) -> None:
    opens = trading_calendar.bar_opens(timeframe, instant(first_day), instant(first_day + timedelta(days=8)))
    days = (trading_calendar.bar_end(opens, timeframe) - pd.Timedelta(microseconds=1)).date
    stored = database.frame(
        "SELECT market.bar_day(%s, ts) AS day FROM unnest(%s::timestamptz[]) AS bars (ts)",
        (timeframe, [ts.to_pydatetime() for ts in opens]),
    )
    assert stored["day"].tolist() == list(days)


def test_counts_name_every_symbol_that_was_asked_for(filled: MarketStore) -> None:
    week = (instant(MONDAY), instant(FRIDAY))
    assert filled.bar_counts(["EURUSD", "USDJPY"], "1h", *week) == {"EURUSD": 96, "USDJPY": 0}
    suspects = filled.suspect_counts(SYMBOLS, "1h", *week)
    assert suspects.to_dict("list") == {"symbol": list(SYMBOLS), "suspect": ["large_move"] * 3, "rows": [1, 1, 1]}
    assert filled.quarantine_counts(SYMBOLS, "1h", *week).empty


def test_missing_indicators_are_counted_among_rows_that_have_their_warm_up(filled: MarketStore) -> None:
    cold = indicator_rows(FRIDAY, FRIDAY + timedelta(days=1)).assign(rsi_14=np.nan)
    cold["slice_start"] = cold["slice_start"].shift(len(cold))
    where = {"symbol": "EURUSD", "first_day": FRIDAY, "end_day": FRIDAY + timedelta(days=1)}
    filled.replace(INDICATOR_ROWS, cold, timeframes=("1h",), **where)
    counts = filled.null_indicators(["EURUSD"], instant(MONDAY), instant(FRIDAY, 24), INDICATOR_NAMES)
    assert (counts["rows"], counts["adx_14"], counts["rsi_14"]) == (96, 96, 0)
    filled.replace(INDICATOR_ROWS, cold.head(0), timeframes=("1h",), **where)


def test_table_counts_name_every_table(filled: MarketStore) -> None:
    counts = filled.table_counts()
    assert set(counts) == {table.qualified for table in TABLES}
    assert counts["market.bars"] == 3 * (96 + 24 + 4)


def pairs(day: date, *correlations: float) -> pd.DataFrame:
    """EURUSD with GBPUSD and XAUUSD, and those two, on one day."""
    names = [("EURUSD", "GBPUSD"), ("EURUSD", "XAUUSD"), ("GBPUSD", "XAUUSD")][: len(correlations)]
    return pd.DataFrame({
        "day": day, "timeframe": "1h", "symbol_a": [a for a, _ in names], "symbol_b": [b for _, b in names],
        "window_bars": 100, "correlation": correlations, "n": 100, "standard_error": 0.1, "window_start": KNOWN_AT,
        "window_end": KNOWN_AT, "known_at": KNOWN_AT, "code_version": 1,
    })  # fmt: skip


def rankings(day: date, *ranks: int) -> pd.DataFrame:
    """The first pairs of that day with these ranks."""
    frame = pairs(day, *(0.1 * n for n in range(1, len(ranks) + 1)))
    frame = frame.assign(rank=ranks, change_7d=np.nan, category="uncorrelated", reason="small")
    return frame[PAIR_RANKINGS.column_names]


def test_the_square_is_symmetric_with_a_unit_diagonal(fresh_store: MarketStore) -> None:
    tuesday = MONDAY + timedelta(days=1)
    fresh_store.replace(
        CORRELATION_MATRIX, pairs(MONDAY, 0.8, -0.2, 0.1), symbol=None, first_day=MONDAY, end_day=tuesday
    )
    square = fresh_store.read_square(MONDAY, tuesday)
    matrix = square.pivot(index="symbol_a", columns="symbol_b", values="correlation").to_numpy()
    assert matrix.tolist() == [[1.0, 0.8, -0.2], [0.8, 1.0, 0.1], [-0.2, 0.1, 1.0]]
    assert (square["window_start"] == KNOWN_AT).all()


@pytest.mark.parametrize(
    ("ranks", "right"), [((1, 2, 3), True), ((1, 2), False), ((1, 2, 4), False), ((2, 3, 4), False), ((), False)]
)
def test_a_day_whose_ranks_have_a_gap_is_found(fresh_store: MarketStore, ranks: tuple[int, ...], right: bool) -> None:
    tuesday = MONDAY + timedelta(days=1)
    where = {"symbol": None, "first_day": MONDAY, "end_day": tuesday}
    fresh_store.replace(CORRELATION_MATRIX, pairs(MONDAY, 0.8, -0.2, 0.1), **where)
    fresh_store.replace(PAIR_RANKINGS, rankings(MONDAY, *ranks), **where)
    assert fresh_store.misranked_days(MONDAY, tuesday) == ([] if right else [MONDAY])


def test_the_newest_days_of_a_table_by_day_leave_out_days_without_rows(fresh_store: MarketStore) -> None:
    thursday = MONDAY + timedelta(days=3)
    both = pd.concat([pairs(MONDAY, 0.8), pairs(thursday, 0.7)], ignore_index=True)
    fresh_store.replace(CORRELATION_MATRIX, both, symbol=None, first_day=MONDAY, end_day=FRIDAY)
    assert list(fresh_store.newest_days(CORRELATION_MATRIX, "1h")["day"]) == [thursday]
    assert list(fresh_store.newest_days(CORRELATION_MATRIX, "1h", 5)["day"]) == [MONDAY, thursday]


@pytest.fixture(scope="module")
def large(any_level_databases: DatabaseMaker) -> Iterator[Database]:
    """Four years of hourly bars, raw rows and two revisions of them, for eight symbols: 280,000 bars."""
    database = Database(any_level_databases.migrated(), patience=5)
    symbols = ["AUDUSD", "EURGBP", "EURUSD", "GBPUSD", "NZDUSD", "USDCAD", "USDCHF", "USDJPY"]
    with database.session() as connection:
        connection.execute(
            "INSERT INTO market.bars SELECT s, '1h', ts, 1.1, 1.2, 1.0, 1.1, 5, NULL, 'files', 'mid', 'ticks', 'spot', "
            "now(), 1, 1, NULL FROM unnest(%s::text[]) AS s CROSS JOIN "
            "generate_series(timestamptz '2020-01-01Z', timestamptz '2023-12-31Z', INTERVAL '1 hour') AS ts",
            (symbols,),
        )
        connection.execute(
            "INSERT INTO market.raw_ohlc SELECT symbol, timeframe, ts, provider, d, known_at, open, high, low, close, "
            "volume, spread, price_kind, volume_kind, instrument_kind, false, false "
            "FROM market.bars CROSS JOIN generate_series(1, 2) AS d WHERE symbol = 'EURUSD'"
        )
        connection.execute("ANALYZE market.bars, market.raw_ohlc")
    yield database
    database.close()


COMMON_QUERIES = {
    "the latest bars of a symbol": "SELECT * FROM market.bars WHERE symbol = 'EURUSD' AND timeframe = '1h' "
    "ORDER BY ts DESC LIMIT 250",
    "one symbol over a range": "SELECT * FROM market.bars WHERE symbol = 'EURUSD' AND timeframe = '1h' "
    "AND ts >= '2022-05-01Z' AND ts < '2022-05-03Z' ORDER BY ts",
    "all symbols at one ts": "SELECT * FROM market.bars WHERE ts = '2022-05-02 10:00Z' AND timeframe = '1h'",
    "the newest revisions of a day": "SELECT * FROM market.raw_ohlc_as_corrected WHERE symbol = 'EURUSD' "
    "AND timeframe = '1h' AND ts >= '2022-05-01Z' AND ts < '2022-05-02Z'",
    "the newest bar of every symbol": "SELECT * FROM market.bars_latest",
}


@pytest.mark.parametrize("query", COMMON_QUERIES.values(), ids=COMMON_QUERIES.keys())
def test_common_queries_read_no_more_than_a_few_hundred_pages_of_280_000_bars(large: Database, query: str) -> None:
    [row] = large.rows(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}")
    [explained] = json.loads(row["QUERY PLAN"]) if isinstance(row["QUERY PLAN"], str) else row["QUERY PLAN"]
    nodes = list(_nodes(explained["Plan"]))
    scanned = [n for n in nodes if n["Node Type"] == "Seq Scan" and n["Actual Rows"] > 0]
    assert scanned == []
    plan = explained["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 600
    assert plan["Actual Rows"] > 0


def _nodes(plan: dict) -> Iterator[dict]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
