"""The trading calendar, against New York's wall clock and hand-written instants."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_assets import trading_calendar as calendar
from nexus_assets.errors import NexusError
from nexus_assets.market_holidays import OVERRIDES, SESSIONS, easter_sunday
from nexus_assets.timeframes import TIMEFRAMES

NEW_YORK = ZoneInfo("America/New_York")
DAYS = st.dates(date(1990, 1, 1), date(2037, 12, 31))


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def new_york(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="America/New_York").tz_convert("UTC")


def hours_of(first: str, end: str) -> pd.DatetimeIndex:
    return pd.date_range(first, end, freq="1h", tz="UTC", inclusive="left").as_unit("us")


def open_by_wall_clock(asset_class: str, ts: pd.Timestamp) -> bool:
    """The weekly session, written down a second time: one instant at a time, by New York's clock."""
    local = ts.to_pydatetime().astimezone(NEW_YORK)
    opens = 17 if asset_class == "fx" else 18
    if local.weekday() == 5 or (local.weekday() == 4 and local.hour >= 17):
        return False
    if local.weekday() == 6:
        return local.hour >= opens
    return asset_class == "fx" or local.hour != 17


@pytest.mark.parametrize("asset_class", ["fx", "metal", "index"])
def test_every_hour_of_four_years_is_allowed_as_new_yorks_wall_clock_says(asset_class) -> None:
    hours = hours_of("2018-01-01", "2022-01-01")
    by_clock = np.array([open_by_wall_clock(asset_class, ts) for ts in hours])
    np.testing.assert_array_equal(calendar.allowed(asset_class, hours, "1h"), by_clock)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2021-01-10 22:00", "2021-01-15 21:00"),  # winter in New York and in London
        ("2021-03-14 21:00", "2021-03-19 20:00"),  # New York has changed, London has not
        ("2021-07-11 21:00", "2021-07-16 20:00"),  # summer
        ("2021-10-31 21:00", "2021-11-05 20:00"),  # London has changed, New York has not
        ("2021-11-07 22:00", "2021-11-12 21:00"),
    ],
)
def test_the_fx_week_opens_and_closes_on_new_yorks_dates(first: str, last: str) -> None:
    hour = pd.Timedelta(hours=1)
    edges = [utc(first) - hour, utc(first), utc(last), utc(last) + hour]
    assert calendar.allowed("fx", edges, "1h").tolist() == [False, True, True, False]
    week = calendar.expected("fx", utc(first) - 40 * hour, utc(last) + 40 * hour, "1h")
    assert (week[0], week[-1], len(week)) == (utc(first), utc(last), 120)


def test_crypto_never_closes() -> None:
    christmas_week = hours_of("2021-12-20", "2022-01-03")
    assert calendar.expected("crypto", christmas_week[0], utc("2022-01-03"), "1h").equals(christmas_week)


def test_a_bar_is_allowed_if_any_part_of_it_is_in_the_session() -> None:
    sunday = new_york("2021-06-13 17:00")
    assert calendar.allowed("metal", [sunday], "4h").tolist() == [True]
    assert calendar.allowed("metal", [sunday], "1h").tolist() == [False]
    assert calendar.allowed("metal", [sunday + pd.Timedelta("59min")], "1m").tolist() == [False]
    assert calendar.allowed("metal", [sunday + pd.Timedelta("60min")], "1m").tolist() == [True]


# Grids and slices


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2021, 3, 14), 23), (date(2021, 3, 15), 24), (date(2021, 11, 7), 25), (date(2021, 11, 8), 24)],
)
def test_a_daily_bar_runs_from_17_to_17_new_york_also_where_the_clock_changes(day: date, hours: int) -> None:
    start = calendar.rollup_read_start(day)
    assert start.astimezone(NEW_YORK).hour == 17
    assert calendar.bar_open_of([start + timedelta(hours=12)], "1d")[0] == start
    assert calendar.bar_end([start], "1d")[0] - start == timedelta(hours=hours)


