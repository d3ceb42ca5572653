"""Asking the providers of a symbol for a slice, the preferred one first, and storing what they answer.

The first that answers delivers the slice: one that fails, that does not answer in time, whose circuit is open or whose
budget is used up is passed over. The others are asked only for its holes: bars that the calendar expects, that are
over, that no provider has delivered in a usable row, and that the one asked has not finally said it does not have. So
stale and implausible answers are made good as well; these are noted as failures of their provider besides, if another
one serves the symbol.

Every answer and every failure is stored, so that the gap ledger knows who was asked for what. When the preferred
provider is back, its bars take the place of the others' as a correction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.doubts import doubt
from nexus_assets.errors import PermanentProviderError, ProviderError, TransientProviderError
from nexus_assets.instruments import instrument
from nexus_assets.market_store import DeliveryCounts, MarketStore
from nexus_assets.partitions import Slice
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.interface import Delivery, Provider, Request
from nexus_assets.providers.registry import Sources
from nexus_assets.reading_ahead import ReadingAhead
from nexus_assets.settings import Settings
from nexus_assets.transforms.gaps import asked_about
from nexus_assets.transforms.provider_choice import INVENTED
from nexus_assets.transforms.quarantined_bars import broken_rules


@dataclass
class Collected:
    """The answers that were stored, in the order of asking, and the failures that were noted."""

    answers: list[tuple[Delivery, DeliveryCounts]] = field(default_factory=list)
    failures: list[ProviderError] = field(default_factory=list)

    @property
    def newest_open(self) -> pd.Timestamp | None:
        """The open of the newest bar that was delivered; None where there was none."""
        return max((delivery.bars["ts"].iloc[-1] for delivery, _ in self.answers if len(delivery.bars)), default=None)


def collect(
    store: MarketStore,
    sources: Sources,
    piece: Slice,
    *,
    config: Settings,
    run_id: str | None,
    now: datetime,
    ahead: ReadingAhead | None = None,
) -> Collected:
    """Ask for a slice and store the answers, each in a transaction of its own.

    Args:
        now: Bars that end later are not over.
        ahead: Asks for the slices of the whole run together where that saves requests.

    Raises:
        PermanentProviderError: no provider is declared for the symbol.
        ProviderError: every provider failed; transient where one of the failures is.
    """
    timeframe = config.base_timeframe
    providers = sources.for_symbol(piece.symbol, timeframe)
    if not providers:
        raise PermanentProviderError(
            f"No source serves {piece.symbol} at {timeframe}.",
            next_step="Declare one in sources.toml, or leave the symbol out of NEXUS_SYMBOLS.",
        )
    collected, ahead = Collected(), ahead or ReadingAhead([piece])
    for provider in providers:
        request = Request(piece.symbol, timeframe, *trading_calendar.day_range(piece.first_day, piece.end_day))
        if collected.answers:
            if provider.name == INVENTED and any(delivery.delivered for delivery, _ in collected.answers):
                continue
            open_holes = holes(store, request, [p.name for p in providers], provider.name, now=now - lag_of(provider))
            if open_holes is None:
                continue
            request = open_holes
        try:
            delivery = ahead.fetch(provider, piece, request)
        except ProviderError as error:
            store.record_failure(provider.name, request, error, run_id=run_id)
            collected.failures.append(error)
            continue
        collected.answers.append((delivery, store.append_delivery(delivery, run_id=run_id)))
        if isinstance(provider, ApiProvider) and len(providers) > 1:
            found = doubt(delivery, now=now, lag=provider.lag)
            if found is not None:
                store.record_failure(provider.name, *found, run_id=run_id)
                collected.failures.append(found[1])
    if not collected.answers:
        raise _none_answered(piece, collected.failures)
    return collected


def _none_answered(piece: Slice, failures: Sequence[ProviderError]) -> ProviderError:
    if len(failures) == 1:
        return failures[0]
    kind = TransientProviderError if any(failure.transient for failure in failures) else PermanentProviderError
    told = " ".join(f"({number}) {failure}" for number, failure in enumerate(failures, start=1))
    return kind(
        f"None of the {len(failures)} providers of {piece} answered. {told}",
        next_step="market.failed_requests and `nexus status` tell more.",
    )


def lag_of(provider: Provider) -> timedelta:
    """How long after its end a bar takes to be there."""
    return provider.lag if isinstance(provider, ApiProvider) else timedelta(0)


def holes(
    store: MarketStore, request: Request, providers: Sequence[str], asked: str, *, now: datetime | None = None
) -> Request | None:
    """The days between the first and the last hole in a request's range that a provider may fill; None without one.

    Args:
        providers: Those of the symbol, the preferred one first; its calendar says what is expected.
        asked: Whose holes these would be to fill.
        now: Bars that end later are not over.
    """
    item, timeframe = instrument(request.symbol), request.timeframe
    grid = trading_calendar.expected(item.asset_class, request.start, request.end, timeframe, providers[0])
    grid = grid[trading_calendar.bar_end(grid, timeframe) <= pd.Timestamp(now or datetime.now(UTC))]
    raw = store.read_raw(request.symbol, timeframe, request.start, request.end)
    usable = raw["ts"][broken_rules(raw, item, timeframe) == ""]
    is_open = ~np.isin(grid.asi8, pd.DatetimeIndex(usable).as_unit("us").asi8)
    if is_open.any():
        about = store.requests_about(request.symbol, timeframe, request.start, request.end)
        is_open &= ~asked_about(grid, timeframe, about, [asked]).confirmed[asked]
    if not is_open.any():
        return None
    wanted = grid[is_open]
    first, last = wanted[0].floor("D"), (wanted[-1].floor("D") + pd.Timedelta(1, "D"))
    return Request(
        request.symbol,
        timeframe,
        max(request.start, first.to_pydatetime()),
        min(request.end, last.to_pydatetime()),
    )
