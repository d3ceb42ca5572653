"""Invented prices that look like a market: for a first start without data, for demonstrations and tests.

The same (symbol, minute) has the same values whatever range or timeframe is asked, in every process. All randomness
is raw Philox bits keyed by a name and a day, and prices are rounded to the instrument's digits, so neither numpy's
distributions nor the CPU's last bit of exp() can change them.

How a price is made: each currency, metal and index is a weighted sum of a few factors, so that triangles
(EURUSD = EURGBP x GBPUSD) hold up to rounding and related symbols are correlated. A factor's level at each 00:00 UTC
is a mean-reverting walk from a fixed epoch; within a day it is a Brownian bridge over minutes, with the hours' usual
unrest. Longer bars are aggregates of the minutes that the calendar expects.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import accumulate

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.errors import SettingsError, UnknownSymbolError
from nexus_assets.instruments import INSTRUMENTS, Instrument, instrument
from nexus_assets.providers.interface import Delivery, Request, bar_frame, empty_bars, empty_rejected
from nexus_assets.timeframes import TIMEFRAMES, length

EPOCH = date(2000, 1, 1)
LAST_DAY = date(2069, 1, 1)
DAY_MINUTES = 1440
REVERSION_DAYS = 500.0
"""Time constant with which a factor returns to zero; it keeps prices plausible over decades."""

_UNREST = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.9)
"""Multipliers of volatility, drawn per day and per hour: quiet mostly, wild at times."""

# Relative variance of the 24 UTC hours.
_FX_HOURS = (
    *(0.5, 0.6, 0.6, 0.5, 0.45, 0.5, 0.8, 1.4, 1.5, 1.2, 1.0, 0.95),
    *(1.3, 1.8, 1.9, 1.7, 1.4, 1.0, 0.8, 0.7, 0.6, 0.35, 0.3, 0.4),
)
_US_HOURS = (*([0.35] * 7), *([0.6] * 6), 1.4, 3.0, 2.6, 1.9, 1.6, 1.7, 2.2, 1.2, 0.4, 0.3, 0.35)
_CRYPTO_HOURS = (*([0.9] * 12), *([1.2] * 8), *([0.8] * 4))


@dataclass(frozen=True, slots=True)
class _Factor:
    """A source of movement: daily volatility as a fraction, and the rhythm of its hours."""

    volatility: float
    rhythm: str


_FACTORS: Mapping[str, _Factor] = {
    "usd": _Factor(0.0030, "fx"),
    "eur": _Factor(0.0022, "fx"),
    "gbp": _Factor(0.0030, "fx"),
    "chf": _Factor(0.0022, "fx"),
    "jpy": _Factor(0.0040, "fx"),
    "cad": _Factor(0.0024, "fx"),
    "aud": _Factor(0.0022, "fx"),
    "nzd": _Factor(0.0024, "fx"),
    "europe": _Factor(0.0026, "fx"),
    "antipodes": _Factor(0.0032, "fx"),
    "gold": _Factor(0.0080, "fx"),
    "silver": _Factor(0.0100, "fx"),
    "equity": _Factor(0.0090, "us"),
    "technology": _Factor(0.0050, "us"),
    "industry": _Factor(0.0030, "us"),
    "large_caps": _Factor(0.0012, "us"),
    "bitcoin": _Factor(0.0250, "crypto"),
    "ether": _Factor(0.0180, "crypto"),
}

# What a unit is worth in US dollars when all factors are zero, and how it follows the factors.
_UNITS: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "USD": (1.0, {"usd": 1.0, "equity": -0.05}),
    "EUR": (1.10, {"eur": 1.0, "europe": 1.0}),
    "GBP": (1.28, {"gbp": 1.0, "europe": 0.7, "equity": 0.05}),
    "CHF": (1.13, {"chf": 1.0, "europe": 0.9, "equity": -0.08}),
    "JPY": (1 / 142.0, {"jpy": 1.0, "equity": -0.12}),
    "CAD": (0.74, {"cad": 1.0, "equity": 0.10}),
    "AUD": (0.66, {"aud": 1.0, "antipodes": 1.0, "equity": 0.14}),
    "NZD": (0.61, {"nzd": 1.0, "antipodes": 1.0, "equity": 0.12}),
    "XAU": (2100.0, {"gold": 1.0, "equity": -0.05}),
    "XAG": (25.0, {"gold": 1.1, "silver": 1.0}),
    "BTC": (45_000.0, {"bitcoin": 1.0, "equity": 0.5}),
    "ETH": (2_600.0, {"bitcoin": 0.9, "ether": 1.0, "equity": 0.5}),
}
_INDICES: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "NAS100": (17_500.0, {"equity": 1.15, "technology": 1.0}),
    "US30": (38_000.0, {"equity": 0.85, "industry": 1.0}),
    "US500": (4_900.0, {"equity": 1.0, "large_caps": 1.0}),
}
# Half of these is a usual spread, as a fraction of the price; and ticks in a usual minute.
_SPREAD = {"fx": 0.00012, "metal": 0.00018, "index": 0.00010, "crypto": 0.0006}
_TICKS = {"fx": 55.0, "metal": 90.0, "index": 70.0, "crypto": 120.0}


def _bits(*key: object, count: int) -> np.ndarray:
    """`count` rows of four independent 16-bit numbers, shape (count, 4), fixed by the key."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=16).digest()
    raw = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)
    # Little-endian by declaration, so that every platform reads the same four numbers.
    return raw.astype("<u8").view("<u2").reshape(count, 4)


