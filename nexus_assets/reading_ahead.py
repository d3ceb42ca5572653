"""Asking a market-data service for all the days of a run at once, and handing them out slice by slice.

A service counts requests, and a page holds far more bars than a slice: asked slice by slice, a year of hours takes
twelve requests of OANDA instead of two. Only an optimisation: what cannot be asked for at once is asked for alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.errors import PermanentProviderError, UnknownSymbolError
from nexus_assets.partitions import Slice
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.interface import Delivery, Provider, Request
from nexus_assets.timeframes import length

MOST_BARS = 200_000
"""Bars that are asked for at once at most, some 15 MB; 40 pages of OANDA, so that hardly one in 40 is cut short."""


class ReadingAhead:
    """The requests of one run. Slices are to come in the order of slices_of."""

    def __init__(self, pieces: Sequence[Slice]) -> None:
        """`pieces` are all slices of the run."""
        self._end_days: dict[tuple[str, date], date] = {}
        for piece in reversed(pieces):
            following = self._end_days.get((piece.symbol, piece.end_day), piece.end_day)
            self._end_days[piece.symbol, piece.first_day] = following
        self._kept: dict[str, _Kept] = {}
        self._alone: set[tuple[str, str]] = set()

    def fetch(self, provider: Provider, piece: Slice, request: Request) -> Delivery:
        """The provider's answer to a request for a slice, or for the holes in it.

        Raises:
            ProviderError: as for Provider.fetch.
        """
        kept = self._kept.get(provider.name)
        if kept is not None and kept.covers(request):
            return kept.part(request)
        whole = self._whole(piece, request)
        # A hole in a slice says nothing about the slices after it.
        is_hole = (request.end - request.start) * 2 < piece.end_day - piece.first_day
        alone = provider.name, piece.symbol
        if not isinstance(provider, ApiProvider) or is_hole or whole.end <= request.end or alone in self._alone:
            return provider.fetch(request)
        try:
            kept = _Kept(provider.fetch(whole))
        except UnknownSymbolError:
            raise
        except PermanentProviderError:
            # It may refuse the range as a whole, because it does not reach back that far.
            self._alone.add(alone)
            return provider.fetch(request)
        self._kept[provider.name] = kept
        return kept.part(request)

    def _whole(self, piece: Slice, request: Request) -> Request:
        end_day = self._end_days.get((piece.symbol, piece.first_day), piece.end_day)
        end = trading_calendar.day_start(end_day)
        return replace(request, end=max(request.end, min(end, request.start + MOST_BARS * length(request.timeframe))))


@dataclass
class _Kept:
    delivery: Delivery
    counted: bool = False
    """Whether its equal repeats were handed out: they have no time, so the first part gets them."""

    def covers(self, request: Request) -> bool:
        whole = self.delivery.request
        same = (request.symbol, request.timeframe) == (whole.symbol, whole.timeframe)
        return same and whole.start <= request.start and request.end <= whole.end

    def part(self, request: Request) -> Delivery:
        repeats, self.counted = (0 if self.counted else self.delivery.equal_repeats), True
        bars, rejected = (_within(frame, request) for frame in (self.delivery.bars, self.delivery.rejected))
        return replace(self.delivery, request=request, bars=bars, rejected=rejected, equal_repeats=repeats)


def _within(frame: pd.DataFrame, request: Request) -> pd.DataFrame:
    inside = (frame["ts"] >= pd.Timestamp(request.start)) & (frame["ts"] < pd.Timestamp(request.end))
    return frame.loc[inside.to_numpy()].reset_index(drop=True)
