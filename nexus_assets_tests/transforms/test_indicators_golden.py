"""Indicators against independent implementations: the books in plain Python, pandas-ta-classic, TA-Lib on the slice."""

import warnings
from datetime import date

import numpy as np
import pandas as pd
import pytest
import talib

from nexus_assets.indicator_table import INDICATOR_NAMES, INDICATORS
from nexus_assets.instruments import instrument
from nexus_assets.transforms import indicators
from nexus_assets_tests.transforms import textbook
from nexus_assets_tests.transforms.feature_bars import as_bars, real, walk

NAMES = list(INDICATOR_NAMES)

# Largest difference from the books, in standard deviations of the column. All compute the same sums in another order;
# TA-Lib starts Wilder's directional sums with 13 bars instead of 14, which 250 bars of warm-up leave a trace of.
TOLERANCE = dict.fromkeys(NAMES, 1e-10) | {"plus_di_14": 1e-7, "minus_di_14": 1e-7, "adx_14": 1e-6}


def compute(bars, symbol, first_day, end_day):
    return indicators.compute(bars, instrument=instrument(symbol), timeframe="1h", first_day=first_day, end_day=end_day)


def assert_as_in_the_books(bars, rows, sample):
    spread = rows[NAMES].std()
    for position in np.random.default_rng(1).choice(len(rows), sample, replace=False):
        row = rows.iloc[position]
        window = bars.loc[(bars["ts"] >= row["slice_start"]) & (bars["ts"] <= row["ts"])]
        high, low, close, volume = (window[name].tolist() for name in ("high", "low", "close", "volume"))
        book = textbook.indicators(high, low, close, volume, 6228.0)
        for name in NAMES:
            assert abs(row[name] - book[name]) <= TOLERANCE[name] * spread[name], (name, row["ts"])


def test_all_32_indicators_are_those_of_the_books():
    bars = walk("EURUSD", date(2024, 2, 1), date(2024, 3, 29))
    assert_as_in_the_books(bars, compute(bars, "EURUSD", date(2024, 2, 20), date(2024, 3, 29)), 25)


@pytest.mark.parametrize("symbol", ["EURUSD", "USDJPY", "GBPNZD"])
def test_all_32_indicators_are_those_of_the_books_on_recorded_hours(real_data, symbol):
    bars = real(real_data, symbol, date(2020, 1, 1), date(2021, 1, 1))
    assert_as_in_the_books(bars, compute(bars, symbol, date(2020, 2, 1), date(2021, 1, 1)), 40)


def test_all_indicators_but_mfi_are_those_of_the_books_on_recorded_minutes_of_gold(real_data):
    rows = pd.read_parquet(real_data / "histdata_m1" / "XAUUSD_2018.parquet").iloc[:8000]
    ts = pd.DatetimeIndex(rows["ts"]).as_unit("us")
    prices = {name: rows[name].to_numpy(float) for name in ("open", "high", "low", "close")}
    bars = as_bars("XAUUSD", "1m", ts, prices, np.zeros(len(ts)), "none")
    first, end = ts[2000].date(), ts[-1].date()
    made = indicators.compute(bars, instrument=instrument("XAUUSD"), timeframe="1m", first_day=first, end_day=end)
    assert made["mfi_14"].isna().all()  # HistData has no volume
    names = [name for name in NAMES if name != "mfi_14"]
    spread = made[names].std()
    whole = made.dropna(subset=names)
    for position in np.random.default_rng(2).choice(len(whole), 40, replace=False):
        row = whole.iloc[position]
        window = bars.loc[(bars["ts"] >= row["slice_start"]) & (bars["ts"] <= row["ts"])]
        high, low, close = (window[name].tolist() for name in ("high", "low", "close"))
        book = textbook.indicators(high, low, close, [1.0] * len(close), 354_900.0)
        for name in names:
            assert abs(row[name] - book[name]) <= TOLERANCE[name] * spread[name], (name, row["ts"])


