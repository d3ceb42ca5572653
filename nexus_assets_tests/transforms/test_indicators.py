"""Indicators: slices, groupings, the future, what has no meaning. Golden values: test_indicators_golden.py."""

import hashlib
import itertools
import os
import platform
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from nexus_assets import trading_calendar
from nexus_assets.errors import PartitionError
from nexus_assets.indicator_table import INDICATOR_NAMES, WARMUP_BARS
from nexus_assets.instruments import instrument
from nexus_assets.schemas import INDICATOR_ROWS
from nexus_assets.transforms import indicators
from nexus_assets_tests.transforms.feature_bars import assert_same_bits, walk

NAMES = list(INDICATOR_NAMES)
OSCILLATORS = [
    *("adx_14", "plus_di_14", "minus_di_14", "aroon_osc_25", "rsi_14", "stoch_k", "stoch_d", "cci_20", "willr_14"),
    *("mfi_14", "ultosc", "bb_percent_b", "return_zscore_50"),
]


def compute(bars, first_day, end_day, symbol="EURUSD", timeframe="1h"):
    return indicators.compute(
        bars, instrument=instrument(symbol), timeframe=timeframe, first_day=first_day, end_day=end_day
    )


@pytest.fixture(scope="module")
def hours():
    """Hours around New York's switch to summer time on 2024-03-10."""
    return walk("EURUSD", date(2024, 2, 1), date(2024, 3, 29))


def test_every_bar_of_the_days_gives_one_row_in_the_columns_of_the_table(hours):
    rows = compute(hours, date(2024, 3, 4), date(2024, 3, 16))
    INDICATOR_ROWS.pandera.validate(rows)
    inside = hours["ts"].between(datetime(2024, 3, 4, tzinfo=UTC), datetime(2024, 3, 16, tzinfo=UTC), inclusive="left")
    assert rows["ts"].tolist() == hours.loc[inside, "ts"].tolist()
    assert rows[NAMES].notna().all(axis=None)


def test_days_computed_alone_or_in_any_grouping_have_the_same_bits(hours):
    first, days = date(2024, 2, 26), 26
    together = compute(hours, first, first + timedelta(days=days))
    random = np.random.default_rng(7)
    for _ in range(3):
        edges = [0, *sorted(random.choice(np.arange(1, days), 9, replace=False).tolist()), days]
        parts = []
        for begin, end in itertools.pairwise(edges):
            # Each part is given only what a reader by count would give: 250 bars before it, then its own.
            start, stop = (trading_calendar.day_start(first + timedelta(days=d)) for d in (begin, end))
            before = hours.loc[hours["ts"] < start].iloc[-WARMUP_BARS:]
            own = hours.loc[(hours["ts"] >= start) & (hours["ts"] < stop)]
            parts.append(compute(pd.concat([before, own]), first + timedelta(days=begin), first + timedelta(days=end)))
        assert_same_bits(pd.concat([part for part in parts if len(part)]), together)


def test_bars_after_a_row_change_no_bit_of_any_column_at_or_before_it(hours):
    first, end = date(2024, 3, 6), date(2024, 3, 16)
    clean = compute(hours, first, end)
    for hour in (datetime(2024, 3, 8, 13, tzinfo=UTC), datetime(2024, 3, 12, 0, tzinfo=UTC)):
        later = hours["ts"] > hour
        corrupt = hours.copy()
        random = np.random.default_rng(3).uniform(0.5, 2.0, (int(later.sum()), 1))
        corrupt.loc[later, ["open", "high", "low", "close", "volume"]] *= random
        corrupt.loc[later, "volume_kind"] = "lots"
        corrupt.loc[later, "known_at"] += pd.Timedelta(days=400)
        dirty = compute(corrupt, first, end)
        assert_same_bits(dirty.loc[dirty["ts"] <= hour], clean.loc[clean["ts"] <= hour])
        after = clean["ts"] > hour
        changed = (dirty.loc[after, NAMES] != clean.loc[after, NAMES]).any()
        assert changed.all(), f"unchanged by other prices: {list(changed.index[~changed])}"


def test_fewer_than_250_bars_before_a_day_leave_its_rows_missing():
    bars = walk("EURUSD", date(2024, 1, 8), date(2024, 1, 27))
    rows = compute(bars, date(2024, 1, 8), date(2024, 1, 27))
    before = {day: int((bars["ts"] < trading_calendar.day_start(day)).sum()) for day in set(rows["ts"].dt.date)}
    enough = rows["ts"].dt.date.map(before) >= WARMUP_BARS
    assert len(rows) == len(bars)
    assert 0 < enough.sum() < len(rows)
    assert rows.loc[~enough, [*NAMES, "slice_start"]].isna().all(axis=None)
    assert rows.loc[enough, [*NAMES, "slice_start"]].notna().all(axis=None)


