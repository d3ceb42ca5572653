"""A day's bars are the same whichever days are computed with it, and never look past the day."""

import math
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from nexus_assets.trading_calendar import day_start, rollup_read_start
from nexus_assets.transforms.bars import MadeBars
from nexus_assets_tests.transforms.raw_rows import expected_rows, made, recorded_rows

ROLLED_UP = ("4h", "1d")
PRIORITY = ("files", "api")


def in_groups(raw: pd.DataFrame, first: date, sizes: list[int]) -> MadeBars:
    """The bars of consecutive groups of days, put together."""
    parts = []
    for size in sizes:
        end = first + timedelta(days=size)
        parts.append(made(raw, first, end, rolled_up=ROLLED_UP, priority=PRIORITY))
        first = end
    bars = pd.concat([p.bars for p in parts if len(p.bars)])
    quarantined = [p.quarantined for p in parts if len(p.quarantined)]
    apart = [p.disagreements for p in parts if len(p.disagreements)]
    return MadeBars(
        bars.sort_values(["timeframe", "ts"], ignore_index=True),
        np.concatenate([p.leaders for p in parts]),
        pd.concat(quarantined, ignore_index=True) if quarantined else parts[0].quarantined,
        pd.concat(apart, ignore_index=True) if apart else parts[0].disagreements,
        sum(p.other_provider_rows for p in parts),
        sum(p.unfinished_rows for p in parts),
    )


def assert_same(left: MadeBars, right: MadeBars) -> None:
    for name in ("bars", "quarantined", "disagreements"):
        assert_frame_equal(getattr(left, name), getattr(right, name), check_exact=True)
    assert left.leaders.tolist() == right.leaders.tolist()
    assert left.other_provider_rows == right.other_provider_rows


def troubled(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows with gaps, broken prices, stale runs, large moves and a second provider that fills some holes."""
    rng = np.random.default_rng(seed)
    rows = rows.iloc[np.sort(rng.choice(len(rows), int(len(rows) * 0.9), replace=False))].reset_index(drop=True)
    prices = ["open", "high", "low", "close"]
    rows.loc[rng.choice(len(rows), len(rows) // 50), "close"] = math.nan
    for start in rng.choice(len(rows) - 4, len(rows) // 60):
        rows.loc[start : start + 2, prices] = rows.loc[start, prices].to_numpy()
    for at in rng.choice(len(rows), len(rows) // 80):
        rows.loc[at, ["high", "close"]] *= 1.1
    second = rows.sample(frac=0.5, random_state=seed).assign(provider="api", delivery_id=8)
    holes = rng.random(len(rows)) < np.where(pd.DatetimeIndex(rows["ts"]).day % 3 == 0, 1.0, 0.2)
    return pd.concat([rows[~holes], second], ignore_index=True).sort_values("ts", ignore_index=True)


@given(
    first=st.sampled_from([date(2024, 3, 6), date(2024, 10, 30), date(2024, 12, 20), date(2024, 6, 3)]),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_any_grouping_of_days_makes_the_same_bars(first: date, sizes: list[int], seed: int) -> None:
    end = first + timedelta(days=sum(sizes))
    raw = troubled(expected_rows(first, end), seed)
    assert_same(in_groups(raw, first, sizes), in_groups(raw, first, [sum(sizes)]))


@given(day=st.integers(0, 12), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_rows_outside_a_days_window_change_nothing_in_it(day: int, seed: int) -> None:
    first = date(2024, 3, 4)
    raw = troubled(expected_rows(first, date(2024, 3, 18)), seed)
    chosen = first + timedelta(days=day)
    inside = (raw["ts"] >= rollup_read_start(chosen)) & (raw["ts"] < day_start(chosen + timedelta(days=1)))
    shaken = raw.assign(close=np.where(inside, raw["close"], raw["low"]), high=np.where(inside, raw["high"], 2.1))
    of_day = [made(frame, first, date(2024, 3, 18), priority=PRIORITY) for frame in (raw, shaken)]
    left, right = (
        pd.concat([made(frame, chosen, priority=PRIORITY).bars]).reset_index(drop=True) for frame in (raw, shaken)
    )
    assert_frame_equal(left, right, check_exact=True)
    keys = pd.MultiIndex.from_frame(left[["timeframe", "ts"]])
    for whole in of_day:
        same_keys = whole.bars.set_index(["timeframe", "ts"]).loc[keys].reset_index()[left.columns]
        assert_frame_equal(same_keys, left, check_exact=True)


@pytest.mark.parametrize(
    ("path", "symbol", "timeframe", "first", "sizes"),
    [
        ("oanda_h1/EURUSD", "EURUSD", "1h", date(2021, 3, 8), [1, 1, 1, 1, 1, 1, 1, 2, 3, 9]),
        ("oanda_h1/USDCAD", "USDCAD", "1h", date(2021, 10, 28), [1] * 14),
        ("histdata_m1/XAUUSD_2018", "XAUUSD", "1m", date(2018, 10, 31), [1, 2, 1, 3, 1]),
        ("mt5_h1_javier/NAS100", "NAS100", "1h", date(2024, 12, 16), [3, 1, 1, 7, 5]),
    ],
)
def test_recorded_prices_make_the_same_bars_in_any_grouping(
    real_data: Path, path: str, symbol: str, timeframe: str, first: date, sizes: list[int]
) -> None:
    raw = recorded_rows(real_data / f"{path}.parquet", symbol, timeframe)
    together = in_groups(raw, first, [sum(sizes)])
    assert len(together.bars) > 100
    assert_same(in_groups(raw, first, sizes), together)
