"""Correlations of log returns by pair of symbols, and their ranking in words.

A pair is compared on the closes of common ts only: by position the two series would slip against each other wherever
one market is closed. Sums add in a fixed order and logarithms are TA-Lib's, so the bits do not depend on the processor.
"""

import math
import operator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import talib

from nexus_assets.schemas import CORRELATION_MATRIX, PAIR_RANKINGS
from nexus_assets.timeframes import length
from nexus_assets.trading_calendar import slice_bounds

CORRELATIONS_VERSION = 1
"""Raised whenever a correlation may change."""

RANKINGS_VERSION = 1
"""Raised whenever a rank, category or reason may change."""

HISTORY_DAYS = 28
"""Days of correlations, the ranked one included, that a category depends on: at least 20 with rows."""

_CHANGE_DAYS = 7

# Ascending by correlation: category i lies between boundary i - 1 and boundary i.
_CATEGORIES = ("negative", "uncorrelated", "moderate", "high")
_BOUNDARIES = np.array([-0.4, 0.4, 0.7])
_IN_WORDS = {
    "negative": ("negatively correlated (hedging)", "at or below -0.40"),
    "uncorrelated": ("uncorrelated (diversification)", "between -0.40 and +0.40"),
    "moderate": ("moderately correlated", "from +0.40 to +0.70"),
    "high": ("highly correlated (avoid together)", "at or above +0.70"),
}


def look_back_days(timeframe: str, window: int) -> int:
    """How many days before a day its correlations look for common closes: twice the window in an FX week, and a week.

    A fixed stretch, so that n of a pair with few common bars does not depend on how much history was read.
    """
    return math.ceil(2 * (window + 1) * (length(timeframe) / timedelta(days=1)) * 7 / 5) + 7


def correlate(closes: pd.DataFrame, *, day: date, timeframe: str, window: int) -> pd.DataFrame:
    """Correlate every pair of symbols on its last `window` common log returns at the end of a UTC day.

    Args:
        closes: Columns symbol, ts, close, known_at; bars that end at or before the day's end, at least those of the
            last look_back_days(timeframe, window) days and of the day. Older and newer ones change nothing.
        day: The UTC day.
        timeframe: Of the bars.
        window: Log returns per pair.

    Returns:
        Columns of schemas.CORRELATION_MATRIX, one row per pair a < b with a common bar that ends in the day; a pair
        without one would only repeat its last row. The correlation is missing where fewer than `window` returns are
        there (n says how many) or where a price did not move at all. known_at is the latest of all closes used.
    """
    start, _ = slice_bounds(timeframe, day - timedelta(days=look_back_days(timeframe, window)), day)
    new_from, stop = slice_bounds(timeframe, day, day + timedelta(days=1))
    used = closes.loc[(closes["ts"] >= start) & (closes["ts"] < stop)]
    close = used.pivot(index="ts", columns="symbol", values="close").sort_index(axis=0).sort_index(axis=1)
    known_at = used.pivot(index="ts", columns="symbol", values="known_at").reindex_like(close)
    prices = _Prices(
        ts=pd.DatetimeIndex(close.index).as_unit("us").asi8,
        close=close.to_numpy(dtype=np.float64),
        known_at=np.column_stack(
            [np.empty((len(close), 0), dtype=np.int64)]
            + [pd.DatetimeIndex(known_at[symbol]).as_unit("us").asi8 for symbol in close.columns]
        ),
    )
    first, second = np.triu_indices(len(close.columns), k=1)
    rows = _rows(prices, first, second, window, new_from_micros=int(new_from.timestamp()) * 1_000_000)
    symbols = np.asarray(close.columns, dtype=object)
    rows["symbol_a"] = pd.Series(symbols[first[rows.index]], index=rows.index, dtype="str")
    rows["symbol_b"] = pd.Series(symbols[second[rows.index]], index=rows.index, dtype="str")
    rows["day"] = pd.Series(day, index=rows.index, dtype=object)
    rows["timeframe"] = pd.Series(timeframe, index=rows.index, dtype="str")
    rows["window_bars"] = pd.Series(window, index=rows.index, dtype=np.int16)
    rows["code_version"] = pd.Series(CORRELATIONS_VERSION, index=rows.index, dtype=np.int16)
    return rows.loc[:, CORRELATION_MATRIX.column_names].reset_index(drop=True)