@pytest.mark.parametrize(("day", "switch_bar_hours"), [("2021-03-13", 3), ("2021-11-06", 5)])
def test_the_4h_bars_of_a_changing_night_keep_their_wall_clock(day: str, switch_bar_hours: int) -> None:
    start = new_york(f"{day} 17:00")
    opens = calendar.bar_opens("4h", start, calendar.bar_end([start], "1d")[0])
    assert [ts.astimezone(NEW_YORK).hour for ts in opens] == [17, 21, 1, 5, 9, 13]
    lengths = [(end - ts) / pd.Timedelta("1h") for ts, end in zip(opens, calendar.bar_end(opens, "4h"), strict=True)]
    assert lengths == [4, 4, switch_bar_hours, 4, 4, 4]


@given(day=DAYS, days=st.integers(1, 40), timeframe=st.sampled_from(TIMEFRAMES))
@settings(max_examples=60, deadline=None)
def test_a_slice_holds_exactly_the_bars_that_end_in_its_days(day: date, days: int, timeframe: str) -> None:
    end_day = day + timedelta(days=days)
    start, end = calendar.slice_bounds(timeframe, day, end_day)
    inside = calendar.bar_opens(timeframe, start, end)
    midnight, end_midnight = calendar.day_range(day, end_day)
    around = calendar.bar_opens(timeframe, midnight - timedelta(days=3), end_midnight + timedelta(days=3))
    belongs = [midnight < end <= end_midnight for end in calendar.bar_end(around, timeframe)]
    assert inside.equals(around[belongs])


@given(
    moment=st.datetimes(datetime(1990, 1, 1), datetime(2037, 12, 31), timezones=st.just(UTC)),
    timeframe=st.sampled_from(TIMEFRAMES),
)
@settings(max_examples=200, deadline=None)
def test_every_instant_lies_in_the_bar_that_holds_it(moment: datetime, timeframe: str) -> None:
    opens = calendar.bar_open_of([moment], timeframe)
    assert opens[0] <= moment < calendar.bar_end(opens, timeframe)[0]
    assert calendar.bar_open_of(opens, timeframe).equals(opens)


def test_a_daily_bar_that_opens_in_the_evening_belongs_to_the_next_day() -> None:
    assert calendar.slice_bounds("1d", date(2021, 6, 2), date(2021, 6, 3)) == (
        utc("2021-06-01 21:00"),
        utc("2021-06-02 21:00"),
    )
    assert calendar.slice_bounds("1h", date(2021, 6, 2), date(2021, 6, 3)) == (utc("2021-06-02"), utc("2021-06-03"))


def test_a_trading_day_is_named_by_the_day_on_which_it_ends() -> None:
    moments = [new_york("2021-06-13 16:59"), new_york("2021-06-13 17:00"), new_york("2021-06-14 16:59")]
    assert calendar.trading_day(moments).astype(str).tolist() == ["2021-06-13", "2021-06-14", "2021-06-14"]


# Holidays


@pytest.mark.parametrize(
    ("year", "easter"),
    [
        *((2000, "04-23"), (2008, "03-23"), (2016, "03-27"), (2018, "04-01"), (2019, "04-21"), (2020, "04-12")),
        *((2021, "04-04"), (2022, "04-17"), (2023, "04-09"), (2024, "03-31"), (2025, "04-20"), (2038, "04-25")),
    ],
)
def test_easter_falls_on_the_published_sundays(year: int, easter: str) -> None:
    assert easter_sunday(year).isoformat() == f"{year}-{easter}"


