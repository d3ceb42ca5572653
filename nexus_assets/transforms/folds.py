"""Cross-validation on labels that reach into the future: combinatorial purged folds, and the proof of no overlap.

What belongs here: which rows may be trained on when others are tested. Groups are cut at instants common to all
symbols, because markets move together.

Source: López de Prado, Advances in Financial Machine Learning, 2018, chapters 7 and 12.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd

from nexus_assets import instruments
from nexus_assets.errors import TrainingSetError
from nexus_assets.trading_calendar import advance
from nexus_assets.transforms.splits import embargo_open_hours


@dataclass(frozen=True)
class Fold:
    """Row positions of one fold; together they are all rows, each once.

    Attributes:
        number: From 0.
        test_groups: The groups that are tested.
        train: Rows to train on.
        test: Rows to test on.
        purged: Rows outside the test groups whose [entry_at, t1] meets that of a tested row of any symbol.
        embargoed: Rows entered less than the embargo after the last decision of a test block.
    """

    number: int
    test_groups: tuple[int, ...]
    train: np.ndarray
    test: np.ndarray
    purged: np.ndarray
    embargoed: np.ndarray


def combinatorial_purged_folds(
    intervals: pd.DataFrame, *, groups: int = 6, test_groups: int = 2, embargo_hours: float | None = None
) -> Iterator[Fold]:
    """Every choice of `test_groups` out of `groups` stretches of time as the test, in lexicographic order.

    The groups hold about equally many instants of entry. With test_groups=1 this is purged k-fold cross-validation.

    Args:
        intervals: Columns symbol, timeframe, entry_at, t1; any order, any symbols.
        groups: Number of stretches.
        test_groups: How many of them are tested at a time.
        embargo_hours: Open market hours, of each row's own market, after the last t1 of a test block in which no
            training row is entered. By default the label's horizon or 50 bars, whichever is longer.

    Raises:
        TrainingSetError: not 1 <= test_groups < groups, fewer instants than groups, or a label without a t1.
    """
    rows = _Rows.of(intervals)
    if not 1 <= test_groups < groups:
        raise TrainingSetError(
            f"{test_groups} of {groups} groups cannot be tested.", next_step="Test at least one, and train on one."
        )
    instants = np.unique(rows.entered)
    if len(instants) < groups:
        raise TrainingSetError(
            f"{len(instants)} instants of entry cannot be cut into {groups} groups.", next_step="Use fewer groups."
        )
    starts = instants[np.arange(1, groups) * len(instants) // groups]
    group = np.searchsorted(starts, rows.entered, side="right")
    for number, chosen in enumerate(combinations(range(groups), test_groups)):
        yield _fold(rows, group, number, chosen, embargo_hours)


def backtest_paths(groups: int, test_groups: int) -> list[dict[int, int]]:
    """The backtests that the folds add up to: for each path, the number of the fold that tests each group.

    There are C(groups - 1, test_groups - 1) paths; each fold's test of a group stands in exactly one of them.
    """
    paths: list[dict[int, int]] = [{} for _ in range(comb(groups - 1, test_groups - 1))]
    used = [0] * groups
    for number, chosen in enumerate(combinations(range(groups), test_groups)):
        for group in chosen:
            paths[used[group]][group] = number
            used[group] += 1
    return paths


def overlaps(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """The training rows whose [entry_at, t1], ends included, meets that of any test row, of whichever symbol.

    No rows prove that nothing of the test was trained on.

    Args:
        train: Columns symbol, timeframe, entry_at, t1.
        test: The same.

    Returns:
        The offending rows of `train` with test_symbol, test_entry_at and test_t1 of one row that each meets.
    """
    if train.empty or test.empty:
        none = train.iloc[:0]
        return none.assign(test_symbol=none["symbol"], test_entry_at=none["entry_at"], test_t1=none["t1"])
    ours, theirs = _Rows.of(train), _Rows.of(test)
    order = np.argsort(theirs.entered, kind="stable")
    entered, decided = theirs.entered[order], theirs.decided[order]
    latest = np.maximum.accumulate(decided)
    # Of the test rows entered by t1, the one that is decided last: it meets the row, or none of them does.
    candidates = np.searchsorted(entered, ours.decided, side="right") - 1
    meets = (candidates >= 0) & (latest[np.maximum(candidates, 0)] >= ours.entered)
    holder = np.searchsorted(latest, latest[candidates[meets]])  # where the maximum was first reached
    met = test.iloc[order[holder]]
    return train.loc[meets].assign(
        test_symbol=met["symbol"].to_numpy(),
        test_entry_at=met["entry_at"].to_numpy(),
        test_t1=met["t1"].to_numpy(),
    )


@dataclass(frozen=True)
class _Rows:
    """Instants in microseconds since 1970, and the rows of each symbol and timeframe."""

    entered: np.ndarray
    decided: np.ndarray
    series: dict[tuple[str, str], np.ndarray]

    @classmethod
    def of(cls, intervals: pd.DataFrame) -> "_Rows":
        if intervals["t1"].isna().any():
            raise TrainingSetError(
                f"{int(intervals['t1'].isna().sum())} labels have no t1.", next_step="Leave out labels that are NULL."
            )
        found = intervals.groupby(["symbol", "timeframe"], sort=False).indices
        return cls(
            entered=pd.DatetimeIndex(intervals["entry_at"]).as_unit("us").asi8,
            decided=pd.DatetimeIndex(intervals["t1"]).as_unit("us").asi8,
            series={(str(key[0]), str(key[1])): np.asarray(rows) for key, rows in found.items()},  # pyright: ignore
        )


def _fold(rows: _Rows, group: np.ndarray, number: int, chosen: tuple[int, ...], embargo_hours: float | None) -> Fold:
    tested = np.isin(group, chosen)
    purged = np.zeros(len(group), dtype=bool)
    embargoed = np.zeros(len(group), dtype=bool)
    for block in _blocks(chosen):
        mine = np.isin(group, block)
        begin, end = _merged(rows.entered[mine], rows.decided[mine])
        # The last merged interval that starts by t1 is the only one that can reach back to the entry.
        last = np.searchsorted(begin, rows.decided, side="right") - 1
        purged |= (last >= 0) & (end[np.maximum(last, 0)] >= rows.entered)
        embargoed |= _within_embargo(rows, int(end[-1]), embargo_hours)
    purged &= ~tested
    embargoed &= ~(tested | purged)
    train = ~(tested | purged | embargoed)
    return Fold(number, chosen, *(np.flatnonzero(part) for part in (train, tested, purged, embargoed)))


def _blocks(chosen: tuple[int, ...]) -> list[list[int]]:
    """Runs of neighbouring groups: (0, 1, 4) is [0, 1] and [4]."""
    blocks: list[list[int]] = []
    for group in chosen:
        if blocks and blocks[-1][-1] == group - 1:
            blocks[-1].append(group)
        else:
            blocks.append([group])
    return blocks


def _merged(entered: np.ndarray, decided: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Closed intervals as disjoint ones, ascending."""
    order = np.argsort(entered, kind="stable")
    begin, furthest = entered[order], np.maximum.accumulate(decided[order])
    first = np.concatenate([[True], begin[1:] > furthest[:-1]])
    return begin[first], furthest[np.concatenate([first[1:], [True]])]


def _within_embargo(rows: _Rows, block_end: int, embargo_hours: float | None) -> np.ndarray:
    """Whether each row is entered after the end of a test block and before its embargo is over."""
    within = np.zeros(len(rows.entered), dtype=bool)
    instant = pd.DatetimeIndex([pd.Timestamp(block_end, unit="us", tz="UTC")])
    for (symbol, timeframe), mine in rows.series.items():
        hours = embargo_open_hours(timeframe) if embargo_hours is None else embargo_hours
        until = advance(instruments.instrument(symbol).asset_class, instant, hours).as_unit("us").asi8[0]
        within[mine] = (rows.entered[mine] > block_end) & (rows.entered[mine] < until)
    return within
