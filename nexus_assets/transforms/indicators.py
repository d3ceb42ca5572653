"""The 32 indicators of indicator_table.py, each UTC day on exactly its own slice of bars.

The slice of a day is the last WARMUP_BARS bars that end at or before its 00:00 UTC, plus the day's own bars. TA-Lib's
recursions and running sums depend on where they start, so the slice is part of every column's definition and each day
is computed alone on it: the bits are the same whichever days are asked for together.

Sums and logarithms of our own formulas are those of returns.py; TA-Lib's loops are sequential.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date

import numpy as np
import pandas as pd
import talib

from nexus_assets.errors import PartitionError
from nexus_assets.indicator_table import (
    INDICATORS,
    INDICATORS_VERSION,
    OPEN_HOURS_A_YEAR,
    TRADING_DAYS_A_YEAR,
    WARMUP_BARS,
    FlatWindow,
    Indicator,
)
from nexus_assets.instruments import Instrument
from nexus_assets.schemas import INDICATOR_ROWS
from nexus_assets.timeframes import minutes
from nexus_assets.trading_calendar import bar_end, day_start
from nexus_assets.transforms.returns import log_returns, mean_and_deviation, sum_of_last

_DAY = 86_400_000_000  # microseconds

_TIE = 1e-14
"""TA-Lib takes two typical prices for equal when they differ by no more than this share of their sum, because equal
prices may have sums that differ in the last bit. Measured with TA-Lib 0.8.2."""

_Results = dict[tuple[str, tuple[tuple[str, float], ...]], tuple[np.ndarray, ...]]
"""Outputs of TA-Lib on one slice by function and parameters."""


def bars_a_year(asset_class: str, timeframe: str) -> float:
    """Bars in a year, K of hv_n = sqrt(K) x standard deviation, from frozen constants.

    Within a day it is the open hours a year divided by the hours of a bar (1h FX 6,228; 4h FX 1,557; 15m FX 24,912);
    for 1d it is the trading days a year (FX 260).
    """
    if timeframe == "1d":
        return float(TRADING_DAYS_A_YEAR[asset_class])
    return OPEN_HOURS_A_YEAR[asset_class] * 60 / minutes(timeframe)


def compute(
    bars: pd.DataFrame,
    *,
    instrument: Instrument,
    timeframe: str,
    first_day: date,
    end_day: date,
    names: Collection[str] | None = None,
) -> pd.DataFrame:
    """Compute the indicators of the bars that end in (first_day 00:00, end_day 00:00] UTC.

    Args:
        bars: Columns ts, open, high, low, close, volume, volume_kind, known_at of one symbol and timeframe, ts
            ascending and unique. It starts with at least the WARMUP_BARS bars that end at or before first_day 00:00,
            or with the first bar there is. More history before them and bars after end_day change nothing.
        instrument: Gives symbol and asset class.
        timeframe: Of the bars.
        first_day: First UTC day, inclusive.
        end_day: UTC day after the last.
        names: Columns to compute; the others come out missing. All by default.

    Returns:
        One row per bar of the days, in the columns of schemas.INDICATOR_ROWS. A day with fewer than WARMUP_BARS bars
        before it has rows whose indicators and slice_start are all missing. known_at is the latest known_at from the
        start of the slice up to the row's own bar, so that a later bar never changes it.

    Raises:
        PartitionError: ts is not ascending and unique.
    """
    ts = pd.DatetimeIndex(bars["ts"]).as_unit("us")
    if not (ts.is_monotonic_increasing and ts.is_unique):
        raise PartitionError(
            f"The {timeframe} bars of {instrument.symbol} are not in ascending order of a unique ts.",
            next_step="Read them from market.bars ordered by ts.",
        )
    ends = bar_end(ts, timeframe).as_unit("us").asi8
    known_at = pd.DatetimeIndex(bars["known_at"]).as_unit("us").asi8
    start, stop = np.searchsorted(ends, [_midnight(first_day), _midnight(end_day)], side="right")
    series = _series(bars)
    wanted = [i for i in INDICATORS if names is None or i.name in names]
    own = _own_formulas(series, bars_a_year(instrument.asset_class, timeframe), wanted)
    columns = {i.name: np.full(len(bars), np.nan) for i in INDICATORS}
    slice_start = np.full(len(bars), np.iinfo(np.int64).min)  # NaT
    latest_known = known_at.copy()
    for begin, end in _days(ends, int(start), int(stop)):
        opening = max(begin - WARMUP_BARS, 0)
        latest_known[begin:end] = np.maximum.accumulate(known_at[opening:end])[begin - opening :]
        if begin < WARMUP_BARS:
            continue
        slice_start[begin:end] = ts.asi8[opening]
        day = {name: values[opening:end] for name, values in series.items()}
        results: _Results = {}
        for indicator in wanted:
            if indicator.name in own:
                values = own[indicator.name][begin:end]
            else:
                values = _value(indicator, day, results)[begin - opening :]
            columns[indicator.name][begin:end] = values
    _blank_the_undefined(columns, series, wanted)
    rows = slice(int(start), int(stop))
    return _frame(instrument.symbol, timeframe, ts, columns, slice_start, latest_known, rows)


def _midnight(day: date) -> int:
    """00:00 UTC of a day in microseconds since 1970."""
    return int(day_start(day).timestamp()) * 1_000_000


def _days(ends: np.ndarray, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Half-open positions of the bars of each UTC day among start..stop; a bar belongs to the day in which it ends."""
    if start == stop:
        return
    day = (ends[start:stop] - 1) // _DAY
    edges = np.flatnonzero(np.diff(day)) + start + 1
    yield from zip([start, *edges.tolist()], [*edges.tolist(), stop], strict=True)


