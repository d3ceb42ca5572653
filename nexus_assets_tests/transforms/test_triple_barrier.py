"""Three barriers: a market made by hand in which every label is known, and an oracle in plain Python."""

import itertools
import math
import os
import statistics
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nexus_assets import trading_calendar
from nexus_assets.instruments import instrument
from nexus_assets.schemas import LABELS
from nexus_assets.transforms import labels
from nexus_assets_tests.transforms.feature_bars import as_bars, real, walk

EURUSD = instrument("EURUSD")
WIDTH = 0.01
MONDAY = datetime(2024, 1, 15, tzinfo=UTC)


def market(bars: dict[int, tuple[float, float, float, float]], count: int = 30, *, drop: tuple[int, ...] = ()):
    """Hours of EURUSD from a Monday on that stand at 1.0, but for some: number -> open, high, low, close."""
    ts = pd.date_range(MONDAY, periods=count, freq="h", unit="us")
    prices = np.ones((count, 4))
    for number, values in bars.items():
        prices[number] = values
    columns = dict(zip(("open", "high", "low", "close"), prices.T, strict=True))
    made = as_bars("EURUSD", "1h", ts, columns, np.ones(count), "ticks")
    return made.drop(index=list(drop)).reset_index(drop=True)


def first_label(bars: pd.DataFrame, **changes: Any) -> dict[str, Any]:
    """The label of the first bar, with barriers 1% above and below its close."""
    made = labels.triple_barrier(
        bars, instrument=EURUSD, timeframe="1h",
        **{"profit": 1.0, "loss": 1.0, "volatility": np.full(len(bars), WIDTH), **changes},
    )  # fmt: skip
    return {str(name): value for name, value in made.iloc[0].to_dict().items()}


def hour(number: int) -> datetime:
    """The end of a bar of the market made by hand."""
    return MONDAY + timedelta(hours=number + 1)


@pytest.mark.parametrize(
    ("bars", "outcome", "end", "returned", "ambiguous"),
    [
        pytest.param({}, "time", 24, 0.0, False, id="nothing happens until the horizon ends"),
        pytest.param({24: (1, 1, 1, 1.004)}, "time", 24, 0.004, False, id="time exits at the last close"),
        pytest.param({3: (1, 1.02, 1, 1)}, "profit", 3, 0.01, False, id="profit at the barrier, not at the high"),
        pytest.param({3: (1, 1, 0.98, 1)}, "loss", 3, -0.01, False, id="loss at the barrier, not at the low"),
        pytest.param({1: (1, 1.02, 1, 1)}, "profit", 1, 0.01, False, id="in the first bar"),
        pytest.param({24: (1, 1.02, 1, 1)}, "profit", 24, 0.01, False, id="in the last bar"),
        pytest.param({25: (1, 1.02, 1, 1)}, "time", 24, 0.0, False, id="after the horizon it does not count"),
        pytest.param({0: (1, 1.5, 0.5, 1)}, "time", 24, 0.0, False, id="the entry bar's own range does not count"),
        pytest.param({5: (1.03, 1.05, 1.02, 1.04)}, "profit", 5, 0.03, False, id="a gap over profit exits at the open"),
        pytest.param({5: (0.96, 0.97, 0.95, 0.96)}, "loss", 5, -0.04, False, id="a gap under loss exits at the open"),
        pytest.param({5: (1.03, 1.05, 0.9, 1)}, "profit", 5, 0.03, False, id="a gap decides first"),
        pytest.param({5: (1, 1.02, 0.98, 1)}, "loss", 5, -0.01, True, id="both in one bar count as the loss"),
        pytest.param({5: (1, 1.01, 1, 1)}, "profit", 5, 0.01, False, id="exactly at the barrier is a touch"),
        pytest.param({5: (1, 1, 0.99, 1)}, "loss", 5, -0.01, False, id="exactly at the lower one as well"),
        pytest.param({5: (1, 1.00999, 0.99001, 1)}, "time", 24, 0.0, False, id="just inside is none"),
        pytest.param({4: (1, 1, 0.98, 1), 9: (1, 1.02, 1, 1)}, "loss", 4, -0.01, False, id="the first touch counts"),
    ],
)  # fmt: skip
def test_every_label_of_a_market_made_by_hand(
    bars: dict[int, Any], outcome: str, end: int, returned: float, ambiguous: bool
) -> None:
    label = first_label(market(bars))
    assert label["barrier"] == outcome
    assert label["barrier_label"] == {"profit": 1, "loss": -1, "time": 0}[outcome]
    assert label["barrier_t1"] == hour(end)
    assert label["barrier_return"] == pytest.approx(returned, abs=1e-15)
    assert label["barrier_ambiguous"] is ambiguous
    assert label["entry_at"] == hour(0)
    assert label["horizon_end"] == hour(24)
    assert pd.isna(label["barrier_missing_reason"])


def test_profit_and_loss_may_lie_at_different_distances() -> None:
    bars = market({3: (1, 1.012, 1, 1), 6: (1, 1, 0.979, 1)})
    assert first_label(bars, profit=1.0, loss=2.0)["barrier"] == "profit"
    wide = first_label(bars, profit=2.0, loss=2.0)
    assert (wide["barrier"], wide["barrier_return"]) == ("loss", pytest.approx(-0.02))