def _normal(bits: np.ndarray) -> np.ndarray:
    """Nearly normal numbers (mean 0, variance 1, at most 3.5) from rows of four 16-bit numbers."""
    return (bits.sum(axis=1, dtype="int64") - 131_070) * (3.0**0.5 / 65_536)


@lru_cache(maxsize=32)
def _rhythm(name: str, weekday: int) -> np.ndarray:
    """Variance of each minute of a UTC day, shape (1440,); a Tuesday's sums to 1. Zero where markets are shut."""
    hours = np.array({"fx": _FX_HOURS, "us": _US_HOURS, "crypto": _CRYPTO_HOURS}[name])
    total = hours.sum() * 60
    if name != "crypto":
        shut = {4: range(22, 24), 5: range(24), 6: range(21)}.get(weekday, range(0))
        hours[list(shut)] = 0.0
    return np.repeat(hours, 60) / total


@lru_cache(maxsize=32)
def _unrest_by_day(name: str) -> np.ndarray:
    return np.take(_UNREST, _bits("unrest", name, count=(LAST_DAY - EPOCH).days)[:, 0] % len(_UNREST))


@lru_cache(maxsize=32)
def _levels(name: str) -> np.ndarray:
    """The factor's level at 00:00 UTC of every day from EPOCH to LAST_DAY, both included."""
    factor, days = _FACTORS[name], (LAST_DAY - EPOCH).days
    share = np.resize([_rhythm(factor.rhythm, (EPOCH.weekday() + n) % 7).sum() for n in range(7)], days)
    shocks = _normal(_bits("level", name, count=days)) * factor.volatility * _unrest_by_day(name) * np.sqrt(share)
    keep = (1.0 - share / REVERSION_DAYS).tolist()
    steps = zip(keep, shocks.tolist(), strict=True)
    return np.array(list(accumulate(steps, lambda level, step: level * step[0] + step[1], initial=0.0)))


