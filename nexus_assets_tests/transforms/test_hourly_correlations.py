"""Correlations at every bar against the exact ones of single days, and against plain Python."""

import math
import statistics
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nexus_assets.transforms import correlations
from nexus_assets.transforms.hourly_correlations import hourly_correlations
from nexus_assets_tests.transforms.feature_bars import real, walk


def closes(*bars: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(bars, ignore_index=True)[["symbol", "ts", "close", "known_at"]]


@pytest.fixture(scope="module")
def market() -> pd.DataFrame:
    """Two currencies and gold, which closes an hour a day; some bars are lost at random."""
    random = np.random.default_rng(2)
    parts = []
    for symbol in ("EURUSD", "GBPUSD", "XAUUSD"):
        bars = walk(symbol, date(2024, 2, 1), date(2024, 4, 8))
        parts.append(bars[random.uniform(size=len(bars)) > 0.01])
    return closes(*parts)


def by_hand(rows: pd.DataFrame, a: str, b: str, until: pd.Timestamp, window: int) -> float | None:
    pair = rows[rows["ts"] <= until].pivot(index="ts", columns="symbol", values="close")[[a, b]].dropna()
    pair = pair.iloc[-window - 1 :]
    if len(pair) <= window:
        return None
    left, right = ([math.log(y / x) for x, y in pairwise(pair[name].tolist())] for name in (a, b))
    return statistics.correlation(left, right)


@pytest.mark.parametrize("window", [20, 100, 137])
def test_each_value_is_the_correlation_of_the_last_common_returns(market: pd.DataFrame, window: int) -> None:
    made = hourly_correlations(market, window=window)
    assert made.symbols == ("EURUSD", "GBPUSD", "XAUUSD")
    random = np.random.default_rng(1)
    for row in [*random.choice(len(made.ts), 40, replace=False), window, window + 1, len(made.ts) - 1]:
        for (a, b), value, n in zip(made.pairs, made.correlation[row], made.n[row], strict=True):
            wanted = by_hand(market, made.symbols[a], made.symbols[b], made.ts[row], window)
            if wanted is None:
                assert np.isnan(value)
                assert n < window
            else:
                assert value == pytest.approx(wanted, abs=1e-12)
                assert n == window


def test_the_last_row_of_a_day_is_the_stored_correlation_within_1e_12(market: pd.DataFrame) -> None:
    made = hourly_correlations(market)
    compared = 0
    for number in range(40):
        day = date(2024, 2, 20) + timedelta(days=number)
        stored = correlations.correlate(market, day=day, timeframe="1h", window=100)
        last = int(made.ts.searchsorted(pd.Timestamp(day + timedelta(days=1), tz="UTC"))) - 1
        matrix = made.matrix(last)
        for row in stored.to_dict("records"):
            assert matrix.at[row["symbol_a"], row["symbol_b"]] == pytest.approx(row["correlation"], abs=1e-12)
            compared += 1
    assert compared > 70


def test_recorded_years_do_not_drift(real_data: Path) -> None:
    symbols = ("EURUSD", "GBPUSD", "AUDUSD")
    rows = closes(*(real(real_data, symbol, date(2016, 1, 8), date(2021, 12, 31)) for symbol in symbols))
    made = hourly_correlations(rows)
    assert len(made.ts) > 36_000
    stored = correlations.correlate(
        rows[rows["ts"] >= pd.Timestamp("2021-11-01", tz="UTC")], day=date(2021, 12, 29), timeframe="1h", window=100
    )
    matrix = made.matrix(int(made.ts.searchsorted(pd.Timestamp("2021-12-30", tz="UTC"))) - 1)
    for row in stored.to_dict("records"):
        assert matrix.at[row["symbol_a"], row["symbol_b"]] == pytest.approx(row["correlation"], abs=1e-12)


def test_a_price_that_stands_still_has_no_correlation(market: pd.DataFrame) -> None:
    rows = market.copy()
    still = (rows["symbol"] == "GBPUSD") & (rows["ts"] >= pd.Timestamp("2024-03-01", tz="UTC"))
    rows.loc[still, "close"] = 1.25
    made = hourly_correlations(rows)
    values = pd.DataFrame(made.correlation, index=made.ts)
    assert values.loc["2024-03-12":, [0, 2]].isna().all(axis=None)
    assert values.loc["2024-03-12":, 1].notna().all()
    assert values.loc["2024-02-20":"2024-02-28"].notna().all(axis=None)


def test_a_range_gives_the_rows_of_the_range(market: pd.DataFrame) -> None:
    start, end = pd.Timestamp("2024-03-04", tz="UTC"), pd.Timestamp("2024-03-06", tz="UTC")
    part, whole = hourly_correlations(market, start=start, end=end), hourly_correlations(market)
    inside = (whole.ts >= start) & (whole.ts < end)
    np.testing.assert_array_equal(part.correlation, whole.correlation[inside])
    assert part.ts.equals(whole.ts[inside])
    square = part.matrix(0)
    assert (square.to_numpy() == square.to_numpy().T).all()
    assert (np.diag(square) == 1).all()
