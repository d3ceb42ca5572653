"""Wall clocks to UTC: the expected instants come from the standard library's zoneinfo, or from the calendar."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from nexus_assets.errors import SettingsError
from nexus_assets.providers.time_zones import AMBIGUOUS, NONEXISTENT, zone


def convert(text: str, *walls: str) -> tuple[list[str], list[str]]:
    instants, reasons = zone(text).to_utc(pd.DatetimeIndex([pd.Timestamp(w) for w in walls]).as_unit("us"))
    assert str(instants.dtype) == "datetime64[us, UTC]"
    return [i.strftime("%m-%dT%H:%M") if not pd.isna(i) else "" for i in instants], list(reasons)


@pytest.mark.parametrize(
    ("text", "wall", "expected"),
    [
        ("UTC", "2024-07-01 12:00", "07-01T12:00"),
        ("UTC+02:00", "2024-07-01 12:00", "07-01T10:00"),
        ("UTC-05:00", "2024-07-01 12:00", "07-01T17:00"),
        ("UTC+05:30", "2024-07-01 12:00", "07-01T06:30"),
        ("Europe/Athens", "2024-01-15 12:00", "01-15T10:00"),
        ("Europe/Athens", "2024-07-15 12:00", "07-15T09:00"),
        ("America/New_York", "2024-01-15 12:00", "01-15T17:00"),
        # Between the two switches of spring the two rules differ: New York moved on 10 March, Europe on 31 March.
        ("UTC+02:00 with US DST", "2024-03-20 12:00", "03-20T09:00"),
        ("UTC+02:00 with EU DST", "2024-03-20 12:00", "03-20T10:00"),
        # HistData in 2019: five hours behind in winter, four from 31 March to 27 October.
        ("UTC-05:00 with EU DST", "2019-03-29 12:00", "03-29T17:00"),
        ("UTC-05:00 with EU DST", "2019-04-01 12:00", "04-01T16:00"),
        ("UTC-05:00 with EU DST", "2019-10-28 12:00", "10-28T17:00"),
    ],
)
def test_a_declared_clock_gives_the_instant(text: str, wall: str, expected: str) -> None:
    assert convert(text, wall) == ([expected], [""])


@pytest.mark.parametrize(("text", "place", "ahead"), [
    ("UTC+02:00 with US DST", "America/New_York", 7),
    ("UTC+02:00 with EU DST", "Europe/Athens", 0),
    ("UTC-05:00 with US DST", "America/New_York", 0),
    ("UTC-05:00 with EU DST", "Europe/London", -5),
])  # fmt: skip
def test_a_rule_is_a_known_place_and_a_shift_at_every_hour_of_two_years(text: str, place: str, ahead: int) -> None:
    hours = [datetime(2023, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(2 * 8_766)]
    walls = [(h.astimezone(ZoneInfo(place)) + timedelta(hours=ahead)).replace(tzinfo=None) for h in hours]
    instants, reasons = zone(text).to_utc(pd.DatetimeIndex(walls).as_unit("us"))
    assert list(instants) == [pd.Timestamp(h) for h in hours]
    assert set(reasons) == {""}


def test_a_repeated_hour_is_told_apart_by_the_step_back_in_the_file() -> None:
    walls = ["2024-10-27 01:30", "2024-10-27 02:00", "2024-10-27 02:30", "2024-10-27 02:00", "2024-10-27 02:30"]
    instants, reasons = convert("Europe/Berlin", *walls, "2024-10-27 03:00")
    assert instants == [f"10-{day}T{t}" for day, t in [
        ("26", "23:30"), ("27", "00:00"), ("27", "00:30"), ("27", "01:00"), ("27", "01:30"), ("27", "02:00"),
    ]]  # fmt: skip
    assert set(reasons) == {""}


def test_hourly_rows_of_a_repeated_hour_are_two_rows_of_one_time() -> None:
    assert convert("Europe/Berlin", "2024-10-27 02:00", "2024-10-27 02:00")[0] == ["10-27T00:00", "10-27T01:00"]


@pytest.mark.parametrize("walls", [
    ["2024-10-27 02:00"],
    ["2024-10-27 02:00", "2024-10-27 02:30"],
    ["2024-10-27 02:30", "2024-10-27 02:00", "2024-10-27 02:30", "2024-10-27 02:00"],
])  # fmt: skip
def test_a_repeated_hour_that_the_order_does_not_settle_is_not_guessed(walls: list[str]) -> None:
    instants, reasons = convert("Europe/Berlin", "2024-10-27 01:00", *walls, "2024-10-27 03:00")
    assert instants == ["10-26T23:00", *[""] * len(walls), "10-27T02:00"]
    assert reasons == ["", *[AMBIGUOUS] * len(walls), ""]


def test_a_time_that_the_clock_jumps_over_is_unreadable() -> None:
    instants, reasons = convert("America/New_York", "2024-03-10 01:59", "2024-03-10 02:30", "2024-03-10 03:00")
    assert instants == ["03-10T06:59", "", "03-10T07:00"]
    assert reasons == ["", NONEXISTENT, ""]


@pytest.mark.parametrize("text", ["EST+5", "Mars/Olympus", "UTC+2", "America", "utc", "UTC+02:00 with UK DST", ""])
def test_an_unknown_zone_is_refused_with_the_forms_that_exist(text: str) -> None:
    with pytest.raises(SettingsError, match="UTC\\+02:00 with US DST"):
        zone(text)