def _series(bars: pd.DataFrame) -> dict[str, np.ndarray]:
    """The inputs as contiguous arrays. Missing volumes become 0: they would stay in TA-Lib's running sums for ever.

    `volume_change` counts the changes of volume_kind so far, and `volume_usable` is 1 where a bar has a volume.
    """
    series = {name: np.ascontiguousarray(bars[name], dtype=np.float64) for name in ("high", "low", "close")}
    volume = np.ascontiguousarray(bars["volume"], dtype=np.float64)
    kinds = pd.Categorical(bars["volume_kind"])
    codes = np.asarray(kinds.codes)
    usable = ~np.isnan(volume) & np.asarray(bars["volume_kind"] != "none", dtype=bool)
    series["volume"] = np.where(usable, volume, 0.0)
    series["volume_usable"] = usable.astype(np.float64)
    series["volume_change"] = np.cumsum(np.diff(codes, prepend=codes[:1]) != 0).astype(np.float64)
    return series


def _call(name: str, indicator: Indicator, day: Mapping[str, np.ndarray], results: _Results) -> tuple[np.ndarray, ...]:
    """All outputs of one TA-Lib function on the slice, computed once per slice and set of parameters."""
    key = (name, tuple(indicator.parameters.items()))
    if key not in results:
        output = getattr(talib, name)(*(day[column] for column in indicator.inputs), **indicator.parameters)
        results[key] = (output,) if isinstance(output, np.ndarray) else tuple(output)
    return results[key]


def _value(indicator: Indicator, day: Mapping[str, np.ndarray], results: _Results) -> np.ndarray:
    """One column on one slice."""
    if indicator.call in _BAND_FORMULAS:
        return _BAND_FORMULAS[indicator.call](day["close"], *_call("BBANDS", indicator, day, results))
    return _call(indicator.call, indicator, day, results)[indicator.output]


