"""How each provider spells the symbols, and what its prices are of: one table, read in both directions.

A provider may have several things for one symbol (Yahoo has the future NQ=F and the cash index ^NDX for NAS100). The
first one is asked for; each of them is recognised. What is not in the table, the provider does not have.

MetaTrader brokers put endings of their own behind a name (`US100.e`, `EURUSD.r`, `XAUUSDm`): `mt5` holds the names
without one, and an ending is given or ignored.

Sources, read 2026-11-21: https://developer.oanda.com/rest-live-v20/instrument-ep/ ;
https://eodhd.com/financial-apis/intraday-historical-data-api ; https://polygon.io/docs/forex ;
https://support.twelvedata.com/en/articles/12520817-forex-api-v2 ; https://www.alphavantage.co/documentation/ . Yahoo
and MetaTrader brokers publish no list; theirs are the names that their screens show.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from nexus_assets.errors import PermanentProviderError, UnknownSymbolError
from nexus_assets.instruments import INSTRUMENTS, InstrumentKind, instrument


@dataclass(frozen=True, slots=True)
class Spelling:
    """A provider's name for a symbol. `text` is what the API is asked for, `instrument_kind` what its prices are of."""

    symbol: str
    provider: str
    text: str
    instrument_kind: InstrumentKind


# {b} and {q} are the currencies of a pair.
_PAIRS: Mapping[str, str] = {
    "oanda": "{b}_{q}",
    "eodhd": "{b}{q}.FOREX",
    "yahoo": "{b}{q}=X",
    "alpha_vantage": "{b}/{q}",
    "twelve_data": "{b}/{q}",
    "polygon": "C:{b}{q}",
    "mt5": "{b}{q}",
}

_OTHERS: Mapping[str, Mapping[str, tuple[tuple[str, InstrumentKind], ...]]] = {
    "XAUUSD": {
        "oanda": (("XAU_USD", "spot"),),
        "eodhd": (("XAUUSD.FOREX", "spot"),),
        "yahoo": (("GC=F", "future"),),
        "twelve_data": (("XAU/USD", "spot"),),
        "polygon": (("C:XAUUSD", "spot"),),
        "mt5": (("XAUUSD", "spot"), ("GOLD", "spot")),
    },
    "XAGUSD": {
        "oanda": (("XAG_USD", "spot"),),
        "eodhd": (("XAGUSD.FOREX", "spot"),),
        "yahoo": (("SI=F", "future"),),
        "twelve_data": (("XAG/USD", "spot"),),
        "polygon": (("C:XAGUSD", "spot"),),
        "mt5": (("XAGUSD", "spot"), ("SILVER", "spot")),
    },
    "NAS100": {
        "oanda": (("NAS100_USD", "cfd"),),
        "eodhd": (("NDX.INDX", "cash_index"),),
        "yahoo": (("NQ=F", "future"), ("^NDX", "cash_index")),
        "twelve_data": (("NDX", "cash_index"),),
        "polygon": (("I:NDX", "cash_index"),),
        "mt5": (("US100", "cfd"), ("USTEC", "cfd"), ("NAS100", "cfd"), ("NDX100", "cfd"), ("US100Cash", "cfd")),
    },
    "US30": {
        "oanda": (("US30_USD", "cfd"),),
        "eodhd": (("DJI.INDX", "cash_index"),),
        "yahoo": (("YM=F", "future"), ("^DJI", "cash_index")),
        "twelve_data": (("DJI", "cash_index"),),
        "polygon": (("I:DJI", "cash_index"),),
        "mt5": (("US30", "cfd"), ("DJ30", "cfd"), ("WS30", "cfd"), ("US30Cash", "cfd")),
    },
    "US500": {
        "oanda": (("SPX500_USD", "cfd"),),
        "eodhd": (("GSPC.INDX", "cash_index"),),
        "yahoo": (("ES=F", "future"), ("^GSPC", "cash_index")),
        "twelve_data": (("SPX", "cash_index"),),
        "polygon": (("I:SPX", "cash_index"),),
        "mt5": (("US500", "cfd"), ("SPX500", "cfd"), ("SP500", "cfd"), ("US500Cash", "cfd")),
    },
    "BTCUSD": {
        "oanda": (("BTC_USD", "cfd"),),
        "eodhd": (("BTC-USD.CC", "spot"),),
        "yahoo": (("BTC-USD", "spot"),),
        "twelve_data": (("BTC/USD", "spot"),),
        "polygon": (("X:BTCUSD", "spot"),),
        "mt5": (("BTCUSD", "cfd"),),
    },
    "ETHUSD": {
        "oanda": (("ETH_USD", "cfd"),),
        "eodhd": (("ETH-USD.CC", "spot"),),
        "yahoo": (("ETH-USD", "spot"),),
        "twelve_data": (("ETH/USD", "spot"),),
        "polygon": (("X:ETHUSD", "spot"),),
        "mt5": (("ETHUSD", "cfd"),),
    },
}

