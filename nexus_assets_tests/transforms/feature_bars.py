"""Bars for the tests of the feature transforms: a seeded walk on the real calendar, or real OANDA hours."""

import zlib
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from nexus_assets import instruments, trading_calendar
from nexus_assets.schemas import BARS


def walk(symbol: str, first_day: date, end_day: date, timeframe: str = "1h", *, volume_kind: str = "ticks"):
    """A random walk with one bar at every expected ts of the days, in the columns of market.bars."""
    instrument = instruments.instrument(symbol)
    start, end = trading_calendar.day_range(first_day, end_day)
    ts = trading_calendar.expected(instrument.asset_class, start, end, timeframe)
    random = np.random.default_rng(zlib.crc32(f"{symbol} {timeframe}".encode()))
    close = np.round(1.2 * np.exp(np.cumsum(random.normal(0.0, 0.001, len(ts)))), 5)
    opens = np.concatenate([[1.2], close[:-1]])
    high = np.maximum(opens, close) + np.round(random.exponential(0.0004, len(ts)), 5)
    low = np.minimum(opens, close) - np.round(random.exponential(0.0004, len(ts)), 5)
    prices = {"open": opens, "high": high, "low": low, "close": close}
    return as_bars(symbol, timeframe, ts, prices, random.integers(50, 5000, len(ts)).astype(float), volume_kind)


def real(folder: Path, symbol: str, first_day: date, end_day: date):
    """Recorded OANDA hours, in the columns of market.bars."""
    rows = pd.read_parquet(folder / "oanda_h1" / f"{symbol}.parquet")
    start, end = trading_calendar.day_range(first_day, end_day)
    rows = rows.loc[(rows["ts"] >= start) & (rows["ts"] < end)]
    prices = {name: rows[name].to_numpy() for name in ("open", "high", "low", "close")}
    volume = rows["volume"].to_numpy(dtype=float)
    return as_bars(symbol, "1h", pd.DatetimeIndex(rows["ts"]), prices, volume, "ticks")


def as_bars(symbol: str, timeframe: str, ts: pd.DatetimeIndex, prices: dict, volume: np.ndarray, volume_kind: str):
    """The columns of market.bars around prices. Every bar is known two seconds after it ends."""
    known_at = trading_calendar.bar_end(ts, timeframe) + pd.Timedelta(seconds=2)
    frame = pd.DataFrame(
        {"ts": ts, **prices, "volume": volume, "known_at": known_at.as_unit("us")}, index=range(len(ts))
    )
    constants = {
        "symbol": symbol, "timeframe": timeframe, "provider": "synthetic", "price_kind": "mid",
        "volume_kind": volume_kind, "instrument_kind": "spot",
    }  # fmt: skip
    for name, value in constants.items():
        frame[name] = pd.Series(value, index=frame.index, dtype="str")
    frame["suspect"] = pd.Series(None, index=frame.index, dtype="str")
    frame["spread"] = np.nan
    frame["bars_expected"] = frame["bars_present"] = np.int16(1)
    return frame.loc[:, BARS.column_names]


def assert_same_bits(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Every value equal to the last bit; missing equals missing."""
    pd.testing.assert_frame_equal(left.reset_index(drop=True), right.reset_index(drop=True), check_exact=True)
