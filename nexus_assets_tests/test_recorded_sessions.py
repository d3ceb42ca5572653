"""The trading calendar against recorded prices (NEXUS_REAL_DATA): what is outside the week, and what is missing in it.

The files are read as real_sources.toml declares them, with the hours declared there.
"""

from collections import Counter
from datetime import date
from functools import cache, lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from nexus_assets import trading_calendar as calendar
from nexus_assets.instruments import INSTRUMENTS, instrument
from nexus_assets.providers.registry import Sources, load_sources
from nexus_assets_tests.providers.price_files import request
from nexus_assets_tests.providers.test_real_files import SOURCES

NEW_YORK = ZoneInfo("America/New_York")
QUARTER = 15 * 60 * 1_000_000
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
OANDA_YEARS = pd.Timestamp("2018-01-01", tz="UTC"), pd.Timestamp("2021-12-31", tz="UTC")


@pytest.fixture(scope="module")
def sources(real_data: Path):
    yield load_sources(SOURCES, real_data)
    calendar.declare_overrides({})


@pytest.fixture(scope="module")
def opens(sources: Sources):
    """The opens that a provider delivered of a symbol."""

    @lru_cache(maxsize=64)
    def read(provider: str, symbol: str, timeframe: str) -> pd.DatetimeIndex:
        found = next(source for source in sources.providers if source.name == provider)
        return pd.DatetimeIndex(found.fetch(request(symbol, timeframe)).bars["ts"])

    return read


def symbols_of(sources: Sources, provider: str, timeframe: str, asset_class: str) -> list[str]:
    found = next(source for source in sources.providers if source.name == provider)
    return [
        item.symbol for item in INSTRUMENTS if item.asset_class == asset_class and found.serves(item.symbol, timeframe)
    ]


def outside(symbol: str, ts: pd.DatetimeIndex, timeframe: str, provider: str | None) -> pd.DatetimeIndex:
    return ts[~calendar.allowed(instrument(symbol).asset_class, ts, timeframe, provider)]


# OANDA's hours of 21 pairs


@pytest.fixture(scope="module")
def pairs(sources: Sources, opens) -> dict[str, pd.DatetimeIndex]:
    return {symbol: opens("oanda_h1", symbol, "1h") for symbol in symbols_of(sources, "oanda_h1", "1h", "fx")}


def test_of_25056_hours_171_to_174_are_missing_and_166_of_these_are_christmas_and_new_year(pairs) -> None:
    hours = calendar.bar_opens("1h", *OANDA_YEARS)
    session = hours[calendar.allowed("fx", hours, "1h")]
    listed = session.difference(calendar.expected("fx", *OANDA_YEARS, "1h"))
    assert (len(pairs), len(session), len(listed)) == (21, 25_056, 166)
    assert all(171 <= session.difference(ts).size <= 174 for ts in pairs.values())
    # Two pairs print one bar of these hours.
    printed = {name: listed.intersection(ts).size for name, ts in pairs.items()}
    assert {name: count for name, count in printed.items() if count} == {"USDJPY": 1, "NZDJPY": 1}
    unknown = [calendar.expected("fx", *OANDA_YEARS, "1h", "oanda_h1").difference(ts).size for ts in pairs.values()]
    assert (sum(unknown), unknown.count(0)) == (6, 16)


def test_the_late_sunday_opens_that_every_pair_shares_are_exactly_the_listed_ones(pairs) -> None:
    late = [calendar.expected("fx", *OANDA_YEARS, "1h").difference(ts) for ts in pairs.values()]
    shared = Counter(ts for missing in late for ts in missing)
    local = {f"{ts.tz_convert(NEW_YORK):%Y-%m-%d %H}": count for ts, count in shared.items() if count > 10}
    assert local == dict.fromkeys(
        ("2019-10-20 17", "2019-10-20 18", "2019-12-08 17", "2020-05-31 17", "2021-11-21 17", "2021-11-21 18"), 21
    )


def test_of_174_bars_outside_the_week_172_follow_its_close(pairs) -> None:
    strays = [ts.tz_convert(NEW_YORK) for name, pair in pairs.items() for ts in outside(name, pair, "1h", "oanda_h1")]
    assert Counter(f"{ts:%a %H}" for ts in strays) == {"Fri 17": 172, "Sun 13": 1, "Sun 15": 1}