def test_sampled_values_equal_ta_lib_run_directly_on_the_stored_slice(real_data):
    bars = real(real_data, "GBPUSD", date(2020, 11, 1), date(2022, 1, 1))
    rows = compute(bars, "GBPUSD", date(2021, 1, 1), date(2022, 1, 1))
    direct = [i for i in INDICATORS if hasattr(talib, i.call)]
    assert len(direct) == 26
    for position in np.random.default_rng(5).choice(len(rows), 50, replace=False):
        row = rows.iloc[position]
        window = bars.loc[(bars["ts"] >= row["slice_start"]) & (bars["ts"] <= row["ts"])]
        for i in direct:
            output = getattr(talib, i.call)(*(window[name].to_numpy() for name in i.inputs), **i.parameters)
            value = output[-1] if isinstance(output, np.ndarray) else output[i.output][-1]
            assert row[i.name] == value, (i.name, row["ts"])


@pytest.fixture(scope="module")
def pandas_ta():
    """The package cannot be imported where pandas' deprecation warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas_ta_classic
    return pandas_ta_classic


def test_windowed_indicators_agree_with_pandas_ta(real_data, pandas_ta):
    bars = real(real_data, "AUDUSD", date(2021, 1, 1), date(2021, 7, 1)).reset_index(drop=True)
    rows = compute(bars, "AUDUSD", date(2021, 2, 1), date(2021, 7, 1))
    high, low, close, volume = (bars[name] for name in ("high", "low", "close", "volume"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bands = pandas_ta.bbands(close, length=20, std=2, ddof=0, talib=False)
        theirs = {
            "sma_30": pandas_ta.sma(close, length=30, talib=False),
            "cci_20": pandas_ta.cci(high, low, close, length=20, talib=False),
            "willr_14": pandas_ta.willr(high, low, close, length=14, talib=False),
            "roc_10": pandas_ta.roc(close, length=10, talib=False),
            "mom_10": pandas_ta.mom(close, length=10, talib=False),
            "mfi_14": pandas_ta.mfi(high, low, close, volume, length=14, talib=False),
            "ultosc": pandas_ta.uo(high, low, close, fast=7, medium=14, slow=28, talib=False),
            "bb_upper": bands["BBU_20_2.0"],
            "bb_lower": bands["BBL_20_2.0"],
        }
    # pandas-ta takes two equal typical prices whose sums differ in the last bit for a move; TA-Lib and the books do
    # not.
    typical = (high + low + close) / 3
    tie = (typical.diff() != 0) & ((high + low + close).mul(1e5).round().diff() == 0)
    broken_tie = tie.rolling(14).max().eq(1).set_axis(bars["ts"]).reindex(rows["ts"]).to_numpy()
    assert broken_tie.sum() == 14
    for name, values in theirs.items():
        expected = pd.Series(values.to_numpy(), index=bars["ts"]).reindex(rows["ts"]).to_numpy()
        difference = np.abs(rows[name].to_numpy() - expected)
        if name == "mfi_14":
            difference = difference[~broken_tie]
        assert difference.max() <= 1e-7 * rows[name].std(), name


def test_250_bars_of_warm_up_are_within_a_millionth_of_a_standard_deviation_of_2000(real_data):
    bars = real(real_data, "EURUSD", date(2020, 1, 1), date(2021, 1, 1))
    rows = compute(bars, "EURUSD", date(2020, 6, 1), date(2021, 1, 1))
    spread = rows[NAMES].std()
    talib_columns = [i for i in INDICATORS if hasattr(talib, i.call)]
    for position in range(10, len(rows), 400):
        row = rows.iloc[position]
        long = bars.loc[bars["ts"] <= row["ts"]].iloc[-2000:]
        for i in talib_columns:
            output = getattr(talib, i.call)(*(long[name].to_numpy() for name in i.inputs), **i.parameters)
            value = output[-1] if isinstance(output, np.ndarray) else output[i.output][-1]
            assert abs(row[i.name] - value) <= 2e-6 * spread[i.name], (i.name, row["ts"])
