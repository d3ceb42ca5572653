"""Correlations of every pair at every bar, for research over long ranges: a compiled kernel of rolling Gram sums.

The stored correlations of a day are those of correlations.py, which adds each window afresh in one order, so that their
bits depend on nothing but the window. Here a window is the tail of one block and the head of the next, each summed from
its own end: no drift however long the range, within 1e-12 of the stored values, but not the same bits.

numba is imported with this module, so import it where it is needed.
"""

from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

import numpy as np
import pandas as pd
import talib

from nexus_assets.transforms.compiled import compiled


@dataclass(frozen=True)
class HourlyCorrelations:
    """Correlations at each bar.

    Attributes:
        ts: Opens of the bars, ascending; the row of ts is known when its bar is over.
        symbols: In alphabetical order.
        pairs: Positions in `symbols`, first < second.
        correlation: One row per ts and one column per pair; NaN where the window is not full or a price stood still.
        n: Log returns that were there, at most the window.
    """

    ts: pd.DatetimeIndex
    symbols: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    correlation: np.ndarray
    n: np.ndarray

    def matrix(self, row: int) -> pd.DataFrame:
        """The full symmetric matrix of a row."""
        square = np.eye(len(self.symbols))
        for (a, b), value in zip(self.pairs, self.correlation[row], strict=True):
            square[a, b] = square[b, a] = value
        return pd.DataFrame(square, index=list(self.symbols), columns=list(self.symbols))


def hourly_correlations(
    closes: pd.DataFrame, *, window: int = 100, start: datetime | None = None, end: datetime | None = None
) -> HourlyCorrelations:
    """Correlate every pair at every bar on its last `window` log returns between bars that both have.

    Args:
        closes: Columns symbol, ts, close, of one timeframe; unique by symbol and ts. Before `start` it should hold
            window + 1 common bars of each pair.
        window: Log returns.
        start: First ts of the result; the first there is by default.
        end: End of ts, exclusive.
    """
    wide = closes.pivot(index="ts", columns="symbol", values="close").sort_index(axis=0).sort_index(axis=1)
    ts = pd.DatetimeIndex(wide.index)
    close = np.asfortranarray(wide.to_numpy(dtype=np.float64))
    there = np.isfinite(close)
    own = [_log_returns(close[there[:, k], k]) for k in range(close.shape[1])]
    calendars = _calendars(there)
    pairs = tuple(combinations(range(close.shape[1]), 2))
    correlation = np.full((len(ts), len(pairs)), np.nan, order="F")
    n = np.zeros((len(ts), len(pairs)), dtype=np.int16, order="F")
    for column, (a, b) in enumerate(pairs):
        if calendars[a] == calendars[b]:
            common, left, right = there[:, a], own[a], own[b]
        else:
            common = there[:, a] & there[:, b]
            left, right = _log_returns(close[common, a]), _log_returns(close[common, b])
        _fill(left, right, common, window, correlation[:, column], n[:, column])
    rows = slice(
        None if start is None else int(ts.searchsorted(pd.Timestamp(start))),
        None if end is None else int(ts.searchsorted(pd.Timestamp(end))),
    )
    symbols = tuple(str(symbol) for symbol in wide.columns)
    return HourlyCorrelations(ts[rows], symbols, pairs, correlation[rows], n[rows])


def _calendars(there: np.ndarray) -> list[bytes]:
    """A key for each symbol, equal where two symbols have the same bars."""
    return [np.packbits(there[:, k]).tobytes() for k in range(there.shape[1])]


def _log_returns(close: np.ndarray) -> np.ndarray:
    close = np.ascontiguousarray(close)
    return talib.LN(close[1:] / close[:-1]) if len(close) > 1 else np.empty(0)


@compiled
def _fill(left, right, common, window, correlation, count):  # pragma: no cover (compiled)
    """Write the correlation after each bar, and carry it on where the pair has none.

    Return k ends at common bar k + 1. Blocks of `window` returns: the sums of a window are those of the tail of one
    block, added from the block's end, and of the head of the next, added from its start.
    """
    size = len(left)
    tails = np.zeros((window + 1, 5))
    head = np.zeros(5)
    state, returns = np.nan, -1
    for bar in range(len(common)):
        if common[bar]:
            returns += 1  # the first bar has no return
            if returns > 0:
                k = returns - 1
                place = k % window
                if place == 0:
                    head[:] = 0.0
                    for back in range(window):
                        # tails[j]: the last j returns of the block before k.
                        if k - 1 - back >= 0:
                            x, y = left[k - 1 - back], right[k - 1 - back]
                            tails[back + 1, 0] = tails[back, 0] + x
                            tails[back + 1, 1] = tails[back, 1] + y
                            tails[back + 1, 2] = tails[back, 2] + x * x
                            tails[back + 1, 3] = tails[back, 3] + y * y
                            tails[back + 1, 4] = tails[back, 4] + x * y
                x, y = left[k], right[k]
                head[0] += x
                head[1] += y
                head[2] += x * x
                head[3] += y * y
                head[4] += x * y
                if returns >= window:
                    rest = tails[window - 1 - place]
                    mean_x, mean_y = (head[0] + rest[0]) / window, (head[1] + rest[1]) / window
                    xx = (head[2] + rest[2]) - mean_x * mean_x * window
                    yy = (head[3] + rest[3]) - mean_y * mean_y * window
                    xy = (head[4] + rest[4]) - mean_x * mean_y * window
                    # What is left of a price that stood still is rounding.
                    still = xx <= 1e-13 * (head[2] + rest[2]) or yy <= 1e-13 * (head[3] + rest[3])
                    state = np.nan if still else max(-1.0, min(1.0, xy / np.sqrt(xx * yy)))
        correlation[bar] = state
        count[bar] = min(max(returns, 0), window)
    return size
