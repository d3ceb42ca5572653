"""Training, validation and test sets of labels: in order of time, purged where they touch, with an embargo between.

The boundaries are two instants common to all symbols, because markets move together: a label of one symbol that
reaches into another's test block would tell of it.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from nexus_assets import instruments
from nexus_assets.errors import SettingsError
from nexus_assets.schemas import DATASET_SPLITS
from nexus_assets.timeframes import length
from nexus_assets.trading_calendar import advance
from nexus_assets.transforms.labels import HORIZON_OPEN_HOURS
from nexus_assets.transforms.sample_weights import average_uniqueness

SPLITS_VERSION = 2
"""Raised whenever a row may change its split."""

EMBARGO_BARS = 50
"""Least length of the embargo in bars: the longest window whose bars all count alike (sma_50, hv_50)."""

TRAIN_SHARE = 0.70
VALIDATION_SHARE = 0.15

_DAY_SECONDS = 86_400


def default_boundaries(labels: pd.DataFrame) -> tuple[datetime, datetime]:
    """The ends of training and validation at 70% and 85% of the range of ts, rounded to whole UTC days.

    Args:
        labels: Column ts, at least one row.
    """
    ts = pd.DatetimeIndex(labels["ts"]).as_unit("s").asi8
    first, span = int(ts.min()), int(ts.max() - ts.min())
    train_end, validation_end = (
        datetime.fromtimestamp(round((first + share * span) / _DAY_SECONDS) * _DAY_SECONDS, UTC)
        for share in (TRAIN_SHARE, TRAIN_SHARE + VALIDATION_SHARE)
    )
    return train_end, validation_end


def embargo_open_hours(timeframe: str) -> float:
    """Length of the embargo in open market hours: the label's horizon or EMBARGO_BARS bars, whichever is longer."""
    return max(float(HORIZON_OPEN_HOURS), EMBARGO_BARS * (length(timeframe) / timedelta(hours=1)))


def split(
    labels: pd.DataFrame,
    *,
    train_end: datetime | None = None,
    validation_end: datetime | None = None,
) -> pd.DataFrame:
    """Say of each label where it may be used.

    A label belongs to the block in which it is entered: training before train_end, validation before validation_end,
    test from then on. It is `purged` when [entry_at, t1], both ends included, reaches the next block. It is
    `embargoed` when it is entered less than the embargo after the block before it ended, in open hours of its own
    market.

    Args:
        labels: Columns of schemas.LABELS, any symbols and timeframes. Those without a t1 (nothing decided them) are
            left out.
        train_end: First instant of validation; both or none are given. By default those of default_boundaries.
        validation_end: First instant of test.

    Returns:
        Columns of schemas.DATASET_SPLITS by symbol, timeframe, ts. `uniqueness` is counted among the labels of the same
        split, which are trained on together; it is missing for those that are not used.

    Raises:
        SettingsError: one boundary is given without the other, or they are in the wrong order.
    """
    decided = labels.loc[labels["t1"].notna()].sort_values(["symbol", "timeframe", "ts"], ignore_index=True)
    if decided.empty:
        return DATASET_SPLITS.empty()
    boundaries = pd.DatetimeIndex(_boundaries(decided, train_end, validation_end)).as_unit("us")
    block, block_at_t1 = (
        boundaries.searchsorted(pd.DatetimeIndex(decided[name]), side="right") for name in ("entry_at", "t1")
    )
    split_names = np.array(["train", "validation", "test"], dtype=object)[block]
    split_names[_embargoed(decided, block, boundaries)] = "embargoed"
    split_names[block_at_t1 > block] = "purged"
    decided["split"] = pd.Series(split_names, dtype="str")
    decided["uniqueness"] = _uniqueness(decided)
    decided["code_version"] = np.int16(SPLITS_VERSION)
    return decided.loc[:, DATASET_SPLITS.column_names]


def _uniqueness(labels: pd.DataFrame) -> np.ndarray:
    """The weight of each label among those of its split."""
    weights = np.full(len(labels), np.nan)
    for name in ("train", "validation", "test"):
        mine = np.flatnonzero(labels["split"] == name)
        weights[mine] = average_uniqueness(labels.iloc[mine])
    return weights


def _boundaries(labels: pd.DataFrame, train_end: datetime | None, validation_end: datetime | None) -> list[datetime]:
    """The two boundaries, given or by default."""
    if train_end is None and validation_end is None:
        return list(default_boundaries(labels))
    if train_end is None or validation_end is None or train_end > validation_end:
        raise SettingsError(
            f"The split boundaries train_end={train_end} and validation_end={validation_end} are not two instants in "
            "order.",
            next_step="Give both, train_end first, or none.",
        )
    return [train_end, validation_end]


def _embargoed(labels: pd.DataFrame, block: np.ndarray, boundaries: pd.DatetimeIndex) -> np.ndarray:
    """Whether each label is entered within the embargo after the boundary that its block begins with."""
    embargoed = np.zeros(len(labels), dtype=bool)
    entered = pd.DatetimeIndex(labels["entry_at"]).as_unit("us").asi8
    for (symbol, timeframe), rows in labels.groupby(["symbol", "timeframe"]).indices.items():  # pyright: ignore[reportGeneralTypeIssues]
        asset_class = instruments.instrument(symbol).asset_class
        ends = advance(asset_class, boundaries, embargo_open_hours(timeframe)).as_unit("us").asi8
        positions = np.asarray(rows)
        later = positions[block[positions] > 0]
        embargoed[later] = entered[later] < ends[block[later] - 1]
    return embargoed
