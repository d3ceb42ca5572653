"""The first of two price barriers that a path of bars touches: a compiled kernel on arrays.

What belongs here: the scan. What a barrier is, and what the result means, is in labels.py. numba is imported with this
module, so import the module where it is needed, not at the top.
"""

import numpy as np

from nexus_assets.transforms.compiled import compiled

UNTOUCHED, PROFIT, LOSS = 0, 1, -1

_PLAIN = 32
_BLOCK = 32


def first_touch(
    prices: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    entry: np.ndarray,
    last: np.ndarray,
    profit: np.ndarray,
    loss: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the bar at which each path first touches a barrier.

    A path starts with the bar after `entry` and ends with the bar `last`, included. A bar that opens at or beyond a
    barrier exits at its open; one that holds both barriers counts as the loss; any other exits at the barrier.

    The first 32 bars are looked at one by one, which is where narrow barriers are touched. Beyond them, blocks of 32
    bars whose highest high and lowest low lie between the barriers are passed over at once, so that wide barriers cost
    little more.

    Args:
        prices: open, high, low and close of all bars, float64, in order of time.
        entry: Position of each path's entry bar.
        last: Position of the last bar of each path; one before `entry` + 1 is an empty path.
        profit: Width of the upper barrier as a fraction of the entry close; not finite: no path.
        loss: Width of the lower one.

    Returns:
        Four arrays, one value per path: PROFIT, LOSS or UNTOUCHED; the position of the deciding bar (that of `last`
        where nothing was touched); the exit price (NaN where nothing was touched); whether both barriers lay in the
        deciding bar.
    """
    opens, high, low, close = (np.ascontiguousarray(values, dtype=np.float64) for values in prices)
    blocks = len(high) // _BLOCK
    highest = high[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    lowest = low[: blocks * _BLOCK].reshape(blocks, _BLOCK).min(axis=1)
    upper, lower = close[entry] * (1.0 + profit), close[entry] * (1.0 - loss)
    return _scan(opens, high, low, highest, lowest, entry.astype(np.int64), last.astype(np.int64), upper, lower)


@compiled
def _scan(opens, high, low, highest, lowest, entry, last, upper, lower):  # pragma: no cover (compiled)
    count = len(entry)
    outcome = np.zeros(count, dtype=np.int8)
    position = last.copy()
    price = np.full(count, np.nan)
    ambiguous = np.zeros(count, dtype=np.bool_)
    for path in range(count):
        top, bottom = upper[path], lower[path]
        if not (np.isfinite(top) and np.isfinite(bottom)):
            continue
        bar, end = entry[path] + 1, last[path] + 1
        one_by_one = bar + _PLAIN
        while bar < end:
            if bar >= one_by_one and bar % _BLOCK == 0 and bar + _BLOCK <= end:
                block = bar // _BLOCK
                if highest[block] < top and lowest[block] > bottom:
                    bar += _BLOCK
                    continue
            if high[bar] < top and low[bar] > bottom:
                bar += 1
                continue
            position[path] = bar
            if opens[bar] >= top:
                outcome[path], price[path] = PROFIT, opens[bar]
            elif opens[bar] <= bottom:
                outcome[path], price[path] = LOSS, opens[bar]
            elif low[bar] <= bottom:
                outcome[path], price[path] = LOSS, bottom
                ambiguous[path] = high[bar] >= top
            else:
                outcome[path], price[path] = PROFIT, top
            break
    return outcome, position, price, ambiguous
