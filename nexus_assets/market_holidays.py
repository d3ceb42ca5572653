"""When markets are closed inside their week: holidays, early closes, late opens. Data and date rules only.

What belongs here: facts about venues, in New York's wall clock. trading_calendar.py turns them into instants. A
closure only says that no bar is expected; a bar that a provider delivers inside one is still accepted, because
venues differ. The rules were measured on recorded hourly and minute prices of 2016 to 2025 and are applied to every
other year as well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Literal

from nexus_assets.instruments import AssetClass

FRIDAY, SATURDAY, SUNDAY = 4, 5, 6
_DAY = timedelta(days=1)
_CLOSE = time(17)


@dataclass(frozen=True, slots=True)
class Closure:
    """No bar is expected in [start, end), New York's wall clock without a zone."""

    start: datetime
    end: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Week:
    """The weekly session in trading days, each 17:00 to 17:00 New York and named by the day on which it ends.

    Attributes:
        days: Trading days of the week, Monday = 0.
        opens_after: Length of the break at the start of every trading day.
    """

    days: frozenset[int]
    opens_after: timedelta


@dataclass(frozen=True, slots=True)
class WeeklyHours:
    """The same hours of every week, by the wall clock of one place.

    Attributes:
        days: Weekdays on which they start, Monday = 0.
        start, end: Half-open; an end that is not after the start is of the next day.
        reason: For people.
        time_zone: IANA name of the clock.
        first_day, end_day: Of the weeks in which it was so; the end is exclusive.
    """

    days: frozenset[int]
    start: time
    end: time
    reason: str
    time_zone: str = "America/New_York"
    first_day: date = date.min
    end_day: date = date.max


_WEEKDAYS = frozenset(range(5))

WEEKS: Mapping[AssetClass, Week] = {
    "fx": Week(_WEEKDAYS, timedelta(0)),
    "metal": Week(_WEEKDAYS, timedelta(hours=1)),
    "index": Week(_WEEKDAYS, timedelta(hours=1)),
    "crypto": Week(frozenset(range(7)), timedelta(0)),
}


@dataclass(frozen=True, slots=True)
class Override:
    """How one provider differs from the venue it quotes.

    Attributes:
        week: Replaces the weekly session; None keeps it.
        closures: Closures of this provider alone, in addition to the common ones.
        common_closures: False where the provider quotes through the holidays.
        opened: Hours outside the weekly session in which the provider quotes; they are allowed and expected.
        closed: Hours of the session in which it does not; they are not expected, and still allowed.
    """

    week: Week | None = None
    closures: tuple[Closure, ...] = ()
    common_closures: bool = True
    opened: tuple[WeeklyHours, ...] = ()
    closed: tuple[WeeklyHours, ...] = ()


def _late_open(year: int, month: int, day: int, hours: int) -> Closure:
    start = datetime(year, month, day, 17)
    return Closure(start, start + timedelta(hours=hours), "late Sunday open")


OVERRIDES: Mapping[tuple[str, AssetClass], Override] = {
    ("oanda", "fx"): Override(
        closures=(
            _late_open(2019, 10, 20, 2),
            _late_open(2019, 12, 8, 1),
            _late_open(2020, 5, 31, 1),
            _late_open(2021, 11, 21, 2),
        )
    ),
}
"""Listed, not derived. The key is the provider's name as it stands in market.raw_ohlc, and the asset class."""


def closures(asset_class: AssetClass, year: int) -> Iterator[Closure]:
    """The closures whose holiday falls into a year, in no particular order; they may overlap."""
    if asset_class == "fx":
        yield from _fx(year)
    elif asset_class == "metal":
        yield from _new_york_holidays(year, early_close=time(13), christmas_eve=time(14))
    elif asset_class == "index":
        yield from _new_york_holidays(year, early_close=time(13), christmas_eve=time(13))
        yield from _index(year)


def _until_close(day: date, start: time, reason: str) -> Closure:
    return Closure(datetime.combine(day, start), datetime.combine(day, _CLOSE), reason)


def _trading_day(day: date, reason: str) -> Closure:
    """The whole trading day that ends on `day`."""
    return Closure(datetime.combine(day - _DAY, _CLOSE), datetime.combine(day, _CLOSE), reason)


