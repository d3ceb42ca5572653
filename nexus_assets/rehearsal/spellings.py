"""What each API calls the instruments.

Kept here a second time on purpose, and not taken from the providers' own table: a wrong spelling there must fail
against the rehearsal as it would against the API.
"""

from collections.abc import Callable, Mapping

from nexus_assets.instruments import INSTRUMENTS, Instrument

_OANDA_INDICES = {"NAS100": "NAS100_USD", "US30": "US30_USD", "US500": "SPX500_USD"}
_EODHD_INDICES = {"NAS100": "NDX.INDX", "US30": "DJI.INDX", "US500": "GSPC.INDX"}
_YAHOO_FUTURES = {"NAS100": "NQ=F", "US30": "YM=F", "US500": "ES=F", "XAUUSD": "GC=F", "XAGUSD": "SI=F"}
_YAHOO_CASH = {"NAS100": "^NDX", "US30": "^DJI", "US500": "^GSPC"}
_POLYGON_INDICES = {"NAS100": "I:NDX", "US30": "I:DJI", "US500": "I:SPX"}
_TWELVE_DATA_INDICES = {"NAS100": "NDX", "US30": "DJI", "US500": "SPX"}


def _oanda(item: Instrument) -> tuple[str, ...]:
    return (_OANDA_INDICES.get(item.symbol, f"{item.symbol[:3]}_{item.symbol[3:]}"),)


def _eodhd(item: Instrument) -> tuple[str, ...]:
    if item.asset_class == "crypto":
        return (f"{item.symbol[:3]}-{item.symbol[3:]}.CC",)
    return (_EODHD_INDICES.get(item.symbol, f"{item.symbol}.FOREX"),)


def _yahoo(item: Instrument) -> tuple[str, ...]:
    if item.symbol in _YAHOO_FUTURES:
        return tuple(table[item.symbol] for table in (_YAHOO_FUTURES, _YAHOO_CASH) if item.symbol in table)
    if item.asset_class == "crypto":
        return (f"{item.symbol[:3]}-{item.symbol[3:]}",)
    # A pair with the dollar first has a short name as well.
    short = (f"{item.symbol[3:]}=X",) if item.symbol.startswith("USD") else ()
    return (f"{item.symbol}=X", *short)


def _alpha_vantage(item: Instrument) -> tuple[str, ...]:
    return () if item.asset_class == "index" else (f"{item.symbol[:3]}/{item.symbol[3:]}",)


def _twelve_data(item: Instrument) -> tuple[str, ...]:
    return (_TWELVE_DATA_INDICES.get(item.symbol, f"{item.symbol[:3]}/{item.symbol[3:]}"),)


def _polygon(item: Instrument) -> tuple[str, ...]:
    prefix = "X" if item.asset_class == "crypto" else "C"
    return (_POLYGON_INDICES.get(item.symbol, f"{prefix}:{item.symbol}"),)


_RULES: Mapping[str, Callable[[Instrument], tuple[str, ...]]] = {
    "oanda": _oanda,
    "eodhd": _eodhd,
    "yahoo": _yahoo,
    "alpha_vantage": _alpha_vantage,
    "twelve_data": _twelve_data,
    "polygon": _polygon,
}


def spellings(provider: str) -> dict[str, str]:
    """The generic symbol of each name that the API knows; Alpha Vantage's pairs are written `EUR/USD`."""
    return {name: item.symbol for item in INSTRUMENTS for name in _RULES[provider](item)}
