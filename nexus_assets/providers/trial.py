"""One small request to each market-data service, so that a user sees whether a key works."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from nexus_assets import trading_calendar
from nexus_assets.errors import ProviderError
from nexus_assets.instruments import instrument
from nexus_assets.providers.connections import Connections
from nexus_assets.providers.interface import Request
from nexus_assets.providers.quotes import Quoting
from nexus_assets.providers.source_declaration import DEFAULT_ORDER, KEYLESS
from nexus_assets.providers.spellings import spelling, spells

BARS = 10


@dataclass(frozen=True)
class Trial:
    """What came of trying one service.

    Attributes:
        service: Its name.
        key: `set`, `not set` or `not needed`.
        spelling: What the service calls the symbol; empty where it does not have it.
        works: None where nothing was asked.
        answer: What it said, or why it was not asked; never a key.
        seconds: How long the answer took.
    """

    service: str
    key: str
    spelling: str
    works: bool | None
    answer: str
    seconds: float | None = None


def trials(
    connections: Connections, symbol: str, timeframe: str, *, now: datetime, quotes: bool = False
) -> Iterator[Trial]:
    """Try every service that has a key or needs none: the newest bars of a symbol, and its quote where that is wished.

    Raises:
        UnknownSymbolError: nobody knows the symbol.
    """
    asset_class = instrument(symbol).asset_class
    grid = trading_calendar.expected(asset_class, now - timedelta(days=10), now, timeframe)
    request = Request(symbol, timeframe, grid[-BARS].to_pydatetime(), now)
    for service in DEFAULT_ORDER:
        key = "not needed" if service in KEYLESS else "set" if connections.usable(service) else "not set"
        text = spelling(service, symbol).text if spells(service, symbol) else ""
        if not connections.usable(service):
            yield Trial(service, key, text, None, "not asked")
        elif not text:
            yield Trial(service, key, text, None, f"does not have {symbol}")
        else:
            yield _tried(connections, service, key, request, quotes)


def _tried(connections: Connections, service: str, key: str, request: Request, quotes: bool) -> Trial:
    text = spelling(service, request.symbol).text
    began = time.monotonic()
    try:
        provider = connections.open(service)
        delivery = provider.fetch(request)
        told = f"{len(delivery.bars)} bars"
        if len(delivery.bars):
            newest = delivery.bars.iloc[-1]
            told += f", the newest of {newest['ts']:%Y-%m-%d %H:%M}Z closed at {newest['close']:.10g}"
        told += f" ({delivery.price_kind} prices)"
        if quotes and isinstance(provider, Quoting):
            quote = provider.quote(request.symbol)
            told += f"; bid {quote.bid:.10g}, ask {quote.ask:.10g} at {quote.time:%Y-%m-%d %H:%M:%S}Z"
    except ProviderError as error:
        return Trial(service, key, text, False, str(error), time.monotonic() - began)
    return Trial(service, key, text, True, told, time.monotonic() - began)
