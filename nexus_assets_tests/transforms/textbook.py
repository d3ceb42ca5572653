"""The 32 indicators as the books write them, bar by bar in plain Python. Nothing of the project or TA-Lib is used.

Each function takes lists of floats, oldest first, and returns the value at the last bar.
"""

import itertools
import math
from collections.abc import Sequence
from statistics import fmean, pstdev, stdev

Numbers = Sequence[float]


def exponential_means(values: Numbers, period: int) -> list[float]:
    """Exponential means from the period-th value on, the first one a plain mean."""
    means = [fmean(values[:period])]
    for value in values[period:]:
        means.append(means[-1] + 2 / (period + 1) * (value - means[-1]))
    return means


def macd(close: Numbers) -> tuple[float, float, float]:
    """macd, signal and histogram of 12, 26 and 9."""
    slow = exponential_means(close, 26)
    fast = exponential_means(close, 12)[-len(slow) :]
    line = [f - s for f, s in zip(fast, slow, strict=True)]
    signal = exponential_means(line, 9)[-1]
    return line[-1], signal, line[-1] - signal


def true_ranges(high: Numbers, low: Numbers, close: Numbers) -> list[float]:
    """True ranges from the second bar on."""
    return [max(high[i], close[i - 1]) - min(low[i], close[i - 1]) for i in range(1, len(close))]


def wilder_means(values: Numbers, period: int) -> list[float]:
    """Wilder's smoothing from the period-th value on, the first one a plain mean."""
    means = [fmean(values[:period])]
    for value in values[period:]:
        means.append((means[-1] * (period - 1) + value) / period)
    return means


def directional(high: Numbers, low: Numbers, close: Numbers, period: int = 14) -> tuple[float, float, float]:
    """ADX, +DI and -DI."""
    plus, minus = [], []
    for i in range(1, len(close)):
        up, down = high[i] - high[i - 1], low[i - 1] - low[i]
        plus.append(up if up > down and up > 0 else 0.0)
        minus.append(down if down > up and down > 0 else 0.0)
    ranges = wilder_means(true_ranges(high, low, close), period)
    plus_di = [100 * p / r for p, r in zip(wilder_means(plus, period), ranges, strict=True)]
    minus_di = [100 * m / r for m, r in zip(wilder_means(minus, period), ranges, strict=True)]
    dx = [100 * abs(p - m) / (p + m) for p, m in zip(plus_di, minus_di, strict=True)]
    return wilder_means(dx, period)[-1], plus_di[-1], minus_di[-1]


def aroon_oscillator(high: Numbers, low: Numbers, period: int = 25) -> float:
    """Of two equal extremes the newer one counts."""
    highs, lows = list(high[-period - 1 :])[::-1], list(low[-period - 1 :])[::-1]
    return 100 * (lows.index(min(lows)) - highs.index(max(highs))) / period


def rsi(close: Numbers, period: int = 14) -> float:
    """Wilder's relative strength index."""
    changes = [b - a for a, b in itertools.pairwise(close)]
    gain = wilder_means([max(c, 0.0) for c in changes], period)[-1]
    loss = wilder_means([max(-c, 0.0) for c in changes], period)[-1]
    return 100 - 100 / (1 + gain / loss)


def stochastic(high: Numbers, low: Numbers, close: Numbers) -> tuple[float, float]:
    """Slow %K (14, 3) and %D (3)."""

    def fast(end: int) -> float:
        lowest, highest = min(low[end - 14 : end]), max(high[end - 14 : end])
        return 100 * (close[end - 1] - lowest) / (highest - lowest)

    last = len(close)
    slow = [fmean(fast(end - k) for k in range(3)) for end in (last, last - 1, last - 2)]
    return slow[0], fmean(slow)


def cci(high: Numbers, low: Numbers, close: Numbers, period: int = 20) -> float:
    """Lambert's commodity channel index."""
    typical = [fmean(bar) for bar in zip(high, low, close, strict=True)][-period:]
    mean = fmean(typical)
    return (typical[-1] - mean) / (0.015 * fmean(abs(t - mean) for t in typical))


def mfi(high: Numbers, low: Numbers, close: Numbers, volume: Numbers, period: int = 14) -> float:
    """Money flow index: the share of the flow on bars whose typical price rose."""
    typical = [fmean(bar) for bar in zip(high, low, close, strict=True)]
    up = down = 0.0
    for i in range(len(close) - period, len(close)):
        up += typical[i] * volume[i] if typical[i] > typical[i - 1] else 0.0
        down += typical[i] * volume[i] if typical[i] < typical[i - 1] else 0.0
    return 100 * up / (up + down)


def ultimate_oscillator(high: Numbers, low: Numbers, close: Numbers) -> float:
    """Williams's ultimate oscillator of 7, 14 and 28."""
    ranges = true_ranges(high, low, close)
    pressure = [close[i] - min(low[i], close[i - 1]) for i in range(1, len(close))]
    shares = [sum(pressure[-n:]) / sum(ranges[-n:]) for n in (7, 14, 28)]
    return 100 * (4 * shares[0] + 2 * shares[1] + shares[2]) / 7


def indicators(high: Numbers, low: Numbers, close: Numbers, volume: Numbers, bars_a_year: float) -> dict[str, float]:
    """All 32 at the last bar."""
    values: dict[str, float] = {f"sma_{n}": fmean(close[-n:]) for n in (15, 30, 50)}
    values |= {f"ema_{n}": exponential_means(close, n)[-1] for n in (12, 26)}
    values["macd"], values["macd_signal"], values["macd_hist"] = macd(close)
    values["adx_14"], values["plus_di_14"], values["minus_di_14"] = directional(high, low, close)
    values["aroon_osc_25"] = aroon_oscillator(high, low)
    values["rsi_14"] = rsi(close)
    values["stoch_k"], values["stoch_d"] = stochastic(high, low, close)
    values["cci_20"] = cci(high, low, close)
    highest, lowest = max(high[-14:]), min(low[-14:])
    values["willr_14"] = -100 * (highest - close[-1]) / (highest - lowest)
    values["roc_10"] = 100 * (close[-1] / close[-11] - 1)
    values["mom_10"] = close[-1] - close[-11]
    values["mfi_14"] = mfi(high, low, close, volume)
    values["ultosc"] = ultimate_oscillator(high, low, close)
    returns = [math.log(b / a) for a, b in itertools.pairwise(close)]
    values |= {f"hv_{n}": math.sqrt(bars_a_year) * stdev(returns[-n:]) for n in (20, 50)}
    values["atr_14"] = wilder_means(true_ranges(high, low, close), 14)[-1]
    values["natr_14"] = 100 * values["atr_14"] / close[-1]
    middle, deviation = fmean(close[-20:]), pstdev(close[-20:])
    values |= {"bb_upper": middle + 2 * deviation, "bb_middle": middle, "bb_lower": middle - 2 * deviation}
    values["bb_width"] = 4 * deviation / middle
    values["bb_percent_b"] = (close[-1] - values["bb_lower"]) / (4 * deviation)
    values["log_return"] = returns[-1]
    values["return_zscore_50"] = (returns[-1] - fmean(returns[-50:])) / stdev(returns[-50:])
    return values
