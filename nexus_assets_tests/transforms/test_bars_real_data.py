"""Recorded prices with known faults: what is kept out, what is flagged, what must pass."""

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from nexus_assets.trading_calendar import NEW_YORK
from nexus_assets_tests.transforms.raw_rows import bars_of, made, recorded_rows


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def test_minutes_that_fill_the_weekends_are_quarantined(real_data: Path) -> None:
    raw = recorded_rows(real_data / "dukascopy_m1_eurusd_201810" / "EURUSD.parquet", "EURUSD", "1m")
    result = made(raw, date(2018, 10, 1), date(2018, 11, 1), rolled_up=("1h",))
    # Four weekends of 48 hours, Friday 17:00 to Sunday 17:00 New York.
    assert result.quarantined["rule"].value_counts().to_dict() == {"outside_session": 4 * 48 * 60}
    assert len(bars_of(result, "1m")) == 44_640 - 11_520
    assert (result.quarantined["volume"] == 0).mean() > 0.97


def test_63_zero_rows_are_quarantined(real_data: Path) -> None:
    raw = recorded_rows(real_data / "utc_h1_mystertech" / "EURUSD.parquet", "EURUSD", "1h")
    result = made(raw, date(2020, 12, 1), date(2021, 2, 1))
    assert result.quarantined["rule"].value_counts().to_dict() == {"not_positive": 63}
    assert result.quarantined["ts"].min() == utc("2020-12-29 09:00")
    # A daily bar whose every hour was zero does not exist.
    assert utc("2020-12-29 22:00") not in bars_of(result, "1d").index


def test_the_swiss_franc_of_2015_01_15_is_accepted(real_data: Path) -> None:
    raw = recorded_rows(real_data / "utc_h1_mystertech" / "EURCHF.parquet", "EURCHF", "1h")
    result = made(raw, date(2015, 1, 15))
    assert len(result.quarantined) == 0
    hour = bars_of(result, "1h").loc[utc("2015-01-15 09:00")]
    assert hour["low"] / hour["high"] < 0.8
    assert hour["close"] / hour["open"] < 0.9
    assert bars_of(result, "1d")["low"].tolist() == [hour["low"]]


def test_brexit_is_accepted(real_data: Path) -> None:
    raw = recorded_rows(real_data / "oanda_h1" / "GBPUSD.parquet", "GBPUSD", "1h")
    result = made(raw, date(2016, 6, 24))
    assert len(result.quarantined) == 0
    day = bars_of(result, "1d").iloc[0]
    assert day["low"] / day["high"] < 0.9
    assert day["bars_present"] == 24


def test_weekend_and_daily_rows_in_an_hourly_file_of_gold_are_quarantined(real_data: Path) -> None:
    raw = recorded_rows(real_data / "mt5_h1_simom" / "XAUUSD.parquet", "XAUUSD", "1h")
    first = raw["ts"].min().date()
    result = made(raw, first, raw["ts"].max().date() + timedelta(days=1), rolled_up=())
    assert set(result.quarantined["rule"]) == {"outside_session"}
    assert len(result.bars) + len(result.quarantined) == len(raw)
    local = pd.DatetimeIndex(result.quarantined["ts"]).tz_convert(NEW_YORK)
    saturday = (local.day_of_week == 5) | ((local.day_of_week == 6) & (local.hour < 17))
    assert saturday.sum() >= 109


@pytest.mark.parametrize("day", [date(2017, 10, 6), date(2019, 9, 27)])
def test_a_stray_bar_after_friday_17_new_york_is_quarantined(real_data: Path, day: date) -> None:
    raw = recorded_rows(real_data / "oanda_h1" / "EURUSD.parquet", "EURUSD", "1h")
    result = made(raw, day)
    assert result.quarantined["rule"].tolist() == ["outside_session"]
    assert result.quarantined["ts"].tolist() == [utc(f"{day} 21:00")]


def test_the_merged_hour_of_2017_11_02_is_flagged_as_before_a_gap(real_data: Path) -> None:
    raw = recorded_rows(real_data / "mt5_h1_nobodys" / "EURUSD.parquet", "EURUSD", "1h")
    flagged = bars_of(made(raw, date(2017, 11, 2)), "1h")["suspect"].dropna()
    assert set(flagged) == {"before_gap"}
    assert len(flagged) == 1


def test_a_feed_that_stood_still_is_flagged_as_stale(real_data: Path) -> None:
    raw = recorded_rows(real_data / "mt5_h1_javier" / "NAS100.parquet", "NAS100", "1h")
    bars = bars_of(made(raw, date(2024, 9, 1), date(2025, 12, 1)), "1h")
    stale = bars[bars["suspect"].str.contains("stale", na=False)]
    assert len(stale) > 100
    assert (stale.index >= utc("2024-10-01")).all()
    assert (stale.index < utc("2025-02-01")).all()


def test_a_year_of_a_clean_pair_loses_no_row(real_data: Path) -> None:
    raw = recorded_rows(real_data / "oanda_h1" / "EURUSD.parquet", "EURUSD", "1h")
    year = raw[pd.DatetimeIndex(raw["ts"]).year == 2021]
    result = made(raw, date(2021, 1, 1), date(2022, 1, 1))
    hourly, daily = bars_of(result, "1h"), bars_of(result, "1d")
    assert (len(hourly), len(result.quarantined)) == (len(year), 0)
    assert hourly["close"].tolist() == year["close"].tolist()
    # By hand from the hours of one trading day, 17:00 to 17:00 New York in summer.
    day = raw[raw["ts"].between(utc("2021-06-08 21:00"), utc("2021-06-09 20:00"))]
    bar = daily.loc[utc("2021-06-08 21:00")]
    assert bar[["open", "high", "low", "close", "volume"]].tolist() == [
        *(day["open"].iloc[0], day["high"].max(), day["low"].min(), day["close"].iloc[-1], day["volume"].sum())
    ]
