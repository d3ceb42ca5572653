"""Log returns, and means and deviations over the last few values, with bits that depend on nothing else.

Every sum adds in a fixed order, oldest first, by elementwise operations that IEEE 754 rounds correctly whatever the
processor's vector width. Logarithms are TA-Lib's, because numpy's differ in the last bit between processors. Each value
depends on its own window only, so it does not matter where the history that is passed starts.
"""

import operator
from functools import reduce

import numpy as np
import talib


def log_returns(close: np.ndarray) -> np.ndarray:
    """ln(close / previous close); the first is missing."""
    returns = np.full(len(close), np.nan)
    if len(close) > 1:
        returns[1:] = talib.LN(close[1:] / close[:-1])
    return returns


def sum_of_last(values: np.ndarray, period: int) -> np.ndarray:
    """Sum of the last `period` values, each window added afresh, oldest first; missing where the window is short."""
    sums = np.full(len(values), np.nan)
    count = len(values) - period + 1
    if count > 0:
        sums[period - 1 :] = reduce(operator.add, (values[k : k + count] for k in range(period)))
    return sums


def mean_and_deviation(values: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (ddof 1) of the last `period` values, in two passes.

    The usual difference of two running sums loses all digits on a quiet stretch after a large move.
    """
    mean = sum_of_last(values, period) / period
    deviation = np.full(len(values), np.nan)
    count = len(values) - period + 1
    if count > 0:
        centre = mean[period - 1 :]
        squares = reduce(operator.add, ((values[k : k + count] - centre) ** 2 for k in range(period)))
        deviation[period - 1 :] = np.sqrt(squares / (period - 1))
    return mean, deviation
