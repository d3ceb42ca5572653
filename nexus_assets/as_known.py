"""What was known at an instant: bars, indicators, labels and correlations made again from the revisions of that time.

Derived tables hold the newest corrections only. What they would have held at an instant is not stored but recomputed,
through the same transforms, from the raw rows that had been learned by then: the bits are the same today, after any
number of corrections, and on another machine of the same architecture and packages.

What belongs here: reading raw rows as of an instant, and handing them to the transforms. Which sources come first for a
symbol, and the rules of quarantine, are those of today.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import pandas as pd
import pyarrow as pa

from nexus_assets import trading_calendar
from nexus_assets.database import to_arrow
from nexus_assets.errors import TrainingSetError
from nexus_assets.indicator_table import WARMUP_BARS
from nexus_assets.instruments import instrument
from nexus_assets.market_store import MarketStore
from nexus_assets.planning import correlation_reach, warmup_days
from nexus_assets.resources import open_sources
from nexus_assets.schemas import CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, Table
from nexus_assets.settings import Settings
from nexus_assets.transforms import correlations, indicators, labels
from nexus_assets.transforms.bars import make_bars

_ONE_DAY = timedelta(days=1)
_KEPT = 32


class KnownMarket:
    """The market as it was known at an instant; reads like MarketStore.

    Args:
        store: Holds the revisions.
        instant: Rows that were learned later are not seen, nor are bars that ended later.
        priority: The providers of a symbol, the preferred one first.
        config: Timeframes and windows.
        assume_published: Bars that were first delivered long after their end count as learned so long after it: history
            that was loaded later is taken as known when it happened. None: they count from their delivery.

    Raises:
        TrainingSetError: the instant is not over: a delivery may still be learned at or before it.
    """

    def __init__(
        self,
        store: MarketStore,
        instant: datetime,
        *,
        priority: Callable[[str], Sequence[str]],
        config: Settings,
        assume_published: timedelta | None = None,
    ) -> None:
        settled = store.settled_until()
        if instant > settled:
            raise TrainingSetError(
                f"What was known at {instant.isoformat()} is not settled: deliveries up to {settled.isoformat()} are.",
                next_step="Ask for an instant before that, or wait for the deliveries that are under way.",
            )
        self._store, self._instant, self._priority, self._config = store, instant, priority, config
        self._assume_published = assume_published
        self._bars = lru_cache(maxsize=_KEPT)(self._make_bars)

    def read_columns(
        self, table: Table, columns: Sequence[str], symbol: str, timeframe: str, start: datetime, end: datetime
    ) -> pa.Table:
        """ts and these columns of one symbol and timeframe with ts in [start, end), by ts.

        Raises:
            TrainingSetError: the table is not derived from bars alone.
        """
        first_day, end_day = start.date() - _ONE_DAY, end.date() + 2 * _ONE_DAY
        if table is INDICATOR_ROWS:
            frame = self._indicators(symbol, timeframe, first_day, end_day)
        elif table is LABELS:
            frame = self._labels(symbol, timeframe, first_day, end_day)
        else:
            raise TrainingSetError(f"{table.qualified} cannot be made again as it was known at an instant.")
        rows = frame[(frame["ts"] >= pd.Timestamp(start)) & (frame["ts"] < pd.Timestamp(end))]
        return to_arrow(table.arrow, rows, table.qualified).select(["ts", *columns])

    def read_pair(self, symbol_a: str, symbol_b: str, timeframe: str, first_day: date, end_day: date) -> pa.Table:
        """day, correlation and known_at of a pair on the days [first_day, end_day), by day."""
        reach = timedelta(days=correlation_reach(self._config))
        names = ["symbol", "ts", "close", "known_at"]
        closes = pd.concat(
            [self.bars(symbol, timeframe, first_day - reach, end_day)[names] for symbol in (symbol_a, symbol_b)]
        )
        frames = [CORRELATION_MATRIX.empty()]
        for number in range((end_day - first_day).days):
            day = first_day + number * _ONE_DAY
            window = self._config.correlation_window
            frames.append(correlations.correlate(closes, day=day, timeframe=timeframe, window=window))
        filled = [frame for frame in frames if len(frame)]
        made = pd.concat(filled, ignore_index=True) if filled else frames[0]
        return to_arrow(CORRELATION_MATRIX.arrow, made, CORRELATION_MATRIX.qualified).select(
            ["day", "correlation", "known_at"]
        )

    def bars(self, symbol: str, timeframe: str, first_day: date, end_day: date) -> pd.DataFrame:
        """The bars of a symbol that end on the days [first_day, end_day), in the columns of schemas.BARS."""
        made = self._bars(symbol, first_day, end_day)
        return made[made["timeframe"] == timeframe].reset_index(drop=True)

    def _make_bars(self, symbol: str, first_day: date, end_day: date) -> pd.DataFrame:
        config = self._config
        _, end = trading_calendar.day_range(first_day, end_day)
        start = trading_calendar.rollup_read_start(first_day)
        return make_bars(
            self._store.read_raw(
                symbol,
                config.base_timeframe,
                start,
                end,
                as_known=self._instant,
                assume_published=self._assume_published,
            ),
            instrument=instrument(symbol),
            base_timeframe=config.base_timeframe,
            rolled_up=config.rolled_up_timeframes,
            first_day=first_day,
            end_day=end_day,
            complete_until=min(self._instant, end),
            priority=tuple(self._priority(symbol)),
        ).bars

    def _with_warm_up(self, symbol: str, timeframe: str, first_day: date, end_day: date, bars: int) -> pd.DataFrame:
        """The bars of the days after as many before them as asked for, however long ago, or as there are."""
        oldest = self._store.oldest_raw(symbol, self._config.base_timeframe)
        start, _ = trading_calendar.slice_bounds(timeframe, first_day, end_day)
        days = warmup_days(timeframe, bars)
        while True:
            reach = first_day - timedelta(days=days)
            made = self.bars(symbol, timeframe, reach, end_day)
            enough = int((made["ts"] < pd.Timestamp(start)).sum()) >= bars
            if enough or oldest is None or reach <= oldest.date():
                return made
            days *= 2

    def _indicators(self, symbol: str, timeframe: str, first_day: date, end_day: date) -> pd.DataFrame:
        return indicators.compute(
            self._with_warm_up(symbol, timeframe, first_day, end_day, WARMUP_BARS),
            instrument=instrument(symbol),
            timeframe=timeframe,
            first_day=first_day,
            end_day=end_day,
        )

    def _labels(self, symbol: str, timeframe: str, first_day: date, end_day: date) -> pd.DataFrame:
        ahead = end_day + labels.LOOK_AHEAD + _ONE_DAY
        return labels.compute(
            self._with_warm_up(symbol, timeframe, first_day, ahead, labels.VOLATILITY_BARS),
            instrument=instrument(symbol),
            timeframe=timeframe,
            first_day=first_day,
            end_day=end_day,
        ).labels


def known_market(
    store: MarketStore, instant: datetime, config: Settings, assume_published: timedelta | None = None
) -> KnownMarket:
    """The market as known at an instant, with the sources that are declared today."""
    sources = open_sources(config)

    def priority(symbol: str) -> tuple[str, ...]:
        return sources.priority_of(symbol, config.base_timeframe)

    return KnownMarket(
        store, instant.astimezone(UTC), priority=priority, config=config, assume_published=assume_published
    )
