"""Trading days, bar grids and open hours of every asset class, as instants.

Conventions. `ts` is the open of a bar, UTC; a bar covers [ts, its end). Ranges are half-open. A trading day runs from
17:00 to 17:00 New York and is named by the day on which it ends; it has 23 or 25 hours where New York's clock is
changed. Bars of 1m to 1h lie on whole multiples of UTC time; 4h and 1d bars lie on a grid that starts at 17:00 New
York for every asset class, also where trading starts an hour later. Arrays of instants are tz-aware DatetimeIndexes;
what is returned is `datetime64[us, UTC]`.

Two questions are kept apart. `allowed` is the weekly session: a bar outside it is wrong. `expected` is the session
less holidays, early closes and late opens: a bar missing from it is a gap. A bar is allowed (expected) if any part of
it is.

Where a provider keeps other hours than its venue, name it: its overrides apply, as market_holidays.OVERRIDES or
sources.toml list them. Without one, the venue's own hours count; labels use those.

Everything rests on the tables of open_hours.py, which are built at first use. All questions are binary searches in
them, so ten years of minutes take about a second.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from nexus_assets.errors import NexusError
from nexus_assets.instruments import AssetClass
from nexus_assets.market_holidays import SESSIONS
from nexus_assets.open_hours import (
    FIRST_YEAR,
    MICROS,
    NEW_YORK,
    OpenIntervals,
    as_index,
    calendar_version,
    declare_overrides,
    named_closures,
    new_york_closes,
    open_intervals,
    out_of_range,
    override_of,
)
from nexus_assets.timeframes import SESSION_ALIGNED, length, minutes

__all__ = [
    "NEW_YORK",
    "SESSIONS",
    "advance",
    "allowed",
    "bar_end",
    "bar_open_of",
    "bar_opens",
    "calendar_version",
    "closure_reason",
    "day_range",
    "day_start",
    "declare_overrides",
    "expected",
    "expected_in_days",
    "is_open",
    "next_open",
    "next_opens",
    "rollup_read_start",
    "session_of",
    "sessions_open",
    "slice_bounds",
    "trading_day",
]

Instants: TypeAlias = "pd.DatetimeIndex | pd.Series | Iterable[datetime] | datetime"

_HOUR = 3600 * MICROS
_ONE_DAY = timedelta(days=1)


# Days and partitions


def day_start(day: date) -> datetime:
    """00:00 UTC of a day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def day_range(first_day: date, end_day: date) -> tuple[datetime, datetime]:
    """[00:00 UTC of first_day, 00:00 UTC of end_day): the instants of the days before end_day, which is exclusive."""
    return day_start(first_day), day_start(end_day)


def rollup_read_start(day: date) -> datetime:
    """17:00 New York of the day before: from there to the day's end, a day's bars are made of raw rows."""
    return datetime.combine(day - _ONE_DAY, time(17), NEW_YORK).astimezone(UTC)


def slice_bounds(timeframe: str, first_day: date, end_day: date) -> tuple[datetime, datetime]:
    """The half-open range of bar opens that belong to the days [first_day, end_day).

    A bar belongs to the UTC day in which it ends, 00:00 counting as the end of the day before: its end lies in
    (first_day 00:00, end_day 00:00]. So 1m to 1h bars belong to the day of their open, and the 1d bar that opens at
    21:00 or 22:00 UTC belongs to the next day.
    """
    start, end = bar_open_of(day_range(first_day, end_day), timeframe).asi8
    return _datetime(start), _datetime(end)


# The bar grid


def bar_open_of(ts_index: Instants, timeframe: str) -> pd.DatetimeIndex:
    """The open of the bar of `timeframe` that holds each instant, in the order given."""
    instants = _micros(ts_index)
    step = minutes(timeframe) * 60 * MICROS
    if timeframe not in SESSION_ALIGNED:
        return as_index(instants - instants % step)
    grid = _grid(timeframe)
    return as_index(grid[_position(grid, instants)])


def bar_end(ts_index: Instants, timeframe: str) -> pd.DatetimeIndex:
    """The end of the bar that opens at each instant, in the order given; exact across changes of New York's clock.

    For 4h and 1d it is the next instant of the grid, so the 1d bar of a change covers 23 or 25 hours and the 4h bar
    that opens at 01:00 New York covers 3 or 5.
    """
    instants = _micros(ts_index)
    if timeframe not in SESSION_ALIGNED:
        return as_index(instants + minutes(timeframe) * 60 * MICROS)
    grid = _grid(timeframe)
    return as_index(grid[_position(grid, instants) + 1])