@lru_cache(maxsize=4096)
def _path(name: str, day_number: int) -> np.ndarray:
    """The factor at each minute of a day, from 00:00 to the next 00:00, shape (1441,)."""
    factor, levels = _FACTORS[name], _levels(name)
    day = EPOCH + timedelta(days=day_number)
    bits = _bits("minutes", name, day, count=DAY_MINUTES + 24)
    hourly = np.take(_UNREST, bits[DAY_MINUTES:, 0] % len(_UNREST))
    variance = _rhythm(factor.rhythm, day.weekday()) * np.repeat(hourly * hourly, 60)
    start, end = levels[day_number], levels[day_number + 1]
    total = variance.sum()
    if total == 0.0:
        return np.full(DAY_MINUTES + 1, start)
    moves = _normal(bits[:DAY_MINUTES]) * np.sqrt(variance) * (factor.volatility * _unrest_by_day(name)[day_number])
    moves += variance / total * (end - start - moves.sum())
    path = np.empty(DAY_MINUTES + 1)
    path[0] = start
    np.cumsum(moves, out=path[1:])
    path[1:] += start
    return path


def _make_up(item: Instrument) -> tuple[float, dict[str, float]]:
    """The price when all factors are zero, and the weight of each factor in its logarithm."""
    if item.symbol in _INDICES:
        anchor, weights = _INDICES[item.symbol]
        return anchor, dict(weights)
    (base, base_weights), (quote, quote_weights) = _UNITS[item.symbol[:3]], _UNITS[item.symbol[3:]]
    names = [name for name in _FACTORS if name in base_weights or name in quote_weights]
    return base / quote, {name: base_weights.get(name, 0.0) - quote_weights.get(name, 0.0) for name in names}


def _minutes_of_day(item: Instrument, day_number: int) -> np.ndarray:
    """VALUE_COLUMNS of every minute of a day, open market or not, shape (6, 1440)."""
    anchor, weights = _make_up(item)
    day = EPOCH + timedelta(days=day_number)
    logarithm = np.zeros(DAY_MINUTES + 1)
    for name, weight in weights.items():
        logarithm += weight * _path(name, day_number)
    price = anchor * np.exp(logarithm)
    opens, closes = price[:-1], price[1:]
    rhythm = {"index": "us", "crypto": "crypto"}.get(item.asset_class, "fx")
    unrest = np.sqrt(_rhythm(rhythm, day.weekday()) * DAY_MINUTES)
    volatility = sum((w * _FACTORS[n].volatility) ** 2 for n, w in weights.items()) ** 0.5 / DAY_MINUTES**0.5
    up, down, busy, wide = _bits("bars", item.symbol, day, count=DAY_MINUTES).T / 65_536.0
    wick = opens * volatility * (0.15 + unrest)
    high = np.maximum(opens, closes) + wick * up * up
    low = np.minimum(opens, closes) - wick * down * down
    volume = np.floor(1.0 + _TICKS[item.asset_class] * (0.15 + unrest) * (0.4 + 1.2 * busy))
    spread = opens * _SPREAD[item.asset_class] * (0.7 + 0.4 * wide + 0.5 / (0.3 + unrest))
    prices = np.round(np.stack([opens, high, low, closes]), item.digits)
    tick = 10.0**-item.digits
    return np.vstack([prices, volume, np.maximum(np.round(spread, item.digits), round(tick, item.digits))])


@lru_cache(maxsize=16)
def _expected_minutes(asset_class: str, start: datetime, end: datetime) -> pd.DatetimeIndex:
    # Every symbol of a class is asked for the same few ranges.
    return trading_calendar.expected(asset_class, start, end, "1m")  # pyright: ignore[reportArgumentType]


def _aggregate(minutes: np.ndarray, starts: np.ndarray, digits: int) -> np.ndarray:
    """Bars from minutes, shapes (6, n) and (6, bars); `starts` is the first minute of each bar. The spread is the
    mean of the minutes'."""
    counts = np.diff(np.append(starts, minutes.shape[1]))
    lasts = starts + counts - 1
    opens, high, low, close, volume, spread = minutes
    return np.stack(
        [
            opens[starts],
            np.maximum.reduceat(high, starts),
            np.minimum.reduceat(low, starts),
            close[lasts],
            np.add.reduceat(volume, starts),
            np.round(np.add.reduceat(spread, starts) / counts, digits + 1),
        ]
    )


