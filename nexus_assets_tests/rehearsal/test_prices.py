"""Prices that the rehearsed APIs know: frames and providers, as they stand at the server's time."""

import pandas as pd
import pytest

from nexus_assets.errors import SettingsError
from nexus_assets.instruments import INSTRUMENTS
from nexus_assets.providers.interface import Request
from nexus_assets.providers.synthetic import SyntheticProvider
from nexus_assets.rehearsal import FrameBook, ProviderBook, Rehearsal
from nexus_assets.rehearsal.prices import Prices
from nexus_assets.rehearsal.spellings import spellings
from nexus_assets_tests.rehearsal.market import NOW, bars, get, instant


def test_nothing_is_known_before_its_time_and_the_last_bar_is_its_elapsed_part() -> None:
    frame = bars("2024-03-05 00:00", 24)
    known = Prices(FrameBook({("EURUSD", "1h"): frame}), NOW).bars(
        "EURUSD", "1h", instant("2024-03-05 00:00"), instant("2024-03-06 00:00")
    )
    assert len(known) == 11
    assert known["complete"].tolist() == [True] * 10 + [False]
    pd.testing.assert_frame_equal(known.iloc[:10][["open", "close"]], frame.iloc[:10][["open", "close"]])
    last, whole = known.iloc[-1], frame.iloc[10]
    assert last["open"] == whole["open"]
    assert last["close"] == pytest.approx((whole["open"] + whole["close"]) / 2)
    assert whole["low"] < last["low"] < last["open"] < last["high"] < whole["high"]


def test_at_its_end_a_bar_is_complete() -> None:
    book = FrameBook({("EURUSD", "1h"): bars("2024-03-05 00:00", 24)})
    at_end = Prices(book, instant("2024-03-05 11:00")).last_bars("EURUSD", "1h", instant("2024-03-05 11:00"), 1)
    assert (at_end["ts"].iloc[0], at_end["complete"].iloc[0]) == (pd.Timestamp("2024-03-05 10:00", tz="UTC"), True)


def test_bars_are_found_by_count_across_long_gaps_in_both_directions() -> None:
    frame = pd.concat([bars("2020-01-06 00:00", 5), bars("2024-03-05 00:00", 5)], ignore_index=True)
    prices = Prices(FrameBook({("EURUSD", "1h"): frame}), NOW)
    assert prices.last_bars("EURUSD", "1h", NOW, 7)["ts"].tolist() == frame["ts"].tolist()[3:]
    assert prices.first_bars("EURUSD", "1h", instant("2020-01-06 01:00"), 7)["ts"].tolist() == frame["ts"].tolist()[1:8]
    assert len(prices.last_bars("EURUSD", "1h", NOW, 50)) == 10


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda frame: frame.drop(columns="low"), "lacks low"),
        (lambda frame: frame.assign(ts=frame["ts"].dt.tz_localize(None)), "no time zone"),
        (lambda frame: frame.iloc[::-1], "out of order"),
        (lambda frame: pd.concat([frame.iloc[:2], frame.iloc[1:]]), "repeat"),
    ],
)
def test_a_frame_that_is_no_market_is_refused(damage, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        FrameBook({("EURUSD", "1h"): damage(bars("2024-03-05 00:00", 5))})


def test_the_synthetic_market_is_served_as_its_provider_makes_it() -> None:
    made = SyntheticProvider(now=lambda: instant("2030-01-01 00:00"))
    span = instant("2024-01-01 00:00"), instant("2024-02-01 00:00")
    expected = made.fetch(Request("XAUUSD", "1h", *span)).bars
    with Rehearsal(ProviderBook(made), now=lambda: NOW) as server:
        path = "/v3/instruments/XAU_USD/candles"
        answer = get(server, "oanda", path, granularity="H1", from_=span[0].isoformat(), to=span[1].isoformat())
    read = answer.json()["candles"]
    assert [pd.Timestamp(c["time"]) for c in read] == expected["ts"].tolist()
    assert [float(c["mid"]["h"]) for c in read] == expected["high"].tolist()


@pytest.mark.parametrize("provider", ["oanda", "eodhd", "yahoo", "twelve_data", "polygon"])
def test_every_instrument_has_a_name_at_every_api(provider: str) -> None:
    names = spellings(provider)
    assert set(names.values()) == {item.symbol for item in INSTRUMENTS}


def test_names_are_those_of_the_apis() -> None:
    assert spellings("oanda")["SPX500_USD"] == "US500"
    assert spellings("yahoo")["JPY=X"] == spellings("yahoo")["USDJPY=X"] == "USDJPY"
    assert spellings("polygon")["I:NDX"] == "NAS100"
    assert spellings("twelve_data")["XAU/USD"] == "XAUUSD"
    assert spellings("eodhd")["BTC-USD.CC"] == "BTCUSD"
    assert "NAS100" not in spellings("alpha_vantage").values()
