"""Splits: order, purge, embargo, and boundaries common to all symbols."""

from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest

from nexus_assets import trading_calendar
from nexus_assets.errors import SettingsError
from nexus_assets.instruments import instrument
from nexus_assets.schemas import DATASET_SPLITS
from nexus_assets.transforms import labels
from nexus_assets.transforms.splits import default_boundaries, embargo_open_hours, split
from nexus_assets_tests.transforms.feature_bars import assert_same_bits, walk

TRAIN_END = datetime(2024, 3, 13, tzinfo=UTC)
VALIDATION_END = datetime(2024, 3, 21, tzinfo=UTC)


def labelled(symbol: str, timeframe: str = "1h") -> pd.DataFrame:
    bars = walk(symbol, date(2024, 2, 26), date(2024, 4, 6), timeframe)
    return labels.compute(
        bars,
        instrument=instrument(symbol),
        timeframe=timeframe,
        first_day=date(2024, 2, 26),
        end_day=date(2024, 4, 1),
    ).labels


@pytest.fixture(scope="module")
def some_labels():
    return pd.concat([labelled("EURUSD"), labelled("XAUUSD"), labelled("EURUSD", "4h")], ignore_index=True)


@pytest.fixture(scope="module")
def rows(some_labels):
    return split(some_labels, train_end=TRAIN_END, validation_end=VALIDATION_END)


def test_every_label_gets_one_split_in_the_columns_of_the_table(some_labels, rows):
    DATASET_SPLITS.pandera.validate(rows)
    assert len(rows) == len(some_labels)
    assert set(rows["split"]) == {"train", "validation", "test", "purged", "embargoed"}


def test_no_training_interval_of_any_symbol_meets_a_validation_or_test_interval(rows):
    for earlier, later in [("train", "validation"), ("train", "test"), ("validation", "test")]:
        last_decision = rows.loc[rows["split"] == earlier, "t1"].max()
        assert last_decision < rows.loc[rows["split"] == later, "entry_at"].min()
        assert last_decision < (TRAIN_END if earlier == "train" else VALIDATION_END)


def test_a_row_that_is_decided_at_the_boundary_itself_is_purged_and_one_before_is_not(rows):
    hourly = rows.loc[(rows["symbol"] == "EURUSD") & (rows["timeframe"] == "1h")].set_index("entry_at")["split"]
    assert hourly[TRAIN_END - timedelta(hours=24)] == "purged"
    assert hourly[TRAIN_END - timedelta(hours=25)] == "train"
    assert hourly[TRAIN_END - timedelta(hours=1)] == "purged"
    assert hourly[TRAIN_END] == "embargoed"
    assert (hourly == "purged").sum() == 48


def test_only_rows_that_reach_over_a_boundary_are_purged(rows):
    purged = rows.loc[rows["split"] == "purged"]
    over = [(purged["entry_at"] < end) & (purged["t1"] >= end) for end in (TRAIN_END, VALIDATION_END)]
    assert (over[0] | over[1]).all()


def test_the_embargo_is_50_bars_or_the_horizon_in_open_hours(rows):
    assert [embargo_open_hours(t) for t in ("1m", "15m", "1h", "4h")] == [24.0, 24.0, 50.0, 200.0]
    for (symbol, timeframe), group in rows.groupby(["symbol", "timeframe"]):
        asset_class = instrument(symbol).asset_class
        for boundary, name in [(TRAIN_END, "validation"), (VALIDATION_END, "test")]:
            end = trading_calendar.advance(asset_class, pd.DatetimeIndex([boundary]), embargo_open_hours(timeframe))[0]
            embargoed = group.loc[(group["split"] == "embargoed") & (group["entry_at"] >= boundary), "entry_at"]
            used = group.loc[group["split"] == name, "entry_at"]
            assert embargoed.min() >= boundary
            assert used.empty or used.min() >= end
    hourly = rows.loc[(rows["symbol"] == "EURUSD") & (rows["timeframe"] == "1h")]
    # 50 open hours after Thursday 00:00 UTC: 45 until Friday 21:00, the rest from Sunday 21:00 on.
    after = hourly.loc[(hourly["split"] == "embargoed") & (hourly["entry_at"] >= VALIDATION_END)]
    assert len(after) == 50
    assert hourly.loc[hourly["split"] == "test", "entry_at"].min() == datetime(2024, 3, 25, 2, tzinfo=UTC)


def test_labels_that_nothing_decided_are_left_out(some_labels):
    undecided = some_labels.copy()
    undecided.loc[::7, "t1"] = pd.NaT
    assert len(split(undecided, train_end=TRAIN_END, validation_end=VALIDATION_END)) == undecided["t1"].notna().sum()


def test_the_order_of_the_labels_does_not_matter(some_labels, rows):
    shuffled = some_labels.sample(frac=1.0, random_state=3)
    assert_same_bits(split(shuffled, train_end=TRAIN_END, validation_end=VALIDATION_END), rows)


def test_default_boundaries_are_whole_utc_days_near_70_and_85_percent_of_the_range(some_labels):
    train_end, validation_end = default_boundaries(some_labels)
    first, last = some_labels["ts"].min(), some_labels["ts"].max()
    for boundary, share in [(train_end, 0.70), (validation_end, 0.85)]:
        assert boundary == datetime(boundary.year, boundary.month, boundary.day, tzinfo=UTC)
        assert abs(boundary - (first + share * (last - first))) <= timedelta(hours=12)
    assert_same_bits(split(some_labels), split(some_labels, train_end=train_end, validation_end=validation_end))


def test_boundaries_out_of_order_or_alone_are_refused(some_labels):
    with pytest.raises(SettingsError, match="not two instants in order"):
        split(some_labels, train_end=VALIDATION_END, validation_end=TRAIN_END)
    with pytest.raises(SettingsError, match="not two instants in order"):
        split(some_labels, train_end=TRAIN_END)


def test_no_labels_give_no_rows(some_labels):
    DATASET_SPLITS.pandera.validate(split(some_labels.iloc[:0]))