def switch_weeks() -> list[tuple[date, date]]:
    """The Sundays from New York's change of the clock to London's, and of the week after, in spring and in autumn."""
    changes = []
    for zone in (NEW_YORK, ZoneInfo("Europe/London")):
        noon = pd.date_range("2018-01-01 12:00", "2021-12-30 12:00", freq="D", tz=zone)
        offset = np.array([ts.utcoffset() for ts in noon])
        changes.append([ts.date() for ts in noon[1:][offset[1:] != offset[:-1]]])
    return [(min(pair), max(pair)) for pair in zip(*changes, strict=True)]


LATE = {date(2019, 10, 27): {"GBPAUD 2019-10-20 19", "GBPNZD 2019-10-20 19"}}
STRAYS = {
    date(2019, 3, 10): {
        f"USD{quote} 2019-{day} 17"
        for quote, day in (("JPY", "03-15"), ("JPY", "03-22"), ("CAD", "03-22"), ("CAD", "04-05"))
    }
}


@pytest.mark.parametrize(("first", "last"), switch_weeks(), ids=str)
def test_the_weeks_between_two_changes_of_the_clock_have_no_false_gap_and_no_false_weekend_bar(
    pairs, first: date, last: date
) -> None:
    start = pd.Timestamp(first, tz=NEW_YORK) - pd.Timedelta(days=7)
    end = pd.Timestamp(last, tz=NEW_YORK) + pd.Timedelta(days=8)
    gaps, strays = set(), set()
    for name, every in pairs.items():
        ts = every[(every >= start) & (every < end)]
        missing = calendar.expected("fx", start, end, "1h", "oanda_h1").difference(ts)
        late = outside(name, ts, "1h", "oanda_h1")
        gaps |= {f"{name} {gap.tz_convert(NEW_YORK):%Y-%m-%d %H}" for gap in missing}
        strays |= {f"{name} {stray.tz_convert(NEW_YORK):%Y-%m-%d %H}" for stray in late}
        # As New York's clock says it, without the calendar: the first bar of the week is at 17, the last at 16.
        local = ts.difference(late).tz_convert(NEW_YORK)
        assert set(local[local.day_of_week == 6].hour) == set(range(17, 24))
        assert set(local[local.day_of_week == 4].hour) == set(range(17))
        assert 5 not in set(local.day_of_week)
    # In single pairs: an hour more of a late open, and bars just after the close.
    assert gaps == LATE.get(first, set())
    assert strays == STRAYS.get(first, set())


def test_christmas_on_a_sunday_ran_to_monday_18(pairs) -> None:
    for ts in pairs.values():
        local = ts[(ts >= "2016-12-24") & (ts < "2016-12-28")].tz_convert(NEW_YORK)
        assert f"{local[0]:%Y-%m-%d %H}" == "2016-12-26 18"


# Every file

