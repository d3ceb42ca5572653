"""Reading the market as it would be if some slices were written: what a plan of corrections is computed on."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from math import ceil

import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import Slice
from nexus_assets.timeframes import length


@dataclass(frozen=True)
class ProposedMarket:
    """The stored market with some slices replaced; reads like MarketStore.

    Attributes:
        store: Holds everything else.
        slices: The replaced slices and their bars at every timeframe, in the columns of schemas.BARS.
        correlations: Replaced days of analytics.correlation_matrix, and their rows.
    """

    store: MarketStore
    slices: Sequence[tuple[Slice, pd.DataFrame]]
    correlations: tuple[Collection[date], pd.DataFrame] | None = None

    def read_bars_with_warmup(
        self, symbol: str, timeframe: str, first_day: date, end_day: date, warmup: int
    ) -> pd.DataFrame:
        """As MarketStore.read_bars_with_warmup."""
        start, end = trading_calendar.slice_bounds(timeframe, first_day, end_day)
        # What is replaced may lose bars, so as many more are read as the slices can hold.
        margin = sum(ceil((hi - lo) / length(timeframe)) for lo, hi in self._ranges(symbol, timeframe))
        stored = self.store.read_bars_with_warmup(symbol, timeframe, first_day, end_day, warmup + margin)
        merged = self._merged(stored, symbol, timeframe, pd.Timestamp.min.tz_localize("UTC"), pd.Timestamp(end))
        before = int((merged["ts"] < pd.Timestamp(start)).sum())
        return merged.iloc[max(before - warmup, 0) :].reset_index(drop=True)

    def read_closes(self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """As MarketStore.read_closes."""
        stored = self.store.read_closes(symbols, timeframe, start, end)
        parts = [
            self._merged(
                pd.DataFrame(stored[stored["symbol"] == symbol]),
                symbol,
                timeframe,
                pd.Timestamp(start),
                pd.Timestamp(end),
            )
            for symbol in symbols
        ]
        filled = [part for part in parts if len(part)]
        return pd.concat(filled, ignore_index=True) if filled else stored

    def read_correlations(self, first_day: date, end_day: date) -> pd.DataFrame:
        """As MarketStore.read_correlations."""
        stored = self.store.read_correlations(first_day, end_day)
        days, rows = self.correlations or ((), stored.iloc[:0])
        inside = rows[(rows["day"] >= first_day) & (rows["day"] < end_day)]
        kept = stored[~stored["day"].isin(list(days))]
        filled = [frame for frame in (kept, inside) if len(frame)]
        return pd.concat(filled, ignore_index=True) if filled else stored.iloc[:0]

    def _ranges(self, symbol: str, timeframe: str) -> list[tuple[datetime, datetime]]:
        return [
            trading_calendar.slice_bounds(timeframe, piece.first_day, piece.end_day)
            for piece, _ in self.slices
            if piece.symbol == symbol
        ]

    def _merged(
        self, stored: pd.DataFrame, symbol: str, timeframe: str, start: pd.Timestamp, end: pd.Timestamp
    ) -> pd.DataFrame:
        """Stored rows outside the replaced slices and proposed ones inside, with ts in [start, end), by ts."""
        kept = stored
        for low, high in self._ranges(symbol, timeframe):
            kept = kept[(kept["ts"] < pd.Timestamp(low)) | (kept["ts"] >= pd.Timestamp(high))]
        parts = [kept] if len(kept) else []
        for piece, bars in self.slices:
            if piece.symbol == symbol:
                mine = bars[(bars["timeframe"] == timeframe) & (bars["ts"] >= start) & (bars["ts"] < end)]
                if len(mine):
                    parts.append(mine[list(stored.columns)])
        if not parts:
            return stored.iloc[:0]
        return pd.concat(parts).sort_values("ts", ignore_index=True)