def test_slice_start_is_the_250th_bar_before_the_day(hours):
    rows = compute(hours, date(2024, 3, 12), date(2024, 3, 13))
    before = hours.loc[hours["ts"] < trading_calendar.day_start(date(2024, 3, 12)), "ts"]
    assert set(rows["slice_start"]) == {before.iloc[-250]}


def test_known_at_is_the_latest_of_the_slice_up_to_the_bar(hours):
    bars = hours.copy()
    corrected = bars["ts"] == datetime(2024, 3, 12, 5, tzinfo=UTC)
    bars.loc[corrected, "known_at"] = datetime(2024, 5, 1, tzinfo=UTC)
    rows = compute(bars, date(2024, 3, 12), date(2024, 3, 14)).set_index("ts")["known_at"]
    late = rows == datetime(2024, 5, 1, tzinfo=UTC)
    assert late.index[late].min() == datetime(2024, 3, 12, 5, tzinfo=UTC)
    assert late.loc["2024-03-12 05:00":].all()
    assert rows["2024-03-12 04:00:00+00:00"] == datetime(2024, 3, 12, 5, 0, 2, tzinfo=UTC)


@pytest.mark.parametrize("timeframe", ["4h", "1d"])
def test_a_rolled_up_bar_belongs_to_the_utc_day_in_which_it_ends(timeframe):
    bars = walk("EURUSD", date(2022, 10, 1), date(2024, 4, 1), timeframe)
    for first in (date(2024, 3, 6), date(2024, 3, 11), date(2024, 3, 13)):
        rows = compute(bars, first, first + timedelta(days=1), timeframe=timeframe)
        start, end = trading_calendar.slice_bounds(timeframe, first, first + timedelta(days=1))
        assert rows["ts"].tolist() == bars.loc[(bars["ts"] >= start) & (bars["ts"] < end), "ts"].tolist()
        assert len(rows) == {"4h": 6, "1d": 1}[timeframe]


def test_a_day_without_bars_has_no_rows(hours):
    assert compute(hours, date(2024, 3, 16), date(2024, 3, 17)).empty  # a Saturday
    INDICATOR_ROWS.pandera.validate(compute(hours.iloc[:0], date(2024, 3, 16), date(2024, 3, 18)))


def test_bars_out_of_order_are_refused(hours):
    with pytest.raises(PartitionError, match="EURUSD are not in ascending order"):
        compute(hours.iloc[::-1], date(2024, 3, 12), date(2024, 3, 13))


@pytest.mark.parametrize("price", [1.1, 1.23457, 35_123.7])
def test_on_a_flat_stretch_every_oscillator_is_missing_and_volatility_is_zero(hours, price):
    bars = hours.copy()
    # 60 flat bars after lively ones, so that running sums carry the rounding errors of what went before.
    flat = bars.index[(bars["ts"] >= "2024-03-12 02:00") & (bars["ts"] < "2024-03-14 14:00")]
    bars.loc[:, ["open", "high", "low", "close"]] *= price
    bars.loc[flat, ["open", "high", "low", "close"]] = price
    rows = compute(bars, date(2024, 3, 12), date(2024, 3, 15)).set_index("ts")
    last = rows.loc[datetime(2024, 3, 14, 13, tzinfo=UTC)].to_dict()
    assert {name: last[name] for name in OSCILLATORS if not np.isnan(last[name])} == {}
    assert {last[name] for name in ("hv_20", "hv_50", "log_return", "mom_10", "roc_10")} == {0.0}
    assert [last["sma_50"], last["bb_middle"]] == pytest.approx([price, price])
    # One bar after the stretch whatever looks at the newest bar is back.
    after = rows.loc[datetime(2024, 3, 14, 14, tzinfo=UTC)].to_dict()
    assert not np.isnan([after[name] for name in ("rsi_14", "willr_14", "cci_20", "aroon_osc_25", "ultosc")]).any()


def test_rsi_is_missing_after_14_bars_without_movement_and_not_after_13(hours):
    bars = hours.copy()
    start = bars.index[bars["ts"] == datetime(2024, 3, 12, 2, tzinfo=UTC)][0]
    bars.loc[start : start + 20, "close"] = bars.loc[start, "close"]
    bars["high"] = bars[["open", "high", "close"]].max(axis=1)
    bars["low"] = bars[["open", "low", "close"]].min(axis=1)
    rows = compute(bars, date(2024, 3, 12), date(2024, 3, 13)).set_index("ts")["rsi_14"]
    assert rows.loc["2024-03-12 15:00":"2024-03-12 15:00"].notna().all()
    assert rows.loc["2024-03-12 16:00":"2024-03-12 22:00"].isna().all()


