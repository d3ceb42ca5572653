"""Alpha Vantage, Twelve Data and Polygon as the rehearsal plays them."""

import csv
from typing import Any

import pandas as pd
import pytest

from nexus_assets.rehearsal import FrameBook, Rehearsal
from nexus_assets_tests.rehearsal.market import FRAMES, NOW, bars, get, instant, opens, rehearsal

HOURS = FRAMES["EURUSD", "1h"]
INTRADAY: dict[str, Any] = {"function": "FX_INTRADAY", "from_symbol": "EUR", "to_symbol": "USD", "interval": "60min"}


def milliseconds(text: str) -> int:
    return int(instant(text).timestamp() * 1000)


def alpha_vantage(server: Rehearsal, **params: Any) -> dict[str, Any]:
    """The body, whatever it says: every answer has status 200."""
    answer = get(server, "alpha_vantage", "/query", **params)
    assert answer.status_code == 200
    return answer.json()


def test_alpha_vantage_gives_the_newest_bars_first_in_utc(server: Rehearsal) -> None:
    body = alpha_vantage(server, **INTRADAY, outputsize="full")
    series = body["Time Series FX (60min)"]
    expected = opens(HOURS, "2024-03-01 00:00", "2024-03-05 10:00")
    assert body["Meta Data"]["7. Time Zone"] == "UTC"
    assert next(iter(series)) == "2024-03-05 10:00:00"
    assert list(series)[1:] == [f"{ts:%Y-%m-%d %H:%M:%S}" for ts in expected["ts"][::-1]]
    assert [float(row["4. close"]) for row in list(series.values())[1:]] == expected["close"].tolist()[::-1]


def test_alpha_vantage_compact_is_a_hundred_points(server: Rehearsal) -> None:
    minutes = {**INTRADAY, "interval": "1min"}
    assert len(alpha_vantage(server, **minutes)["Time Series FX (1min)"]) == 100
    assert len(alpha_vantage(server, **minutes, outputsize="full")["Time Series FX (1min)"]) == 151
    rows = list(csv.DictReader(get(server, "alpha_vantage", "/query", **minutes, datatype="csv").text.splitlines()))
    assert (len(rows), rows[0]["timestamp"]) == (100, "2024-03-05 10:30:00")


def test_alpha_vantage_days_and_exchange_rates(server: Rehearsal) -> None:
    days = alpha_vantage(server, function="FX_DAILY", from_symbol="EUR", to_symbol="USD")["Time Series FX (Daily)"]
    assert list(days)[-1] == "2024-02-27"
    rate = alpha_vantage(server, function="CURRENCY_EXCHANGE_RATE", from_currency="EUR", to_currency="USD")
    quote = rate["Realtime Currency Exchange Rate"]
    assert float(quote["8. Bid Price"]) < float(quote["5. Exchange Rate"]) < float(quote["9. Ask Price"])


def test_alpha_vantage_errors_are_bodies_with_status_200(server: Rehearsal) -> None:
    assert "FX_INTRADAY" in alpha_vantage(server, **{**INTRADAY, "to_symbol": "XXX"})["Error Message"]
    assert "apikey is invalid or missing" in alpha_vantage(server, **INTRADAY, key="wrong")["Error Message"]
    assert "**demo**" in alpha_vantage(server, **INTRADAY, key="demo")["Information"]


def test_alpha_vantage_allows_five_a_minute_and_25_a_day() -> None:
    seconds = [0.0]
    with rehearsal(clock=lambda: seconds[0]) as server:
        bodies = [alpha_vantage(server, **INTRADAY) for _ in range(6)]
        assert ["Note" in body for body in bodies] == [False] * 5 + [True]
        for minute in range(1, 5):
            seconds[0] = 60.0 * minute
            assert not any("Note" in alpha_vantage(server, **INTRADAY) for _ in range(5))
        seconds[0] = 300.0
        assert "25 requests per day" in alpha_vantage(server, **INTRADAY)["Information"]
        assert [violation.rule for violation in server.violations] == ["rate limit", "rate limit"]


