"""What every provider is asked and what it answers.

What belongs here: the request, the delivery, the protocol, and the rules for repeated keys that hold for all of
them. A provider's own words (spellings, layouts, limits) stay in its file.

Times are tz-aware UTC, `ts` is the open of the bar, ranges are half-open.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from nexus_assets.errors import PermanentProviderError
from nexus_assets.instruments import InstrumentKind, PriceKind, VolumeKind

VALUE_COLUMNS = ("open", "high", "low", "close", "volume", "spread")
"""The numbers of a bar: prices and spread in quote currency or index points, volume in the unit of volume_kind."""

BAR_COLUMNS = ("ts", *VALUE_COLUMNS)
REJECTED_COLUMNS = ("ts", "rule", *VALUE_COLUMNS, "origin", "content", "detail")

TS_DTYPE = pd.DatetimeTZDtype("us", "UTC")


@dataclass(frozen=True, slots=True)
class Request:
    """Bars of one symbol and timeframe whose open lies in [start, end).

    Raises:
        PermanentProviderError: an instant without a time zone, or an end before the start.
    """

    symbol: str
    timeframe: str
    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if getattr(self, name).utcoffset() != timedelta(0):
                raise PermanentProviderError(
                    f"The request for {self.symbol} has the {name} {getattr(self, name)}, which is not UTC.",
                    next_step="Pass instants with tzinfo=datetime.UTC.",
                )
        if self.end < self.start:
            raise PermanentProviderError(
                f"The request for {self.symbol} ends ({self.end}) before it starts ({self.start}).",
                next_step="Pass start <= end.",
            )

    def __str__(self) -> str:
        return f"{self.symbol} {self.timeframe} [{self.start:%Y-%m-%dT%H:%MZ}, {self.end:%Y-%m-%dT%H:%MZ})"


@dataclass(frozen=True)
class Delivery:
    """A provider's answer to one request.

    Attributes:
        provider: Name under which the rows are stored.
        request: What was asked.
        bars: BAR_COLUMNS; unique ascending ts inside the range. Prices may be bad (zero, NaN): those are judged later.
        rejected: REJECTED_COLUMNS; rows that cannot be stored as bars. `rule` is unusable_key, conflicting_repeat or
            granularity. Where the row's own time cannot be read, `ts` is that of the nearest readable row before it.
        equal_repeats: Rows that repeat an earlier row of the delivery in every value.
        price_kind, volume_kind, instrument_kind: What the numbers are of.
        source: Where the rows came from, for people.
    """

    provider: str
    request: Request
    bars: pd.DataFrame
    rejected: pd.DataFrame
    equal_repeats: int
    price_kind: PriceKind
    volume_kind: VolumeKind
    instrument_kind: InstrumentKind
    source: str

    @property
    def delivered(self) -> int:
        """Rows that the provider delivered for the range."""
        return len(self.bars) + len(self.rejected) + self.equal_repeats


@runtime_checkable
class Provider(Protocol):
    """One source of prices under one name."""

    @property
    def name(self) -> str:
        """The name that the rows carry."""
        ...

    def serves(self, symbol: str, timeframe: str) -> bool:
        """Whether a request for these bars can be answered at all."""
        ...

    def available(self, symbol: str, timeframe: str) -> tuple[datetime, datetime] | None:
        """The half-open range of bar opens that the provider has; None where it is unknown or unbounded.

        Raises:
            ProviderError: as for fetch.
        """
        ...

    def fetch(self, request: Request) -> Delivery:
        """The rows of the range. No rows is a legal answer.

        Raises:
            UnknownSymbolError: the provider does not serve the symbol and timeframe.
            ProviderError: another of its subclasses: what failed, and whether the same request may work later.
        """
        ...


def empty_bars() -> pd.DataFrame:
    """No bars, with every column in its type."""
    return bar_frame(pd.DatetimeIndex([], dtype=TS_DTYPE), np.empty((len(VALUE_COLUMNS), 0)))


def bar_frame(ts: pd.DatetimeIndex, values: np.ndarray) -> pd.DataFrame:
    """Bars from their opens (n, UTC) and VALUE_COLUMNS as an array of shape (6, n)."""
    columns = {name: np.asarray(row, dtype="float64") for name, row in zip(VALUE_COLUMNS, values, strict=True)}
    return pd.DataFrame({"ts": pd.Series(ts.astype(TS_DTYPE)), **columns})


def rejected_frame(rows: pd.DataFrame, rule: str, *, detail: str = "") -> pd.DataFrame:
    """Rows in REJECTED_COLUMNS under one rule. Missing values are NaN; `detail` is used where the rows have none."""
    frame = pd.DataFrame({"ts": pd.Series(rows["ts"]).astype(TS_DTYPE)}, index=rows.index)
    frame["rule"] = pd.Series(rule, index=rows.index, dtype="str")
    for name in VALUE_COLUMNS:
        frame[name] = rows[name].astype("float64") if name in rows else np.nan
    for name, default in (("origin", ""), ("content", ""), ("detail", detail)):
        frame[name] = (rows[name] if name in rows else pd.Series(default, index=rows.index)).astype("str")
    return frame.reset_index(drop=True).loc[:, list(REJECTED_COLUMNS)]


def empty_rejected() -> pd.DataFrame:
    """No rejected rows, with every column in its type."""
    return _empty_rejected().copy()


@lru_cache(maxsize=1)
def _empty_rejected() -> pd.DataFrame:
    # Most deliveries need one, and making it costs more than reading a month of bars.
    return rejected_frame(empty_bars(), "unusable_key")


def settle_repeats(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Decide rows of the same ts: the first, in the order of the frame, stands.

    Args:
        frame: Has BAR_COLUMNS, in the order of delivery; more columns are carried along.

    Returns:
        (rows with unique ts, later rows that differ from the first in a value, number of later rows that do not).
        A missing value equals a missing value.
    """
    repeated = np.asarray(frame.duplicated("ts", keep="first"))
    if not repeated.any():
        return frame, frame.iloc[:0], 0
    unique, later = frame.loc[~repeated], frame.loc[repeated]
    names = list(VALUE_COLUMNS)
    first = unique.set_index("ts")[names].loc[later["ts"]].to_numpy(dtype="float64")
    own = later[names].to_numpy(dtype="float64")
    equal = ((own == first) | (np.isnan(own) & np.isnan(first))).all(axis=1)
    return unique, later.loc[~equal], int(equal.sum())