def _bollinger_width(close: np.ndarray, upper: np.ndarray, middle: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return (upper - lower) / middle


def _bollinger_percent_b(close: np.ndarray, upper: np.ndarray, middle: np.ndarray, lower: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return (close - lower) / (upper - lower)


_BAND_FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    "bollinger_width": _bollinger_width,
    "bollinger_percent_b": _bollinger_percent_b,
}


def _own_formulas(
    series: Mapping[str, np.ndarray], yearly: float, wanted: Sequence[Indicator]
) -> dict[str, np.ndarray]:
    """The columns that are formulas on log returns.

    They look at one short window and carry nothing on from bar to bar, so computing all days at once gives the bits
    that each slice alone would give.
    """
    returns = log_returns(series["close"])
    formulas = {"log_return", "historical_volatility", "return_zscore"}
    columns = {}
    for indicator in (i for i in wanted if i.call in formulas):
        if indicator.call == "log_return":
            columns[indicator.name] = returns
            continue
        mean, deviation = mean_and_deviation(returns, int(indicator.parameters["timeperiod"]))
        if indicator.call == "historical_volatility":
            columns[indicator.name] = math.sqrt(yearly) * deviation
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                columns[indicator.name] = (returns - mean) / deviation
    return columns


def _highest(values: np.ndarray, period: int) -> np.ndarray:
    return talib.MAX(values, timeperiod=period)


def _lowest(values: np.ndarray, period: int) -> np.ndarray:
    return talib.MIN(values, timeperiod=period)


def _has_no_range(window: FlatWindow, series: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where the window holds one value only."""
    close, high, low = series["close"], series["high"], series["low"]
    typical = (high + low + close) / 3.0
    before = np.concatenate([close[:1], close[:-1]])
    top, bottom = {
        "bar": (high, low),
        "close": (close, close),
        "typical": (typical, typical),
        "true_range": (np.maximum(high, before), np.minimum(low, before)),
    }[window.values]
    highest, lowest = _highest(top, window.bars), _lowest(bottom, window.bars)
    flat = highest - lowest <= _TIE * (highest + lowest)
    return _any_of_last(flat, window.smoothed)


def _any_of_last(flags: np.ndarray, period: int) -> np.ndarray:
    """Where any of the last `period` flags is set."""
    found = flags.copy()
    for lag in range(1, period):
        found[lag:] |= flags[:-lag]
    return found


def _has_no_flow(series: Mapping[str, np.ndarray], period: int) -> np.ndarray:
    """Where mfi has no meaning: its period + 1 bars lack a volume or mix two kinds, or no price moved on any volume."""
    typical = (series["high"] + series["low"] + series["close"]) / 3.0
    before = np.concatenate([typical[:1], typical[:-1]])
    moved = np.abs(typical - before) > _TIE * (typical + before)
    flow = sum_of_last(np.where(moved, series["volume"], 0.0), period)
    lacking = _lowest(series["volume_usable"], period + 1) == 0.0
    mixed = _highest(series["volume_change"], period + 1) != _lowest(series["volume_change"], period + 1)
    return lacking | mixed | ~(flow > 0.0)


def _blank_the_undefined(
    columns: dict[str, np.ndarray], series: Mapping[str, np.ndarray], wanted: Sequence[Indicator]
) -> None:
    """Make missing, in place, what is not finite and what has no meaning."""
    if not len(series["close"]):
        return
    for indicator in wanted:
        values = columns[indicator.name]
        values[~np.isfinite(values)] = np.nan
        if indicator.flat is not None:
            values[_has_no_range(indicator.flat, series)] = np.nan
        if indicator.call == "MFI":
            values[_has_no_flow(series, int(indicator.parameters["timeperiod"]))] = np.nan


def _frame(
    symbol: str,
    timeframe: str,
    ts: pd.DatetimeIndex,
    columns: Mapping[str, np.ndarray],
    slice_start: np.ndarray,
    known_at: np.ndarray,
    rows: slice,
) -> pd.DataFrame:
    """The rows in the columns of schemas.INDICATOR_ROWS."""
    chosen = ts[rows]

    def instants(microseconds: np.ndarray) -> pd.DatetimeIndex:
        return pd.DatetimeIndex(microseconds[rows].view("datetime64[us]")).tz_localize("UTC")

    frame = pd.DataFrame(
        {
            "symbol": pd.Series(symbol, index=range(len(chosen)), dtype="str"),
            "timeframe": pd.Series(timeframe, index=range(len(chosen)), dtype="str"),
            "ts": chosen,
            **{name: values[rows] for name, values in columns.items()},
            "slice_start": instants(slice_start),
            "known_at": instants(known_at),
            "code_version": np.full(len(chosen), INDICATORS_VERSION, dtype=np.int16),
        }
    )
    return frame.loc[:, INDICATOR_ROWS.column_names]
