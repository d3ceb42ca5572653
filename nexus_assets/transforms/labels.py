"""Labels: what the price did in the 24 open market hours after each bar.

A label looks ahead on purpose. entry_at is the end of its bar, horizon_end is 24 open hours of the asset class later,
and a row exists only once the bars reach horizon_end: otherwise the newest labels would be the ones that were decided
early.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd

from nexus_assets.errors import PartitionError
from nexus_assets.instruments import Instrument
from nexus_assets.schemas import LABELS
from nexus_assets.timeframes import length
from nexus_assets.trading_calendar import advance, bar_end, day_start

LABELS_VERSION = 1
"""Raised whenever a label may change."""

HORIZON_OPEN_HOURS = 24
"""Open market hours between entry_at and horizon_end."""

LOOK_AHEAD = timedelta(days=7)
"""How far past its last day the bars are read. The longest horizon measured on real markets spans 98 hours."""

_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class LabelResult:
    """The labels of some days, and how many there will be.

    Attributes:
        labels: Columns of schemas.LABELS, by ts.
        expected: Bars of each day: the labels it has once every horizon has passed.
        matured: Labels that each day has now.
    """

    labels: pd.DataFrame
    expected: dict[date, int]
    matured: dict[date, int]


def compute(
    bars: pd.DataFrame, *, instrument: Instrument, timeframe: str, first_day: date, end_day: date
) -> LabelResult:
    """Label the bars that end in (first_day 00:00, end_day 00:00] UTC.

    forward_return_24h is exit close / entry close - 1. The exit bar is the last one that ends at or before
    horizon_end; it must end later than one timeframe before it, else the return is missing, for `no_exit_bar`. t1 is
    the end of the exit bar. known_at is the latest known_at from the entry bar to the last bar in the horizon.

    The newest bar decides which horizons have passed. It is looked for within LOOK_AHEAD after each day, so that a
    day's labels do not depend on the days computed with it; where the bars have a hole longer than that, the labels
    whose horizon ends in it stay absent.

    Args:
        bars: Columns ts, close, known_at of one symbol and timeframe, ts ascending and unique, from first_day until
            LOOK_AHEAD after end_day, as far as there are any.
        instrument: Gives symbol and asset class.
        timeframe: Of the bars.
        first_day: First UTC day, inclusive.
        end_day: UTC day after the last.

    Raises:
        PartitionError: ts is not ascending and unique.
    """
    ts = pd.DatetimeIndex(bars["ts"]).as_unit("us")
    if not (ts.is_monotonic_increasing and ts.is_unique):
        raise PartitionError(
            f"The {timeframe} bars of {instrument.symbol} are not in ascending order of a unique ts.",
            next_step="Read them from market.bars ordered by ts.",
        )
    end_index = bar_end(ts, timeframe).as_unit("us")
    ends = end_index.asi8
    start, stop = (int(i) for i in np.searchsorted(ends, [_micros(first_day), _micros(end_day)], side="right"))
    entries = np.arange(start, stop)
    day = (ends[entries] - 1) // _DAY
    horizon_index = advance(instrument.asset_class, end_index[start:stop], HORIZON_OPEN_HOURS).as_unit("us")
    horizons = horizon_index.asi8
    visible = horizons <= _newest_end(ends, day)
    last = np.searchsorted(ends, horizons, side="right") - 1
    one_bar = int(length(timeframe).total_seconds()) * 1_000_000
    exits = ends[last] > horizons - one_bar
    close = np.asarray(bars["close"], dtype=np.float64)
    known_at = pd.DatetimeIndex(bars["known_at"]).as_unit("us").asi8
    frame = pd.DataFrame(
        {
            "symbol": pd.Series(instrument.symbol, index=entries, dtype="str"),
            "timeframe": pd.Series(timeframe, index=entries, dtype="str"),
            "ts": ts[start:stop],
            "entry_at": end_index[start:stop],
            "t1": pd.Series(end_index[last], index=entries).where(exits),
            "horizon_end": horizon_index,
            "forward_return_24h": np.where(exits, close[last] / close[entries] - 1.0, np.nan),
            "missing_reason": pd.Series("no_exit_bar", index=entries, dtype="str").mask(exits),
            "known_at": pd.DatetimeIndex(_latest(known_at, entries, last).view("datetime64[us]")).tz_localize("UTC"),
            "code_version": np.full(len(entries), LABELS_VERSION, dtype=np.int16),
        },
        index=entries,
    )
    frame = frame.loc[visible, LABELS.column_names].reset_index(drop=True)
    return LabelResult(frame, *(_per_day(days, first_day, end_day) for days in (day, day[visible])))


def _micros(day: date) -> int:
    """00:00 UTC of a day in microseconds since 1970."""
    return int(day_start(day).timestamp()) * 1_000_000


def _newest_end(ends: np.ndarray, day: np.ndarray) -> np.ndarray:
    """The end of the newest bar that ends at most LOOK_AHEAD after each day (given in days since 1970)."""
    limit = (day + 1) * _DAY + int(LOOK_AHEAD.total_seconds()) * 1_000_000
    return ends[np.searchsorted(ends, limit, side="right") - 1]


def _latest(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The largest of values[first..last], both inclusive, for each pair of positions.

    Doubling: level k holds the maximum of 2**k values; two of them that may overlap cover any stretch.
    """
    result = values[first].copy()
    spans = last - first + 1
    level, width = values, 1
    while spans.size and width <= spans.max():
        fits = (spans >= width) & (spans < 2 * width)
        result[fits] = np.maximum(level[first[fits]], level[last[fits] - width + 1])
        level = np.maximum(level[:-width], level[width:])
        width *= 2
    return result


def _per_day(day: np.ndarray, first_day: date, end_day: date) -> dict[date, int]:
    """How many rows each day has, days without any included; `day` counts days since 1970."""
    first = (first_day - date(1970, 1, 1)).days
    counts = np.bincount(day - first, minlength=(end_day - first_day).days)
    return {first_day + timedelta(days=i): int(count) for i, count in enumerate(counts)}