# Closures measured on recorded prices: asset class, first and last closed minute (New York), None for open all day.
CLOSED = [
    ("fx", "2018-12-24 17:00", "2018-12-25 16:59"),
    ("fx", "2020-12-31 17:00", "2021-01-01 16:59"),
    ("fx", "2016-12-25 17:00", "2016-12-26 17:59"),
    ("fx", "2017-01-01 17:00", "2017-01-02 17:59"),
    ("metal", "2018-03-29 17:00", "2018-03-30 16:59"),
    ("metal", "2024-12-24 14:00", "2024-12-25 16:59"),
    ("metal", "2021-12-23 17:00", "2021-12-24 16:59"),
    ("metal", "2022-12-25 18:00", "2022-12-26 16:59"),
    ("metal", "2023-12-24 18:00", "2023-12-25 16:59"),
    ("metal", "2018-12-31 17:00", "2019-01-01 16:59"),
    ("metal", "2020-01-20 14:00", "2020-01-20 16:59"),
    ("metal", "2020-02-17 14:00", "2020-02-17 16:59"),
    ("metal", "2020-05-25 14:00", "2020-05-25 16:59"),
    ("metal", "2020-07-03 14:00", "2020-07-03 16:59"),
    ("metal", "2021-07-05 14:00", "2021-07-05 16:59"),
    ("metal", "2022-06-20 15:00", "2022-06-20 16:59"),
    ("metal", "2020-09-07 14:00", "2020-09-07 16:59"),
    ("metal", "2020-11-26 14:00", "2020-11-26 16:59"),
    ("metal", "2020-11-27 14:00", "2020-11-27 16:59"),
    ("index", "2018-12-05 10:00", "2018-12-05 16:59"),
    ("index", "2025-01-09 10:00", "2025-01-09 16:59"),
    ("index", "2019-07-03 14:00", "2019-07-03 16:59"),
    ("index", "2018-06-06 16:15", "2018-06-06 16:29"),
]


@pytest.mark.parametrize(("asset_class", "first", "last"), CLOSED)
def test_no_bar_is_expected_in_a_measured_closure_and_one_in_it_is_still_allowed_in_the_session(
    asset_class, first: str, last: str
) -> None:
    minute = pd.Timedelta("1min")
    closed = calendar.bar_opens("1m", new_york(first), new_york(last) + minute)
    assert calendar.expected(asset_class, closed[0], closed[-1] + minute, "1m").empty
    assert calendar.is_open(asset_class, closed).sum() == 0
    assert calendar.allowed(asset_class, closed, "1m").any()


@pytest.mark.parametrize(
    ("asset_class", "moment"),
    [
        ("fx", "2018-12-24 16:59"),
        ("fx", "2018-12-25 17:00"),
        ("fx", "2021-04-02 12:00"),  # Good Friday
        ("metal", "2021-06-18 14:00"),  # Juneteenth before 2022
        ("metal", "2021-12-31 15:00"),  # New Year on a Saturday
        ("metal", "2019-07-03 15:00"),  # only indices close early
        ("metal", "2018-12-05 11:00"),
        ("index", "2019-06-05 16:20"),  # the daily halt ended with 2018
        ("index", "2018-06-06 16:30"),
    ],
)
def test_the_market_is_open_beside_the_closures(asset_class, moment: str) -> None:
    start = new_york(moment)
    assert calendar.is_open(asset_class, [start]).tolist() == [True]
    assert len(calendar.expected(asset_class, start, start + pd.Timedelta("1min"), "1m")) == 1


def test_a_providers_late_open_concerns_only_that_provider() -> None:
    start, end = new_york("2019-10-20 17:00"), new_york("2019-10-20 20:00")
    assert len(calendar.expected("fx", start, end, "1h")) == 3
    assert calendar.expected("fx", start, end, "1h", "oanda")[0] == new_york("2019-10-20 19:00")
    assert calendar.allowed("fx", [start], "1h", "oanda").tolist() == [True]


@pytest.mark.parametrize(
    ("asset_class", "provider", "moment", "reason"),
    [
        ("fx", None, "2018-12-25 12:00", "Christmas"),
        ("fx", "oanda", "2019-10-20 17:30", "late Sunday open"),
        ("fx", "fxcm", "2019-10-20 17:30", ""),
        ("metal", "mt5_eu", "2019-03-12 18:30", "break by the server's clock"),
        ("index", "histdata", "2019-06-05 16:20", "close at 16:15"),
        ("index", "histdata", "2018-12-25 16:20", "Christmas"),
        ("metal", None, "2019-12-31 18:00", "New Year"),
    ],
)
def test_a_closure_is_named(asset_class, provider: str | None, moment: str, reason: str) -> None:
    assert calendar.closure_reason(asset_class, [new_york(moment)], provider).tolist() == [reason]


