"""Correlations on common bars against numpy, and rankings whose categories do not flicker."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from nexus_assets.schemas import CORRELATION_MATRIX, PAIR_RANKINGS
from nexus_assets.transforms.correlations import HISTORY_DAYS, correlate, look_back_days, rank
from nexus_assets_tests.transforms.feature_bars import assert_same_bits, real, walk

DAY = date(2024, 3, 14)


def correlations_of(closes, day=DAY, window=100, timeframe="1h"):
    return correlate(closes, day=day, timeframe=timeframe, window=window)


@pytest.fixture(scope="module")
def closes():
    """Four markets, of which gold trades 23 hours a day."""
    bars = pd.concat([walk(s, date(2024, 2, 12), date(2024, 3, 20)) for s in ("USDJPY", "EURUSD", "XAUUSD", "GBPUSD")])
    return bars[["symbol", "ts", "close", "known_at"]]


def numpy_correlation(closes, a, b, day, window):
    """Correlation over the last common ts, with numpy's own functions."""
    wide = closes.loc[closes["ts"] < datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)]
    wide = wide.pivot(index="ts", columns="symbol", values="close")[[a, b]].dropna().iloc[-window - 1 :]
    returns = np.diff(np.log(wide.to_numpy()), axis=0)
    return np.corrcoef(returns.T)[0, 1], wide.index


def test_a_correlation_is_numpys_on_the_last_101_common_closes(closes):
    rows = correlations_of(closes)
    CORRELATION_MATRIX.pandera.validate(rows)
    assert len(rows) == 6
    assert (rows["symbol_a"] < rows["symbol_b"]).all()
    for row in rows.itertuples():
        expected, ts = numpy_correlation(closes, row.symbol_a, row.symbol_b, DAY, 100)
        assert row.correlation == pytest.approx(expected, abs=1e-11)
        assert row.standard_error == pytest.approx((1 - expected**2) / np.sqrt(99))
        assert (row.window_start, row.window_end) == (ts[0], ts[-1])
        assert row.n == 100
    starts = rows.set_index(["symbol_a", "symbol_b"])["window_start"]
    assert starts["EURUSD", "XAUUSD"] < starts["EURUSD", "GBPUSD"]


def test_recorded_correlations_are_numpys(real_data):
    symbols = ["AUDUSD", "EURUSD", "GBPUSD", "NZDUSD", "USDCAD", "USDJPY"]
    bars = pd.concat([real(real_data, s, date(2021, 5, 1), date(2021, 7, 1)) for s in symbols])
    # One market with holes: every pair of it has other common ts than the rest.
    holes = (bars["symbol"] == "USDCAD") & (bars["ts"].dt.hour % 5 == 0)
    bars = bars.loc[~holes]
    for day in (date(2021, 6, 9), date(2021, 6, 13), date(2021, 6, 30)):
        rows = correlations_of(bars, day)
        assert len(rows) == 15
        for row in rows.itertuples():
            expected, ts = numpy_correlation(bars, row.symbol_a, row.symbol_b, day, 100)
            assert row.correlation == pytest.approx(expected, abs=1e-11)
            assert row.window_start == ts[0]
    pair = rows.set_index(["symbol_a", "symbol_b"])["correlation"]
    assert pair["AUDUSD", "NZDUSD"] > 0.7


def test_closes_after_the_day_and_before_the_look_back_change_nothing(closes):
    clean = correlations_of(closes)
    start, end = (
        datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) + timedelta(days=days)
        for days in (-look_back_days("1h", 100), 1)
    )
    outside = (closes["ts"] < start) | (closes["ts"] >= end)
    assert outside.any()
    corrupt = closes.copy()
    corrupt.loc[outside, "close"] *= 3.0
    assert_same_bits(correlations_of(corrupt), clean)
    assert_same_bits(correlations_of(closes.loc[~outside]), clean)
    assert_same_bits(correlations_of(closes.sample(frac=1.0, random_state=1)), clean)
    corrupt.loc[closes["ts"] == end - timedelta(hours=1), "close"] *= 1.5
    assert (correlations_of(corrupt)["correlation"] != clean["correlation"]).all()


