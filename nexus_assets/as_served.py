"""What was served: every row of features made from what was known at its own decision time, and not a moment later.

A training set with the newest corrections looks ahead: it holds values that were learned after the decision. One as
known at an instant does too, for all rows but the last. Here each row sees the revisions that had been learned by the
end of its bar and a latency: what a trading model would have been given then. Labels are outcomes and have the newest
corrections.

Rows that no late revision reaches are what they are with the newest corrections. The others are made again, a stretch
of neighbours at a time between the instants at which something about them was learned, through as_known.py.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from nexus_assets import trading_calendar
from nexus_assets.as_known import KnownMarket
from nexus_assets.errors import TrainingSetError
from nexus_assets.indicator_table import WARMUP_BARS
from nexus_assets.market_store import MarketStore
from nexus_assets.planning import correlation_reach, warmup_days
from nexus_assets.resources import open_sources
from nexus_assets.schemas import INDICATOR_ROWS, LABELS, Table
from nexus_assets.settings import Settings
from nexus_assets.timeframes import length, minutes

_ONE_DAY = timedelta(days=1)
_DAY_MICROS = 86_400_000_000
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Revisions:
    """Raw revisions of one symbol in base bars, microseconds since 1970: open, and when it was learned."""

    ts: np.ndarray
    known_at: np.ndarray


class ServedMarket:
    """The market as it was served; reads like MarketStore.

    Args:
        store: Holds the revisions.
        latency: From the end of a bar to the decision on it.
        priority: The providers of a symbol, the preferred one first.
        config: Timeframes and windows.
        assume_published: As for KnownMarket.
    """

    def __init__(
        self,
        store: MarketStore,
        latency: timedelta,
        *,
        priority: Callable[[str], Sequence[str]],
        config: Settings,
        assume_published: timedelta | None = None,
    ) -> None:
        self._store, self._latency, self._priority, self._config = store, latency, priority, config
        self._assume_published = assume_published
        self._now = store.settled_until()

    def read_columns(
        self, table: Table, columns: Sequence[str], symbol: str, timeframe: str, start: datetime, end: datetime
    ) -> pa.Table:
        """ts and these columns of one symbol and timeframe with ts in [start, end), by ts: features as served, labels
        as corrected.

        Raises:
            TrainingSetError: the table is neither.
        """
        if table is LABELS:
            return self._store.read_columns(table, columns, symbol, timeframe, start, end)
        if table is not INDICATOR_ROWS:
            raise TrainingSetError(f"{table.qualified} cannot be made again as it was served.")
        opens = trading_calendar.bar_opens(timeframe, start, end)
        decided = trading_calendar.bar_end(opens, timeframe).asi8 + _micros(self._latency)
        revisions = self._late(symbol, start - timedelta(days=warmup_days(timeframe)), end, timeframe)
        until = self._reach(symbol, timeframe, revisions)
        parts = [
            known.read_columns(table, columns, symbol, timeframe, *_span(opens[rows], timeframe))
            for known, rows in self._stretches(decided, revisions, opens.asi8, until)
        ]
        filled = [part for part in parts if part.num_rows]
        if filled:
            return pa.concat_tables(filled)
        return self._known(self._now).read_columns(table, columns, symbol, timeframe, start, start)

    def read_pair(self, symbol_a: str, symbol_b: str, timeframe: str, first_day: date, end_day: date) -> pa.Table:
        """day, correlation and known_at of a pair on the days [first_day, end_day), by day: as served at the end of
        each day and the latency."""
        count = (end_day - first_day).days
        opens = pd.date_range(first_day, periods=count, freq="D", tz="UTC", unit="us").asi8
        reach = timedelta(days=correlation_reach(self._config) + 1)
        start, end = trading_calendar.day_range(first_day, end_day)
        both = [self._late(symbol, start - reach, end, timeframe) for symbol in (symbol_a, symbol_b)]
        late = _Revisions(*(np.concatenate([getattr(one, name) for one in both]) for name in ("ts", "known_at")))
        decided = opens + _DAY_MICROS + _micros(self._latency)
        until = late.ts + _micros(reach)
        parts = []
        for known, rows in self._stretches(decided, late, opens + _DAY_MICROS, until):
            first = first_day + int(rows[0]) * _ONE_DAY
            parts.append(known.read_pair(symbol_a, symbol_b, timeframe, first, first + len(rows) * _ONE_DAY))
        if parts:
            return pa.concat_tables(parts)
        return self._known(self._now).read_pair(symbol_a, symbol_b, timeframe, first_day, first_day)

    def _known(self, instant: datetime) -> KnownMarket:
        return KnownMarket(
            self._store, instant, priority=self._priority, config=self._config, assume_published=self._assume_published
        )

    def _late(self, symbol: str, start: datetime, end: datetime, timeframe: str) -> _Revisions:
        """The revisions of base bars that were learned after the first decision that could use them; where several
        providers deliver, every one: the provider of a day may change with each."""
        base = self._config.base_timeframe
        rows = self._store.read_revision_times(symbol, base, start, end, self._assume_published)
        ts, known_at = (pd.DatetimeIndex(rows[name]).as_unit("us").asi8 for name in ("ts", "known_at"))
        bar = trading_calendar.bar_open_of(pd.DatetimeIndex(rows["ts"]), timeframe)
        decided = trading_calendar.bar_end(bar, timeframe).asi8 + _micros(self._latency)
        several = rows["provider"].nunique() > 1
        late = np.full(len(rows), True) if several else known_at > decided
        return _Revisions(ts[late], known_at[late])

    def _reach(self, symbol: str, timeframe: str, revisions: _Revisions) -> np.ndarray:
        """Until when (exclusive) a row's open may lie whose slice holds each revision's bar."""
        if not len(revisions.ts):
            return revisions.ts
        first, last = (_instant(int(edge)) for edge in (revisions.ts.min(), revisions.ts.max()))
        # A bar that is missing now may have been there then: such slices reach less far, never further.
        opens = self._store.read_opens(symbol, timeframe, first, last, WARMUP_BARS + 1440 // minutes(timeframe) + 1)
        position = np.searchsorted(opens.asi8, revisions.ts, side="right") - 1
        reached = position + WARMUP_BARS + max(1440 // minutes(timeframe), 1) + 1
        beyond = np.append(opens.asi8, _NEVER)
        return beyond[np.minimum(reached, len(opens))]

    def _stretches(
        self, decided: np.ndarray, revisions: _Revisions, opens: np.ndarray, until: np.ndarray
    ) -> Iterator[tuple[KnownMarket, np.ndarray]]:
        """The rows in stretches that saw the same revisions, each with the market as known at its end.

        A revision separates rows only if one whose slice holds its bar was decided before it was learned.
        """
        edges = []
        for ts, known_at, end in zip(revisions.ts, revisions.known_at, until, strict=True):
            low, high = np.searchsorted(opens, ts - _DAY_MICROS), np.searchsorted(opens, end)
            if (decided[low:high] < known_at).any():
                edges.append(known_at)
        bounds = np.unique(np.array(edges, dtype=np.int64))
        now = _micros(self._now - datetime(1970, 1, 1, tzinfo=UTC))
        stretch = np.searchsorted(bounds, decided, side="right")
        for number in np.unique(stretch[decided <= now]):
            rows = np.flatnonzero((stretch == number) & (decided <= now))
            last = int(bounds[number]) - 1 if number < len(bounds) else now
            yield self._known(min(_instant(last), self._now)), rows


def _span(opens: pd.DatetimeIndex, timeframe: str) -> tuple[datetime, datetime]:
    end = trading_calendar.bar_end(opens[[-1]], timeframe)[0]
    return opens[0].to_pydatetime(), min(end, opens[-1] + length(timeframe)).to_pydatetime()


def _micros(span: timedelta) -> int:
    return round(span.total_seconds() * 1e6)


def _instant(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def served_market(
    store: MarketStore, latency: timedelta, config: Settings, assume_published: timedelta | None = None
) -> ServedMarket:
    """The market as it was served, with the sources that are declared today."""
    sources = open_sources(config)

    def priority(symbol: str) -> tuple[str, ...]:
        return sources.priority_of(symbol, config.base_timeframe)

    return ServedMarket(store, latency, priority=priority, config=config, assume_published=assume_published)
