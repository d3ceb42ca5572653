"""How much of its own information each label holds: labels that overlap share the same price moves.

Source: López de Prado, Advances in Financial Machine Learning, 2018, chapter 4 (average uniqueness).
"""

import numpy as np
import pandas as pd


def average_uniqueness(intervals: pd.DataFrame) -> np.ndarray:
    """The mean of 1 / concurrency over the bars of each label.

    A label covers the bars that end in (entry_at, t1]. The concurrency of a bar is the number of labels of the same
    symbol and timeframe that cover it. Bars are told by their ends: the instants at which any label of the series is
    entered or decided, so a closed market counts for nothing.

    Args:
        intervals: Columns symbol, timeframe, entry_at, t1; any order. All that are trained on together, and no others.

    Returns:
        One value in (0, 1] per row, in the order given: 1 for a label that overlaps no other, 1 / n for n equal ones.
    """
    uniqueness = np.ones(len(intervals))
    entered = pd.DatetimeIndex(intervals["entry_at"]).as_unit("us").asi8
    decided = pd.DatetimeIndex(intervals["t1"]).as_unit("us").asi8
    for rows in intervals.groupby(["symbol", "timeframe"], sort=False).indices.values():
        uniqueness[rows] = _of_one_series(entered[rows], decided[rows])
    return uniqueness


def _of_one_series(entered: np.ndarray, decided: np.ndarray) -> np.ndarray:
    ends = np.unique(np.concatenate([entered, decided]))
    first, last = np.searchsorted(ends, entered), np.searchsorted(ends, decided)
    # Bar k ends at ends[k]; a label covers bars first + 1 to last.
    begun = np.bincount(first + 1, minlength=len(ends) + 1)
    over = np.bincount(last + 1, minlength=len(ends) + 1)
    concurrency = np.cumsum(begun - over)[: len(ends)]
    share = np.divide(1.0, concurrency, out=np.zeros(len(ends)), where=concurrency > 0)
    total = np.concatenate([[0.0], np.cumsum(share)])
    return (total[last + 1] - total[first + 1]) / (last - first)
