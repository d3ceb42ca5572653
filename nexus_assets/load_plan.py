"""What a load is going to do: its runs, the slices that each has to write, and the rows that the calendar expects.

What belongs here: counting. What is missing or stale is decided in planning.py, how fast it goes is measured in
throughput.py.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.backfill import Rectangle
from nexus_assets.instruments import AssetClass, instrument
from nexus_assets.planning import Cell
from nexus_assets.providers.registry import Sources
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, DATASET_SPLITS, PAIR_RANKINGS, RAW_OHLC, Table
from nexus_assets.settings import Settings
from nexus_assets.slice_ledger import ALL_SYMBOLS, WHOLE_TABLE

ROWS_TAG = "nexus/rows"
"""Rows that a run was expected to write, by asset, as JSON: what its steps' durations are measured against."""


@dataclass(frozen=True)
class Work:
    """What is to be written of one asset: slices (a symbol on a day, or a day), and the rows expected in them."""

    slices: int = 0
    rows: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.slices + other.slices, self.rows + other.rows)


@dataclass(frozen=True)
class PlannedRun:
    """A run of a stage, and its work by asset; `tables` are what the assets write, in the order of their keys."""

    stage: str
    rectangle: Rectangle
    tables: tuple[Table, ...]
    work: Mapping[str, Work]

    @property
    def total(self) -> Work:
        """The work of all its assets."""
        return sum(self.work.values(), Work())

    @property
    def days(self) -> tuple[date, date]:
        """The first and the end day of its slices in the ledger."""
        if DATASET_SPLITS in self.tables:
            return WHOLE_TABLE, WHOLE_TABLE + timedelta(days=1)
        return self.rectangle.first_day, self.rectangle.end_day

    @property
    def tags(self) -> dict[str, str]:
        """What the run carries, for throughput.py."""
        return {ROWS_TAG: json.dumps({asset: work.rows for asset, work in self.work.items()})}


class ExpectedRows:
    """Rows that a complete feed makes of each slice, by the calendar of the symbol's preferred provider.

    Base bars of raw prices, bars at every timeframe, indicators and labels at every feature timeframe; of
    correlations and rankings every pair on days with bars. Holidays and weekends have none.
    """

    def __init__(self, config: Settings, sources: Sources) -> None:
        self._config, self._sources = config, sources
        self._per_day = cache(self._count)

    def of(self, table: Table, cells: Iterable[Cell]) -> int:
        """Rows of these slices of a table."""
        timeframes = self._timeframes(table)
        days: dict[str, list[date]] = {}
        for symbol, day in cells:
            days.setdefault(symbol, []).append(day)
        if table in (CORRELATION_MATRIX, PAIR_RANKINGS):
            symbols = self._config.symbols
            trading = {
                day for symbol in symbols for day in self._trading(symbol, days.get(ALL_SYMBOLS, []), timeframes[0])
            }
            return len(trading) * len(symbols) * (len(symbols) - 1) // 2
        return sum(
            sum(map(self._by_day(symbol, timeframe, min(some), max(some)).__getitem__, some))
            for symbol, some in days.items()
            for timeframe in timeframes
        )

    def _timeframes(self, table: Table) -> Sequence[str]:
        if table is RAW_OHLC:
            return [self._config.base_timeframe]
        if table is BARS:
            return self._config.timeframes
        if table in (CORRELATION_MATRIX, PAIR_RANKINGS):
            return [self._config.correlation_timeframe]
        return self._config.feature_timeframes

    def _trading(self, symbol: str, days: Collection[date], timeframe: str) -> list[date]:
        if not days:
            return []
        counts = self._by_day(symbol, timeframe, min(days), max(days))
        return [day for day in days if counts[day]]

    def _by_day(self, symbol: str, timeframe: str, first: date, last: date) -> Mapping[date, int]:
        providers = self._sources.priority_of(symbol, self._config.base_timeframe)
        asset_class = instrument(symbol).asset_class
        return self._per_day(asset_class, timeframe, first, last, providers[0] if providers else None)

    @staticmethod
    def _count(
        asset_class: AssetClass, timeframe: str, first: date, last: date, provider: str | None
    ) -> Mapping[date, int]:
        opens = trading_calendar.expected_in_days(asset_class, timeframe, first, last + timedelta(days=1), provider)
        ends = trading_calendar.bar_end(opens, timeframe) - pd.Timedelta(1, "us")
        positions = (ends.as_unit("us").asi8 // 86_400_000_000) - (first - date(1970, 1, 1)).days
        counts = np.bincount(positions, minlength=(last - first).days + 1)
        return {first + timedelta(days=number): int(count) for number, count in enumerate(counts)}
