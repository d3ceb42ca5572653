"""Folds and weights: nothing of the test is trained on, every row is tested as often as it should be."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_assets import trading_calendar
from nexus_assets.errors import TrainingSetError
from nexus_assets.instruments import instrument
from nexus_assets.transforms import labels
from nexus_assets.transforms.folds import backtest_paths, combinatorial_purged_folds, overlaps
from nexus_assets.transforms.sample_weights import average_uniqueness
from nexus_assets_tests.transforms.feature_bars import real, walk

START = datetime(2024, 1, 8, tzinfo=UTC)


def intervals(*rows: tuple[str, float, float]) -> pd.DataFrame:
    """Symbol, and entry and end in hours."""
    return pd.DataFrame(
        [(symbol, "1h", START + timedelta(hours=a), START + timedelta(hours=b)) for symbol, a, b in rows],
        columns=["symbol", "timeframe", "entry_at", "t1"],
    )


@st.composite
def some_intervals(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(["EURUSD", "XAUUSD"]), st.integers(0, 400), st.integers(1, 60)),
            min_size=12, max_size=60, unique_by=lambda row: row[:2],
        )
    )  # fmt: skip
    return intervals(*((symbol, begin, begin + span) for symbol, begin, span in rows))


def meets(one: pd.Series, other: pd.Series) -> bool:
    return bool(one["entry_at"] <= other["t1"] and other["entry_at"] <= one["t1"])


@settings(max_examples=40, deadline=None)
@given(some_intervals(), st.sampled_from([(3, 1), (4, 2), (5, 2), (6, 3)]))
def test_each_row_has_one_place_in_each_fold_and_no_trained_one_meets_a_tested_one(
    rows: pd.DataFrame, shape: tuple[int, int]
) -> None:
    groups, tested = shape
    if rows["entry_at"].nunique() < groups:
        return
    counts = np.zeros(len(rows), dtype=int)
    folds = list(combinatorial_purged_folds(rows, groups=groups, test_groups=tested, embargo_hours=5))
    assert len(folds) == comb(groups, tested)
    for fold in folds:
        everything = np.concatenate([fold.train, fold.test, fold.purged, fold.embargoed])
        assert sorted(everything) == list(range(len(rows)))
        counts[fold.test] += 1
        test = [rows.iloc[k] for k in fold.test]
        for k in fold.train:
            assert not any(meets(rows.iloc[k], other) for other in test)
        for k in fold.purged:
            assert any(meets(rows.iloc[k], other) for other in test)
    assert (counts == comb(groups - 1, tested - 1)).all()


@settings(max_examples=60, deadline=None)
@given(some_intervals(), some_intervals())
def test_overlaps_are_those_that_a_comparison_of_every_pair_finds(train: pd.DataFrame, test: pd.DataFrame) -> None:
    found = overlaps(train, test)
    wanted = [k for k in range(len(train)) if any(meets(train.iloc[k], test.iloc[j]) for j in range(len(test)))]
    assert list(found.index) == wanted
    for row in found.itertuples():
        assert row.entry_at <= row.test_t1  # pyright: ignore[reportOperatorIssue]
        assert row.test_entry_at <= row.t1  # pyright: ignore[reportOperatorIssue]
        mine = test[(test["symbol"] == row.test_symbol) & (test["entry_at"] == row.test_entry_at)]
        assert (mine["t1"] == row.test_t1).any()


def test_intervals_that_only_touch_overlap() -> None:
    assert len(overlaps(intervals(("EURUSD", 0, 5)), intervals(("XAUUSD", 5, 6)))) == 1
    assert overlaps(intervals(("EURUSD", 0, 5)), intervals(("XAUUSD", 5.001, 6))).empty
    assert overlaps(intervals(), intervals(("XAUUSD", 5, 6))).empty


def test_rows_after_a_test_block_wait_for_its_embargo_in_the_open_hours_of_their_own_market() -> None:
    bars = {symbol: walk(symbol, date(2024, 2, 1), date(2024, 4, 20)) for symbol in ("EURUSD", "XAUUSD")}
    rows = pd.concat([
        labels.compute(
            bars[symbol], instrument=instrument(symbol), timeframe="1h",
            first_day=date(2024, 2, 5), end_day=date(2024, 4, 10),
        ).labels
        for symbol in bars
    ], ignore_index=True)  # fmt: skip
    fold = list(combinatorial_purged_folds(rows, groups=4, test_groups=1))[1]
    test_ends = rows.loc[fold.test, "t1"].max()
    after = rows.loc[fold.train].query("entry_at > @test_ends")
    for symbol, mine in after.groupby("symbol"):
        owed = trading_calendar.advance(instrument(str(symbol)).asset_class, [test_ends], 50)[0]
        everyone = rows.loc[(rows["symbol"] == symbol) & (rows["entry_at"] >= owed), "entry_at"]
        assert mine["entry_at"].min() == everyone.min()
    assert after.groupby("symbol")["entry_at"].min().nunique() == 2


def test_every_path_tests_each_group_once_and_every_fold_is_used_once() -> None:
    for groups, tested in ((6, 2), (5, 3), (4, 1)):
        paths = backtest_paths(groups, tested)
        assert len(paths) == comb(groups - 1, tested - 1)
        assert all(sorted(path) == list(range(groups)) for path in paths)
        pairs = [pair for path in paths for pair in path.items()]
        assert len(set(pairs)) == len(pairs) == comb(groups, tested) * tested
        rows = intervals(*(("EURUSD", k, k + 0.5) for k in range(60)))
        by_fold = {
            fold.number: fold.test_groups
            for fold in combinatorial_purged_folds(rows, groups=groups, test_groups=tested)
        }
        assert all(group in by_fold[fold] for group, fold in pairs)


@pytest.mark.parametrize(
    ("rows", "shape", "sentence"),
    [
        (intervals(*(("EURUSD", k, k + 1) for k in range(9))), (3, 3), "3 of 3 groups cannot be tested"),
        (intervals(("EURUSD", 0, 1)), (3, 1), "1 instants of entry cannot be cut into 3"),
        (intervals(("EURUSD", 0, 1)).assign(t1=pd.DatetimeIndex([None])), (3, 1), "1 labels have no t1"),
    ],
)
def test_what_cannot_be_folded_is_refused(rows: pd.DataFrame, shape: tuple[int, int], sentence: str) -> None:
    with pytest.raises(TrainingSetError, match=sentence):
        list(combinatorial_purged_folds(rows, groups=shape[0], test_groups=shape[1]))


def indicator_matrix_uniqueness(rows: pd.DataFrame) -> list[float]:
    """Bars by labels, one cell after the other."""
    found = []
    for row in rows.itertuples():
        same = rows[(rows["symbol"] == row.symbol) & (rows["timeframe"] == row.timeframe)]
        ends = sorted({*same["entry_at"], *same["t1"]})
        shares = []
        for before, end in pairwise(ends):
            if row.entry_at <= before and end <= row.t1:  # pyright: ignore[reportOperatorIssue]
                shares.append(1 / int(((same["entry_at"] <= before) & (same["t1"] >= end)).sum()))
        found.append(sum(shares) / len(shares))
    return found


@settings(max_examples=40, deadline=None)
@given(some_intervals())
def test_uniqueness_is_that_of_the_indicator_matrix(rows: pd.DataFrame) -> None:
    weights = average_uniqueness(rows)
    assert weights == pytest.approx(indicator_matrix_uniqueness(rows), abs=1e-12)
    assert ((weights > 0) & (weights <= 1 + 1e-12)).all()


def test_a_label_alone_weighs_one_and_equal_ones_share() -> None:
    alone = intervals(("EURUSD", 0, 5), ("EURUSD", 5, 9), ("XAUUSD", 1, 7))
    assert average_uniqueness(alone).tolist() == [1.0, 1.0, 1.0]
    equal = intervals(*[("EURUSD", 0, 5)] * 4)
    assert average_uniqueness(equal).tolist() == [0.25] * 4
    # Bars end at 2, 4 and 6; the one from 2 to 4 is shared.
    half = intervals(("EURUSD", 0, 4), ("EURUSD", 2, 6))
    assert average_uniqueness(half).tolist() == [0.75, 0.75]


def test_recorded_labels_weigh_a_twenty_fourth_each(real_data: Path) -> None:
    bars = real(real_data, "EURUSD", date(2020, 1, 1), date(2021, 1, 1))
    rows = labels.compute(
        bars, instrument=instrument("EURUSD"), timeframe="1h", first_day=date(2020, 1, 2), end_day=date(2020, 12, 20)
    ).labels
    rows = rows[rows["t1"].notna()].reset_index(drop=True)
    weights = average_uniqueness(rows)
    assert np.median(weights) == pytest.approx(1 / 24, rel=1e-9)
    few = rows.iloc[1000:1040].reset_index(drop=True)
    assert average_uniqueness(few) == pytest.approx(indicator_matrix_uniqueness(few), abs=1e-12)