@dataclass(frozen=True)
class _Prices:
    """Closes as a matrix, ts x symbols, NaN where a symbol has no bar; instants in microseconds since 1970."""

    ts: np.ndarray
    close: np.ndarray
    known_at: np.ndarray


def _rows(prices: _Prices, first: np.ndarray, second: np.ndarray, window: int, *, new_from_micros: int) -> pd.DataFrame:
    """The numeric columns of each pair that has a new common bar, indexed by the pair's position."""
    there = np.isfinite(prices.close)
    common = there[:, first] & there[:, second]
    # Position of each common bar counted from the newest, 1 first: those up to window + 1 are used.
    from_newest = np.cumsum(common[::-1], axis=0)[::-1]
    used = common & (from_newest <= window + 1)
    kept = np.flatnonzero(common[prices.ts >= new_from_micros].any(axis=0))
    used = used[:, kept]
    count = used.sum(axis=0)
    pair, position = np.nonzero(used.T)  # by pair, ts ascending
    offsets = np.concatenate([[0], np.cumsum(count)])
    begin, end = position[offsets[:-1]], position[offsets[1:] - 1]
    known_at = np.maximum(prices.known_at[position, first[kept][pair]], prices.known_at[position, second[kept][pair]])
    correlation = np.full(len(kept), np.nan)
    full = np.flatnonzero(count == window + 1)
    if len(full):
        windows = position[np.isin(pair, full)].reshape(len(full), window + 1)
        correlation[full] = _pearson(
            *(_log_returns(prices.close[windows, side[kept][full][:, None]]) for side in (first, second))
        )
    n = count - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        standard_error = (1.0 - correlation * correlation) / np.sqrt(n - 1.0)
    return pd.DataFrame(
        {
            "correlation": correlation,
            "n": n.astype(np.int16),
            "standard_error": standard_error,
            "window_start": _instants(prices.ts[begin]),
            "window_end": _instants(prices.ts[end]),
            "known_at": _instants(np.maximum.reduceat(known_at, offsets[:-1]) if len(kept) else begin),
        },
        index=kept,
    )