# Provider, timeframe, asset class: symbols, bars; (bars outside the week, expected bars that are missing) by the
# provider's own hours, and by those of the venue.
EVERY_FILE = [
    ("oanda_h1", "1h", "fx", 21, 781_696, (174, 16), (174, 142)),
    ("oanda_h1_bidask", "1h", "fx", 1, 37_219, (3, 0), (3, 6)),
    # Thin minutes. A bar at 17:00 on most days of 2018 is the close's last tick.
    ("histdata_m1", "1m", "fx", 4, 2_231_927, (0, 8983), (0, 8983)),
    ("histdata_m1", "1m", "metal", 1, 706_406, (127, 2213), (127, 2213)),
    ("histdata_m1", "1m", "index", 2, 1_000_323, (218, 41996), (218, 53666)),
    # GBPUSD has no 2018. The 1,492 bars of silver carry a day's volume at the server's midnight.
    ("mt5_h1_nobodys", "1h", "fx", 4, 211_805, (27, 6750), (27, 6975)),
    ("mt5_h1_nobodys", "1h", "metal", 1, 53_240, (1492, 68), (1492, 128)),
    ("mt5_h1_ejtrader", "1h", "fx", 5, 288_000, (2, 39), (2, 1139)),
    ("mt5_h1_ejtrader", "1h", "metal", 1, 57_600, (0, 76), (27, 320)),
    ("mt5_h1_jorge", "1h", "fx", 5, 155_427, (1, 15), (1, 285)),
    ("mt5_h1_jorge", "1h", "metal", 1, 29_465, (0, 4), (0, 86)),
    ("mt5_h1_javier", "1h", "fx", 3, 19_803, (0, 48), (0, 60)),
    ("mt5_h1_javier", "1h", "metal", 1, 6_847, (0, 16), (0, 16)),
    # A hole of 888 hours in each.
    ("mt5_h1_javier", "1h", "index", 2, 13_586, (90, 1841), (90, 1958)),
    ("mt5_m5_javier", "5m", "fx", 1, 11_998, (0, 0), (0, 0)),
    # One hole.
    ("mt5_m5_javier", "5m", "metal", 1, 11_998, (0, 2335), (0, 2947)),
    ("mt5_m5_javier", "5m", "index", 1, 11_998, (0, 20), (0, 104)),
    ("mt5_h1_simom", "1h", "fx", 1, 36_502, (0, 2), (0, 2)),
    # Eight years of gold: daily rows in March 2018, and three hours.
    ("mt5_h1_simom", "1h", "metal", 1, 48_262, (12, 256), (12, 256)),
    ("utc_h1_mystertech", "1h", "fx", 5, 250_063, (0, 18), (0, 18)),
    # The daily break and the weekends are filled with flat bars.
    ("dukascopy_h1_2024", "1h", "fx", 3, 18_936, (0, 0), (0, 0)),
    ("dukascopy_h1_2024", "1h", "metal", 1, 6_260, (211, 0), (211, 0)),
    ("dukascopy_h1_2024", "1h", "index", 1, 6_260, (211, 0), (211, 0)),
    ("dukascopy_h1_2024", "1h", "crypto", 1, 8_806, (0, 2), (0, 2)),
    ("dukascopy_m1_eurusd_201810", "1m", "fx", 1, 44_640, (11_520, 0), (11_520, 0)),
    # Every other hour of many days of 2021.
    ("dukascopy_h1_eurusd_2020_2023", "1h", "fx", 1, 17_768, (0, 1223), (0, 1223)),
    ("backtesting_py_eurusd_h1", "1h", "fx", 1, 5_000, (2, 0), (2, 0)),
    # Whole days, and a week of December 2016.
    ("lean_oanda_h1", "1h", "fx", 1, 74_439, (0, 221), (0, 267)),
    ("lean_oanda_h1", "1h", "metal", 1, 76_499, (57, 1821), (1948, 2173)),
    ("lean_fxcm_h1", "1h", "fx", 1, 40_493, (56, 386), (685, 631)),
    ("fxcm_m1_bidask", "1m", "fx", 1, 30_117, (0, 124), (0, 124)),
]


@pytest.fixture(scope="module")
def judged(sources: Sources, opens):
    """Bars, bars outside the week, missing bars and gaps that come back, of each symbol, by the hours of `who`."""

    @cache
    def judge(provider: str, timeframe: str, asset_class, who: str | None) -> dict[str, tuple[int, int, int, set[str]]]:
        found = {}
        for name in symbols_of(sources, provider, timeframe, asset_class):
            ts = opens(provider, name, timeframe)
            grid = calendar.expected(asset_class, ts[0], ts[-1] + pd.Timedelta("1us"), timeframe, who)
            present = np.isin(grid.asi8, ts.as_unit("us").asi8, assume_unique=True)
            strays = outside(name, ts, timeframe, who).size
            found[name] = (ts.size, strays, int((~present).sum()), recurring_gaps(grid, present))
        return found

    return judge


@pytest.mark.parametrize(
    ("provider", "timeframe", "asset_class", "symbols", "bars", "by_own_hours", "by_the_venues"),
    EVERY_FILE,
    ids=[f"{row[0]} {row[2]}" for row in EVERY_FILE],
)
def test_as_many_bars_lie_outside_the_week_and_are_missing_in_it_as_were_measured(
    judged, provider: str, timeframe: str, asset_class: str, symbols: int, bars: int, by_own_hours, by_the_venues
) -> None:
    for who, measured in ((provider, by_own_hours), (None, by_the_venues)):
        found = judged(provider, timeframe, asset_class, who).values()
        assert (len(found), *(sum(row[part] for row in found) for part in range(3))) == (symbols, bars, *measured)


