"""The one table of the 32 indicators: name, TA-Lib call, parameters, unit, bounds, source.

What belongs here: declarations only. The arithmetic is in transforms/indicators.py, which reads this table, as do
the schema, the column comments and the data dictionary. Every TA-Lib parameter is written out, because the
library's defaults changed between releases.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

WARMUP_BARS = 250
"""Accepted bars before a day on which each day's indicators are computed, the same for every timeframe and column."""

INDICATORS_VERSION = 1
"""Raised whenever a number of any column may change. Redis orders vectors of one ts by it."""

OPEN_HOURS_A_YEAR: Mapping[str, int] = {"fx": 6228, "metal": 5915, "index": 5915, "crypto": 8766}
"""Frozen constants for annualising. Never computed from the calendar: a new holiday must not change old features."""

TRADING_DAYS_A_YEAR: Mapping[str, int] = {"fx": 260, "metal": 260, "index": 260, "crypto": 365}


@dataclass(frozen=True, slots=True)
class Indicator:
    """One column of features.indicators.

    Attributes:
        name: Column name: TA-Lib's name plus parameters.
        call: TA-Lib function, or the name of a formula in transforms/indicators.py.
        inputs: Bar columns the call takes, in order.
        parameters: Every parameter of the call.
        output: Which of the call's results, counted from 0.
        unit: price, fraction, percent, index (a dimensionless oscillator), annualised fraction.
        bounds: Mathematical lower and upper bound; None where there is none.
        description: What it says, in one sentence.
        source: Where the definition stands.
    """

    name: str
    call: str
    inputs: tuple[str, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)
    output: int = 0
    unit: str = "price"
    bounds: tuple[float | None, float | None] = (None, None)
    description: str = ""
    source: str = "TA-Lib"


_MACD = {"fastperiod": 12, "slowperiod": 26, "signalperiod": 9}
_STOCH = {"fastk_period": 14, "slowk_period": 3, "slowk_matype": 0, "slowd_period": 3, "slowd_matype": 0}
_BB = {"timeperiod": 20, "nbdevup": 2.0, "nbdevdn": 2.0, "matype": 0}
_HLC = ("high", "low", "close")
_C = ("close",)
_PCT = (0.0, 100.0)
_POS = (0.0, None)
_WILDER = "J. Welles Wilder, New Concepts in Technical Trading Systems, 1978; TA-Lib"


