"""OANDA v20 as the rehearsal plays it."""

from typing import Any

import pandas as pd
import pytest

from nexus_assets.rehearsal import FrameBook, Rehearsal
from nexus_assets_tests.rehearsal.market import FRAMES, NOW, bars, get, instant, opens

CANDLES = "/v3/instruments/EUR_USD/candles"
ACCOUNT = "/v3/accounts/001-001-1234567-001"
HOURS = FRAMES["EURUSD", "1h"]


def test_candles_between_from_and_to_are_the_bars_of_the_frame(server: Rehearsal) -> None:
    answer = get(server, "oanda", CANDLES, granularity="H1", from_="2024-03-01T20:00:00Z", to="2024-03-04T01:00:00Z")
    body = answer.json()
    assert (body["instrument"], body["granularity"]) == ("EUR_USD", "H1")
    expected = opens(HOURS, "2024-03-01 20:00", "2024-03-04 01:00")
    assert [c["time"] for c in body["candles"]] == [
        "2024-03-01T20:00:00.000000000Z",
        "2024-03-01T21:00:00.000000000Z",
        "2024-03-03T22:00:00.000000000Z",
        "2024-03-03T23:00:00.000000000Z",
        "2024-03-04T00:00:00.000000000Z",
    ]
    for key, name in (("o", "open"), ("h", "high"), ("l", "low"), ("c", "close")):
        assert [float(c["mid"][key]) for c in body["candles"]] == expected[name].tolist()
    assert [c["volume"] for c in body["candles"]] == expected["volume"].tolist()
    assert all(c["complete"] for c in body["candles"])


def test_the_hour_that_is_not_over_is_not_complete_and_has_other_values(server: Rehearsal) -> None:
    candles = get(server, "oanda", CANDLES, granularity="H1", count=2).json()["candles"]
    assert [(c["time"][11:16], c["complete"]) for c in candles] == [("09:00", True), ("10:00", False)]
    whole = opens(HOURS, "2024-03-05 10:00", "2024-03-05 11:00").iloc[0]
    assert float(candles[1]["mid"]["o"]) == whole["open"]
    assert float(candles[1]["mid"]["h"]) < whole["high"]
    assert candles[1]["volume"] == whole["volume"] // 2


def test_bid_and_ask_lie_half_a_spread_around_mid(server: Rehearsal) -> None:
    candle = get(server, "oanda", CANDLES, granularity="H1", count=2, price="MBA").json()["candles"][0]
    mid, bid, ask = (float(candle[side]["c"]) for side in ("mid", "bid", "ask"))
    assert ask - bid == pytest.approx(4e-5, abs=1e-9)
    assert (ask + bid) / 2 == pytest.approx(mid, abs=1e-9)


def test_times_are_seconds_where_the_header_asks_for_unix(server: Rehearsal) -> None:
    unix = {"Accept-Datetime-Format": "UNIX"}
    candle = get(server, "oanda", CANDLES, granularity="H1", from_="1709283600", count=1, headers=unix).json()[
        "candles"
    ][0]
    assert candle["time"] == "1709283600.000000000"


def test_a_page_holds_5000_candles_and_more_is_refused() -> None:
    frame = bars("2023-01-02 00:00", 6000)
    with Rehearsal(FrameBook({("EURUSD", "1h"): frame}), now=lambda: NOW) as server:
        first = get(server, "oanda", CANDLES, granularity="H1", from_="2023-01-02T00:00:00Z", count=5000).json()[
            "candles"
        ]
        last = first[-1]["time"]
        second = get(server, "oanda", CANDLES, granularity="H1", from_=last, includeFirst="false", count=5000).json()
        assert len(first) == 5000
        read = pd.to_datetime([c["time"] for c in (*first, *second["candles"])])
        assert list(read) == list(frame["ts"])
        assert server.violations == []
        for params in (
            {"from_": "2023-01-02T00:00:00Z", "count": 5001},
            {"from_": "2023-01-02", "to": "2023-07-29T08:00:01Z"},
        ):
            refused = get(server, "oanda", CANDLES, granularity="H1", **params)
            assert (refused.status_code, refused.json()) == (
                400,
                {"errorMessage": "Maximum value for 'count' exceeded"},
            )
        assert [violation.rule for violation in server.violations] == ["page size", "page size"]
        widest = get(server, "oanda", CANDLES, granularity="H1", from_="2023-01-02", to="2023-07-29T08:00:00Z")
        assert len(widest.json()["candles"]) == 5000


def test_a_start_within_a_candle_includes_it_unless_told_otherwise(server: Rehearsal) -> None:
    within = {"granularity": "H1", "from_": "2024-03-04T05:20:00Z", "count": 1}
    assert get(server, "oanda", CANDLES, **within).json()["candles"][0]["time"][11:16] == "05:00"
    assert get(server, "oanda", CANDLES, **within, includeFirst="false").json()["candles"][0]["time"][11:16] == "06:00"