def recurring_gaps(grid: pd.DatetimeIndex, present: np.ndarray) -> set[str]:
    """The quarter-hours of New York's week of which half or more of the expected bars are missing, on days of which
    three quarters are there. Weeks in which New York and London are not five hours apart count by themselves."""
    local, london = (grid.tz_convert(zone).tz_localize(None).asi8 for zone in (NEW_YORK, ZoneInfo("Europe/London")))
    apart = london - local != 5 * 3600 * 1_000_000
    # 1970 began on a Thursday.
    quarter = (local // QUARTER + 3 * 96) % (7 * 96)
    day = np.unique(calendar.trading_day(grid), return_inverse=True)[1]
    whole = (np.bincount(day, present) / np.bincount(day) >= 0.75)[day]
    found = set()
    for week, chosen in (("", whole & ~apart), ("between changes ", whole & apart)):
        count = np.bincount(quarter[chosen], minlength=7 * 96)
        there = np.bincount(quarter[chosen], present[chosen], minlength=7 * 96)
        recurring = np.flatnonzero((count >= 4) & (there <= count / 2)).tolist()
        found |= {f"{week}{DAYS[at // 96]} {at % 96 // 4:02}:{at % 4 * 15:02}" for at in recurring}
    return found


# Half of these minutes had no tick.
THIN = {("histdata_m1", "fx"): {"USDCHF": {"between changes Sun 17:45"}}}

# Without their own hours, gaps would come back every week in these files.
WEEKLY_FALSE_GAPS = {
    ("histdata_m1", "index"): {
        f"{week}{day} 16:{minute}" for week in ("", "between changes ") for day in DAYS[:5] for minute in (15, 30, 45)
    },
    ("mt5_h1_nobodys", "fx"): {"between changes Sun 17:00"},
    ("mt5_h1_ejtrader", "fx"): {"between changes Sun 17:00"},
    ("mt5_h1_jorge", "fx"): {"between changes Sun 17:00"},
    ("mt5_h1_javier", "fx"): {"between changes Sun 17:00"},
    ("mt5_h1_ejtrader", "metal"): {f"between changes {day} 18:00" for day in ("Sun", "Mon", "Tue", "Wed", "Thu")},
    ("mt5_h1_jorge", "metal"): {f"between changes {day} 18:00" for day in ("Sun", "Mon", "Tue", "Wed", "Thu")},
    ("mt5_h1_javier", "index"): {"Fri 16:00"},
    ("mt5_m5_javier", "index"): {f"Fri 16:{minute:02}" for minute in (0, 15, 30, 45)},
    ("mt5_m5_javier", "metal"): {
        f"{day} 16:{minute:02}" for day in ("Mon", "Tue", "Wed", "Thu", "Fri") for minute in (0, 15, 30, 45)
    },
    ("lean_oanda_h1", "metal"): {"Sun 18:00", "between changes Sun 18:00"},
}


@pytest.mark.parametrize(("provider", "timeframe", "asset_class"), [row[:3] for row in EVERY_FILE])
def test_no_gap_comes_back_every_week_by_the_providers_own_hours(
    judged, provider: str, timeframe: str, asset_class: str
) -> None:
    own = {name: row[3] for name, row in judged(provider, timeframe, asset_class, provider).items() if row[3]}
    by_venue = set().union(*(row[3] for row in judged(provider, timeframe, asset_class, None).values()))
    assert own == THIN.get((provider, asset_class), {})
    assert by_venue.difference(*own.values()) == WEEKLY_FALSE_GAPS.get((provider, asset_class), set())


def test_index_bars_of_the_daily_break_are_frozen_quotes_not_late_trades(sources) -> None:
    source = next(item for item in sources.providers if item.name == "mt5_h1_javier")
    for name in ("NAS100", "US30"):
        bars = source.fetch(request(name, "1h")).bars
        frozen = bars[~calendar.allowed("index", bars["ts"], "1h", "mt5_h1_javier")]
        local = frozen["ts"].dt.tz_convert(NEW_YORK)
        assert set(local.dt.hour) == {17}
        assert (local.min().date(), local.max().date()) >= (date(2024, 10, 1), date(2025, 1, 1))
        # At most three points wide, but for one bar that holds hours; with many times the usual count of ticks.
        assert ((frozen["high"] - frozen["low"]) > 3).sum() == (name == "NAS100")
        assert frozen["volume"].median() > 2 * bars["volume"].median()


def test_a_file_with_its_bars_an_hour_off_shows_between_the_changes_of_the_clock(opens) -> None:
    # Silver of this broker still kept the European dates in 2020, other than its currencies and its declaration.
    local = opens("mt5_h1_nobodys", "XAGUSD", "1h").tz_convert(NEW_YORK)
    for first, last in (("2020-03-09", "2020-03-13"), ("2020-10-26", "2020-10-30")):
        week = local[(local >= first) & (local < f"{last} 23:59")]
        assert 16 not in set(week.hour)
        assert 17 in set(week.hour)
