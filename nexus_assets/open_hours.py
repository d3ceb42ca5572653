"""The calendar's tables: the instants of 17:00 New York, and the open hours of an asset class as a provider keeps them.

What belongs here: turning the wall clock facts of market_holidays.py into instants, and telling two calendars apart.
Questions are asked of trading_calendar.py. Instants are microseconds since 1970 UTC, int64; ranges are half-open.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from types import MappingProxyType
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from nexus_assets.errors import NexusError
from nexus_assets.instruments import AssetClass
from nexus_assets.market_holidays import OVERRIDES, WEEKS, Override, WeeklyHours, closures

NEW_YORK = ZoneInfo("America/New_York")
FIRST_YEAR, LAST_YEAR = 1970, 2069
"""The calendar's range. The tables hold about 36,500 days."""

MICROS = 1_000_000

_NO_OVERRIDE = Override()


class _Declared:
    """What declare_overrides was given last."""

    overrides: Mapping[tuple[str, AssetClass], Override] = MappingProxyType({})


def declare_overrides(overrides: Mapping[tuple[str, AssetClass], Override]) -> None:
    """Make known how this process's providers differ from their venues; replaces what was declared before.

    Called where sources.toml is read. A pair of provider and asset class that is not declared keeps that of
    market_holidays.OVERRIDES, if there is one.
    """
    _Declared.overrides = MappingProxyType(dict(overrides))


def override_of(asset_class: AssetClass, provider: str | None) -> Override:
    """How a provider differs from the venue; an empty one where it does not, and for None."""
    key = (provider or "", asset_class)
    return _Declared.overrides.get(key) or OVERRIDES.get(key, _NO_OVERRIDE)


def calendar_version(asset_class: AssetClass, provider: str | None = None) -> str:
    """A short fingerprint of the hours that apply to a provider's bars of an asset class: 16 hexadecimal digits.

    Two calendars have the same version exactly if they allow and expect the same instants from FIRST_YEAR to LAST_YEAR,
    however they are written down. A bar or a gap that was judged under another version has to be judged again.
    """
    return _fingerprint(asset_class, override_of(asset_class, provider))


@lru_cache(maxsize=64)
def _fingerprint(asset_class: AssetClass, override: Override) -> str:
    digest = hashlib.sha256()
    for with_closures in (False, True):
        hours = open_intervals(asset_class, override, with_closures)
        digest.update(f"{len(hours.starts)} ".encode())
        digest.update(hours.starts.astype("<i8").tobytes())
        digest.update(hours.ends.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class OpenIntervals:
    """Disjoint, ascending [start, end); `before`: open time before each start."""

    starts: np.ndarray
    ends: np.ndarray
    before: np.ndarray

    def next_position(self, instants: np.ndarray) -> np.ndarray:
        """The first interval that ends after each instant.

        Raises:
            NexusError: an instant lies after the last interval.
        """
        position = np.searchsorted(self.ends, instants, side="right")
        if position.size and position.max() >= len(self.ends):
            raise out_of_range(str(as_index(instants).max()))
        return position


@lru_cache(maxsize=1)
def new_york_closes() -> np.ndarray:
    """The instants of 17:00 New York from 1 January of FIRST_YEAR, one a day."""
    first = date(FIRST_YEAR, 1, 1).toordinal()
    days = range(first, date(LAST_YEAR, 12, 31).toordinal() + 1)
    seventeen = time(17)
    seconds = [int(datetime.combine(date.fromordinal(n), seventeen, NEW_YORK).timestamp()) for n in days]
    return np.array(seconds, dtype=np.int64) * MICROS


@lru_cache(maxsize=64)
def open_intervals(asset_class: AssetClass, override: Override, with_closures: bool) -> OpenIntervals:
    """The weekly session, or (with_closures) what is left of it after holidays."""
    week = override.week or WEEKS[asset_class]
    closes = new_york_closes()
    days = np.arange(1, len(closes))
    weekday = (days + date(FIRST_YEAR, 1, 1).weekday()) % 7
    traded = days[np.isin(weekday, list(week.days))]
    starts = closes[traded - 1] + round(week.opens_after.total_seconds()) * MICROS
    session = np.column_stack([starts, closes[traded]])
    starts, ends = _joined([*map(tuple, session.tolist()), *_stretches(override.opened)])
    if with_closures:
        closed = named_closures(asset_class, override, FIRST_YEAR, LAST_YEAR)
        starts, ends = _without(starts, ends, *_joined([(start, end) for start, end, _ in closed]))
        # Touching stretches are one.
        starts, ends = _joined(list(zip(starts.tolist(), ends.tolist(), strict=True)))
    lengths = ends - starts
    return OpenIntervals(starts, ends, np.cumsum(lengths) - lengths)


def named_closures(
    asset_class: AssetClass, override: Override, first_year: int, last_year: int
) -> list[tuple[int, int, str]]:
    """[start, end) and reason of every closure that meets these years, and perhaps more; the shortest first.

    They may overlap.
    """
    # A holiday may be kept in the year beside its own.
    years = range(first_year - 1, last_year + 2) if override.common_closures else ()
    listed = [closure for year in years for closure in closures(asset_class, year)]
    listed.extend(override.closures)
    dated = [(_micros(each.start, NEW_YORK), _micros(each.end, NEW_YORK), each.reason) for each in listed]
    weekly = [
        (start, end, hours.reason)
        for hours in override.closed
        for start, end in _stretches((hours,), first_year - 1, last_year + 1)
    ]
    return sorted([*weekly, *dated], key=lambda closure: (closure[1] - closure[0], closure))


def _stretches(
    weekly: tuple[WeeklyHours, ...], first_year: int = FIRST_YEAR, last_year: int = LAST_YEAR
) -> list[tuple[int, int]]:
    """Every week's [start, end) of hours by a wall clock, within these years and the calendar's range."""
    found = []
    for hours in weekly:
        zone = ZoneInfo(hours.time_zone)
        first = max(hours.first_day, date(max(first_year, FIRST_YEAR), 1, 2)).toordinal()
        end = min(hours.end_day, date(min(last_year, LAST_YEAR), 12, 31)).toordinal()
        over_midnight = timedelta(days=int(hours.end <= hours.start))
        for day in map(date.fromordinal, range(first, end)):
            if day.weekday() in hours.days:
                start = datetime.combine(day, hours.start)
                found.append((_micros(start, zone), _micros(datetime.combine(day + over_midnight, hours.end), zone)))
    return found


def _joined(intervals: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Intervals in any order as ascending, disjoint starts and ends; those that touch or overlap are joined."""
    both = np.array(sorted(intervals), dtype=np.int64).reshape(-1, 2)
    starts, ends = both[:, 0], both[:, 1]
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


def _micros(wall: datetime, zone: ZoneInfo) -> int:
    return round(wall.replace(tzinfo=zone).timestamp()) * MICROS


def as_index(instants: np.ndarray) -> pd.DatetimeIndex:
    """Microseconds since 1970 as `datetime64[us, UTC]`."""
    return pd.DatetimeIndex(instants.astype("datetime64[us]")).tz_localize("UTC")


def out_of_range(what: str) -> NexusError:
    """The error of an instant, named in `what`, that the tables do not reach."""
    return NexusError(
        f"{what} lies outside the trading calendar, which covers {FIRST_YEAR} to {LAST_YEAR}.",
        next_step="Check the timestamp; if it is true, widen FIRST_YEAR and LAST_YEAR in open_hours.py.",
    )