def test_twelve_data_gives_the_bars_between_two_dates_in_the_zone_asked_for(server: Rehearsal) -> None:
    query = {"symbol": "EUR/USD", "interval": "1h", "timezone": "America/New_York"}
    body = get(
        server, "twelve_data", "/time_series", **query, start_date="2024-03-01 15:00:00", end_date="2024-03-03 18:00:00"
    ).json()
    assert body["status"] == "ok"
    # 17:00 New York on Sunday is 22:00 UTC.
    assert [value["datetime"] for value in body["values"]] == [
        "2024-03-03 18:00:00", "2024-03-03 17:00:00", "2024-03-01 16:00:00", "2024-03-01 15:00:00",
    ]  # fmt: skip
    expected = opens(HOURS, "2024-03-01 20:00", "2024-03-03 23:01")
    assert [float(value["open"]) for value in body["values"]] == expected["open"].tolist()[::-1]


def test_twelve_data_gives_at_most_5000_points_the_newest_of_the_dates() -> None:
    frame = bars("2023-06-01 00:00", 6000)
    with Rehearsal(FrameBook({("EURUSD", "1h"): frame}), now=lambda: NOW, limits={"twelve_data": ()}) as server:
        query = {"symbol": "EUR/USD", "interval": "1h", "start_date": "2023-06-01", "order": "ASC"}
        newest = get(server, "twelve_data", "/time_series", **query, end_date="2024-03-01").json()["values"]
        before = f"{pd.Timestamp(newest[0]['datetime']) - pd.Timedelta(minutes=1)}"
        older = get(server, "twelve_data", "/time_series", **query, end_date=before).json()["values"]
        assert (len(newest), len(older)) == (5000, 1000)
        assert [float(value["low"]) for value in (*older, *newest)] == frame["low"].tolist()
        assert len(get(server, "twelve_data", "/time_series", symbol="EUR/USD", interval="1h").json()["values"]) == 30
        refused = get(server, "twelve_data", "/time_series", **query, outputsize=5001)
        assert (refused.json()["code"], [violation.rule for violation in server.violations]) == (400, ["page size"])


@pytest.mark.parametrize(
    ("params", "code", "words"),
    [
        ({"symbol": "NOTHING", "interval": "1h"}, 404, "**symbol** not found: NOTHING"),
        ({"symbol": "EUR/USD", "interval": "7min"}, 400, "Invalid **interval** provided: 7min"),
        (
            {"symbol": "EUR/USD", "interval": "1h", "start_date": "2024-03-02", "end_date": "2024-03-03"},
            400,
            "No data is available on the specified dates",
        ),
        ({"symbol": "EUR/USD", "interval": "1h", "key": "wrong"}, 401, "**apikey** parameter is incorrect"),
    ],
)
def test_twelve_data_errors_are_bodies_with_or_without_their_status(
    server: Rehearsal, params: dict[str, Any], code: int, words: str
) -> None:
    answer = get(server, "twelve_data", "/time_series", **params)
    assert (answer.status_code, answer.json()["code"], answer.json()["status"]) == (200, code, "error")
    assert words in answer.json()["message"]
    with rehearsal(error_statuses=True) as other:
        assert get(other, "twelve_data", "/time_series", **params).status_code == code


def test_twelve_data_answers_several_symbols_and_each_costs_a_credit() -> None:
    with rehearsal() as server:
        query = {"interval": "1h", "outputsize": 2}
        body = get(server, "twelve_data", "/time_series", symbol="EUR/USD,XAU/USD,NOTHING", **query).json()
        assert {name: one["status"] for name, one in body.items()} == {
            "EUR/USD": "ok", "XAU/USD": "ok", "NOTHING": "error",
        }  # fmt: skip
        for _ in range(5):
            assert get(server, "twelve_data", "/time_series", symbol="EUR/USD", **query).json()["status"] == "ok"
        refused = get(server, "twelve_data", "/time_series", symbol="EUR/USD", **query).json()
        assert refused["code"] == 429
        assert "9 API credits were used, with the current limit being 8" in refused["message"]


def test_twelve_data_takes_its_key_in_a_header_and_gives_quotes(server: Rehearsal) -> None:
    header = {"Authorization": f"apikey {server.keys['twelve_data']}"}
    import requests

    answer = requests.get(f"{server.urls['twelve_data']}/quote?symbol=EUR/USD", headers=header, timeout=10).json()
    assert float(answer["close"]) == pytest.approx(FRAMES["EURUSD", "1m"]["open"].iloc[150], abs=1e-9)
    assert answer["last_quote_at"] == int(NOW.timestamp())
    assert server.calls[-1].key_place == "header"