def bar_opens(timeframe: str, start: datetime, end: datetime) -> pd.DatetimeIndex:
    """Every instant of the grid in [start, end), ascending, open or not."""
    return as_index(_opens(timeframe, *_micros([start, end])))


def trading_day(ts_index: Instants) -> np.ndarray:
    """The trading day of each instant, as datetime64[D]: the day on which its 17:00 to 17:00 New York ends."""
    closes = new_york_closes()
    position = _position(closes, _micros(ts_index))
    return np.datetime64(date(FIRST_YEAR, 1, 2), "D") + position.astype("timedelta64[D]")


# Open hours


def allowed(asset_class: AssetClass, ts: Instants, timeframe: str, provider: str | None = None) -> np.ndarray:
    """Whether each bar has a part inside the weekly session.

    Args:
        asset_class: Whose week.
        ts: Opens of the bars, tz-aware, any order.
        timeframe: Length of the bars.
        provider: Whose overrides apply; None for the venue's own hours.

    Returns:
        One bool per bar.
    """
    return _overlaps(_hours(asset_class, provider, False), _micros(ts), timeframe)


def expected(
    asset_class: AssetClass, start: datetime, end: datetime, timeframe: str, provider: str | None = None
) -> pd.DatetimeIndex:
    """The opens in [start, end) of the bars that a complete feed delivers, ascending.

    Holidays, early closes and late opens are left out; see market_holidays.py. `provider` adds its own.
    """
    opens = _opens(timeframe, *_micros([start, end]))
    return as_index(opens[_overlaps(_hours(asset_class, provider, True), opens, timeframe)])


def expected_in_days(
    asset_class: AssetClass, timeframe: str, first_day: date, end_day: date, provider: str | None = None
) -> pd.DatetimeIndex:
    """The opens of the expected bars that belong to the days [first_day, end_day), ascending; see slice_bounds."""
    return expected(asset_class, *slice_bounds(timeframe, first_day, end_day), timeframe, provider)


def closure_reason(asset_class: AssetClass, ts: Instants, provider: str | None = None) -> np.ndarray:
    """Why no bar is expected at each instant: the name of the closure that it lies in, "" where it lies in none.

    Where closures overlap, the longest names them: Christmas goes before a daily halt.
    """
    instants = _micros(ts)
    found = np.full(len(instants), "", dtype=object)
    if len(instants):
        years = as_index(np.array([instants.min(), instants.max()])).year
        for start, end, reason in named_closures(asset_class, override_of(asset_class, provider), *years):
            found[(instants >= start) & (instants < end)] = reason
    return found


def is_open(asset_class: AssetClass, ts: Instants, provider: str | None = None) -> np.ndarray:
    """Whether the market is open at each instant, holidays considered. One bool per instant."""
    instants = _micros(ts)
    hours = _hours(asset_class, provider, True)
    return hours.starts[hours.next_position(instants)] <= instants


def next_open(asset_class: AssetClass, ts: datetime, provider: str | None = None) -> datetime:
    """The first instant at or after `ts` at which the market is open, holidays considered."""
    return _datetime(next_opens(asset_class, ts, provider).asi8[0])


def next_opens(asset_class: AssetClass, ts: Instants, provider: str | None = None) -> pd.DatetimeIndex:
    """next_open of each instant, in the order given."""
    instants = _micros(ts)
    hours = _hours(asset_class, provider, True)
    return as_index(np.maximum(hours.starts[hours.next_position(instants)], instants))


def advance(
    asset_class: AssetClass, ts_index: Instants, open_hours: float, provider: str | None = None
) -> pd.DatetimeIndex:
    """The earliest instants at or after each instant by which `open_hours` of open market have passed since.

    Holidays are not open. An instant at which the market closes is reached at the close, not at the next open: 24
    open hours of FX after Friday 17:00 New York end on Monday at 17:00.

    Raises:
        NexusError: `open_hours` is negative, or the end lies outside the calendar.
    """
    if open_hours < 0:
        raise NexusError(
            f"The calendar was asked to advance by {open_hours} open hours.", next_step="Advance by 0 or more."
        )
    hours = _hours(asset_class, provider, True)
    instants = _micros(ts_index)
    position = hours.next_position(instants)
    done = hours.before[position] + np.maximum(instants - hours.starts[position], 0)
    wanted = done + round(open_hours * _HOUR)
    after = hours.before + (hours.ends - hours.starts)
    reached = np.searchsorted(after, wanted, side="left")
    if reached.size and reached.max() >= len(after):
        raise out_of_range(f"{open_hours} open hours after {as_index(instants).max()}")
    # Without an open hour to wait for, the last close lies before an instant at which the market is closed.
    return as_index(np.maximum(hours.starts[reached] + wanted - hours.before[reached], instants))


