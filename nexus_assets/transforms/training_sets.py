"""Joining features to labels, row by row, as a decision at the label's entry could have seen them.

What belongs here: which stored value a training row gets. A decision is taken at entry_at, the end of the row's bar.
A feature of the row's own timeframe is that of the same bar. A feature of another timeframe is that of the last bar
that was over at entry_at: a bar that is still open is not seen. A correlation of day D is known when D is over.
"""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_AGE = timedelta(days=7)
"""Age from which a joined value is missing: no closure of a market is longer, so an older bar means lost data."""

NOTHING = -1
"""The position of a value that is not there."""


def same_bar(wanted_ts: np.ndarray, ts: np.ndarray) -> np.ndarray:
    """The position in `ts` of each wanted bar, NOTHING where it is not there.

    Args:
        wanted_ts: Opens of bars, microseconds since 1970.
        ts: Opens of the stored bars, ascending and unique.
    """
    position = np.searchsorted(ts, wanted_ts)
    found = position < len(ts)
    found[found] = ts[position[found]] == wanted_ts[found]
    return np.where(found, position, NOTHING)


def join_features(decided_at: np.ndarray, available_at: np.ndarray) -> np.ndarray:
    """The position of the last value that was available at each decision, NOTHING where it is MAX_AGE old or older.

    Args:
        decided_at: Instants of the decisions (entry_at), microseconds since 1970, any order.
        available_at: When each value became available (the end of its bar, or of its day), ascending and unique. One
            that becomes available at the very instant of a decision is seen by it.
    """
    position = np.searchsorted(available_at, decided_at, side="right") - 1
    found = position >= 0
    oldest = decided_at[found] - int(MAX_AGE.total_seconds()) * 1_000_000
    found[found] = available_at[position[found]] > oldest
    return np.where(found, position, NOTHING)


def gather(columns: pa.Table, positions: np.ndarray) -> pa.Table:
    """The rows of a table at these positions; nulls where the position is NOTHING."""
    if len(positions) and positions[0] != NOTHING and (np.diff(positions) == 1).all():
        return columns.slice(int(positions[0]), len(positions))
    return columns.take(pa.array(positions, mask=positions == NOTHING))


def latest(instants: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """The latest of several columns of instants in each row; nulls do not count."""
    whole = [pc.cast(column, pa.int64()) for column in instants]  # no kernel for instants
    newest = pc.max_element_wise(*whole, skip_nulls=True)  # pyright: ignore[reportAttributeAccessIssue]
    return pc.cast(newest, pa.timestamp("us", "UTC"))
