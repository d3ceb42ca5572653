"""What sources.toml says about a source's hours is what the calendar then knows of that provider."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from nexus_assets import trading_calendar as calendar
from nexus_assets.errors import SettingsError
from nexus_assets.providers.registry import load_sources

NEW_YORK = ZoneInfo("America/New_York")
SOURCE = """
[[source]]
provider = "files"
name = "{name}"
path = "{symbol}.csv"
timeframe = "1h"
time_zone = "UTC"
price_kind = "bid"
volume_kind = "ticks"
symbols = "*"
"""


@pytest.fixture
def declare(tmp_path: Path):
    """Load a sources.toml made of (name, what it says about hours); the calendar forgets it afterwards."""

    def load(*sources: tuple[str, str]) -> None:
        path = tmp_path / "sources.toml"
        path.write_text("\n".join(SOURCE.replace("{name}", name) + said for name, said in sources))
        load_sources(path, tmp_path)

    yield load
    calendar.declare_overrides({})


def is_open(asset_class, provider: str | None, *local: str) -> list[bool]:
    moments = [datetime.fromisoformat(text).replace(tzinfo=NEW_YORK) for text in local]
    return calendar.is_open(asset_class, moments, provider).tolist()


def test_a_source_takes_the_listed_hours_that_it_names(declare) -> None:
    declare(("my_broker", 'hours = "mt5_eu"'), ("another", ""))
    # New York's clock has changed, Athens' has not: the server's Monday begins at 18:00 New York.
    sunday = ("2021-03-14 17:30", "2021-03-14 18:00")
    assert is_open("fx", "my_broker", *sunday) == [False, True]
    assert is_open("fx", "another", *sunday) == is_open("fx", None, *sunday) == [True, True]
    assert calendar.calendar_version("fx", "my_broker") == calendar.calendar_version("fx", "mt5_eu")
    assert calendar.calendar_version("fx", "another") == calendar.calendar_version("fx")


def test_a_source_adds_hours_of_its_own_to_the_listed_ones(declare) -> None:
    closed = '{ asset_class = "index", days = ["friday"], start = "23:00", end = "00:00", time_zone = "Europe/Athens" }'
    opened = '{ asset_class = "fx", days = ["saturday"], start = "12:00", end = "13:00", first_day = 2021-03-01 }'
    declare(("my_broker", f'hours = "mt5_eu"\nclosed = [{closed}]\nopened = [{opened}]'))
    assert is_open("index", "my_broker", "2021-06-11 15:59", "2021-06-11 16:00") == [True, False]
    # Between the changes of the clock the server's 23:00 is New York's 17:00.
    assert is_open("index", "my_broker", "2021-03-19 16:59") == [True]
    friday = [datetime(2021, 6, 11, 20, tzinfo=UTC)]
    assert calendar.allowed("index", friday, "1h", "my_broker").tolist() == [True]
    saturdays = ("2021-02-27 12:30", "2021-03-06 12:30")
    assert is_open("fx", "my_broker", *saturdays, "2021-03-14 17:30") == [False, True, False]
    assert is_open("metal", "my_broker", "2021-06-11 16:00") == [True]


def test_closed_hours_win_over_opened_ones(declare) -> None:
    hours = '{ asset_class = "fx", days = ["saturday"], start = "12:00", end = "13:00" }'
    declare(("my_broker", f"opened = [{hours}]\nclosed = [{hours}]"))
    assert is_open("fx", "my_broker", "2021-03-06 12:30") == [False]
    saturday = [datetime(2021, 3, 6, 17, tzinfo=UTC)]
    assert calendar.allowed("fx", saturday, "1h", "my_broker").tolist() == [True]


def test_sources_of_one_name_add_up(declare) -> None:
    noon = 'closed = [{ asset_class = "fx", days = ["monday"], start = "12:00", end = "13:00" }]'
    declare(("my_broker", ""), ("my_broker", noon), ("my_broker", 'hours = "oanda"'))
    assert is_open("fx", "my_broker", "2019-10-20 17:30", "2021-06-14 12:30") == [False, False]


def test_a_provider_that_bears_the_name_of_listed_hours_has_them_unless_it_says_otherwise(declare) -> None:
    late = "2019-10-20 17:30"
    declare(("oanda", ""))
    assert is_open("fx", "oanda", late) == [False]
    declare(("oanda", 'hours = "fxcm"'))
    assert is_open("fx", "oanda", late) == [True]
    assert calendar.calendar_version("metal", "oanda") == calendar.calendar_version("metal")


def test_what_is_loaded_last_counts(declare) -> None:
    declare(("my_broker", 'hours = "oanda"'))
    declare(("my_broker", ""))
    assert is_open("fx", "my_broker", "2019-10-20 17:30") == [True]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('hours = "oander"', "source 1: hours: 'oander' is unknown; use one of fxcm, histdata, mt5_eu, oanda"),
        ('closed = [{ asset_class = "fx", days = [], start = "12:00", end = "13:00" }]', "name at least one of monday"),
        ('closed = [{ asset_class = "fx", days = ["fri"], start = "12:00", end = "13:00" }]', "'sunday'"),
        ('closed = [{ asset_class = "bond", days = ["friday"], start = "12:00", end = "13:00" }]', "'crypto'"),
        (
            'opened = [{ asset_class = "fx", days = ["friday"], start = "12:00", end = "13:00", time_zone = "Mars" }]',
            "'Mars' is not an IANA name",
        ),
        (
            'opened = [{ asset_class = "fx", days = ["friday"], start = "12:00", end = "13:00", '
            "first_day = 2021-06-01, end_day = 2021-06-01 }]",
            "first_day 2021-06-01 is not before end_day 2021-06-01",
        ),
    ],
    ids=["hours", "no day", "day", "asset class", "time zone", "no weeks"],
)
def test_hours_that_cannot_be_meant_are_refused(declare, said: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        declare(("my_broker", said))
    assert message in str(refused.value)


def test_one_provider_has_one_list_of_hours(declare) -> None:
    with pytest.raises(SettingsError, match=r"sources named my_broker have the hours fxcm and oanda"):
        declare(("my_broker", 'hours = "oanda"'), ("my_broker", 'hours = "fxcm"'))