class SyntheticProvider:
    """Invented bars of every known instrument and timeframe, from EPOCH to the last bar that is over."""

    def __init__(self, *, name: str = "synthetic", now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`now` says what time it is (tz-aware): a bar that is not over is never delivered."""
        self.name = name
        self._now = now

    def serves(self, symbol: str, timeframe: str) -> bool:
        """True for every known instrument and timeframe."""
        return timeframe in TIMEFRAMES and any(i.symbol == symbol for i in INSTRUMENTS)

    def available(self, symbol: str, timeframe: str) -> tuple[datetime, datetime] | None:
        """From EPOCH until now.

        Raises:
            UnknownSymbolError: the symbol or the timeframe is unknown.
        """
        self._instrument(symbol, timeframe)
        return trading_calendar.day_start(EPOCH), self._now()

    def fetch(self, request: Request) -> Delivery:
        """The bars of the range that are over.

        Raises:
            UnknownSymbolError: the symbol or the timeframe is unknown.
        """
        item = self._instrument(request.symbol, request.timeframe)
        return Delivery(
            provider=self.name,
            request=request,
            bars=self._bars(item, request),
            rejected=empty_rejected(),
            equal_repeats=0,
            price_kind="mid",
            volume_kind="ticks",
            instrument_kind=item.kind,
            source="synthetic prices, made up by nexus_assets",
        )

    def _instrument(self, symbol: str, timeframe: str) -> Instrument:
        try:
            length(timeframe)
            return instrument(symbol)
        except SettingsError as error:
            raise UnknownSymbolError(f"{self.name}: {error.fact}", next_step=error.next_step) from None

    def _bars(self, item: Instrument, request: Request) -> pd.DataFrame:
        start = max(request.start, trading_calendar.day_start(EPOCH))
        # A bar that opens before the end of the range may reach beyond it; a 1d bar has up to 25 hours.
        end = min(request.end, self._now()) + length(request.timeframe) + timedelta(hours=2)
        # On the hour, so that requests of one moment share their minutes.
        end = min(end.replace(minute=0, second=0, microsecond=0), trading_calendar.day_start(LAST_DAY))
        if request.end <= start or end <= start:
            return empty_bars()
        minutes = _expected_minutes(item.asset_class, start.replace(second=0, microsecond=0), end)
        if len(minutes) == 0:
            return empty_bars()
        first_day = (start.date() - EPOCH).days
        last_day = min((end.date() - EPOCH).days, (LAST_DAY - EPOCH).days - 1)
        values = np.concatenate([_minutes_of_day(item, n) for n in range(first_day, last_day + 1)], axis=1)
        midnight = pd.Timestamp(trading_calendar.day_start(start.date()))
        values = values[:, ((minutes - midnight) // pd.Timedelta(minutes=1)).to_numpy()]
        opens = trading_calendar.bar_open_of(minutes, request.timeframe)
        starts = np.flatnonzero(np.append(True, opens[1:] != opens[:-1]))
        bars = bar_frame(opens[starts], _aggregate(values, starts, item.digits))
        return self._over_and_in_range(bars, item, request)

    def _over_and_in_range(self, bars: pd.DataFrame, item: Instrument, request: Request) -> pd.DataFrame:
        ts = pd.DatetimeIndex(bars["ts"])
        wanted = np.asarray((ts >= pd.Timestamp(request.start)) & (ts < pd.Timestamp(request.end)))
        wanted &= np.asarray(trading_calendar.bar_end(ts, request.timeframe) <= pd.Timestamp(self._now()))
        wanted &= ts.isin(trading_calendar.expected(item.asset_class, request.start, request.end, request.timeframe))
        return bars.loc[wanted].reset_index(drop=True)