def test_without_a_bar_at_the_end_there_is_no_time_exit_but_an_earlier_touch_stands() -> None:
    missing = first_label(market({}, drop=(24,)))
    assert missing["barrier_missing_reason"] == "no_exit_bar"
    assert pd.isna(missing["barrier"])
    assert pd.isna(missing["barrier_t1"])
    assert math.isnan(missing["barrier_return"])
    assert first_label(market({3: (1, 1.02, 1, 1)}, drop=(24,)))["barrier"] == "profit"


@pytest.mark.parametrize("volatility", [math.nan, 0.0])
def test_without_a_volatility_there_are_no_barriers(volatility: float) -> None:
    label = first_label(market({3: (1, 1.02, 1, 1)}), volatility=np.full(30, volatility))
    assert label["barrier_missing_reason"] == "no_volatility"
    assert pd.isna(label["barrier"])


def test_a_touch_is_not_told_before_the_whole_horizon_has_passed() -> None:
    bars = market({3: (1, 1.02, 1, 1)}, count=24)
    assert labels.triple_barrier(bars, instrument=EURUSD, timeframe="1h", volatility=np.full(24, WIDTH)).empty


@pytest.mark.parametrize(
    ("kind", "net"),
    [
        ("mid", (1.01 - 0.002) / (1.0 + 0.001) - 1),
        ("bid", 1.01 / (1.0 + 0.002) - 1),
        ("ask", (1.01 - 0.004) / 1.0 - 1),
        ("last", math.nan),
    ],
)
def test_the_net_return_buys_on_the_ask_and_sells_on_the_bid(kind: str, net: float) -> None:
    bars = market({3: (1, 1.02, 1, 1)})
    bars["price_kind"] = pd.Series(kind, index=bars.index, dtype="str")
    assert math.isnan(first_label(bars)["barrier_net_return"])
    bars.loc[0, "spread"], bars.loc[3, "spread"] = 0.002, 0.004
    label = first_label(bars)
    assert label["barrier_return"] == pytest.approx(0.01)
    assert label["barrier_net_return"] == pytest.approx(net, nan_ok=True)


@pytest.mark.parametrize(
    ("entry", "touch", "t1"),
    [
        # Friday's last hour: the path goes on at the open of Sunday, which New York's clock puts at 22:00 or 21:00 UTC.
        ("2024-03-01 21:00", "2024-03-03 22:00", "2024-03-03 23:00"),
        ("2024-03-08 21:00", "2024-03-10 21:00", "2024-03-10 22:00"),
        ("2024-11-01 20:00", "2024-11-03 22:00", "2024-11-03 23:00"),
        # Christmas: closed from 24 December 22:00 to 25 December 22:00.
        ("2024-12-24 21:00", "2024-12-25 22:00", "2024-12-25 23:00"),
    ],
)
def test_paths_go_on_after_a_weekend_and_a_holiday(entry: str, touch: str, t1: str) -> None:
    at = {name: pd.Timestamp(text, tz="UTC") for name, text in (("entry", entry), ("touch", touch), ("t1", t1))}
    first = at["entry"].date() - timedelta(days=7)
    bars = walk("EURUSD", first, first + timedelta(days=16))
    flat = bars.assign(open=1.0, high=1.0, low=1.0, close=1.0)
    flat.loc[flat["ts"] == at["touch"], "high"] = 1.02
    made = labels.triple_barrier(
        flat, instrument=EURUSD, timeframe="1h", profit=1, loss=1, volatility=np.full(len(flat), WIDTH)
    ).set_index("ts")
    label = made.loc[at["entry"]].to_dict()
    assert (label["barrier"], label["barrier_t1"]) == ("profit", at["t1"])


def oracle(bars: pd.DataFrame, timeframe: str, profit: float, loss: float, sample: list[int]) -> list[tuple]:
    """The barrier columns of some bars, one bar of the path after the other."""
    ts = bars["ts"].tolist()
    ends = [end.to_pydatetime() for end in trading_calendar.bar_end(pd.DatetimeIndex(ts), timeframe)]
    opens, high, low, close = (bars[name].tolist() for name in ("open", "high", "low", "close"))
    length = timedelta(hours=1) if timeframe == "1h" else timedelta(minutes=1)
    found = []
    for i in sample:
        horizon = trading_calendar.advance("fx", [ends[i]], 24)[0].to_pydatetime()
        returns = [math.log(close[j] / close[j - 1]) for j in range(i - 49, i + 1)]
        width = statistics.stdev(returns)
        top, bottom = close[i] * (1 + profit * width), close[i] * (1 - loss * width)
        outcome = None
        j = i + 1
        while j < len(ends) and ends[j] <= horizon:
            if opens[j] >= top:
                outcome = ("profit", ends[j], opens[j], False)
            elif opens[j] <= bottom:
                outcome = ("loss", ends[j], opens[j], False)
            elif low[j] <= bottom:
                outcome = ("loss", ends[j], bottom, high[j] >= top)
            elif high[j] >= top:
                outcome = ("profit", ends[j], top, False)
            if outcome:
                break
            j += 1
        if outcome is None and ends[j - 1] > horizon - length:
            outcome = ("time", ends[j - 1], close[j - 1], False)
        found.append((outcome, close[i]))
    return found