INDICATORS: tuple[Indicator, ...] = (
    Indicator("sma_15", "SMA", _C, {"timeperiod": 15}, bounds=_POS, description="Mean of the last 15 closes."),
    Indicator("sma_30", "SMA", _C, {"timeperiod": 30}, bounds=_POS, description="Mean of the last 30 closes."),
    Indicator("sma_50", "SMA", _C, {"timeperiod": 50}, bounds=_POS, description="Mean of the last 50 closes."),
    Indicator("ema_12", "EMA", _C, {"timeperiod": 12}, bounds=_POS, description="Exponential mean of closes, span 12."),
    Indicator("ema_26", "EMA", _C, {"timeperiod": 26}, bounds=_POS, description="Exponential mean of closes, span 26."),
    Indicator("macd", "MACD", _C, _MACD, output=0, description="Exponential mean of 12 closes less that of 26."),
    Indicator("macd_signal", "MACD", _C, _MACD, output=1, description="Exponential mean of 9 values of macd."),
    Indicator("macd_hist", "MACD", _C, _MACD, output=2, description="macd less macd_signal."),
    Indicator(
        "adx_14",
        "ADX",
        _HLC,
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        source=_WILDER,
        description="Strength of a trend, whatever its direction.",
    ),
    Indicator(
        "plus_di_14",
        "PLUS_DI",
        _HLC,
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        source=_WILDER,
        description="Upward directional movement as a share of the true range.",
    ),
    Indicator(
        "minus_di_14",
        "MINUS_DI",
        _HLC,
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        source=_WILDER,
        description="Downward directional movement as a share of the true range.",
    ),
    Indicator(
        "aroon_osc_25",
        "AROONOSC",
        ("high", "low"),
        {"timeperiod": 25},
        unit="index",
        bounds=(-100.0, 100.0),
        description="Bars since the highest high against bars since the lowest low, over 25 bars.",
    ),
    Indicator(
        "rsi_14",
        "RSI",
        _C,
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        source=_WILDER,
        description="Mean gain as a share of mean gain and mean loss, 14 bars, Wilder's smoothing.",
    ),
    Indicator(
        "stoch_k",
        "STOCH",
        _HLC,
        _STOCH,
        output=0,
        unit="index",
        bounds=_PCT,
        description="Close within the range of 14 bars, smoothed over 3.",
    ),
    Indicator(
        "stoch_d",
        "STOCH",
        _HLC,
        _STOCH,
        output=1,
        unit="index",
        bounds=_PCT,
        description="Mean of 3 values of stoch_k.",
    ),
    Indicator(
        "cci_20",
        "CCI",
        _HLC,
        {"timeperiod": 20},
        unit="index",
        description="Typical price less its mean of 20, in multiples of 0.015 mean absolute deviations.",
    ),
    Indicator(
        "willr_14",
        "WILLR",
        _HLC,
        {"timeperiod": 14},
        unit="index",
        bounds=(-100.0, 0.0),
        description="Distance of the close below the highest high of 14 bars, as a share of their range.",
    ),
    Indicator(
        "roc_10",
        "ROC",
        _C,
        {"timeperiod": 10},
        unit="percent",
        bounds=(-100.0, None),
        description="Change over 10 bars.",
    ),
    Indicator("mom_10", "MOM", _C, {"timeperiod": 10}, description="Close less the close 10 bars before."),
    Indicator(
        "mfi_14",
        "MFI",
        (*_HLC, "volume"),
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        description="Share of positive money flow over 14 bars; NULL unless the bars have one kind of volume.",
    ),
    Indicator(
        "ultosc",
        "ULTOSC",
        _HLC,
        {"timeperiod1": 7, "timeperiod2": 14, "timeperiod3": 28},
        unit="index",
        bounds=_PCT,
        description="Buying pressure over 7, 14 and 28 bars, weighted 4:2:1.",
    ),
    Indicator(
        "hv_20",
        "historical_volatility",
        _C,
        {"timeperiod": 20},
        unit="annualised fraction",
        bounds=_POS,
        source="formula: sqrt(bars a year) x standard deviation (ddof 1) of log returns",
        description="Volatility of the last 20 log returns.",
    ),
    Indicator(
        "hv_50",
        "historical_volatility",
        _C,
        {"timeperiod": 50},
        unit="annualised fraction",
        bounds=_POS,
        source="formula: sqrt(bars a year) x standard deviation (ddof 1) of log returns",
        description="Volatility of the last 50 log returns.",
    ),
    Indicator(
        "atr_14", "ATR", _HLC, {"timeperiod": 14}, bounds=_POS, source=_WILDER, description="Mean true range, 14 bars."
    ),
    Indicator(
        "natr_14",
        "NATR",
        _HLC,
        {"timeperiod": 14},
        unit="percent",
        bounds=_POS,
        description="atr_14 as a percentage of the close.",
    ),
    Indicator("bb_upper", "BBANDS", _C, _BB, output=0, description="bb_middle plus 2 standard deviations (ddof 0)."),
    Indicator("bb_middle", "BBANDS", _C, _BB, output=1, bounds=_POS, description="Mean of the last 20 closes."),
    Indicator("bb_lower", "BBANDS", _C, _BB, output=2, description="bb_middle less 2 standard deviations (ddof 0)."),
    Indicator(
        "bb_width",
        "bollinger_width",
        _C,
        _BB,
        unit="fraction",
        bounds=_POS,
        source="formula: (bb_upper - bb_lower) / bb_middle",
        description="Width of the band relative to its middle.",
    ),
    Indicator(
        "bb_percent_b",
        "bollinger_percent_b",
        _C,
        _BB,
        unit="fraction",
        source="formula: (close - bb_lower) / (bb_upper - bb_lower)",
        description="Close within the band: 0 at the lower edge, 1 at the upper; NULL where the band has no width.",
    ),
    Indicator(
        "log_return",
        "log_return",
        _C,
        {},
        unit="fraction",
        source="formula: ln(close / previous close)",
        description="Log return of the bar against the accepted bar before it.",
    ),
    Indicator(
        "return_zscore_50",
        "return_zscore",
        _C,
        {"timeperiod": 50},
        unit="index",
        source="formula: (log_return - mean of 50) / standard deviation (ddof 1) of 50",
        description="Log return in standard deviations of the last 50; NULL where they do not vary.",
    ),
)

INDICATOR_NAMES: tuple[str, ...] = tuple(indicator.name for indicator in INDICATORS)
