"""Trading days, bar grids and open hours of every asset class, as instants.

Conventions. `ts` is the open of a bar, UTC; a bar covers [ts, its end). Ranges are half-open. A trading day runs from
17:00 to 17:00 New York and is named by the day on which it ends; it has 23 or 25 hours where New York's clock is
changed. Bars of 1m to 1h lie on whole multiples of UTC time; 4h and 1d bars lie on a grid that starts at 17:00 New
York for every asset class, also where trading starts an hour later. Arrays of instants are tz-aware DatetimeIndexes;
what is returned is `datetime64[us, UTC]`.

Two questions are kept apart. `allowed` is the weekly session: a bar outside it is wrong. `expected` is the session
less holidays, early closes and late opens: a bar missing from it is a gap. A bar is allowed (expected) if any part of
it is.

Everything rests on two tables that are built at first use: the instants of 17:00 New York, and the open intervals of
an asset class. All questions are binary searches in them, so ten years of minutes take about a second.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from nexus_assets.errors import NexusError
from nexus_assets.instruments import AssetClass
from nexus_assets.market_holidays import OVERRIDES, SESSIONS, WEEKS, Override, closures
from nexus_assets.timeframes import SESSION_ALIGNED, length, minutes

__all__ = [
    "SESSIONS",
    "advance",
    "allowed",
    "bar_end",
    "bar_open_of",
    "bar_opens",
    "closure_reason",
    "day_range",
    "day_start",
    "expected",
    "is_open",
    "next_open",
    "rollup_read_start",
    "session_of",
    "slice_bounds",
    "trading_day",
]

NEW_YORK = ZoneInfo("America/New_York")
FIRST_YEAR, LAST_YEAR = 1970, 2069
"""The calendar's range. The tables hold about 36,500 days."""

Instants: TypeAlias = "pd.DatetimeIndex | pd.Series | Iterable[datetime] | datetime"

_MICROS = 1_000_000
_HOUR = 3600 * _MICROS
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
    step = minutes(timeframe) * 60 * _MICROS
    if timeframe not in SESSION_ALIGNED:
        return _index(instants - instants % step)
    grid = _grid(timeframe)
    return _index(grid[_position(grid, instants)])


def bar_end(ts_index: Instants, timeframe: str) -> pd.DatetimeIndex:
    """The end of the bar that opens at each instant, in the order given; exact across changes of New York's clock.

    For 4h and 1d it is the next instant of the grid, so the 1d bar of a change covers 23 or 25 hours and the 4h bar
    that opens at 01:00 New York covers 3 or 5.
    """
    instants = _micros(ts_index)
    if timeframe not in SESSION_ALIGNED:
        return _index(instants + minutes(timeframe) * 60 * _MICROS)
    grid = _grid(timeframe)
    return _index(grid[_position(grid, instants) + 1])


def bar_opens(timeframe: str, start: datetime, end: datetime) -> pd.DatetimeIndex:
    """Every instant of the grid in [start, end), ascending, open or not."""
    return _index(_opens(timeframe, *_micros([start, end])))


def trading_day(ts_index: Instants) -> np.ndarray:
    """The trading day of each instant, as datetime64[D]: the day on which its 17:00 to 17:00 New York ends."""
    closes = _new_york_closes()
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
    return _overlaps(_open_intervals(asset_class, provider, False), _micros(ts), timeframe)


def expected(
    asset_class: AssetClass, start: datetime, end: datetime, timeframe: str, provider: str | None = None
) -> pd.DatetimeIndex:
    """The opens in [start, end) of the bars that a complete feed delivers, ascending.

    Holidays, early closes and late opens are left out; see market_holidays.py. `provider` adds its own.
    """
    opens = _opens(timeframe, *_micros([start, end]))
    return _index(opens[_overlaps(_open_intervals(asset_class, provider, True), opens, timeframe)])


def closure_reason(asset_class: AssetClass, ts: Instants, provider: str | None = None) -> np.ndarray:
    """Why no bar is expected at each instant: the name of the closure that it lies in, "" where it lies in none.

    Where closures overlap, the one that begins last names them.
    """
    instants = _micros(ts)
    override = OVERRIDES.get((provider or "", asset_class), Override())
    found = np.full(len(instants), "", dtype=object)
    if not len(instants):
        return found
    years = range(_index(instants).min().year - 1, _index(instants).max().year + 2)
    listed = [c for year in years for c in closures(asset_class, year)] if override.common_closures else []
    for closure in sorted([*listed, *override.closures], key=lambda closure: closure.start):
        inside = (instants >= _new_york_micros(closure.start)) & (instants < _new_york_micros(closure.end))
        found[inside] = closure.reason
    return found


