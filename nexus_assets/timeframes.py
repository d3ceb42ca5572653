"""Bar lengths. A timeframe is written `1m 5m 15m 1h 4h 1d`; a bar covers [ts, ts + timeframe)."""

from datetime import timedelta
from typing import Literal, get_args

from nexus_assets.errors import SettingsError

Timeframe = Literal["1m", "5m", "15m", "1h", "4h", "1d"]

TIMEFRAMES: tuple[Timeframe, ...] = get_args(Timeframe)

_MINUTES: dict[str, int] = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}

# 4h and 1d bars lie on a grid that starts at 17:00 New York; the shorter ones lie on whole UTC multiples.
SESSION_ALIGNED: frozenset[str] = frozenset({"4h", "1d"})


def length(timeframe: str) -> timedelta:
    """The length of one bar. A 1d bar is 24 hours by name; across a switch of New York's clock it covers 23 or 25.

    Raises:
        SettingsError: the timeframe is not one of TIMEFRAMES.
    """
    if timeframe not in _MINUTES:
        raise SettingsError(
            f"The timeframe {timeframe!r} is unknown.", next_step=f"Use one of {', '.join(TIMEFRAMES)}."
        )
    return timedelta(minutes=_MINUTES[timeframe])


def minutes(timeframe: str) -> int:
    """The length of one bar in minutes."""
    return int(length(timeframe).total_seconds() // 60)
