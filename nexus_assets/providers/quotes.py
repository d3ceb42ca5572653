"""The latest price of a symbol, as an API tells it."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from nexus_assets.errors import SourceFormatError


@dataclass(frozen=True, slots=True)
class Quote:
    """Best bid and ask, quote currency or index points, at `time` (UTC, by the provider's clock).

    Raises:
        SourceFormatError: a price is not finite or not positive, or the bid lies above the ask.
    """

    symbol: str
    bid: float
    ask: float
    mid: float
    time: datetime

    def __post_init__(self) -> None:
        prices = (self.bid, self.ask, self.mid)
        if not all(math.isfinite(price) and price > 0 for price in prices) or not self.bid <= self.mid <= self.ask:
            raise SourceFormatError(
                f"The quote of {self.symbol} at {self.time:%Y-%m-%dT%H:%M:%SZ} has bid {self.bid}, mid {self.mid} and "
                f"ask {self.ask}.",
                next_step="Ask again, or another provider; crossed or empty prices are not used.",
            )


@runtime_checkable
class Quoting(Protocol):
    """A provider that tells the latest bid and ask."""

    def quote(self, symbol: str) -> Quote:
        """The latest quote.

        Raises:
            UnknownSymbolError: the provider does not have the symbol.
            ProviderError: as for fetch.
        """
        ...