def test_a_window_that_is_not_full_has_no_correlation_but_its_n(closes):
    recent = closes.loc[(closes["symbol"] != "GBPUSD") | (closes["ts"] >= datetime(2024, 3, 13, tzinfo=UTC))]
    rows = correlations_of(recent).set_index(["symbol_a", "symbol_b"])
    CORRELATION_MATRIX.pandera.validate(rows.reset_index()[CORRELATION_MATRIX.column_names])
    short = rows.index.get_level_values(0).isin(["GBPUSD"]) | rows.index.get_level_values(1).isin(["GBPUSD"])
    assert rows.loc[short, ["correlation", "standard_error"]].isna().all(axis=None)
    assert rows.loc[short, "n"].tolist() == [47, 47, 45]  # gold rests for an hour a day
    assert rows.loc[~short, "correlation"].notna().all()


def test_a_day_without_a_new_common_bar_has_no_row(closes):
    assert correlations_of(closes, date(2024, 3, 16)).empty  # a Saturday
    holiday = (closes["symbol"] == "XAUUSD") & (closes["ts"] >= datetime(2024, 3, 14, tzinfo=UTC))
    rows = correlations_of(closes.loc[~holiday])
    assert not {"XAUUSD"} & {*rows["symbol_a"], *rows["symbol_b"]}
    assert len(rows) == 3
    CORRELATION_MATRIX.pandera.validate(correlations_of(closes.iloc[:0]))


def test_a_price_that_does_not_move_has_no_correlation(closes):
    still = closes.assign(close=closes["close"].mask(closes["symbol"] == "USDJPY", 151.3))
    rows = correlations_of(still).set_index(["symbol_a", "symbol_b"])["correlation"]
    assert rows.isna().tolist() == [False, True, False, True, False, True]


def test_known_at_is_the_latest_of_both_series_in_the_window(closes):
    corrected = closes.copy()
    late = datetime(2024, 5, 1, tzinfo=UTC)
    corrected.loc[
        (closes["symbol"] == "XAUUSD") & (closes["ts"] == datetime(2024, 3, 12, 9, tzinfo=UTC)), "known_at"
    ] = late
    rows = correlations_of(corrected)
    gold = (rows["symbol_a"] == "XAUUSD") | (rows["symbol_b"] == "XAUUSD")
    assert (rows.loc[gold, "known_at"] == late).all()
    assert (rows.loc[~gold, "known_at"] == datetime(2024, 3, 15, 0, 0, 2, tzinfo=UTC)).all()


def test_identical_and_mirrored_series_correlate_fully(closes):
    euro = closes.loc[closes["symbol"] == "EURUSD"]
    three = pd.concat([euro, euro.assign(symbol="COPY"), euro.assign(symbol="MIRROR", close=1 / euro["close"])])
    rows = correlations_of(three).set_index(["symbol_a", "symbol_b"])["correlation"]
    assert rows["COPY", "EURUSD"] == pytest.approx(1.0, abs=1e-12)
    assert rows["EURUSD", "MIRROR"] == pytest.approx(-1.0, abs=1e-12)
    assert rows.abs().max() <= 1.0


def history(values: dict[tuple[str, str], list[float]], last: date = DAY, n: int = 100) -> pd.DataFrame:
    """Rows of correlation_matrix: one list of daily values per pair, the last one on `last`; NaN for none."""
    rows = []
    for (a, b), series in values.items():
        for back, value in enumerate(reversed(series)):
            day = last - timedelta(days=back)
            known_at = pd.Timestamp(day, tz="UTC") + pd.Timedelta(days=1)
            error = (1 - value**2) / np.sqrt(n - 1)
            rows.append((day, "1h", a, b, 100, value, n, error, known_at, known_at, known_at, 1))
    frame = pd.DataFrame(rows, columns=CORRELATION_MATRIX.column_names)
    return frame.astype(dict.fromkeys(["window_start", "window_end", "known_at"], "datetime64[us, UTC]"))


def category_after(*values: float) -> str:
    return rank(history({("AAA", "BBB"): list(values)}), day=DAY)["category"].iloc[0]


@pytest.mark.parametrize(
    ("correlation", "category"),
    [
        *((-0.95, "negative"), (-0.4, "negative"), (-0.399, "uncorrelated"), (0.0, "uncorrelated")),
        *((0.399, "uncorrelated"), (0.4, "moderate"), (0.699, "moderate"), (0.7, "high"), (0.99, "high")),
    ],
)
def test_a_first_row_takes_the_category_of_its_value(correlation, category):
    assert category_after(correlation) == category