# Open hours


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2021-06-09 10:00", "2021-06-10 10:00"),
        ("2021-06-11 17:00", "2021-06-14 17:00"),  # from the close
        ("2021-06-10 17:00", "2021-06-11 17:00"),  # to the close, not to the next open
        ("2021-06-12 12:00", "2021-06-14 17:00"),  # from the weekend
        ("2021-03-12 10:00", "2021-03-15 10:00"),  # 71 hours
        ("2021-11-05 10:00", "2021-11-08 10:00"),  # 73 hours
        ("2018-12-24 12:00", "2018-12-26 12:00"),  # Christmas
        ("2020-12-24 12:00", "2020-12-28 12:00"),  # Christmas on a Friday
    ],
)
def test_24_open_hours_of_fx_skip_the_weekend_and_the_holidays(start: str, end: str) -> None:
    assert calendar.advance("fx", [new_york(start)], 24)[0] == new_york(end)


def test_no_open_hours_from_the_weekend_lead_nowhere() -> None:
    moments = [
        new_york(text) for text in ("2021-06-11 17:00", "2021-06-12 12:00", "2021-06-13 17:00", "2021-06-15 03:17")
    ]
    assert list(calendar.advance("fx", moments, 0)) == moments


def test_open_hours_are_a_providers_own_where_it_is_named() -> None:
    start = new_york("2019-10-20 12:00")
    assert calendar.advance("fx", [start], 1)[0] == new_york("2019-10-20 18:00")
    assert calendar.advance("fx", [start], 1, "oanda")[0] == new_york("2019-10-20 20:00")


def test_the_next_open_of_an_open_market_is_now() -> None:
    assert calendar.next_open("fx", utc("2021-06-12 03:00").to_pydatetime()) == utc("2021-06-13 21:00")
    assert calendar.next_open("fx", utc("2021-06-15 03:17").to_pydatetime()) == utc("2021-06-15 03:17")


def test_many_instants_get_the_answers_of_each() -> None:
    moments = hours_of("2021-03-12", "2021-03-16")
    opens = calendar.next_opens("metal", moments)
    assert [calendar.next_open("metal", ts.to_pydatetime()) for ts in moments] == list(opens)
    sessions = calendar.sessions_open(moments)
    assert [calendar.session_of(ts.to_pydatetime()) for ts in moments] == [
        tuple(sessions.columns[row]) for row in sessions.to_numpy()
    ]
    assert sessions.sum().to_dict() == {"sydney": 18, "tokyo": 18, "london": 18, "new_york": 18}


@pytest.mark.parametrize(
    ("timeframe", "first", "last", "bars"),
    [
        ("1h", "2021-03-14 21:00", "2021-03-19 20:00", 120),
        ("4h", "2021-03-14 21:00", "2021-03-19 17:00", 30),
        ("1d", "2021-03-14 21:00", "2021-03-18 21:00", 5),
        ("1m", "2021-03-14 21:00", "2021-03-19 20:59", 7200),
    ],
)
def test_the_expected_bars_of_a_week_of_days_are_those_of_the_fx_week(
    timeframe: str, first: str, last: str, bars: int
) -> None:
    week = calendar.expected_in_days("fx", timeframe, date(2021, 3, 14), date(2021, 3, 21))
    assert (week[0], week[-1], len(week)) == (utc(first), utc(last), bars)


def test_the_daily_bar_of_friday_is_expected_on_the_friday() -> None:
    friday = calendar.expected_in_days("fx", "1d", date(2021, 6, 11), date(2021, 6, 12))
    assert list(friday) == [utc("2021-06-10 21:00")]
    assert calendar.expected_in_days("fx", "1d", date(2021, 6, 12), date(2021, 6, 14)).empty


