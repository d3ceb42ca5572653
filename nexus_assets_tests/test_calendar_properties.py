"""What must hold of the trading calendar at every instant, for every asset class and every provider with hours of its
own: across the changes of the clock, holidays and weekends."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_assets import trading_calendar as calendar
from nexus_assets.market_holidays import OVERRIDES, Closure, Override, WeeklyHours
from nexus_assets.timeframes import TIMEFRAMES

NEW_YORK = ZoneInfo("America/New_York")
CLASSES = ("fx", "metal", "index", "crypto")
CALENDARS = st.sampled_from([*((name, None) for name in CLASSES), *((name, who) for who, name in OVERRIDES)])
# Mostly any minute; often one beside a change of New York's clock, a year's end or a listed closure.
SWITCHES = [datetime(year, month, day, tzinfo=UTC) for year in (2014, 2018, 2021) for month, day in ((3, 9), (11, 3))]
NEAR = [*SWITCHES, *(datetime(year, 12, day, tzinfo=UTC) for year in (2012, 2017, 2018, 2021) for day in (24, 31))]
EXAMPLES = settings(max_examples=100, deadline=None)
MOMENTS = st.one_of(
    st.datetimes(datetime(2005, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
    st.builds(
        lambda near, minutes: near + timedelta(minutes=minutes), st.sampled_from(NEAR), st.integers(-6_000, 12_000)
    ),
)


@given(which=CALENDARS, moments=st.lists(MOMENTS, min_size=2, max_size=6), hours=st.floats(0, 400))
@EXAMPLES
def test_a_later_start_never_ends_earlier_and_more_hours_never_do(which, moments: list[datetime], hours: float) -> None:
    ends = calendar.advance(which[0], sorted(moments), hours, which[1])
    assert ends.is_monotonic_increasing
    assert (ends >= pd.DatetimeIndex(sorted(moments))).all()
    assert (calendar.advance(which[0], sorted(moments), hours + 0.5, which[1]) > ends).all()


@given(which=CALENDARS, moment=MOMENTS, first=st.integers(0, 90 * 60), then=st.integers(0, 90 * 60))
@EXAMPLES
def test_open_hours_add_up(which, moment: datetime, first: int, then: int) -> None:
    asset_class, provider = which
    between = calendar.advance(asset_class, [moment], first / 60, provider)
    by_two = calendar.advance(asset_class, between, then / 60, provider)
    assert by_two[0] == calendar.advance(asset_class, [moment], (first + then) / 60, provider)[0]


@given(which=CALENDARS, moment=MOMENTS, hours=st.integers(1, 60))
@EXAMPLES
def test_advance_passes_as_many_expected_minutes_as_asked(which, moment: datetime, hours: int) -> None:
    asset_class, provider = which
    start = moment.replace(second=0, microsecond=0)
    end = calendar.advance(asset_class, [start], hours, provider)[0]
    assert len(calendar.expected(asset_class, start, end, "1m", provider)) == hours * 60
    assert calendar.is_open(asset_class, [end - pd.Timedelta("1us")], provider).tolist() == [True]


@given(which=CALENDARS, moments=st.lists(MOMENTS, min_size=1, max_size=6))
@EXAMPLES
def test_the_next_open_is_open_and_its_own_next_open(which, moments: list[datetime]) -> None:
    asset_class, provider = which
    opens = calendar.next_opens(asset_class, moments, provider)
    assert calendar.is_open(asset_class, opens, provider).all()
    assert calendar.next_opens(asset_class, opens, provider).equals(opens)
    already = calendar.is_open(asset_class, moments, provider)
    np.testing.assert_array_equal(already, opens == pd.DatetimeIndex(moments))
    # Nothing is open in between, and no open hour passes.
    for moment, first in zip(moments, opens, strict=True):
        assert calendar.expected(asset_class, moment, first, "1m", provider).size <= 1
        assert (
            calendar.advance(asset_class, [moment], 1, provider)[0]
            == (calendar.advance(asset_class, [first], 1, provider)[0])
        )


@given(which=CALENDARS, moment=MOMENTS, days=st.integers(1, 20), timeframe=st.sampled_from(TIMEFRAMES))
@EXAMPLES
def test_what_is_expected_is_allowed(which, moment: datetime, days: int, timeframe: str) -> None:
    asset_class, provider = which
    end = moment + timedelta(days=days)
    expected = calendar.expected(asset_class, moment, end, timeframe, provider)
    assert calendar.allowed(asset_class, expected, timeframe, provider).all()
    opens = calendar.bar_opens(timeframe, moment, end)
    assert expected.isin(opens).all()


@given(which=CALENDARS, moment=MOMENTS, timeframe=st.sampled_from(TIMEFRAMES))
@EXAMPLES
def test_a_bar_is_expected_if_and_only_if_one_of_its_minutes_is(which, moment: datetime, timeframe: str) -> None:
    asset_class, provider = which
    opens = calendar.bar_opens(timeframe, moment, moment + timedelta(days=4))
    expected = calendar.expected(asset_class, moment, moment + timedelta(days=4), timeframe, provider)
    minutes = calendar.expected(asset_class, opens[0], calendar.bar_end(opens[-1:], timeframe)[0], "1m", provider)
    assert expected.equals(calendar.bar_open_of(minutes, timeframe).unique())


@given(which=CALENDARS, day=st.dates(date(2005, 1, 1), date(2034, 1, 1)), days=st.integers(1, 10))
@EXAMPLES
def test_days_share_no_expected_bar_and_miss_none(which, day: date, days: int) -> None:
    asset_class, provider = which
    for timeframe in ("15m", "4h", "1d"):
        one_by_one = [
            ts
            for number in range(days)
            for ts in calendar.expected_in_days(
                asset_class, timeframe, day + timedelta(number), day + timedelta(number + 1), provider
            )
        ]
        whole = calendar.expected_in_days(asset_class, timeframe, day, day + timedelta(days), provider)
        assert one_by_one == list(whole)


@given(moment=MOMENTS, hours=st.floats(0, 500))
@EXAMPLES
def test_open_hours_of_crypto_are_wall_hours_also_where_the_clock_changes(moment: datetime, hours: float) -> None:
    assert calendar.advance("crypto", [moment], hours)[0] - moment == pd.Timedelta(round(hours * 3.6e9), "us")


@given(moment=MOMENTS)
@EXAMPLES
def test_an_fx_week_has_120_open_hours_on_either_side_of_every_change_of_the_clock(moment: datetime) -> None:
    local = moment.astimezone(NEW_YORK)
    sunday = local.date() - timedelta(days=(local.weekday() + 1) % 7)
    opens = datetime.combine(sunday, time(17), NEW_YORK)
    closes = datetime.combine(sunday + timedelta(days=5), time(17), NEW_YORK)
    week = calendar.bar_opens("1h", opens, closes)
    assert len(week) == 120
    assert calendar.allowed("fx", week, "1h").all()
    beside = [opens - timedelta(hours=1), closes.astimezone(UTC)]
    assert not calendar.allowed("fx", beside, "1h").any()


@pytest.fixture
def declared():
    """Hours for the provider `probe`, as a source declares them; forgotten afterwards."""
    yield lambda override: calendar.declare_overrides({("probe", "fx"): override})
    calendar.declare_overrides({})


TUESDAY_NOON = WeeklyHours(frozenset({1}), time(12), time(13), "lunch", first_day=date(2021, 6, 1))
SATURDAY = WeeklyHours(frozenset({5}), time(23), time(1), "late show", "Europe/Athens")


def test_closed_hours_are_not_expected_and_still_allowed(declared) -> None:
    declared(Override(closed=(TUESDAY_NOON,)))
    noon = [datetime(2021, 5, 25, 12, tzinfo=NEW_YORK), datetime(2021, 6, 1, 12, tzinfo=NEW_YORK)]
    assert calendar.allowed("fx", noon, "1h", "probe").all()
    assert calendar.is_open("fx", noon, "probe").tolist() == [True, False]
    assert calendar.is_open("fx", noon, "another").all()


def test_opened_hours_are_allowed_and_expected_and_may_end_after_midnight(declared) -> None:
    declared(Override(opened=(SATURDAY,)))
    start, end = datetime(2021, 6, 12, 12, tzinfo=UTC), datetime(2021, 6, 13, 12, tzinfo=UTC)
    opened = calendar.expected("fx", start, end, "1h", "probe")
    assert list(opened) == [datetime(2021, 6, 12, 20, tzinfo=UTC), datetime(2021, 6, 12, 21, tzinfo=UTC)]
    assert calendar.allowed("fx", opened, "1h", "probe").all()
    assert not calendar.allowed("fx", opened, "1h").any()


def test_a_version_is_equal_exactly_where_the_hours_are(declared) -> None:
    usual = calendar.calendar_version("fx")
    versions = {usual}
    for override in (
        Override(closed=(TUESDAY_NOON,)),
        Override(opened=(SATURDAY,)),
        Override(common_closures=False),
        Override(closures=(Closure(datetime(2021, 6, 1, 12), datetime(2021, 6, 1, 12, 1), "a minute"),)),
    ):
        declared(override)
        versions.add(calendar.calendar_version("fx", "probe"))
    assert len(versions) == 5
    in_the_weekend = Closure(datetime(2021, 6, 12, 3), datetime(2021, 6, 12, 4), "nothing to close")
    declared(Override(closures=(in_the_weekend,)))
    assert calendar.calendar_version("fx", "probe") == usual


@given(which=CALENDARS, moment=MOMENTS)
@EXAMPLES
def test_every_allowed_minute_that_is_not_expected_has_a_reason_and_no_other_has_one(which, moment: datetime) -> None:
    asset_class, provider = which
    minutes = calendar.bar_opens("1m", moment, moment + timedelta(days=2))
    minutes = minutes[calendar.allowed(asset_class, minutes, "1m", provider)]
    reasons = calendar.closure_reason(asset_class, minutes, provider)
    np.testing.assert_array_equal(reasons == "", calendar.is_open(asset_class, minutes, provider))
