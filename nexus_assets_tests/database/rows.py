"""Rows for these tests: deliveries, bars and indicators with plain, distinct numbers."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.providers.interface import Delivery, Request, bar_frame, empty_rejected
from nexus_assets.schemas import BARS, INDICATOR_ROWS, QUARANTINED_BARS

MONDAY = date(2024, 1, 8)
KNOWN_AT = pd.Timestamp("2024-02-01", tz="UTC")


def instant(day: date, hour: int = 0) -> datetime:
    """An hour of a day, UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=hour)


def hours(start: datetime, count: int) -> pd.DatetimeIndex:
    """`count` hourly opens."""
    return pd.date_range(start, periods=count, freq="h", unit="us")


START = instant(MONDAY)


def delivered_bars(start: datetime = START, count: int = 24, *, price: float = 1.1) -> pd.DataFrame:
    """Hourly bars as a provider hands them over; every close differs."""
    steps = np.arange(count) * 1e-4
    low, high = price + steps - 1e-3, price + steps + 1e-3
    return bar_frame(
        hours(start, count), np.array([price + steps] * 1 + [high, low, price + steps, steps * 1e6, low * 0])
    )


def delivery(bars: pd.DataFrame | None = None, *, symbol: str = "EURUSD", days: int = 1, **changes: object) -> Delivery:
    """A delivery of hourly bars for the days from MONDAY."""
    request = Request(symbol, "1h", instant(MONDAY), instant(MONDAY + timedelta(days=days)))
    given: dict[str, object] = {
        "provider": "files", "request": request, "bars": delivered_bars() if bars is None else bars,
        "rejected": empty_rejected(), "equal_repeats": 0, "price_kind": "mid", "volume_kind": "ticks",
        "instrument_kind": "spot", "source": "a test",
    }  # fmt: skip
    return Delivery(**{**given, **changes})  # pyright: ignore[reportArgumentType]


def bar_rows(
    first_day: date, end_day: date, timeframe: str = "1h", *, symbol: str = "EURUSD", price: float = 1.1
) -> pd.DataFrame:
    """A bar on every place of the grid of these days, open market or not."""
    ts = trading_calendar.bar_opens(timeframe, *trading_calendar.slice_bounds(timeframe, first_day, end_day))
    steps = np.arange(len(ts)) * 1e-4
    frame = pd.DataFrame({
        "symbol": symbol, "timeframe": timeframe, "ts": ts, "open": price + steps, "high": price + steps + 1e-3,
        "low": price + steps - 1e-3, "close": price + steps, "volume": steps * 1e6, "spread": np.nan,
        "provider": "files", "price_kind": "mid", "volume_kind": "ticks", "instrument_kind": "spot",
        "known_at": KNOWN_AT, "bars_expected": 1, "bars_present": 1, "suspect": None,
    })  # fmt: skip
    return frame[BARS.column_names]


def indicator_rows(first_day: date, end_day: date, timeframe: str = "1h", *, symbol: str = "EURUSD") -> pd.DataFrame:
    """Indicators of 50 in every column, on every place of the grid of these days."""
    ts = trading_calendar.bar_opens(timeframe, *trading_calendar.slice_bounds(timeframe, first_day, end_day))
    values = dict.fromkeys(INDICATOR_NAMES, 50.0) | {"willr_14": -50.0, "adx_14": np.nan}
    frame = pd.DataFrame({
        "symbol": symbol, "timeframe": timeframe, "ts": ts, **values, "slice_start": ts[0], "known_at": KNOWN_AT,
        "code_version": 1,
    })  # fmt: skip
    return frame[INDICATOR_ROWS.column_names]


def no_quarantine() -> pd.DataFrame:
    """No rows in quarantine."""
    return QUARANTINED_BARS.empty()