@pytest.mark.parametrize("width", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("timeframe", ["1h", "1m"])
def test_recorded_paths_end_where_an_oracle_in_plain_python_ends_them(
    real_data: Path, timeframe: str, width: float
) -> None:
    if timeframe == "1h":
        bars = real(real_data, "GBPUSD", date(2020, 2, 1), date(2020, 12, 31))
    else:
        bars = minutes(real_data).iloc[:20_000]
    made = labels.triple_barrier(bars, instrument=EURUSD, timeframe=timeframe, profit=width, loss=width)
    sample = np.random.default_rng(3).choice(np.arange(50, len(made)), 250, replace=False).tolist()
    seen = set()
    for (outcome, entry), row in zip(
        oracle(bars, timeframe, width, width, sample), made.iloc[sample].to_dict("records"), strict=True
    ):
        if outcome is None:
            assert row["barrier_missing_reason"] == "no_exit_bar"
            continue
        name, end, price, ambiguous = outcome
        assert (row["barrier"], row["barrier_t1"], row["barrier_ambiguous"]) == (name, end, ambiguous)
        assert row["barrier_return"] == pytest.approx(price / entry - 1, abs=1e-12)
        seen.add(name)
    assert len(seen) >= (1 if width == 20 else 2)


def minutes(real_data: Path) -> pd.DataFrame:
    """Recorded minutes of EURUSD."""
    rows = pd.read_parquet(real_data / "histdata_m1" / "EURUSD_2018.parquet")
    ts = pd.DatetimeIndex(rows["ts"]).as_unit("us")
    prices = {name: rows[name].to_numpy(float) for name in ("open", "high", "low", "close")}
    return as_bars("EURUSD", "1m", ts, prices, np.zeros(len(ts)), "none")


def test_stored_labels_are_those_of_the_function_for_everybody() -> None:
    bars = walk("EURUSD", date(2024, 2, 26), date(2024, 3, 29))
    stored = labels.compute(
        bars, instrument=EURUSD, timeframe="1h", first_day=date(2024, 3, 4), end_day=date(2024, 3, 20)
    ).labels
    LABELS.pandera.validate(stored)
    free = labels.triple_barrier(bars, instrument=EURUSD, timeframe="1h").set_index("ts").loc[stored["ts"]]
    for name in ("barrier", "barrier_t1", "barrier_return", "barrier_width", "barrier_ambiguous"):
        pd.testing.assert_series_equal(
            stored[name].reset_index(drop=True), free[name].reset_index(drop=True), check_names=False
        )
    assert set(stored["barrier"]) == {"profit", "loss", "time"}


def test_direction_is_the_sign_of_a_return_beyond_the_dead_zone() -> None:
    bars = walk("EURUSD", date(2024, 2, 20), date(2024, 3, 29))
    rows = labels.compute(
        bars, instrument=EURUSD, timeframe="1h", first_day=date(2024, 3, 1), end_day=date(2024, 3, 20)
    ).labels
    closes = bars.set_index("ts")["close"]
    for row in rows.sample(60, random_state=1).to_dict("records"):
        before = closes.loc[: row["ts"]].iloc[-51:].tolist()
        volatility = statistics.stdev(math.log(b / a) for a, b in itertools.pairwise(before))
        assert row["volatility_50"] == pytest.approx(volatility, rel=1e-12)
        zone = 0.25 * volatility * math.sqrt(24)
        change = row["forward_return_24h"]
        assert row["direction_24h"] == (0 if abs(change) <= zone else 1 if change > 0 else -1)
    assert set(rows["direction_24h"]) == {-1, 0, 1}


def test_the_first_50_bars_of_a_history_have_no_volatility_and_say_so() -> None:
    bars = walk("EURUSD", date(2024, 3, 4), date(2024, 3, 20))
    rows = labels.compute(
        bars, instrument=EURUSD, timeframe="1h", first_day=date(2024, 3, 4), end_day=date(2024, 3, 12)
    ).labels
    early = rows.iloc[:50]
    assert early[["volatility_50", "direction_24h", "barrier", "barrier_t1", "barrier_width"]].isna().all(axis=None)
    assert (early["barrier_missing_reason"] == "no_volatility").all()
    assert early["forward_return_24h"].notna().all()
    assert rows.iloc[50:][["volatility_50", "direction_24h", "barrier", "barrier_t1"]].notna().all(axis=None)


def test_the_kernel_is_compiled_where_no_folder_can_hold_it() -> None:
    program = (
        "import numpy as np; from nexus_assets.transforms.triple_barrier import first_touch; one = np.ones(3); "
        "print(first_touch((one, one * 1.2, one, one), np.array([0]), np.array([2]), one[:1] / 10, one[:1] / 10)[0])"
    )
    # The one place that numba is told to look for is a zip file, which there is not.
    environment = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[1]", done.stderr
