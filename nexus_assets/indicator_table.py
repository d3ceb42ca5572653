"""The one table of the 32 indicators: name, TA-Lib call, parameters, unit, bounds, source.

What belongs here: declarations only. The arithmetic is in transforms/indicators.py, which reads this table, as do
the schema, the column comments and the data dictionary. Every TA-Lib parameter is written out, because the
library's defaults changed between releases.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

WARMUP_BARS = 250
"""Accepted bars before a day on which each day's indicators are computed, the same for every timeframe and column."""

OPEN_HOURS_A_YEAR: Mapping[str, int] = {"fx": 6228, "metal": 5915, "index": 5915, "crypto": 8766}
"""Frozen constants for annualising. Never computed from the calendar: a new holiday must not change old features."""

TRADING_DAYS_A_YEAR: Mapping[str, int] = {"fx": 260, "metal": 260, "index": 260, "crypto": 365}


@dataclass(frozen=True, slots=True)
class FlatWindow:
    """Where a column has no meaning: its window holds one value only, so that TA-Lib gives 0 or a quotient of rounding
    errors.

    Attributes:
        bars: Length of the window.
        values: What must differ in it: `bar` (highs and lows), `close`, `typical` (high + low + close), `true_range`
            (highs and lows with the close before them).
        smoothed: Windows of this many bars in a row enter the value.
    """

    bars: int
    values: str
    smoothed: int = 1


@dataclass(frozen=True, slots=True)
class Indicator:
    """One column of features.indicators.

    Attributes:
        name: Column name: TA-Lib's name plus parameters.
        warm_up: Bars that the column needs before it has its first value, that one included.
        call: TA-Lib function, or the name of a formula in transforms/indicators.py.
        inputs: Bar columns the call takes, in order.
        parameters: Every parameter of the call.
        output: Which of the call's results, counted from 0.
        unit: price, fraction, percent, index (a dimensionless oscillator), annualised fraction.
        bounds: Mathematical lower and upper bound; None where there is none.
        description: What it says, in one sentence.
        source: Where the definition stands.
        flat: The window without whose movement the column is NULL; None where it always has a meaning.
        version: INDICATORS_VERSION from which on the column has the numbers of today. A new column, and one whose
            numbers change, gets the next one.
    """

    name: str
    warm_up: int
    call: str
    inputs: tuple[str, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)
    output: int = 0
    unit: str = "price"
    bounds: tuple[float | None, float | None] = (None, None)
    description: str = ""
    source: str = "TA-Lib"
    flat: FlatWindow | None = None
    version: int = 1

    @property
    def conditional(self) -> bool:
        """Whether the column is rightly NULL on some bars after its warm-up: flat ones, or ones without a volume."""
        return self.flat is not None or "volume" in self.inputs


_MACD = {"fastperiod": 12, "slowperiod": 26, "signalperiod": 9}
_STOCH = {"fastk_period": 14, "slowk_period": 3, "slowk_matype": 0, "slowd_period": 3, "slowd_matype": 0}
_BB = {"timeperiod": 20, "nbdevup": 2.0, "nbdevdn": 2.0, "matype": 0}
_HLC = ("high", "low", "close")
_C = ("close",)
_PCT = (0.0, 100.0)
_POS = (0.0, None)
_WILDER = "J. Welles Wilder, New Concepts in Technical Trading Systems, 1978; TA-Lib"