def test_polygon_pages_hours_by_their_minutes_and_gives_every_bar_once(server: Rehearsal) -> None:
    path = f"/v2/aggs/ticker/C:EURUSD/range/1/hour/{milliseconds('2024-03-01 18:00')}/2024-03-04"
    pages = [get(server, "polygon", path, limit=7 * 60, sort="asc").json()]
    while url := pages[-1].get("next_url"):
        assert server.keys["polygon"] not in url
        pages.append(get(server, "polygon", url.removeprefix(server.urls["polygon"])).json())
    expected = opens(HOURS, "2024-03-01 18:00", "2024-03-05 00:00")
    assert [page["resultsCount"] for page in pages] == [7, 7, 7, 7, 2]
    rows = [row for page in pages for row in page["results"]]
    assert [row["t"] for row in rows] == [int(ts.timestamp() * 1000) for ts in expected["ts"]]
    assert [row["c"] for row in rows] == expected["close"].tolist()
    assert "next_url" not in pages[-1]


def test_polygon_goes_backwards_as_well(server: Rehearsal) -> None:
    path = "/v2/aggs/ticker/C:EURUSD/range/1/hour/2024-03-04/2024-03-04"
    first = get(server, "polygon", path, limit=20 * 60, sort="desc").json()
    second = get(server, "polygon", first["next_url"].removeprefix(server.urls["polygon"])).json()
    hours = [row["t"] for page in (first, second) for row in page["results"]]
    assert hours == [
        int(ts.timestamp() * 1000) for ts in opens(HOURS, "2024-03-04 00:00", "2024-03-05 00:00")["ts"][::-1]
    ]


def test_polygon_days_stand_at_midnight_utc(server: Rehearsal) -> None:
    rows = get(server, "polygon", "/v2/aggs/ticker/C:EURUSD/range/1/day/2024-02-27/2024-02-28").json()["results"]
    assert [row["t"] for row in rows] == [milliseconds("2024-02-27 00:00"), milliseconds("2024-02-28 00:00")]


def test_polygon_knows_no_difference_between_no_data_and_an_unknown_ticker(server: Rehearsal) -> None:
    unknown = get(server, "polygon", "/v2/aggs/ticker/C:NOTHING/range/1/hour/2024-03-04/2024-03-04").json()
    weekend = get(server, "polygon", "/v2/aggs/ticker/C:EURUSD/range/1/hour/2024-03-02/2024-03-02").json()
    assert unknown.keys() == weekend.keys()
    assert (unknown["resultsCount"], "results" in unknown, unknown["status"]) == (0, False, "OK")


def test_polygon_index_bars_have_no_volume(server: Rehearsal) -> None:
    row = get(server, "polygon", "/v2/aggs/ticker/I:NDX/range/1/hour/2024-03-04/2024-03-04").json()["results"][0]
    assert row.keys() == {"o", "h", "l", "c", "t"}


def test_polygon_errors_come_with_their_status(server: Rehearsal) -> None:
    path = "/v2/aggs/ticker/C:EURUSD/range/1/hour/2024-03-04/2024-03-04"
    for key, error in (("wrong", "Unknown API Key"), ("", "API Key was not provided")):
        answer = get(server, "polygon", path, key=key)
        assert (answer.status_code, answer.json()["error"]) == (401, error)
    assert get(server, "polygon", path, limit=50_001).status_code == 400
    assert [violation.rule for violation in server.violations] == ["page size"]
    with rehearsal() as limited:
        statuses = [get(limited, "polygon", path).status_code for _ in range(6)]
        assert statuses == [200] * 5 + [429]


def test_polygon_gives_the_last_quote(server: Rehearsal) -> None:
    body = get(server, "polygon", "/v1/last_quote/currencies/EUR/USD").json()
    assert (body["symbol"], body["status"]) == ("EUR/USD", "success")
    assert body["last"]["ask"] - body["last"]["bid"] == pytest.approx(4e-5, abs=1e-9)
    assert get(server, "polygon", "/v1/last_quote/currencies/EUR/XXX").status_code == 404