def is_open(asset_class: AssetClass, ts: Instants, provider: str | None = None) -> np.ndarray:
    """Whether the market is open at each instant, holidays considered. One bool per instant."""
    instants = _micros(ts)
    hours = _open_intervals(asset_class, provider, True)
    return hours.starts[hours.next_position(instants)] <= instants


def next_open(asset_class: AssetClass, ts: datetime, provider: str | None = None) -> datetime:
    """The first instant at or after `ts` at which the market is open, holidays considered."""
    instant = _micros(ts)
    hours = _open_intervals(asset_class, provider, True)
    return _datetime(np.maximum(hours.starts[hours.next_position(instant)], instant)[0])


def advance(asset_class: AssetClass, ts_index: Instants, open_hours: float) -> pd.DatetimeIndex:
    """The earliest instants by which `open_hours` of open market have passed since each instant.

    Holidays are not open. An instant at which the market closes is reached at the close, not at the next open: 24
    open hours of FX after Friday 17:00 New York end on Monday at 17:00. `open_hours` is not negative.
    """
    hours = _open_intervals(asset_class, None, True)
    instants = _micros(ts_index)
    position = hours.next_position(instants)
    done = hours.before[position] + np.maximum(instants - hours.starts[position], 0)
    wanted = done + round(open_hours * _HOUR)
    after = hours.before + (hours.ends - hours.starts)
    reached = np.searchsorted(after, wanted, side="left")
    if reached.size and reached.max() >= len(after):
        raise _out_of_range(f"{open_hours} open hours after {_index(instants).max()}")
    return _index(hours.starts[reached] + wanted - hours.before[reached])


def session_of(ts: datetime) -> tuple[str, ...]:
    """The names of SESSIONS that are open at an instant, by their cities' own clocks, Monday to Friday."""
    names = []
    for session in SESSIONS:
        local = ts.astimezone(ZoneInfo(session.time_zone))
        if local.weekday() < 5 and session.opens <= local.strftime("%H:%M") < session.closes:
            names.append(session.session)
    return tuple(names)


# The tables


@dataclass(frozen=True)
class _OpenIntervals:
    """Disjoint, ascending [start, end) in microseconds since 1970 UTC; `before`: open time before each start."""

    starts: np.ndarray
    ends: np.ndarray
    before: np.ndarray

    def next_position(self, instants: np.ndarray) -> np.ndarray:
        """The first interval that ends after each instant."""
        position = np.searchsorted(self.ends, instants, side="right")
        if position.size and position.max() >= len(self.ends):
            raise _out_of_range(str(_index(instants).max()))
        return position


def _overlaps(hours: _OpenIntervals, opens: np.ndarray, timeframe: str) -> np.ndarray:
    """Whether each bar and the open hours have an instant in common."""
    ends = bar_end(_index(opens), timeframe).asi8
    return hours.starts[hours.next_position(opens)] < ends


@lru_cache(maxsize=1)
def _new_york_closes() -> np.ndarray:
    """The instants of 17:00 New York from 1 January of FIRST_YEAR, one a day."""
    first = date(FIRST_YEAR, 1, 1).toordinal()
    days = range(first, date(LAST_YEAR, 12, 31).toordinal() + 1)
    seventeen = time(17)
    seconds = [int(datetime.combine(date.fromordinal(n), seventeen, NEW_YORK).timestamp()) for n in days]
    return np.array(seconds, dtype=np.int64) * _MICROS


@lru_cache(maxsize=2)
def _grid(timeframe: str) -> np.ndarray:
    """The opens of the 4h or 1d bars, ascending.

    New York's clock is changed at 02:00, inside the 4h bar that opens at 01:00. So the first three opens of a trading
    day are counted from its start and the last three from its end: always 17, 21, 01, 05, 09 and 13 o'clock.
    """
    closes = _new_york_closes()
    if timeframe == "1d":
        return closes
    from_start = closes[:-1, None] + np.array([0, 4, 8]) * _HOUR
    from_end = closes[1:, None] - np.array([12, 8, 4]) * _HOUR
    return np.hstack([from_start, from_end]).ravel()