def test_a_category_changes_only_beyond_one_standard_error_from_its_boundary():
    # One standard error at 0.45 is 0.080, at 0.48 it is 0.077.
    assert category_after(0.30, 0.45) == "uncorrelated"
    assert category_after(0.30, 0.48) == "moderate"
    assert category_after(0.48, 0.33) == "moderate"
    assert category_after(0.48, 0.29) == "uncorrelated"
    assert category_after(-0.5, -0.35) == "negative"
    assert category_after(-0.5, -0.25) == "uncorrelated"
    assert category_after(0.65, 0.74) == "moderate"
    assert category_after(0.65, 0.76) == "high"


def test_a_jump_over_two_boundaries_stops_at_the_one_it_did_not_pass_by_enough():
    assert category_after(0.1, 0.72) == "moderate"
    assert category_after(0.1, 0.80) == "high"
    assert category_after(0.9, -0.9) == "negative"


def test_days_without_a_correlation_neither_change_nor_forget_the_category():
    assert category_after(0.48, float("nan"), float("nan"), 0.36) == "moderate"


def test_the_category_depends_on_the_last_28_days_only():
    values = [0.9] * 10 + [0.66] * (HISTORY_DAYS - 1) + [0.68]
    rows = history({("AAA", "BBB"): values})
    assert rank(rows, day=DAY)["category"].tolist() == ["moderate"]
    assert_same_bits(rank(rows.loc[rows["day"] > DAY - timedelta(days=HISTORY_DAYS)], day=DAY), rank(rows, day=DAY))
    # With one more day in the look-back that was high, high it stays.
    assert category_after(0.9, *[0.66] * (HISTORY_DAYS - 2), 0.68) == "high"


def test_pairs_are_ranked_by_the_size_of_their_correlation_with_reason_and_change():
    pairs = {
        ("CCC", "DDD"): [0.55, *[0.5] * 6, 0.9],
        ("AAA", "BBB"): [*[0.3] * 7, 0.44],
        ("AAA", "CCC"): [-0.1],
        ("BBB", "DDD"): [-0.6] * 8,
        ("AAA", "DDD"): [0.2, float("nan")],
    }
    rows = rank(history(pairs), day=DAY)
    PAIR_RANKINGS.pandera.validate(rows)
    assert rows["rank"].tolist() == [1, 2, 3, 4]
    assert (rows["symbol_a"] + rows["symbol_b"]).tolist() == ["AAACCC", "AAABBB", "BBBDDD", "CCCDDD"]
    assert rows["category"].tolist() == ["uncorrelated", "uncorrelated", "negative", "high"]
    assert rows["change_7d"].tolist() == pytest.approx([np.nan, 0.14, 0.0, 0.35], nan_ok=True)
    assert rows["reason"].tolist() == [
        "uncorrelated (diversification): -0.10 +/- 0.10 over 100 1h returns, between -0.40 and +0.40",
        "uncorrelated (diversification): +0.44 +/- 0.08 over 100 1h returns; the category is kept until the value "
        "leaves its range (between -0.40 and +0.40) by more than a standard error; +0.14 in 7 days",
        "negatively correlated (hedging): -0.60 +/- 0.06 over 100 1h returns, at or below -0.40; +0.00 in 7 days",
        "highly correlated (avoid together): +0.90 +/- 0.02 over 100 1h returns, at or above +0.70; +0.35 in 7 days",
    ]


def test_equal_correlations_are_ranked_by_name_and_later_days_are_not_looked_at():
    rows = history({("BBB", "CCC"): [0.2, 0.9], ("AAA", "CCC"): [-0.2, 0.9]}, last=DAY + timedelta(days=1))
    ranked = rank(rows.sample(frac=1.0, random_state=2), day=DAY)
    assert ranked["symbol_a"].tolist() == ["AAA", "BBB"]
    assert ranked["correlation"].tolist() == [-0.2, 0.2]


def test_a_day_without_correlations_has_no_ranking():
    ranked = rank(history({("AAA", "BBB"): [0.2]}), day=DAY + timedelta(days=1))
    assert ranked.empty
    PAIR_RANKINGS.pandera.validate(ranked)