def _instants(microseconds: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(microseconds.astype(np.int64).view("datetime64[us]")).tz_localize("UTC")


def _log_returns(close: np.ndarray) -> np.ndarray:
    """Log returns along the rows of a matrix pairs x closes."""
    ratio = np.ascontiguousarray(close[:, 1:] / close[:, :-1])
    return talib.LN(ratio.ravel()).reshape(ratio.shape)


def _pearson(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row; missing where a row does not vary."""
    deviations = [values - (_sum(values) / values.shape[1])[:, None] for values in (left, right)]
    product = _sum(deviations[0] * deviations[1])
    scale = np.sqrt(_sum(deviations[0] ** 2)) * np.sqrt(_sum(deviations[1] ** 2))
    still = (np.ptp(left, axis=1) == 0.0) | (np.ptp(right, axis=1) == 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(still, np.nan, np.clip(product / scale, -1.0, 1.0))


def _sum(values: np.ndarray) -> np.ndarray:
    """Sum of each row, added from left to right."""
    return reduce(operator.add, values.T)


def rank(history: pd.DataFrame, *, day: date) -> pd.DataFrame:
    """Rank the pairs of a day by the size of their correlation, smallest first; ties by name.

    A category changes only when the correlation lies more than one standard error beyond the boundary of the category
    that the pair's row before had. This is replayed from the pair's oldest row of the last HISTORY_DAYS days, so that
    the result depends on nothing older.

    Args:
        history: Rows of analytics.correlation_matrix of one timeframe, of the last HISTORY_DAYS days up to and
            including `day`. Other days change nothing. Rows without a correlation are passed over.
        day: The UTC day to rank.

    Returns:
        Columns of schemas.PAIR_RANKINGS by rank; no rows where the day has no correlations. known_at is the latest of
        the rows that the pair's category was replayed from.
    """
    oldest = day - timedelta(days=HISTORY_DAYS - 1)
    recent = history.loc[history["correlation"].notna() & (history["day"] >= oldest) & (history["day"] <= day)]
    today = recent.loc[recent["day"] == day].sort_values(["symbol_a", "symbol_b"])
    if today.empty:
        return PAIR_RANKINGS.empty()
    pairs = pd.MultiIndex.from_frame(today[["symbol_a", "symbol_b"]])
    pair = pairs.get_indexer(pd.MultiIndex.from_frame(recent[["symbol_a", "symbol_b"]]))
    recent = recent.loc[pair >= 0]
    cell = (np.array([(d - oldest).days for d in recent["day"]]), pair[pair >= 0])
    correlation, standard_error = (np.full((HISTORY_DAYS, len(pairs)), np.nan) for _ in range(2))
    correlation[cell], standard_error[cell] = recent["correlation"], recent["standard_error"]
    known_at = np.full((HISTORY_DAYS, len(pairs)), np.iinfo(np.int64).min)
    known_at[cell] = pd.DatetimeIndex(recent["known_at"]).as_unit("us").asi8
    frame = today.assign(
        change_7d=correlation[-1] - _newest(correlation[:-_CHANGE_DAYS]),
        category=pd.Series(_categories(correlation, standard_error), index=today.index, dtype="str"),
        known_at=_instants(known_at.max(axis=0)),
        code_version=np.int16(RANKINGS_VERSION),
    )
    frame["reason"] = pd.Series([_reason(row) for row in frame.itertuples()], index=today.index, dtype="str")
    frame = frame.iloc[np.argsort(np.abs(correlation[-1]), kind="stable")].reset_index(drop=True)
    frame["rank"] = np.arange(1, len(frame) + 1, dtype=np.int16)
    return frame.loc[:, PAIR_RANKINGS.column_names]


def _newest(values: np.ndarray) -> np.ndarray:
    """The last value of each column that is not missing."""
    newest = np.full(values.shape[1], np.nan)
    for row in values:
        newest = np.where(np.isnan(row), newest, row)
    return newest


def _plain_category(correlation: np.ndarray) -> np.ndarray:
    """The category by the boundaries alone, as a position in _CATEGORIES: -0.4 itself is negative, 0.7 is high."""
    low, middle, high = _BOUNDARIES
    return (correlation > low).astype(int) + (correlation >= middle) + (correlation >= high)


def _categories(correlation: np.ndarray, standard_error: np.ndarray) -> np.ndarray:
    """Each pair's category after its rows (days x pairs, oldest first, NaN where there is none)."""
    state = np.full(correlation.shape[1], -1)
    for value, slack in zip(correlation, standard_error, strict=True):
        here = ~np.isnan(value)
        fresh = here & (state < 0)
        state[fresh] = _plain_category(value[fresh])
        # One boundary at a time: a category two steps away is reached only if both boundaries are passed by enough.
        for _ in _BOUNDARIES:
            state[here & (value > np.append(_BOUNDARIES, np.inf)[state] + slack)] += 1
            state[here & (value < np.insert(_BOUNDARIES, 0, -np.inf)[state] - slack)] -= 1
    return np.asarray(_CATEGORIES, dtype=object)[state]


def _reason(row: Any) -> str:
    """The category in words, with the numbers behind it."""
    use, interval = _IN_WORDS[row.category]
    plain = _CATEGORIES[_plain_category(np.array([row.correlation]))[0]]
    text = f"{use}: {row.correlation:+.2f} +/- {row.standard_error:.2f} over {row.n} {row.timeframe} returns"
    if plain == row.category:
        text += f", {interval}"
    else:
        text += f"; the category is kept until the value leaves its range ({interval}) by more than a standard error"
    if not math.isnan(row.change_7d):
        text += f"; {row.change_7d:+.2f} in {_CHANGE_DAYS} days"
    return text