PROVIDERS: tuple[str, ...] = tuple(_PAIRS)

# A broker's ending: a sign and some letters (.e, .raw, #, -pro), or a few small letters (m, micro).
_BROKER_ENDING = re.compile(r"[.#_+!-][A-Za-z0-9]{0,6}|[a-z]{1,5}")


def _table() -> tuple[Spelling, ...]:
    rows = []
    for item in INSTRUMENTS:
        for provider, pattern in _PAIRS.items():
            if item.asset_class == "fx":
                text = pattern.format(b=item.symbol[:3], q=item.symbol[3:])
                rows.append(Spelling(item.symbol, provider, text, "spot"))
            for text, kind in _OTHERS.get(item.symbol, {}).get(provider, ()):
                rows.append(Spelling(item.symbol, provider, text, kind))
    return tuple(rows)


SPELLINGS: tuple[Spelling, ...] = _table()
"""Every row, in the order of the symbols; of one symbol and provider the one that is asked for comes first."""


@lru_cache(maxsize=1)
def _by_symbol() -> dict[tuple[str, str], Spelling]:
    rows: dict[tuple[str, str], Spelling] = {}
    for row in SPELLINGS:
        rows.setdefault((row.provider, row.symbol), row)
    return rows


@lru_cache(maxsize=1)
def _by_text() -> dict[tuple[str, str], Spelling]:
    return {(row.provider, row.text): row for row in SPELLINGS}


def spells(provider: str, symbol: str) -> bool:
    """Whether the provider has the symbol."""
    return (provider, symbol) in _by_symbol()


def spelling(provider: str, symbol: str, *, ending: str = "") -> Spelling:
    """What the provider is asked for.

    Args:
        provider: One of PROVIDERS.
        symbol: Generic, such as NAS100.
        ending: A MetaTrader broker's ending, such as `.e` in US100.e.

    Raises:
        UnknownSymbolError: the provider does not have the symbol, or nobody knows it.
        PermanentProviderError: the provider is not in the table, or has no endings.
    """
    _check_provider(provider)
    row = _by_symbol().get((provider, symbol))
    if row is None:
        others = [name for name in PROVIDERS if spells(name, symbol)]
        known = any(item.symbol == symbol for item in INSTRUMENTS)
        raise UnknownSymbolError(
            f"The provider {provider} does not have {symbol}." if known else f"The symbol {symbol!r} is unknown.",
            next_step=f"Ask {' or '.join(others)} for it." if others else "Use a symbol of instruments.py.",
        )
    if not ending:
        return row
    if provider != "mt5" or not _BROKER_ENDING.fullmatch(ending):
        raise PermanentProviderError(
            f"{ending!r} is no ending that {provider} puts behind {row.text}.",
            next_step="Only names of MetaTrader brokers have endings, such as .e, .raw or m.",
        )
    return Spelling(symbol, provider, row.text + ending, row.instrument_kind)


def recognise(provider: str, text: str) -> Spelling:
    """The row of a provider's spelling; for mt5 with any broker's ending.

    Raises:
        UnknownSymbolError: no symbol is spelled so.
        PermanentProviderError: the provider is not in the table.
    """
    _check_provider(provider)
    row = _by_text().get((provider, text))
    if row is None and provider == "mt5":
        # The longest name first: US100Cash is a name, not US100 with an ending.
        names = sorted((r for r in SPELLINGS if r.provider == "mt5"), key=lambda r: -len(r.text))
        for name in names:
            if text.startswith(name.text) and _BROKER_ENDING.fullmatch(text[len(name.text) :]):
                return Spelling(name.symbol, provider, text, name.instrument_kind)
    if row is None:
        raise UnknownSymbolError(
            f"{provider} spells no known symbol {text!r}.",
            next_step="Add it to the table in nexus_assets/providers/spellings.py.",
        )
    return row


def matches_catalogue(row: Spelling) -> bool:
    """Whether the provider's prices are of the kind that the symbol stands for: GC=F is not spot gold."""
    return row.instrument_kind == instrument(row.symbol).kind


def _check_provider(provider: str) -> None:
    if provider not in _PAIRS:
        raise PermanentProviderError(
            f"No spellings are known of the provider {provider!r}.", next_step=f"Use one of {', '.join(PROVIDERS)}."
        )