@pytest.mark.parametrize(
    ("moment", "names"),
    [
        ("2021-01-12 14:00", ("london", "new_york")),
        ("2021-07-13 12:30", ("london", "new_york")),
        ("2021-01-12 00:30", ("sydney", "tokyo")),
        ("2021-07-12 21:30", ("sydney",)),
        ("2021-01-09 12:00", ()),
    ],
)
def test_sessions_follow_their_cities_clocks(moment: str, names: tuple[str, ...]) -> None:
    assert calendar.session_of(utc(moment).to_pydatetime()) == names


def test_the_sessions_are_those_of_the_table() -> None:
    migration = next((Path(__file__).parent.parent / "sql" / "migrations").glob("*_market_sessions.sql")).read_text()
    for s in SESSIONS:
        assert f"('{s.session}', '{s.time_zone}', '{s.opens}', '{s.closes}', '{s.description}')" in migration
    assert migration.count("('") == len(SESSIONS) + migration.count("IN ('")


@pytest.mark.parametrize(
    "question",
    [
        lambda: calendar.allowed("fx", [datetime(2021, 6, 1)], "1h"),
        lambda: calendar.bar_open_of([datetime(1969, 6, 1, tzinfo=UTC)], "1d"),
        lambda: calendar.is_open("fx", [datetime(2070, 6, 1, tzinfo=UTC)]),
        lambda: calendar.advance("fx", [datetime(2069, 12, 30, tzinfo=UTC)], 100),
        lambda: calendar.advance("fx", [datetime(2021, 6, 1, tzinfo=UTC)], -1),
    ],
    ids=["no time zone", "before the calendar", "after the calendar", "past the end", "backwards"],
)
def test_an_instant_that_the_calendar_cannot_judge_is_refused(question: Callable[[], object]) -> None:
    with pytest.raises(NexusError, match=r"time zone|1970 to 2069|by -1 open hours"):
        question()


def test_instants_of_one_question_may_have_zones_of_their_own() -> None:
    moments = [datetime(2021, 6, 11, 17, tzinfo=NEW_YORK), datetime(2021, 6, 11, 20, tzinfo=UTC)]
    assert calendar.allowed("fx", moments, "1h").tolist() == [False, True]


def test_no_instants_are_no_answer() -> None:
    assert calendar.allowed("fx", [], "1h").tolist() == []
    assert len(calendar.advance("fx", [], 24)) == 0
    assert len(calendar.next_opens("fx", [])) == 0
    assert len(calendar.sessions_open([])) == 0
    assert len(calendar.bar_end([], "1d")) == 0
    assert len(calendar.expected("fx", utc("2021-06-12"), utc("2021-06-12"), "1h")) == 0


# Versions

# A change here changes which bars are accepted and which gaps are seen, in history that has been judged already. Change
# it only with the hours themselves, and say so in CHANGELOG.md.
VERSIONS = {
    ("fx", None): "8818cb3ef8a23e2c",
    ("metal", None): "9dc4d4f4e607b695",
    ("index", None): "394ae94244bf81e8",
    ("crypto", None): "712d2b88c1789582",
    ("fx", "oanda"): "083c7de2411fb6c3",
    ("metal", "oanda"): "296046e4ccc032d7",
    ("index", "histdata"): "e88ad888086f4945",
    ("fx", "fxcm"): "0d7a922d83c37b3b",
    ("fx", "mt5_eu"): "5c72eb634ef6c399",
    ("metal", "mt5_eu"): "3781fb72f4360f49",
}


@pytest.mark.parametrize(("asset_class", "provider"), VERSIONS)
def test_the_hours_of_a_calendar_change_only_on_purpose(asset_class, provider: str | None) -> None:
    assert calendar.calendar_version(asset_class, provider) == VERSIONS[asset_class, provider]


def test_every_listed_override_has_a_version_of_its_own() -> None:
    assert {(asset_class, name) for name, asset_class in OVERRIDES} == {key for key in VERSIONS if key[1]}
    assert len(set(VERSIONS.values())) == len(VERSIONS)
    assert calendar.calendar_version("fx", "a_provider_without_overrides") == VERSIONS["fx", None]