INDICATORS: tuple[Indicator, ...] = (
    Indicator("sma_15", 15, "SMA", _C, {"timeperiod": 15}, bounds=_POS, description="Mean of the last 15 closes."),
    Indicator("sma_30", 30, "SMA", _C, {"timeperiod": 30}, bounds=_POS, description="Mean of the last 30 closes."),
    Indicator("sma_50", 50, "SMA", _C, {"timeperiod": 50}, bounds=_POS, description="Mean of the last 50 closes."),
    Indicator(
        "ema_12", 12, "EMA", _C, {"timeperiod": 12}, bounds=_POS, description="Exponential mean of closes, span 12."
    ),
    Indicator(
        "ema_26", 26, "EMA", _C, {"timeperiod": 26}, bounds=_POS, description="Exponential mean of closes, span 26."
    ),
    Indicator("macd", 34, "MACD", _C, _MACD, output=0, description="Exponential mean of 12 closes less that of 26."),
    Indicator("macd_signal", 34, "MACD", _C, _MACD, output=1, description="Exponential mean of 9 values of macd."),
    Indicator("macd_hist", 34, "MACD", _C, _MACD, output=2, description="macd less macd_signal."),
    Indicator(
        "adx_14",
        28,
        "ADX",
        _HLC,
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        source=_WILDER,
        flat=FlatWindow(14, "true_range"),
        description="Strength of a trend, whatever its direction.",
    ),
    Indicator(
        "plus_di_14",
        15,
        "PLUS_DI",
        _HLC,
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        source=_WILDER,
        flat=FlatWindow(14, "true_range"),
        description="Upward directional movement as a share of the true range.",
    ),
    Indicator(
        "minus_di_14",
        15,
        "MINUS_DI",
        _HLC,
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        source=_WILDER,
        flat=FlatWindow(14, "true_range"),
        description="Downward directional movement as a share of the true range.",
    ),
    Indicator(
        "aroon_osc_25",
        26,
        "AROONOSC",
        ("high", "low"),
        {"timeperiod": 25},
        unit="index",
        bounds=(-100.0, 100.0),
        flat=FlatWindow(26, "bar"),
        description="Bars since the highest high against bars since the lowest low, over 25 bars.",
    ),
    Indicator(
        "rsi_14",
        15,
        "RSI",
        _C,
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        source=_WILDER,
        flat=FlatWindow(15, "close"),
        description="Mean gain as a share of mean gain and mean loss, 14 bars, Wilder's smoothing.",
    ),
    Indicator(
        "stoch_k",
        18,
        "STOCH",
        _HLC,
        _STOCH,
        output=0,
        unit="index",
        bounds=_PCT,
        flat=FlatWindow(14, "bar", smoothed=3),
        description="Close within the range of 14 bars, smoothed over 3.",
    ),
    Indicator(
        "stoch_d",
        18,
        "STOCH",
        _HLC,
        _STOCH,
        output=1,
        unit="index",
        bounds=_PCT,
        flat=FlatWindow(14, "bar", smoothed=5),
        description="Mean of 3 values of stoch_k.",
    ),
    Indicator(
        "cci_20",
        20,
        "CCI",
        _HLC,
        {"timeperiod": 20},
        unit="index",
        flat=FlatWindow(20, "typical"),
        description="Typical price less its mean of 20, in multiples of 0.015 mean absolute deviations.",
    ),
    Indicator(
        "willr_14",
        14,
        "WILLR",
        _HLC,
        {"timeperiod": 14},
        unit="index",
        bounds=(-100.0, 0.0),
        flat=FlatWindow(14, "bar"),
        description="Distance of the close below the highest high of 14 bars, as a share of their range.",
    ),
    Indicator(
        "roc_10",
        11,
        "ROC",
        _C,
        {"timeperiod": 10},
        unit="percent",
        bounds=(-100.0, None),
        description="Change over 10 bars.",
    ),
    Indicator("mom_10", 11, "MOM", _C, {"timeperiod": 10}, description="Close less the close 10 bars before."),
    Indicator(
        "mfi_14",
        15,
        "MFI",
        (*_HLC, "volume"),
        {"timeperiod": 14},
        unit="index",
        bounds=_PCT,
        description="Share of positive money flow over 14 bars; NULL unless the bars have one kind of volume.",
    ),
    Indicator(
        "ultosc",
        29,
        "ULTOSC",
        _HLC,
        {"timeperiod1": 7, "timeperiod2": 14, "timeperiod3": 28},
        unit="index",
        bounds=_PCT,
        flat=FlatWindow(7, "true_range"),
        description="Buying pressure over 7, 14 and 28 bars, weighted 4:2:1.",
    ),
    Indicator(
        "hv_20",
        21,
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
        51,
        "historical_volatility",
        _C,
        {"timeperiod": 50},
        unit="annualised fraction",
        bounds=_POS,
        source="formula: sqrt(bars a year) x standard deviation (ddof 1) of log returns",
        description="Volatility of the last 50 log returns.",
    ),
    Indicator(
        "atr_14",
        15,
        "ATR",
        _HLC,
        {"timeperiod": 14},
        bounds=_POS,
        source=_WILDER,
        description="Mean true range, 14 bars.",
    ),
    Indicator(
        "natr_14",
        15,
        "NATR",
        _HLC,
        {"timeperiod": 14},
        unit="percent",
        bounds=_POS,
        description="atr_14 as a percentage of the close.",
    ),
    Indicator(
        "bb_upper", 20, "BBANDS", _C, _BB, output=0, description="bb_middle plus 2 standard deviations (ddof 0)."
    ),
    Indicator("bb_middle", 20, "BBANDS", _C, _BB, output=1, bounds=_POS, description="Mean of the last 20 closes."),
    Indicator(
        "bb_lower", 20, "BBANDS", _C, _BB, output=2, description="bb_middle less 2 standard deviations (ddof 0)."
    ),
    Indicator(
        "bb_width",
        20,
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
        20,
        "bollinger_percent_b",
        _C,
        _BB,
        unit="fraction",
        source="formula: (close - bb_lower) / (bb_upper - bb_lower)",
        flat=FlatWindow(20, "close"),
        description="Close within the band: 0 at the lower edge, 1 at the upper; NULL where the band has no width.",
    ),
    Indicator(
        "log_return",
        2,
        "log_return",
        _C,
        {},
        unit="fraction",
        source="formula: ln(close / previous close)",
        description="Log return of the bar against the accepted bar before it.",
    ),
    Indicator(
        "return_zscore_50",
        51,
        "return_zscore",
        _C,
        {"timeperiod": 50},
        unit="index",
        source="formula: (log_return - mean of 50) / standard deviation (ddof 1) of 50",
        flat=FlatWindow(51, "close"),
        description="Log return in standard deviations of the last 50; NULL where they do not vary.",
    ),
)

INDICATOR_NAMES: tuple[str, ...] = tuple(indicator.name for indicator in INDICATORS)

INDICATORS_VERSION = max(indicator.version for indicator in INDICATORS)
"""The newest version of any column. Redis orders vectors of one ts by it; slices of an older one are computed again,
in the columns that are newer than they are."""
