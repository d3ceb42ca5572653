"""What the rehearsal's APIs know: bars of generic symbols, as they stand at the server's time.

Times are tz-aware UTC, `ts` is the open of the bar, ranges are half-open.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

import numpy as np
import pandas as pd

from nexus_assets.errors import SettingsError
from nexus_assets.instruments import INSTRUMENTS
from nexus_assets.providers.interface import TS_DTYPE, Provider, Request
from nexus_assets.timeframes import TIMEFRAMES, length

PRICE_COLUMNS = ("open", "high", "low", "close")
COLUMNS = ("ts", *PRICE_COLUMNS, "volume", "spread")

LONGEST = timedelta(days=366 * 40)
"""How far bars are looked for where a request names a count and only one end."""

# Spread in parts of the price, where the bars have none.
_USUAL_SPREAD = 0.0001


class Book(Protocol):
    """Bars by generic symbol and timeframe."""

    def symbols(self) -> tuple[str, ...]:
        """Every symbol that has bars."""
        ...

    def bars(self, symbol: str, timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """COLUMNS of the bars whose open lies in [start, end), ascending; empty where there are none."""
        ...


class FrameBook:
    """Bars given as frames."""

    def __init__(self, frames: Mapping[tuple[str, str], pd.DataFrame]) -> None:
        """`frames` holds, per (symbol, timeframe), ts (UTC), open, high, low, close, volume and, if known, spread.

        Raises:
            SettingsError: a column is missing, a ts has no time zone, or opens repeat or are out of order.
        """
        self._frames = {key: _checked(key, frame) for key, frame in frames.items()}

    def symbols(self) -> tuple[str, ...]:
        """The symbols of the frames."""
        return tuple(dict.fromkeys(symbol for symbol, _ in self._frames))

    def bars(self, symbol: str, timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """The rows of a frame; none where no frame was given."""
        frame = self._frames.get((symbol, timeframe))
        if frame is None:
            return no_bars()
        ts = pd.DatetimeIndex(frame["ts"])
        return frame.iloc[ts.searchsorted(pd.Timestamp(start)) : ts.searchsorted(pd.Timestamp(end))]


class ProviderBook:
    """Bars of providers of this project, such as the synthetic one or price files."""

    def __init__(self, *providers: Provider) -> None:
        """Of a symbol and timeframe, the first provider that serves it is asked, in stretches that are kept."""
        served: dict[tuple[str, str], Provider] = {}
        for symbol, timeframe in ((i.symbol, t) for i in INSTRUMENTS for t in TIMEFRAMES):
            for provider in providers:
                if provider.serves(symbol, timeframe):
                    served.setdefault((symbol, timeframe), provider)
        self._served = served
        self._symbols = tuple(dict.fromkeys(symbol for symbol, _ in served))
        self._lock = threading.Lock()
        self._stretch = lru_cache(maxsize=256)(self._fetch)

    def symbols(self) -> tuple[str, ...]:
        """Every known instrument that a provider serves in some timeframe."""
        return self._symbols

    def bars(self, symbol: str, timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """The provider's bars of the range; none where no provider serves the timeframe.

        Raises:
            ProviderError: the provider failed.
        """
        if end <= start or (symbol, timeframe) not in self._served:
            return no_bars()
        span = _stretch_of(timeframe)
        first, last = (start - _EPOCH) // span, (end - _EPOCH - timedelta(microseconds=1)) // span
        with self._lock:
            parts = [self._stretch(symbol, timeframe, number) for number in range(first, last + 1)]
        frame = pd.concat(parts, ignore_index=True) if len(parts) != 1 else parts[0]
        return frame.loc[((frame["ts"] >= start) & (frame["ts"] < end)).to_numpy()]

    def _fetch(self, symbol: str, timeframe: str, number: int) -> pd.DataFrame:
        start, end = (_EPOCH + n * _stretch_of(timeframe) for n in (number, number + 1))
        return _checked(
            (symbol, timeframe), self._served[symbol, timeframe].fetch(Request(symbol, timeframe, start, end)).bars
        )


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def _stretch_of(timeframe: str) -> timedelta:
    return min(4096 * length(timeframe), timedelta(days=128))


@dataclass(frozen=True, slots=True)
class Quote:
    """Bid and ask of a symbol at `time`; `fresh` where the market gave a price within the last two minutes or bar."""

    bid: float
    ask: float
    time: datetime
    fresh: bool


class Prices:
    """A book as an API sees it at one instant: nothing later, the newest bar perhaps unfinished."""

    def __init__(self, book: Book, now: datetime, missing: int = 0) -> None:
        """`missing` is the number of newest bars that this API does not have yet."""
        self.now = now
        self._book = book
        self._missing = missing

    def symbols(self) -> tuple[str, ...]:
        """Every symbol."""
        return self._book.symbols()

    def bars(self, symbol: str, timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """COLUMNS and `complete` of [start, end) as known now. The bar that is not over yet has the values of its
        elapsed part."""
        end = min(end, self.now + timedelta(microseconds=1))
        if self._missing:
            newest = self._visible_tail(symbol, timeframe, self._missing)
            end = min(end, newest["ts"].iloc[0].to_pydatetime()) if len(newest) else end
        if end <= start:
            return no_bars().assign(complete=pd.Series(dtype="bool"))
        return self._as_of_now(self._book.bars(symbol, timeframe, start, end), timeframe)

    def first_bars(self, symbol: str, timeframe: str, start: datetime, count: int) -> pd.DataFrame:
        """The first `count` bars from `start` on; fewer where there are fewer."""
        span = _first_span(timeframe, count)
        while True:
            found = self.bars(symbol, timeframe, start, start + span)
            if len(found) >= count or start + span > self.now or span > LONGEST:
                return found.iloc[:count]
            span *= 2

    def last_bars(self, symbol: str, timeframe: str, end: datetime, count: int) -> pd.DataFrame:
        """The last `count` bars that open before `end`; fewer where there are fewer."""
        span = _first_span(timeframe, count)
        end = min(end, self.now + timedelta(microseconds=1))
        while True:
            found = self.bars(symbol, timeframe, end - span, end)
            if len(found) >= count or span > LONGEST:
                return found.iloc[max(0, len(found) - count) :]
            span *= 2

    def quote(self, symbol: str) -> Quote | None:
        """Bid and ask around the newest close of the shortest timeframe; None where the symbol has no bar."""
        for timeframe in TIMEFRAMES:
            newest = self.last_bars(symbol, timeframe, self.now + timedelta(seconds=1), 1)
            if len(newest):
                row = newest.iloc[0]
                half = row["spread"] / 2
                time = min(self.now, (row["ts"] + length(timeframe)).to_pydatetime())
                age = self.now - row["ts"].to_pydatetime()
                return Quote(row["close"] - half, row["close"] + half, time, age <= 2 * length(timeframe))
        return None

    def _visible_tail(self, symbol: str, timeframe: str, count: int) -> pd.DataFrame:
        return Prices(self._book, self.now).last_bars(symbol, timeframe, self.now + timedelta(seconds=1), count)

    def _as_of_now(self, bars: pd.DataFrame, timeframe: str) -> pd.DataFrame:
        over = (bars["ts"] + length(timeframe) <= self.now).to_numpy()
        bars = bars.assign(complete=over)
        if len(bars) == 0 or over[-1]:
            return bars
        row = bars.iloc[-1]
        share = (self.now - row["ts"].to_pydatetime()) / length(timeframe)
        opened = row["open"]
        digits = max(len(repr(float(row[name])).partition(".")[2]) for name in PRICE_COLUMNS)
        partial = {name: round(opened + share * (row[name] - opened), digits) for name in PRICE_COLUMNS}
        partial["volume"] = float(np.floor(share * row["volume"]))
        return bars.assign(**{name: np.append(bars[name].to_numpy()[:-1], value) for name, value in partial.items()})


def _first_span(timeframe: str, count: int) -> timedelta:
    # Weekends and holidays have no bars: half as much again and a week fits most requests at once.
    return length(timeframe) * count * 3 // 2 + timedelta(days=7)


def no_bars() -> pd.DataFrame:
    """COLUMNS without a row."""
    columns = {name: np.empty(0) for name in COLUMNS[1:]}
    return pd.DataFrame({"ts": pd.Series(pd.DatetimeIndex([], dtype=TS_DTYPE)), **columns})


def _checked(key: tuple[str, str], frame: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in COLUMNS[:-1] if name not in frame]
    if missing:
        raise SettingsError(
            f"The rehearsal's frame of {' '.join(key)} lacks {', '.join(missing)}.",
            next_step="Give the columns ts (UTC), open, high, low, close, volume and, where known, spread.",
        )
    ts = pd.DatetimeIndex(frame["ts"])
    if ts.tz is None or not ts.is_monotonic_increasing or ts.has_duplicates:
        raise SettingsError(
            f"The rehearsal's frame of {' '.join(key)} has no time zone in ts, or its ts repeat or are out of order.",
            next_step="Give tz-aware, unique, ascending opens.",
        )
    values = {name: frame[name].to_numpy(dtype="float64") for name in COLUMNS[1:-1]}
    usual = values["close"] * _USUAL_SPREAD
    spread = frame["spread"].to_numpy(dtype="float64") if "spread" in frame else usual
    values["spread"] = np.where(np.isnan(spread), usual, spread)
    return pd.DataFrame({"ts": pd.Series(ts.tz_convert("UTC").astype(TS_DTYPE)), **values})


def trading_days(ts: pd.Series) -> pd.Series:
    """The day that a 1d bar is called after: the UTC day in which it ends. Dates, for opens in UTC."""
    return (ts + pd.Timedelta(hours=24) - pd.Timedelta(microseconds=1)).dt.date
