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
        closed: Hours in which it does not; they are not expected, also where `opened` holds them, and still allowed.
    """

    week: Week | None = None
    closures: tuple[Closure, ...] = ()
    common_closures: bool = True
    opened: tuple[WeeklyHours, ...] = ()
    closed: tuple[WeeklyHours, ...] = ()


def _closed(reason: str, *stretches: tuple[str, str]) -> tuple[Closure, ...]:
    """Closures from pairs of ISO 8601 times of New York's wall clock."""
    return tuple(
        Closure(datetime.fromisoformat(start), datetime.fromisoformat(end), reason) for start, end in stretches
    )


_MONDAY_TO_THURSDAY = frozenset(range(4))
_ATHENS = "Europe/Athens"
_MT5_EU_FROM = date(2012, 1, 1)

OVERRIDES: Mapping[tuple[str, AssetClass], Override] = {
    ("oanda", "fx"): Override(
        closures=_closed(
            "late Sunday open",
            ("2019-10-20 17:00", "2019-10-20 19:00"),
            ("2019-12-08 17:00", "2019-12-08 18:00"),
            ("2020-05-31 17:00", "2020-05-31 18:00"),
            ("2021-11-21 17:00", "2021-11-21 19:00"),
        )
        + _closed(
            "Christmas and New Year",
            ("2012-12-24 14:00", "2012-12-26 08:00"),
            ("2012-12-31 14:00", "2013-01-02 00:00"),
            *((f"{year}-12-{day} 14:00", f"{year}-12-{day} 17:00") for year in (2013, 2014, 2015) for day in (24, 31)),
        )
    ),
    ("oanda", "metal"): Override(
        opened=(
            WeeklyHours(_MONDAY_TO_THURSDAY, time(17), time(17, 15), "break from 17:15", end_day=date(2015, 9, 23)),
        ),
        closed=(WeeklyHours(frozenset({SUNDAY}), time(22), time(23), "Sunday open at 23:00 UTC", "UTC"),),
    ),
    ("histdata", "index"): Override(
        closed=(WeeklyHours(_WEEKDAYS, time(16, 15), time(17), "close at 16:15", first_day=date(2018, 12, 17)),)
    ),
    ("fxcm", "fx"): Override(
        opened=(
            WeeklyHours(
                frozenset({SUNDAY}), time(19), time(23), "Sunday open at 19:00 UTC", "UTC", first_day=date(2013, 2, 3)
            ),
        ),
        closures=_closed(
            "Christmas and New Year",
            *((f"{year}-12-24 13:00", f"{year}-12-27 00:00") for year in (2012, 2013)),
            *((f"{year}-12-31 13:00", f"{year + 1}-01-03 00:00") for year in (2012, 2013)),
            ("2014-12-24 15:00", "2014-12-26 17:00"),
            ("2014-12-31 15:00", "2015-01-02 17:00"),
            *((f"2015-12-{day} 14:00", f"2015-12-{day} 17:00") for day in (24, 31)),
            ("2016-12-26 18:00", "2016-12-27 00:00"),
            ("2017-01-02 18:00", "2017-01-03 00:00"),
            ("2017-12-25 17:00", "2017-12-27 00:00"),
            ("2018-01-01 17:00", "2018-01-03 00:00"),
        ),
    ),
    # MetaTrader brokers whose server keeps Eastern European Time with the European Union's dates. Where these differ
    # from New York's, currencies still open at the server's midnight, and metals an hour after it.
    ("mt5_eu", "fx"): Override(
        closed=(
            WeeklyHours(frozenset({SUNDAY}), time(22), time(0), "open at 00:00", _ATHENS, first_day=_MT5_EU_FROM),
            WeeklyHours(
                frozenset({FRIDAY}),
                *(time(16), time(17), "close at 16:00"),
                first_day=date(2012, 11, 16),
                end_day=date(2014, 11, 22),
            ),
        ),
        closures=_closed(
            "Christmas and New Year",
            ("2012-12-24 13:00", "2012-12-26 01:00"),
            ("2012-12-31 13:00", "2012-12-31 17:00"),
            ("2013-12-24 12:00", "2013-12-26 01:00"),
            ("2013-12-31 12:00", "2013-12-31 17:00"),
            ("2014-12-24 13:00", "2014-12-26 02:00"),
            ("2014-12-31 13:00", "2015-01-02 02:00"),
            ("2015-12-24 12:00", "2015-12-24 17:00"),
            ("2015-12-31 14:00", "2015-12-31 17:00"),
            ("2017-12-25 17:00", "2017-12-25 23:00"),
            *((f"{year}-12-24 14:00", f"{year}-12-25 23:00") for year in (2018, 2019)),
            *((f"{year}-12-31 16:00", f"{year + 1}-01-01 23:00") for year in (2018, 2019)),
            *((f"{year}-12-24 14:00", f"{year}-12-24 17:00") for year in (2020, 2021)),
        ),
    ),
    ("mt5_eu", "metal"): Override(
        opened=(
            WeeklyHours(
                _MONDAY_TO_THURSDAY,
                *(time(23), time(0), "break by the server's clock", _ATHENS),
                first_day=_MT5_EU_FROM,
                end_day=date(2014, 11, 1),
            ),
        ),
        closed=(
            WeeklyHours(
                _WEEKDAYS,
                *(time(0), time(1), "break by the server's clock", _ATHENS),
                first_day=_MT5_EU_FROM,
                end_day=date(2020, 10, 1),
            ),
        ),
        closures=_closed(
            "Christmas and New Year",
            ("2012-12-24 13:00", "2012-12-26 02:00"),
            ("2012-12-31 13:00", "2012-12-31 17:00"),
            *((f"{year}-12-24 12:00", f"{year}-12-26 02:00") for year in (2013, 2014)),
            *((f"{year}-12-31 12:00", f"{year + 1}-01-02 02:00") for year in (2013, 2014)),
            *((f"2015-12-{day} 12:00", f"2015-12-{day} 17:00") for day in (24, 31)),
            ("2017-12-25 18:00", "2017-12-26 02:00"),
            ("2018-01-01 18:00", "2018-01-02 02:00"),
            *((f"{year}-12-25 18:00", f"{year}-12-25 23:00") for year in (2018, 2019)),
            *((f"{year}-12-31 14:00", f"{year + 1}-01-01 23:00") for year in (2018, 2019)),
            *((f"{year}-12-31 14:00", f"{year}-12-31 17:00") for year in (2020, 2021)),
        ),
    ),
}
"""Listed, not derived. The key is the provider's name as it stands in market.raw_ohlc, or the `hours` that sources.toml
gives it, and the asset class. Each list was measured on recorded prices; where the hours of its last year have no end,
they are taken to last."""


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