def test_a_start_in_closed_hours_uses_up_a_candle_that_is_not_there(server: Rehearsal) -> None:
    # As recorded: ten candles from Sunday 2017-01-01 00:00 were nine.
    closed = {"granularity": "H1", "from_": "2024-03-02T12:00:00Z", "count": 10}
    candles = get(server, "oanda", CANDLES, **closed).json()["candles"]
    assert (len(candles), candles[0]["time"][:16]) == (9, "2024-03-03T22:00")
    assert len(get(server, "oanda", CANDLES, **closed, includeFirst="false").json()["candles"]) == 10


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"granularity": "H5"}, "Invalid value specified for 'granularity'"),
        ({"granularity": "H1", "price": "X"}, "Invalid value specified for 'price'"),
        ({"granularity": "H1", "from_": "yesterday"}, "Invalid value specified for 'from'"),
        (
            {"granularity": "H1", "to": "2024-03-05T10:31:00Z"},
            "Invalid value specified for 'to'. Time is in the future",
        ),
        ({"granularity": "H1", "count": "many"}, "Invalid value specified for 'count'"),
        (
            {"granularity": "H1", "count": 5, "from_": "2024-03-04", "to": "2024-03-05"},
            "'count' cannot be specified when 'to' and 'from' parameters are set",
        ),
        ({"granularity": "D", "dailyAlignment": 0}, "Invalid value specified for 'dailyAlignment'"),
    ],
)
def test_a_wrong_parameter_is_answered_400_with_its_name(
    server: Rehearsal, params: dict[str, Any], message: str
) -> None:
    answer = get(server, "oanda", CANDLES, **params)
    assert (answer.status_code, answer.json()) == (400, {"errorMessage": message})


def test_an_unknown_instrument_differs_from_one_without_bars(server: Rehearsal) -> None:
    # The market has no silver.
    for name in ("EUR_XXX", "XAG_USD"):
        unknown = get(server, "oanda", f"/v3/instruments/{name}/candles", granularity="H1")
        assert unknown.json() == {"errorMessage": "Invalid value specified for 'instrument'"}
    weekend = get(server, "oanda", CANDLES, granularity="H1", from_="2024-03-02", to="2024-03-03")
    assert (weekend.status_code, weekend.json()["candles"]) == (200, [])
    other = get(server, "oanda", CANDLES, granularity="S5", from_="2024-03-04", to="2024-03-04T01:00:00Z")
    assert other.json()["candles"] == []


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_wrong_token_is_answered_401(server: Rehearsal, key: str) -> None:
    answer = get(server, "oanda", CANDLES, key=key)
    assert (answer.status_code, answer.json()) == (
        401,
        {"errorMessage": "Insufficient authorization to perform request."},
    )


def test_pricing_gives_bid_and_ask_of_every_instrument_at_the_time_of_the_server(server: Rehearsal) -> None:
    prices = get(server, "oanda", f"{ACCOUNT}/pricing", instruments="EUR_USD,XAU_USD").json()["prices"]
    assert [p["instrument"] for p in prices] == ["EUR_USD", "XAU_USD"]
    # The minute 10:30 has only begun: its price is its open.
    minute = opens(FRAMES["EURUSD", "1m"], "2024-03-05 10:30", "2024-03-05 10:31").iloc[0]
    assert float(prices[0]["bids"][0]["price"]) == pytest.approx(minute["open"] - 2e-5, abs=1e-9)
    assert float(prices[0]["asks"][0]["price"]) == pytest.approx(minute["open"] + 2e-5, abs=1e-9)
    assert prices[0]["time"] == "2024-03-05T10:30:00.000000000Z"
    assert prices[0]["tradeable"]


def test_a_price_of_last_week_is_not_tradeable() -> None:
    with Rehearsal(
        FrameBook({("EURUSD", "1h"): FRAMES["EURUSD", "1h"]}), now=lambda: instant("2024-03-02 12:00")
    ) as server:
        price = get(server, "oanda", f"{ACCOUNT}/pricing", instruments="EUR_USD").json()["prices"][0]
    assert (price["time"], price["status"]) == ("2024-03-01T22:00:00.000000000Z", "non-tradeable")


def test_the_account_lists_the_instruments_that_have_bars(server: Rehearsal) -> None:
    listed = get(server, "oanda", f"{ACCOUNT}/instruments").json()["instruments"]
    assert {one["name"] for one in listed} == {"EUR_USD", "XAU_USD", "NAS100_USD"}
    assert get(server, "oanda", "/v3/accounts/12/instruments").status_code == 400