@lru_cache(maxsize=32)
def _open_intervals(asset_class: AssetClass, provider: str | None, with_closures: bool) -> _OpenIntervals:
    """The weekly session, or (with_closures) what is left of it after holidays."""
    override = OVERRIDES.get((provider or "", asset_class), Override())
    week = override.week or WEEKS[asset_class]
    closes = _new_york_closes()
    days = np.arange(1, len(closes))
    weekday = (days + date(FIRST_YEAR, 1, 1).weekday()) % 7
    traded = days[np.isin(weekday, list(week.days))]
    starts = closes[traded - 1] + round(week.opens_after.total_seconds()) * _MICROS
    ends = closes[traded]
    if with_closures:
        starts, ends = _without(starts, ends, *_closed_instants(asset_class, override))
    starts, ends = _joined(starts, ends)
    lengths = ends - starts
    return _OpenIntervals(starts, ends, np.cumsum(lengths) - lengths)


def _closed_instants(asset_class: AssetClass, override: Override) -> tuple[np.ndarray, np.ndarray]:
    """The closures as ascending, disjoint intervals."""
    years = range(FIRST_YEAR, LAST_YEAR + 1) if override.common_closures else ()
    listed = [closure for year in years for closure in closures(asset_class, year)]
    listed.extend(override.closures)
    edges = sorted((_new_york_micros(closure.start), _new_york_micros(closure.end)) for closure in listed)
    both = np.array(edges, dtype=np.int64).reshape(-1, 2)
    return _joined(both[:, 0], both[:, 1])


def _joined(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals, ascending by start, with those that touch or overlap joined."""
    if not len(starts):
        return starts, ends
    furthest = np.maximum.accumulate(ends)
    is_first = np.concatenate([[True], starts[1:] > furthest[:-1]])
    is_last = np.concatenate([is_first[1:], [True]])
    return starts[is_first], furthest[is_last]


def _without(
    starts: np.ndarray, ends: np.ndarray, closed_from: np.ndarray, closed_to: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The intervals less the closures; both ascending and disjoint.

    Open is what lies in an interval and between two closures: each pair of neighbouring edges of all of them is
    either wholly open or wholly not.
    """
    edges = np.unique(np.concatenate([starts, ends, closed_from, closed_to]))
    piece = edges[:-1]
    in_session = np.searchsorted(starts, piece, side="right") > np.searchsorted(ends, piece, side="right")
    in_closure = np.searchsorted(closed_from, piece, side="right") > np.searchsorted(closed_to, piece, side="right")
    is_open_piece = in_session & ~in_closure
    return piece[is_open_piece], edges[1:][is_open_piece]


# Instants


def _new_york_micros(wall: datetime) -> int:
    return round(wall.replace(tzinfo=NEW_YORK).timestamp()) * _MICROS


def _micros(ts: Instants) -> np.ndarray:
    """Microseconds since 1970 UTC, one per instant.

    Raises:
        NexusError: the instants have no time zone.
    """
    if isinstance(ts, datetime):
        ts = [ts]
    index = pd.DatetimeIndex(ts if isinstance(ts, pd.DatetimeIndex | pd.Series) else list(ts))
    if index.tz is None and len(index):
        raise NexusError(
            f"The instant {index[0]} has no time zone.", next_step="Pass tz-aware instants; the calendar is in UTC."
        )
    return index.as_unit("us").asi8


def _index(instants: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(instants.astype("datetime64[us]")).tz_localize("UTC")


def _datetime(instant: np.int64) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(instant))


def _opens(timeframe: str, start: int, end: int) -> np.ndarray:
    if timeframe in SESSION_ALIGNED:
        grid = _grid(timeframe)
        return grid[np.searchsorted(grid, start) : np.searchsorted(grid, end)]
    step = round(length(timeframe).total_seconds()) * _MICROS
    return np.arange(-(-start // step) * step, end, step, dtype=np.int64)


def _position(grid: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """The last entry of an ascending grid at or before each instant; the entry after it exists too."""
    position = np.searchsorted(grid, instants, side="right") - 1
    if position.size and (position.min() < 0 or position.max() >= len(grid) - 1):
        wrong = instants[(position < 0) | (position >= len(grid) - 1)]
        raise _out_of_range(str(_index(wrong)[0]))
    return position


def _out_of_range(what: str) -> NexusError:
    return NexusError(
        f"{what} lies outside the trading calendar, which covers {FIRST_YEAR} to {LAST_YEAR}.",
        next_step="Check the timestamp; if it is true, widen FIRST_YEAR and LAST_YEAR in trading_calendar.py.",
    )
