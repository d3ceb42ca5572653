"""Invented prices: fixed for ever, in market hours, consistent across timeframes and symbols."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from nexus_assets import trading_calendar
from nexus_assets.instruments import DEFAULT_SYMBOLS, INSTRUMENTS, instrument
from nexus_assets.providers.interface import Request
from nexus_assets.providers.synthetic import EPOCH, SyntheticProvider
from nexus_assets_tests.providers.price_files import utc

GOLDEN_EURUSD = [
    [1.21816, 1.21846, 1.21716, 1.21786, 4046.0, 0.000188],
    [1.21786, 1.21893, 1.21743, 1.21847, 3828.0, 0.000186],
]
GOLDEN_XAUUSD = [2084.87]

PROVIDER = SyntheticProvider(now=lambda: utc("2024-06-10T10:30:00"))


def bars_of(symbol: str, timeframe: str, start: str, end: str, provider: SyntheticProvider = PROVIDER) -> pd.DataFrame:
    return provider.fetch(Request(symbol, timeframe, utc(start), utc(end))).bars


def aggregate(minutes: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    opens = trading_calendar.bar_open_of(pd.DatetimeIndex(minutes["ts"]), timeframe)
    return minutes.groupby(opens).agg(
        open=("open", "first"),
        high=("high", "max"),
        low=("low", "min"),
        close=("close", "last"),
        volume=("volume", "sum"),
    )


@pytest.mark.parametrize("timeframe", ["5m", "1h", "4h", "1d"])
@pytest.mark.parametrize("symbol", ["EURUSD", "NAS100"])
def test_a_longer_bar_is_the_aggregate_of_its_minutes(symbol: str, timeframe: str) -> None:
    # The second week holds the change of New York's clock.
    bars = bars_of(symbol, timeframe, "2024-03-04T22:00:00", "2024-03-14T21:00:00").set_index("ts")
    minutes = bars_of(symbol, "1m", "2024-03-03", "2024-03-16")
    expected = aggregate(minutes, timeframe).loc[bars.index]
    pd.testing.assert_frame_equal(bars[list(expected.columns)], expected, check_exact=True, check_names=False)


@pytest.mark.parametrize("item", INSTRUMENTS, ids=lambda item: item.symbol)
def test_every_instrument_has_exactly_the_bars_that_its_calendar_expects_and_they_are_sound(item) -> None:
    bars = bars_of(item.symbol, "1h", "2023-12-18", "2024-01-12")
    expected = trading_calendar.expected(item.asset_class, utc("2023-12-18"), utc("2024-01-12"), "1h")
    assert list(bars["ts"]) == list(expected)
    prices = bars[["open", "high", "low", "close"]]
    assert (prices.min(axis=1) == bars["low"]).all()
    assert (prices.max(axis=1) == bars["high"]).all()
    assert item.price_band[0] < prices.to_numpy().min()
    assert prices.to_numpy().max() < item.price_band[1]
    pd.testing.assert_frame_equal(prices, prices.round(item.digits), check_exact=True)
    assert (bars["volume"] > 0).all()
    assert (bars["spread"] > 0).all()
    assert (bars["high"] > bars["low"]).mean() > 0.95


def test_prices_stay_plausible_over_decades() -> None:
    for symbol in (*DEFAULT_SYMBOLS, "BTCUSD"):
        for year in range(2001, 2069, 7):
            closes = bars_of(
                symbol, "1h", f"{year}-06-06", f"{year}-06-08", SyntheticProvider(now=lambda: utc("2069-01-01"))
            )["close"]
            assert closes.between(*instrument(symbol).price_band).all(), (symbol, year)


def test_it_moves_like_a_market() -> None:
    closes = {s: bars_of(s, "1h", "2024-01-01", "2024-05-01").set_index("ts")["close"] for s in DEFAULT_SYMBOLS}
    returns = pd.DataFrame(closes).pct_change(fill_method=None)
    yearly = returns.std() * 6_228**0.5
    assert yearly.between(0.03, 0.45).all()
    assert returns["EURUSD"].corr(returns["GBPUSD"]) > 0.4
    assert returns["EURUSD"].corr(returns["USDCHF"]) < -0.4
    assert returns["NAS100"].corr(returns["US500"]) > 0.7
    eurusd = returns["EURUSD"].abs()
    assert eurusd.max() > 5 * eurusd.std()
    hour = pd.DatetimeIndex(returns.index).hour
    assert eurusd[hour == 14].median() > 1.5 * eurusd[hour == 3].median()


def test_a_triangle_of_rates_closes() -> None:
    close = {
        s: bars_of(s, "1h", "2024-02-01", "2024-02-20").set_index("ts")["close"] for s in ("EURUSD", "EURGBP", "GBPUSD")
    }
    residual = close["EURGBP"] * close["GBPUSD"] / close["EURUSD"] - 1
    assert residual.abs().max() < 2e-5


def test_the_week_begins_where_the_last_one_ended() -> None:
    bars = bars_of("EURUSD", "1h", "2024-02-01", "2024-04-01").set_index("ts")
    gap = bars["open"] / bars["close"].shift() - 1
    assert gap.abs().max() < 0.005


@pytest.mark.parametrize("timeframe", ["1m", "1h", "4h"])
def test_a_bar_that_is_not_over_is_not_delivered(timeframe: str) -> None:
    now = datetime(2024, 6, 5, 14, 20, 30, tzinfo=UTC)
    asked = Request("EURUSD", timeframe, utc("2024-06-04"), utc("2024-06-08"))
    before = SyntheticProvider(now=lambda: now).fetch(asked).bars
    ends = trading_calendar.bar_end(pd.DatetimeIndex(before["ts"]), timeframe)
    assert ends[-1] <= now
    assert trading_calendar.bar_end(ends[-1:], timeframe)[0] > now
    later = SyntheticProvider(now=lambda: now + timedelta(days=7)).fetch(asked).bars
    pd.testing.assert_frame_equal(before, later.iloc[: len(before)], check_exact=True)
    exactly = SyntheticProvider(now=lambda: ends[-1].to_pydatetime()).fetch(asked).bars
    assert len(exactly) == len(before)


def test_nothing_is_invented_before_the_epoch() -> None:
    bars = bars_of("EURUSD", "1h", "1999-12-20", "2000-01-05")
    assert bars["ts"].iloc[0].date() >= EPOCH


def test_the_numbers_never_change() -> None:
    # Golden values: prices that people have stored must not change with a release.
    bars = bars_of("EURUSD", "1h", "2024-03-05T10:00:00", "2024-03-05T12:00:00")
    assert bars.drop(columns="ts").to_numpy().tolist() == GOLDEN_EURUSD
    assert bars_of("XAUUSD", "1h", "2024-03-05T10:00:00", "2024-03-05T11:00:00")["close"].tolist() == GOLDEN_XAUUSD


def test_another_process_with_other_cpu_features_makes_the_same_bits() -> None:
    program = (
        "from datetime import *; from nexus_assets.providers.synthetic import *; import hashlib;"
        "p = SyntheticProvider(now=lambda: datetime(2024, 6, 1, tzinfo=UTC));"
        "f = p.fetch(Request('GBPJPY', '1m', datetime(2024, 3, 4, tzinfo=UTC), datetime(2024, 3, 9, tzinfo=UTC))).bars;"
        "print(hashlib.sha256(f.drop(columns='ts').to_numpy().tobytes()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for env in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3"})
    }
    assert len(outputs) == 1
