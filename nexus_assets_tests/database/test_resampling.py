"""Rolled-up bars against TimescaleDB's time_bucket and against polars, over recorded minutes and hours."""

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import polars
import pytest

from nexus_assets.database import Database
from nexus_assets.instruments import instrument
from nexus_assets.schemas import BARS
from nexus_assets.trading_calendar import day_range, rollup_read_start
from nexus_assets.transforms.bars import make_bars
from nexus_assets_tests.transforms.raw_rows import recorded_rows

MINUTES = ((date(2018, 3, 9), date(2018, 3, 14)), (date(2018, 11, 2), date(2018, 11, 7)))
"""Around New York's changes of clock in 2018."""
HOURS = ((date(2021, 3, 8), date(2021, 4, 2)), (date(2020, 10, 19), date(2020, 11, 9)))
PRICES = ["open", "high", "low", "close"]


def rolled(raw: pd.DataFrame, base: str, days: tuple[date, date], symbol: str = "EURUSD") -> pd.DataFrame:
    """The bars of every timeframe of the days."""
    longer = tuple(t for t in ("5m", "15m", "1h", "4h", "1d") if base == "1m" or t in ("4h", "1d"))
    return make_bars(
        raw, instrument=instrument(symbol), base_timeframe=base, rolled_up=longer, first_day=days[0], end_day=days[1],
        complete_until=day_range(*days)[1], priority=("files",),
    ).bars  # fmt: skip


@pytest.fixture(scope="module")
def minutes(real_data: Path) -> pd.DataFrame:
    return recorded_rows(real_data / "histdata_m1" / "EURUSD_2018.parquet", "EURUSD", "1m")


@pytest.fixture(scope="module")
def hours(real_data: Path) -> pd.DataFrame:
    return recorded_rows(real_data / "oanda_h1" / "EURUSD.parquet", "EURUSD", "1h")


def assert_equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Each of our bars equals theirs of the same ts; ts, prices and the number of base bars."""
    joined = ours.merge(theirs, on="ts", suffixes=("", "_theirs"), how="left")
    assert len(joined) == len(ours) > 0
    for name in PRICES:
        pd.testing.assert_series_equal(joined[name], joined[f"{name}_theirs"], check_names=False, check_exact=True)
    assert (joined["bars_present"] == joined["count"]).all()


@pytest.mark.timescaledb
@pytest.mark.parametrize("days", MINUTES, ids=str)
def test_bars_within_a_day_are_those_of_time_bucket(
    database: Database, minutes: pd.DataFrame, days: tuple[date, date]
) -> None:
    made = rolled(minutes, "1m", days)
    stored = made[made["timeframe"] == "1m"]
    in_session = fill(database, stored)
    assert in_session > 3000
    for timeframe, width in (("5m", "5 minutes"), ("15m", "15 minutes"), ("1h", "1 hour")):
        assert_equal(made[made["timeframe"] == timeframe], buckets(database, f"time_bucket('{width}', ts)", "1m"))


@pytest.mark.timescaledb
@pytest.mark.parametrize("days", HOURS, ids=str)
def test_daily_bars_are_those_of_time_bucket_in_new_york_from_17_00_on(
    database: Database, hours: pd.DataFrame, days: tuple[date, date]
) -> None:
    made = rolled(hours, "1h", days)
    # The first daily bar is made of rows of the evening before, which is not one of these days.
    before = rolled(hours, "1h", (days[0] - timedelta(days=1), days[0]))
    fill(database, pd.concat([before, made]).query("timeframe == '1h'"))
    bucket = "time_bucket('1 day', ts, timezone => 'America/New_York', \"offset\" => INTERVAL '17 hours')"
    assert_equal(made[made["timeframe"] == "1d"], buckets(database, bucket, "1h"))


def fill(database: Database, bars: pd.DataFrame) -> int:
    if not database.rows("SELECT FROM pg_extension WHERE extname = 'timescaledb'"):
        pytest.skip("this server has no TimescaleDB")
    database.run(lambda connection: connection.execute("TRUNCATE market.bars"))
    return database.run(lambda connection: database.copy(connection, BARS, bars))


def buckets(database: Database, bucket: str, timeframe: str) -> pd.DataFrame:
    return database.frame(
        f"SELECT {bucket} AS ts, first(open, ts) AS open, max(high) AS high, min(low) AS low, "
        f"last(close, ts) AS close, count(*) AS count FROM market.bars WHERE timeframe = '{timeframe}' "
        "GROUP BY 1 ORDER BY 1"
    )


@pytest.mark.parametrize("days", HOURS, ids=str)
@pytest.mark.parametrize(("timeframe", "hours_long"), [("4h", 4), ("1d", 24)])
def test_session_bars_are_those_of_polars_on_new_york_s_wall_clock(
    hours: pd.DataFrame, days: tuple[date, date], timeframe: str, hours_long: int
) -> None:
    """Wall-clock hours since 17:00, counted by polars without the project's calendar."""
    made = rolled(hours, "1h", days)
    start, end = rollup_read_start(days[0]), day_range(*days)[1]
    mine = hours[(hours["ts"] >= start) & (hours["ts"] < end)]
    frame = polars.from_pandas(mine[["ts", *PRICES]]).with_columns(
        wall=polars.col("ts").dt.convert_time_zone("America/New_York").dt.replace_time_zone(None)
    )
    shifted = polars.col("wall") - polars.duration(hours=17)
    grouped = (
        frame.with_columns(bucket=shifted.dt.truncate(f"{hours_long}h"))
        .group_by("bucket", maintain_order=True)
        .agg(
            polars.col("ts").first(), polars.col("open").first(), polars.col("high").max(), polars.col("low").min(),
            polars.col("close").last(), polars.len().alias("count"),
        )
    )  # fmt: skip
    ours = made[made["timeframe"] == timeframe]
    theirs = grouped.to_pandas()
    # A bar's ts is its place on the grid; polars tells the first row in it, which is the same where none is missing.
    complete = ours[ours["bars_present"] == ours["bars_expected"]]
    assert len(complete) > 0.95 * len(ours)
    assert_equal(complete[complete["ts"].isin(theirs["ts"])], theirs)
    assert complete["ts"].isin(theirs["ts"]).all()


def test_partial_coverage_is_counted(minutes: pd.DataFrame) -> None:
    days = (date(2018, 3, 6), date(2018, 3, 7))
    hole = minutes["ts"].between(
        pd.Timestamp("2018-03-06 10:20", tz="UTC"), pd.Timestamp("2018-03-06 10:40", tz="UTC"), inclusive="left"
    )
    whole, holed = rolled(minutes, "1m", days), rolled(minutes[~hole], "1m", days)
    hour = pd.Timestamp("2018-03-06 10:00", tz="UTC")
    for made, present in ((whole, 60), (holed, 40)):
        bar = made[(made["timeframe"] == "1h") & (made["ts"] == hour)].iloc[0]
        assert (bar["bars_expected"], bar["bars_present"]) == (60, present)
    five = holed[(holed["timeframe"] == "5m") & (holed["ts"] >= hour)].head(8)
    assert [ts.minute for ts in five["ts"]] == [0, 5, 10, 15, 40, 45, 50, 55]
