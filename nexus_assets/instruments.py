"""The symbols: asset class, kind, precision, plausible prices, expected coverage.

What belongs here: facts about an instrument that hold whoever delivers its prices. Spellings of a provider stand
with that provider (`sources.toml` for files). The order of INSTRUMENTS is the order of the symbol partitions:
append, never insert or reorder, because Dagster's ranges of partitions follow it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nexus_assets.errors import SettingsError

AssetClass = Literal["fx", "metal", "index", "crypto"]
InstrumentKind = Literal["spot", "cfd", "future", "cash_index"]
PriceKind = Literal["mid", "bid", "ask", "last"]
VolumeKind = Literal["ticks", "lots", "contracts", "none"]


@dataclass(frozen=True, slots=True)
class Instrument:
    """One tradable thing.

    Attributes:
        symbol: Generic, provider-free name, such as EURUSD.
        asset_class: Chooses the trading calendar.
        kind: What the default providers' prices are of. A fallback must match it.
        description: For people.
        digits: Decimal places in which it is usually quoted.
        price_band: Lowest and highest price that can be true; anything outside is a wrong scale or a fault.
    """

    symbol: str
    asset_class: AssetClass
    kind: InstrumentKind
    description: str
    digits: int
    price_band: tuple[float, float]

    def coverage_threshold(self, timeframe: str) -> float:
        """Share of the expected bars below which the coverage check warns. Measured on real feeds: an FX feed
        delivers at least 99.5% of a year's minutes, an index CFD 86.5%."""
        if timeframe == "1m":
            return {"fx": 0.99, "metal": 0.97, "index": 0.85, "crypto": 0.97}[self.asset_class]
        return {"fx": 0.98, "metal": 0.97, "index": 0.95, "crypto": 0.98}[self.asset_class]


def _fx(symbol: str) -> Instrument:
    base, quote = symbol[:3], symbol[3:]
    if quote == "JPY":
        return Instrument(symbol, "fx", "spot", f"{base} in Japanese yen", 3, (30.0, 500.0))
    return Instrument(symbol, "fx", "spot", f"{base} in {quote}", 5, (0.2, 5.0))


INSTRUMENTS: tuple[Instrument, ...] = (
    *map(
        _fx,
        (
            *("EURUSD", "GBPUSD", "USDJPY", "USDCHF", "AUDUSD", "USDCAD", "NZDUSD"),
            *("EURGBP", "EURJPY", "GBPJPY", "AUDJPY", "EURAUD", "EURCHF", "CADJPY"),
            *("AUDNZD", "EURCAD", "GBPAUD", "NZDJPY", "AUDCAD", "GBPCAD"),
        ),
    ),
    Instrument("XAUUSD", "metal", "spot", "Gold, US dollars an ounce", 2, (200.0, 20_000.0)),
    Instrument("NAS100", "index", "cfd", "Nasdaq 100", 1, (500.0, 200_000.0)),
    Instrument("US30", "index", "cfd", "Dow Jones Industrial Average", 1, (5_000.0, 500_000.0)),
    Instrument("US500", "index", "cfd", "S&P 500", 1, (400.0, 50_000.0)),
    # Known, and not loaded by default.
    *map(_fx, ("EURNZD", "GBPNZD", "NZDCAD", "GBPCHF", "AUDCHF", "CADCHF", "NZDCHF", "CHFJPY")),
    Instrument("XAGUSD", "metal", "spot", "Silver, US dollars an ounce", 3, (2.0, 500.0)),
    Instrument("BTCUSD", "crypto", "spot", "Bitcoin in US dollars", 2, (10.0, 10_000_000.0)),
    Instrument("ETHUSD", "crypto", "spot", "Ether in US dollars", 2, (1.0, 1_000_000.0)),
)

_BY_SYMBOL: dict[str, Instrument] = {instrument.symbol: instrument for instrument in INSTRUMENTS}

DEFAULT_SYMBOLS: tuple[str, ...] = tuple(i.symbol for i in INSTRUMENTS[:24])


def instrument(symbol: str) -> Instrument:
    """The instrument of a symbol.

    Raises:
        SettingsError: the symbol is unknown.
    """
    try:
        return _BY_SYMBOL[symbol]
    except KeyError:
        known = ", ".join(_BY_SYMBOL)
        raise SettingsError(
            f"The symbol {symbol!r} is unknown.",
            next_step=f"Use one of {known}; or append it to INSTRUMENTS in nexus_assets/instruments.py.",
        ) from None


def in_catalogue_order(symbols: Iterable[str]) -> tuple[str, ...]:
    """The symbols without repeats, in the order of INSTRUMENTS, whatever order they were asked for in.

    Raises:
        SettingsError: one of them is unknown.
    """
    wanted = {instrument(symbol).symbol for symbol in symbols}
    return tuple(symbol for symbol in _BY_SYMBOL if symbol in wanted)


def catalogue_fingerprint(symbols: Iterable[str]) -> str:
    """A short hash of the order of the symbols, stored with the schema so that a reordering is noticed."""
    return hashlib.sha256(" ".join(symbols).encode()).hexdigest()[:16]