def _fx(year: int) -> Iterator[Closure]:
    """Spot FX closes for Christmas and New Year; where the day is a Sunday, the Monday too, until 18:00."""
    for day, reason in ((date(year, 12, 25), "Christmas"), (date(year, 1, 1), "New Year")):
        yield _trading_day(day, reason)
        if day.weekday() == SUNDAY:
            yield Closure(datetime.combine(day, _CLOSE), datetime.combine(day + _DAY, time(18)), reason)


def _new_york_holidays(year: int, early_close: time, christmas_eve: time) -> Iterator[Closure]:
    """Metals and indices follow the holidays of the New York exchanges, most of them with an early close only."""
    christmas, new_year = date(year, 12, 25), date(year, 1, 1)
    yield _trading_day(easter_sunday(year) - 2 * _DAY, "Good Friday")
    yield _trading_day(_observed(christmas), "Christmas")
    if christmas.weekday() not in (SATURDAY, SUNDAY):
        yield _until_close(christmas - _DAY, christmas_eve, "Christmas Eve")
    # New Year on a Saturday is not moved to the Friday of the old year.
    yield _trading_day(new_year + _DAY if new_year.weekday() == SUNDAY else new_year, "New Year")
    thanksgiving = _nth_weekday(year, 11, 3, 4)
    early = {
        "Martin Luther King Day": _nth_weekday(year, 1, 0, 3),
        "Presidents' Day": _nth_weekday(year, 2, 0, 3),
        "Memorial Day": _nth_weekday(year, 6, 0, 1) - 7 * _DAY,
        "Independence Day": _observed(date(year, 7, 4)),
        "Labor Day": _nth_weekday(year, 9, 0, 1),
        "Thanksgiving": thanksgiving,
        "Day after Thanksgiving": thanksgiving + _DAY,
    }
    if year >= 2022:
        early["Juneteenth"] = _observed(date(year, 6, 19))
    for reason, day in early.items():
        yield _until_close(day, early_close, reason)


_MOURNING: Mapping[int, date] = {2018: date(2018, 12, 5), 2025: date(2025, 1, 9)}


def _index(year: int) -> Iterator[Closure]:
    """What index CFDs close for, and metals do not."""
    eve = date(year, 7, 3)
    if eve.weekday() < FRIDAY:
        yield _until_close(eve, time(13), "Eve of Independence Day")
    if year in _MOURNING:
        yield _until_close(_MOURNING[year], time(10), "Day of mourning")
    if year == 2018:
        day = date(year, 1, 1)
        while day.year == year:
            yield Closure(datetime.combine(day, time(16, 15)), datetime.combine(day, time(16, 30)), "Daily halt")
            day += _DAY


def _observed(day: date) -> date:
    """A holiday on a Saturday is kept on the Friday before, one on a Sunday on the Monday after."""
    return day + {SATURDAY: -_DAY, SUNDAY: _DAY}.get(day.weekday(), timedelta(0))


def _nth_weekday(year: int, month: int, weekday: int, n: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (n - 1))


def easter_sunday(year: int) -> date:
    """Western Easter, by the anonymous Gregorian algorithm (Meeus, Astronomical Algorithms, chapter 8)."""
    a, (b, c) = year % 19, divmod(year, 100)
    (d, e), f = divmod(b, 4), (b + 8) // 25
    h = (19 * a + b - d - (b - f + 1) // 3 + 15) % 30
    i, k = divmod(c, 4)
    shift = (32 + 2 * e + 2 * i - h - k) % 7
    m = (a + 11 * h + 22 * shift) // 451
    month, day = divmod(h + shift - 7 * m + 114, 31)
    return date(year, month, day + 1)


@dataclass(frozen=True, slots=True)
class MarketSession:
    """A session of the trading day in its city's own clock, Monday to Friday; as in market.market_sessions."""

    session: Literal["sydney", "tokyo", "london", "new_york"]
    time_zone: str
    opens: str
    closes: str
    description: str


SESSIONS: tuple[MarketSession, ...] = (
    MarketSession("sydney", "Australia/Sydney", "07:00", "16:00", "Sydney: the week opens here."),
    MarketSession("tokyo", "Asia/Tokyo", "09:00", "18:00", "Tokyo: yen and Asian currencies."),
    MarketSession("london", "Europe/London", "08:00", "17:00", "London: the largest share of currency trading."),
    MarketSession("new_york", "America/New_York", "08:00", "17:00", "New York: its close ends the trading day."),
)