def session_of(ts: datetime) -> tuple[str, ...]:
    """The names of SESSIONS that are open at an instant, by their cities' own clocks, Monday to Friday."""
    is_in = sessions_open(ts).iloc[0]
    return tuple(str(name) for name in is_in.index[is_in])


def sessions_open(ts: Instants) -> pd.DataFrame:
    """Whether each of SESSIONS is open at each instant: one bool column per session, one row per instant.

    By the cities' own clocks, Monday to Friday; a city's holidays are not known.
    """
    index = as_index(_micros(ts))
    columns = {}
    for session in SESSIONS:
        local = index.tz_convert(ZoneInfo(session.time_zone))
        minute = local.hour * 60 + local.minute
        opens, closes = (time.fromisoformat(text) for text in (session.opens, session.closes))
        in_hours = (minute >= opens.hour * 60 + opens.minute) & (minute < closes.hour * 60 + closes.minute)
        columns[session.session] = np.asarray((local.day_of_week < 5) & in_hours)
    return pd.DataFrame(columns, index=index)


# The grid


def _hours(asset_class: AssetClass, provider: str | None, with_closures: bool) -> OpenIntervals:
    return open_intervals(asset_class, override_of(asset_class, provider), with_closures)


def _overlaps(hours: OpenIntervals, opens: np.ndarray, timeframe: str) -> np.ndarray:
    """Whether each bar and the open hours have an instant in common."""
    ends = bar_end(as_index(opens), timeframe).asi8
    return hours.starts[hours.next_position(opens)] < ends


@lru_cache(maxsize=2)
def _grid(timeframe: str) -> np.ndarray:
    """The opens of the 4h or 1d bars, ascending.

    New York's clock is changed at 02:00, inside the 4h bar that opens at 01:00. So the first three opens of a trading
    day are counted from its start and the last three from its end: always 17, 21, 01, 05, 09 and 13 o'clock.
    """
    closes = new_york_closes()
    if timeframe == "1d":
        return closes
    from_start = closes[:-1, None] + np.array([0, 4, 8]) * _HOUR
    from_end = closes[1:, None] - np.array([12, 8, 4]) * _HOUR
    return np.hstack([from_start, from_end]).ravel()


# Instants


def _micros(ts: Instants) -> np.ndarray:
    """Microseconds since 1970 UTC, one per instant.

    Raises:
        NexusError: the instants have no time zone.
    """
    if isinstance(ts, datetime):
        ts = [ts]
    if isinstance(ts, pd.DatetimeIndex | pd.Series):
        index = pd.DatetimeIndex(ts)
        naive = list(index[:1]) if index.tz is None else []
    else:
        moments = list(ts)
        naive = [moment for moment in moments if getattr(moment, "tzinfo", None) is None]
        # Each may have a zone of its own.
        index = pd.DatetimeIndex(() if naive else pd.to_datetime(moments, utc=True))
    if naive:
        raise NexusError(
            f"The instant {naive[0]} has no time zone.", next_step="Pass tz-aware instants; the calendar is in UTC."
        )
    return index.as_unit("us").asi8


def _datetime(instant: np.int64) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(instant))


def _opens(timeframe: str, start: int, end: int) -> np.ndarray:
    if timeframe in SESSION_ALIGNED:
        grid = _grid(timeframe)
        return grid[np.searchsorted(grid, start) : np.searchsorted(grid, end)]
    step = round(length(timeframe).total_seconds()) * MICROS
    return np.arange(-(-start // step) * step, end, step, dtype=np.int64)


def _position(grid: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """The last entry of an ascending grid at or before each instant; the entry after it exists too."""
    position = np.searchsorted(grid, instants, side="right") - 1
    if position.size and (position.min() < 0 or position.max() >= len(grid) - 1):
        wrong = instants[(position < 0) | (position >= len(grid) - 1)]
        raise out_of_range(str(as_index(wrong)[0]))
    return position
