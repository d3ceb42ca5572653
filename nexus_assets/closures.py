"""What a change of bars reaches: the exact days of every derived table whose input holds a changed bar.

Counted in bars, not in days. A day's indicators read the WARMUP_BARS bars before it and its own; a label reads the bars
of its volatility before it and those up to its horizon; a day's correlations read the closes from the start of the
longest window of the symbol's pairs. Both the bars before the change and those after it are looked at, because a bar
that was inserted, deleted, quarantined or released shifts every slice that it lies in.

What belongs here: arithmetic on instants. No database, no Dagster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.indicator_table import WARMUP_BARS
from nexus_assets.instruments import AssetClass
from nexus_assets.schemas import BARS
from nexus_assets.transforms.labels import HORIZON_OPEN_HOURS, LOOK_AHEAD, VOLATILITY_BARS

BEFORE = LOOK_AHEAD + timedelta(days=1)
"""How far before the first changed bar the opens of bars must be known: the longest horizon."""

AFTER_BARS = WARMUP_BARS + 1
"""How many bars after the last changed one must be known."""

_READ_BY_FEATURES = (
    "open", "high", "low", "close", "volume", "volume_kind", "spread", "price_kind", "known_at",
)  # fmt: skip


@dataclass(frozen=True)
class BarChanges:
    """How the bars of one symbol and timeframe changed.

    Attributes:
        ts: Opens of the bars that were inserted, deleted, or differ in a column that features and labels read.
        rows: Bars that differ in any column, inserted and deleted ones included.
        inserted, deleted: Opens that are only in the new bars, or only in the old ones.
    """

    ts: pd.DatetimeIndex
    rows: int
    inserted: pd.DatetimeIndex
    deleted: pd.DatetimeIndex


def compare_bars(old: pd.DataFrame, new: pd.DataFrame) -> dict[str, BarChanges]:
    """The changes between two states of the same slice, by timeframe; columns of schemas.BARS, of one symbol."""
    changes = {}
    for timeframe in sorted({*old["timeframe"], *new["timeframe"]}):
        before, after = (frame[frame["timeframe"] == timeframe].set_index("ts").sort_index() for frame in (old, new))
        common = before.index.intersection(after.index)
        deleted, inserted = before.index.difference(common), after.index.difference(common)
        left, right = before.loc[common], after.loc[common]
        names = [name for name in BARS.column_names if name not in BARS.key]
        differs = pd.DataFrame({name: _differ(left[name], right[name]) for name in names}, index=common)
        read = differs[list(_READ_BY_FEATURES)].any(axis=1)
        changed = common[read].union(deleted).union(inserted)
        rows = int(differs.any(axis=1).sum()) + len(deleted) + len(inserted)
        if rows:
            changes[timeframe] = BarChanges(_utc(changed), rows, _utc(inserted), _utc(deleted))
    return changes


def _differ(left: pd.Series, right: pd.Series) -> np.ndarray:
    if left.dtype == np.float64:
        return left.to_numpy().view(np.int64) != right.to_numpy().view(np.int64)
    a, b = left.to_numpy(), right.to_numpy()
    both_missing = pd.isna(a) & pd.isna(b)
    return ~both_missing & np.asarray(a != b, dtype=bool)


def joined(parts: Sequence[BarChanges]) -> BarChanges:
    """The changes of several slices of one symbol and timeframe."""

    def union(name: str) -> pd.DatetimeIndex:
        whole = getattr(parts[0], name)
        for part in parts[1:]:
            whole = whole.union(getattr(part, name))
        return whole

    return BarChanges(union("ts"), sum(part.rows for part in parts), union("inserted"), union("deleted"))


def _utc(index: pd.Index) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(index).as_unit("us")


def _both(stored: pd.DatetimeIndex, changes: BarChanges) -> tuple[np.ndarray, np.ndarray]:
    """The opens before and after the change, from either: what is common, and what was inserted and deleted."""
    common = stored.union(changes.inserted).union(changes.deleted)
    return common.difference(changes.inserted).asi8, common.difference(changes.deleted).asi8


def indicator_days(opens: pd.DatetimeIndex, timeframe: str, changes: BarChanges) -> set[date]:
    """The days whose slice holds a changed bar, before or after the change.

    Args:
        opens: Opens of the stored bars from the day of the first changed one to at least AFTER_BARS after the last,
            ascending; before or after the change.
        timeframe: Of the bars.
        changes: Of this timeframe.
    """
    days: set[date] = set()
    for state in _both(opens, changes):
        position = np.searchsorted(state, changes.ts.asi8)
        position = position[np.isin(changes.ts.asi8, state)]
        # A day whose first bar is number n reads from bar n - WARMUP_BARS on.
        days |= _days(state, timeframe, position, position + WARMUP_BARS)
    return days


def label_days(opens: pd.DatetimeIndex, timeframe: str, changes: BarChanges, asset_class: AssetClass) -> set[date]:
    """The days with a label whose volatility or horizon holds a changed bar, before or after the change.

    Args:
        opens: As for indicator_days, from BEFORE ahead of the first changed bar.
        asset_class: Whose open hours the horizon counts.
    """
    days: set[date] = set()
    for state in _both(opens, changes):
        if not len(state):
            continue
        ends = trading_calendar.bar_end(_index(state), timeframe)
        horizons = trading_calendar.advance(asset_class, ends, HORIZON_OPEN_HOURS).asi8
        position = np.searchsorted(state, changes.ts.asi8)
        position = position[np.isin(changes.ts.asi8, state)]
        # A label whose horizon lies between the end of the bar before and of this one waited for it to be collected.
        reached_from = np.where(position > 0, ends.asi8[np.maximum(position - 1, 0)], np.iinfo(np.int64).min)
        first = np.searchsorted(horizons, reached_from, side="right")
        days |= _days(state, timeframe, np.minimum(first, position), position + VOLATILITY_BARS)
    return days


def _days(opens: np.ndarray, timeframe: str, first: np.ndarray, last: np.ndarray) -> set[date]:
    """The days of the bars number first to last, both included, of each pair."""
    if not len(first):
        return set()
    edges = np.zeros(len(opens) + 1, dtype=np.int64)
    np.add.at(edges, first, 1)
    np.add.at(edges, np.minimum(last, len(opens) - 1) + 1, -1)
    inside = np.cumsum(edges[:-1]) > 0
    ends = trading_calendar.bar_end(_index(opens[inside]), timeframe) - pd.Timedelta(1, "us")
    return set(ends.date)


def correlation_days(
    windows: pd.DataFrame, written: Sequence[date], changes: BarChanges, look_back_days: int
) -> set[date]:
    """The days whose correlations read a changed close.

    Args:
        windows: day and window_start (the earliest of the symbol's pairs; missing where there is none) of stored days.
        written: Days that were ever computed.
        changes: Of the correlated timeframe.
        look_back_days: How far back a day may look.
    """
    start = dict(zip(windows["day"], windows["window_start"], strict=True))
    found = set()
    for day in written:
        ends_at = pd.Timestamp(day, tz="UTC") + pd.Timedelta(1, "D")
        opens_at = start.get(day)
        # A pair without a full window takes in any close within its look-back.
        if opens_at is None or pd.isna(opens_at):
            opens_at = ends_at - pd.Timedelta(look_back_days + 1, "D")
        if ((changes.ts >= opens_at) & (changes.ts < ends_at)).any():
            found.add(day)
    return found


def weekends_between(reached: set[date], written: set[date]) -> set[date]:
    """Up to two written days between reached ones: made along, they are found unchanged, and a stretch of weeks is one
    slice instead of one for each week."""
    near = [timedelta(days=1), timedelta(days=2)]
    return {
        day
        for day in written - reached
        if any(day - step in reached for step in near) and any(day + step in reached for step in near)
    }


def _index(micros: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(micros.astype("datetime64[us]")).tz_localize("UTC")