class TestMoneyFlowIndex:
    """mfi_14 looks at 15 bars: 14 flows, each against the bar before."""

    day = date(2024, 3, 12)

    def rows(self, bars):
        return compute(bars, self.day, self.day + timedelta(days=1)).set_index("ts")

    def test_it_is_missing_where_the_provider_has_no_volume(self, hours):
        rows = self.rows(hours.assign(volume=0.0, volume_kind="none"))
        assert rows["mfi_14"].isna().all()
        assert rows[[name for name in NAMES if name != "mfi_14"]].notna().all(axis=None)

    def test_it_is_missing_where_no_volume_was_traded(self, hours):
        assert self.rows(hours.assign(volume=0.0))["mfi_14"].isna().all()

    def test_it_is_missing_where_typical_prices_differ_in_the_last_bit_only(self, hours):
        bars = hours.copy()
        # Two bars whose high, low and close have the same sum, which floating point adds up differently.
        for parity, prices in enumerate([(0.77315, 0.77222, 0.77246), (0.77288, 0.77216, 0.77279)]):
            bars.loc[bars.index[parity::2], ["high", "low", "close"]] = prices
        typical = (bars["high"] + bars["low"] + bars["close"]) / 3
        assert typical.nunique() == 2
        rows = self.rows(bars)
        assert rows[["mfi_14", "cci_20"]].isna().all(axis=None)
        assert rows["rsi_14"].notna().all()

    def test_it_is_missing_for_15_bars_after_the_kind_of_volume_changed(self, hours):
        switched = hours["volume_kind"].mask(hours["ts"] >= datetime(2024, 3, 12, 3, tzinfo=UTC), "lots")
        values = self.rows(hours.assign(volume_kind=switched))["mfi_14"]
        assert values.isna().tolist() == [False] * 3 + [True] * 14 + [False] * 7

    def test_one_missing_volume_hides_15_bars_and_no_later_one(self, hours):
        hole = hours["ts"] == datetime(2024, 3, 12, 3, tzinfo=UTC)
        values = self.rows(hours.assign(volume=hours["volume"].mask(hole)))["mfi_14"]
        assert values.isna().tolist() == [False] * 3 + [True] * 15 + [False] * 6


@pytest.mark.parametrize(
    ("symbol", "timeframe", "bars"),
    [
        *(("EURUSD", "1h", 6228.0), ("EURUSD", "15m", 24_912.0), ("EURUSD", "4h", 1557.0), ("EURUSD", "1d", 260.0)),
        *(("XAUUSD", "1h", 5915.0), ("US500", "1m", 354_900.0), ("BTCUSD", "1h", 8766.0), ("BTCUSD", "1d", 365.0)),
    ],
)
def test_bars_a_year_are_frozen_constants(symbol, timeframe, bars):
    assert indicators.bars_a_year(instrument(symbol).asset_class, timeframe) == bars


PROGRAM = """
import hashlib
from datetime import date
import numpy as np
import pandas as pd
from nexus_assets.instruments import instrument
from nexus_assets.transforms import correlations, indicators, labels
from nexus_assets_tests.transforms.feature_bars import walk
features = np._core._multiarray_umath.__cpu_features__
print([name for name in ("X86_V3", "X86_V4") if features[name]])
closes = pd.concat([walk(s, date(2024, 2, 1), date(2024, 3, 29)) for s in ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD")])
eur = closes[closes["symbol"] == "EURUSD"]
days = dict(instrument=instrument("EURUSD"), timeframe="1h", first_day=date(2024, 2, 20), end_day=date(2024, 3, 20))
frames = [
    indicators.compute(eur, **days),
    labels.compute(eur, **days).labels,
    correlations.correlate(closes, day=date(2024, 3, 14), timeframe="1h", window=100),
]
for frame in frames:
    print(len(frame), hashlib.sha256(frame.select_dtypes("float").to_numpy().tobytes()).hexdigest())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the features are those of x86-64")
def test_the_bits_do_not_depend_on_the_vector_width_of_the_processor():
    def output(disabled: str) -> list[str]:
        environment = {k: v for k, v in os.environ.items() if k != "NPY_DISABLE_CPU_FEATURES"}
        if disabled:
            environment["NPY_DISABLE_CPU_FEATURES"] = disabled
        finished = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        return finished.stdout.splitlines()

    wide, narrow = output(""), output("X86_V4 X86_V3")
    if wide[0] == "[]":
        pytest.skip("this processor has none of the features X86_V3 and X86_V4")
    assert narrow[0] == "[]"
    assert len(wide) == 4
    assert narrow[1:] == wide[1:]


def test_the_same_values_at_another_memory_alignment_give_the_same_bits(hours):
    def digest(bars):
        rows = compute(bars, date(2024, 3, 4), date(2024, 3, 16))
        return hashlib.sha256(rows[NAMES].to_numpy().tobytes()).hexdigest()

    columns = ["open", "high", "low", "close", "volume"]
    digests = set()
    for shift in range(8):
        block = np.empty((5, len(hours) + 8))[:, shift : shift + len(hours)]
        block[:] = hours[columns].to_numpy().T
        digests.add(digest(hours.assign(**dict(zip(columns, block, strict=True)))))
    assert len(digests) == 1
