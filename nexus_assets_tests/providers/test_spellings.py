"""Names of symbols at the providers."""

import pytest

from nexus_assets.errors import PermanentProviderError, UnknownSymbolError
from nexus_assets.instruments import DEFAULT_SYMBOLS, INSTRUMENTS
from nexus_assets.providers.spellings import PROVIDERS, SPELLINGS, matches_catalogue, recognise, spelling, spells

KNOWN = [
    ("oanda", "EURUSD", "EUR_USD", "spot"),
    ("oanda", "NAS100", "NAS100_USD", "cfd"),
    ("oanda", "US500", "SPX500_USD", "cfd"),
    ("eodhd", "GBPJPY", "GBPJPY.FOREX", "spot"),
    ("eodhd", "US500", "GSPC.INDX", "cash_index"),
    ("yahoo", "EURUSD", "EURUSD=X", "spot"),
    ("yahoo", "NAS100", "NQ=F", "future"),
    ("yahoo", "XAUUSD", "GC=F", "future"),
    ("alpha_vantage", "USDJPY", "USD/JPY", "spot"),
    ("twelve_data", "XAUUSD", "XAU/USD", "spot"),
    ("polygon", "EURUSD", "C:EURUSD", "spot"),
    ("polygon", "NAS100", "I:NDX", "cash_index"),
    ("mt5", "US30", "US30", "cfd"),
]


@pytest.mark.parametrize(("provider", "symbol", "text", "kind"), KNOWN)
def test_a_symbol_is_spelled_as_the_provider_wants_it_and_recognised_again(
    provider: str, symbol: str, text: str, kind: str
) -> None:
    row = spelling(provider, symbol)
    assert (row.text, row.instrument_kind) == (text, kind)
    assert recognise(provider, text).symbol == symbol


def test_every_row_leads_back_to_its_symbol() -> None:
    assert len({(row.provider, row.text) for row in SPELLINGS}) == len(SPELLINGS)
    for row in SPELLINGS:
        assert recognise(row.provider, row.text) == row


def test_a_second_thing_of_one_symbol_is_recognised_but_not_asked_for() -> None:
    cash = recognise("yahoo", "^NDX")
    assert (cash.symbol, cash.instrument_kind) == ("NAS100", "cash_index")
    assert spelling("yahoo", "NAS100").text == "NQ=F"


def test_a_future_is_not_taken_for_spot_gold() -> None:
    assert not matches_catalogue(spelling("yahoo", "XAUUSD"))
    assert matches_catalogue(spelling("oanda", "XAUUSD"))


def test_what_a_provider_does_not_have_is_refused_with_who_has_it() -> None:
    assert not spells("alpha_vantage", "NAS100")
    with pytest.raises(UnknownSymbolError, match=r"alpha_vantage does not have NAS100.*oanda.*polygon"):
        spelling("alpha_vantage", "NAS100")
    with pytest.raises(UnknownSymbolError, match="'DOGEUR' is unknown"):
        spelling("oanda", "DOGEUR")
    with pytest.raises(UnknownSymbolError, match=r"'DOGE-USD'"):
        recognise("yahoo", "DOGE-USD")
    with pytest.raises(PermanentProviderError, match="'bloomberg'"):
        spelling("bloomberg", "EURUSD")


def test_everybody_has_the_default_pairs_and_oanda_has_every_symbol() -> None:
    pairs = [i.symbol for i in INSTRUMENTS if i.asset_class == "fx"]
    assert all(spells(provider, symbol) for provider in PROVIDERS for symbol in pairs)
    assert all(spells("oanda", symbol) for symbol in DEFAULT_SYMBOLS)


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("US100.e", "NAS100"),
        ("USTECm", "NAS100"),
        ("US100Cash", "NAS100"),
        ("EURUSD.r", "EURUSD"),
        ("EURUSD#", "EURUSD"),
        ("XAUUSD.raw", "XAUUSD"),
        ("GOLD", "XAUUSD"),
        ("US500", "US500"),
    ],
)
def test_a_metatrader_name_is_recognised_with_any_brokers_ending(text: str, symbol: str) -> None:
    assert recognise("mt5", text).symbol == symbol
    assert recognise("mt5", text).text == text


@pytest.mark.parametrize("text", ["US1000", "EURUSDT.Xbroker", "GOLDEN2", "", ".e"])
def test_another_name_is_not_taken_for_a_metatrader_one(text: str) -> None:
    with pytest.raises(UnknownSymbolError):
        recognise("mt5", text)


def test_a_brokers_ending_is_added_for_metatrader_only() -> None:
    assert spelling("mt5", "NAS100", ending=".e").text == "US100.e"
    assert recognise("mt5", spelling("mt5", "EURUSD", ending="m").text).symbol == "EURUSD"
    with pytest.raises(PermanentProviderError, match="ending"):
        spelling("oanda", "EURUSD", ending=".e")
    with pytest.raises(PermanentProviderError, match="ending"):
        spelling("mt5", "EURUSD", ending="USD")
