"""Yahoo's chart API."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from nexus_assets.errors import (
    PermanentProviderError,
    RateLimitedError,
    SourceFormatError,
    TransientProviderError,
    UnknownSymbolError,
)
from nexus_assets.providers.interface import Provider
from nexus_assets.providers.quotes import Quoting
from nexus_assets.providers.yahoo import YahooProvider, parse, requests_for
from nexus_assets_tests.providers.scripted_transport import (
    ScriptedTransport,
    answering,
    ask,
    recorded,
    utc,
)

NOW = utc("2025-02-20T12:30:00")
DAY = ask("EURUSD", "1h", "2025-02-19", "2025-02-20")


def chart(times: list[Any], symbol: str = "EURUSD=X", granularity: str = "1h", **columns: Any) -> dict[str, Any]:
    prices = {name: [1.04 + n / 1000 for n in range(len(times))] for name in ("open", "high", "low", "close")}
    quote = prices | {"volume": [0] * len(times)} | columns
    meta = {"symbol": symbol, "dataGranularity": granularity, "gmtoffset": 3600}
    result = {"meta": meta, "timestamp": times, "indicators": {"quote": [quote]}}
    return {"chart": {"result": [result], "error": None}}


def hours(day: datetime, *which: int) -> list[int]:
    return [int((day + timedelta(hours=hour)).timestamp()) for hour in which]


def error(code: str, description: str) -> dict[str, Any]:
    return {"chart": {"result": None, "error": {"code": code, "description": description}}}


def provider(transport: ScriptedTransport) -> YahooProvider:
    return YahooProvider(transport, now=lambda: NOW)


def test_a_day_is_one_request_and_its_times_are_utc() -> None:
    transport = answering(chart(hours(DAY.start, 0, 1, 23)))
    delivery = provider(transport).fetch(DAY)
    assert list(delivery.bars["ts"].dt.hour) == [0, 1, 23]
    assert str(delivery.bars["ts"].dt.tz) == "UTC"
    assert delivery.bars["volume"].isna().all()
    assert (delivery.price_kind, delivery.volume_kind, delivery.instrument_kind) == ("last", "none", "spot")
    (asked,) = transport.asked
    assert asked.url == "https://query2.finance.yahoo.com/v8/finance/chart/EURUSD=X"
    assert asked.params == {
        "period1": "1739923200",
        "period2": "1740009600",
        "interval": "1h",
        "includePrePost": "false",
    }
    assert (asked.headers, asked.secret_params) == ({}, ())


def test_a_future_is_declared_as_one_with_its_contracts() -> None:
    transport = answering(chart(hours(DAY.start, 3), symbol="GC=F", volume=[214]))
    delivery = provider(transport).fetch(ask("XAUUSD", "1h", "2025-02-19", "2025-02-20"))
    assert (delivery.volume_kind, delivery.instrument_kind) == ("contracts", "future")
    assert delivery.bars["volume"].tolist() == [214.0]


def test_rows_of_nulls_are_rejected_and_counted() -> None:
    times = hours(DAY.start, 0, 1, 2, 3)
    prices: dict[str, Any] = {name: [1.0, None, 1.2, 1.3] for name in ("open", "high", "low", "close")}
    delivery = provider(answering(chart(times, **prices, volume=[0, None, 0, 0]))).fetch(DAY)
    assert list(delivery.bars["ts"].dt.hour) == [0, 2, 3]
    assert delivery.rejected["rule"].tolist() == ["unusable_key"]
    assert list(delivery.rejected["ts"].dt.hour) == [1]
    assert "every price is null" in delivery.rejected["detail"].iloc[0]
    assert delivery.delivered == 4


def test_a_single_null_is_a_missing_price_for_judgement() -> None:
    delivery = provider(answering(chart(hours(DAY.start, 5), high=[None]))).fetch(DAY)
    assert delivery.bars["high"].isna().tolist() == [True]
    assert delivery.bars["low"].tolist() == [1.04]


def test_the_bar_under_way_and_the_latest_price_are_left_out_null_or_not() -> None:
    today = ask("EURUSD", "1h", "2025-02-20", "2025-02-21")
    times = [*hours(today.start, 10, 11, 12), int(utc("2025-02-20T12:29:41").timestamp())]
    for last in (1.05, None):
        prices: dict[str, Any] = {name: [1.0, 1.1, last, 1.2] for name in ("open", "high", "low", "close")}
        delivery = provider(answering(chart(times, **prices))).fetch(today)
        assert list(delivery.bars["ts"].dt.hour) == [10, 11]
        assert delivery.delivered == 2


def test_the_latest_price_of_a_closed_market_is_no_bar() -> None:
    times = [*hours(DAY.start, 20, 21), int(utc("2025-02-19T21:59:41").timestamp())]
    delivery = provider(answering(chart(times))).fetch(DAY)
    assert list(delivery.bars["ts"].dt.strftime("%H:%M")) == ["20:00", "21:00"]


def test_minutes_are_asked_a_week_at_a_time() -> None:
    calls = requests_for(ask("EURUSD", "1m", "2025-02-01", "2025-02-18"), NOW)
    edges = [(int(c.params["period1"]), int(c.params["period2"])) for c in calls]
    assert [end - start for start, end in edges] == [7 * 86400, 7 * 86400, 3 * 86400]
    assert [start for start, _ in edges[1:]] == [end for _, end in edges[:-1]]


def test_a_year_of_hours_is_one_request() -> None:
    assert len(requests_for(ask("EURUSD", "1h", "2024-02-19", "2025-02-19"), NOW)) == 1


def test_a_range_that_yahoo_no_longer_keeps_is_refused_and_not_empty() -> None:
    it = provider(answering(b""))
    with pytest.raises(PermanentProviderError, match="730 days"):
        it.fetch(ask("EURUSD", "1h", "2023-01-01", "2023-01-02"))
    with pytest.raises(PermanentProviderError, match="30 days"):
        it.fetch(ask("EURUSD", "1m", "2025-01-01", "2025-02-19"))
    available = it.available("EURUSD", "1h")
    assert available == (NOW - timedelta(days=730), NOW)
    assert it.available("EURUSD", "1d") is None


def test_an_answer_with_rows_of_another_week_is_not_taken_for_no_bars() -> None:
    transport = answering(chart(hours(utc("2025-02-03"), 1, 2), granularity="1m"))
    with pytest.raises(TransientProviderError, match="2 rows from 2025-02-03T01:00Z on"):
        provider(transport).fetch(ask("EURUSD", "1m", "2025-02-01", "2025-02-18"))


@pytest.mark.parametrize("status", [200, 400])
def test_a_range_without_bars_is_an_empty_delivery(status: int) -> None:
    no_bars = error("Bad Request", "Data doesn't exist for startDate = 1739923200, endDate = 1740009600")
    assert provider(answering(no_bars, status)).fetch(DAY).delivered == 0
    bare = chart([])
    del bare["chart"]["result"][0]["timestamp"]
    bare["chart"]["result"][0]["indicators"]["quote"] = [{}]
    assert provider(answering(bare)).fetch(DAY).delivered == 0


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (404, error("Not Found", "No data found, symbol may be delisted"), UnknownSymbolError),
        (200, error("Not Found", "No data found, symbol may be delisted"), UnknownSymbolError),
        (422, error("Unprocessable Entity", "1h data not available for startTime=1"), PermanentProviderError),
        (401, {"finance": {"error": {"code": "Unauthorized", "description": "Invalid Crumb"}}}, PermanentProviderError),
        (429, "Edge: Too Many Requests", RateLimitedError),
        (999, "Request denied", TransientProviderError),
        (502, "<html>", TransientProviderError),
        (200, "<html>We are upgrading</html>", TransientProviderError),
        (200, '{"chart":{"result":[{"meta":', TransientProviderError),
        (200, {"chart": {"result": None, "error": None}}, SourceFormatError),
        (200, {"chart": {"result": [], "error": None}}, SourceFormatError),
        (200, chart([1739923200], open=[1.0, 1.1]), SourceFormatError),
        (200, chart([1739923200], granularity="1d"), SourceFormatError),
        (200, chart([1739923200], symbol="GBPUSD=X"), TransientProviderError),
        (200, chart([1739923200], symbol="AAPL"), TransientProviderError),
    ],
)
def test_a_refusal_is_told_apart_by_what_helps(status: int, answer: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"yahoo, EURUSD 1h \[2025-02-19T00:00Z, 2025-02-20T00:00Z\)") as caught:
        provider(answering(answer, status)).fetch(DAY)
    assert type(caught.value) is kind or kind is TransientProviderError


def test_times_and_numbers_that_cannot_be_read_are_rejected() -> None:
    first = hours(DAY.start, 1)[0]
    times = [first, "soon", -1, 1e30, None, True, 1.5, first + 3600, first + 7200]
    closes = [1.0, 1, 1, 1, 1, 1, 1, "NaN", [1]]
    delivery = provider(answering(chart(times, close=closes))).fetch(DAY)
    assert len(delivery.bars) == 1
    assert len(delivery.rejected) == 8
    assert sorted(set(delivery.rejected["ts"].dt.hour)) == [1, 2, 3]


def test_days_of_futures_are_not_served_because_their_stamp_is_not_their_open() -> None:
    it = provider(answering(b""))
    assert isinstance(it, Provider)
    assert not isinstance(it, Quoting)
    assert it.serves("EURUSD", "1d")
    assert it.serves("NAS100", "1h")
    assert not it.serves("XAUUSD", "1d")
    assert not it.serves("EURUSD", "4h")
    with pytest.raises(UnknownSymbolError, match="no 1d bars of XAUUSD"):
        it.fetch(ask("XAUUSD", "1d", "2025-01-01", "2025-02-01"))


# Recorded answers


def recorded_body(real_data: Path, name: str) -> bytes:
    return orjson.dumps(orjson.loads(recorded(real_data, f"yahoo_chart_v8/{name}"))["response"]["bodyJson"])


def test_recorded_days_of_a_pair_open_at_midnight_in_london(real_data: Path) -> None:
    body = recorded_body(real_data, "chart-EURUSD=X-2020-01-01-to-2020-01-03.json")
    page = parse(body, ask("EURUSD", "1d", "2020-01-01", "2020-01-04"), NOW)
    assert page.ts == [1577836800_000_000, 1577923200_000_000, 1578009600_000_000]
    assert page.values[0][:4] == (1.1220825910568237, 1.1228384971618652, 1.115946888923645, 1.1220825910568237)
    delivery = provider(answering(body)).fetch(ask("EURUSD", "1d", "2020-01-01", "2020-01-03"))
    assert list(delivery.bars["ts"]) == [pd.Timestamp("2020-01-01T00:00Z"), pd.Timestamp("2020-01-02T00:00Z")]


def test_a_recorded_day_of_gold_is_of_a_future(real_data: Path) -> None:
    page = parse(
        recorded_body(real_data, "chart-GC=F-2020-01-01-to-2020-01-03.json"),
        ask("XAUUSD", "1d", "2020-01-01", "2020-01-03"),
        NOW,
    )
    assert page.values == [
        (1518.0999755859375, 1528.699951171875, 1518.0, 1524.5, 214.0, pytest.approx(float("nan"), nan_ok=True))
    ]


def test_a_recorded_weekend_without_a_timestamp_is_empty(real_data: Path) -> None:
    body = recorded_body(real_data, "chart-AAPL-2025-02-01-to-2025-02-02-includePrePost-false-interval-1m.json")
    page = parse(body.replace(b"AAPL", b"EURUSD=X"), ask("EURUSD", "1m", "2025-02-01", "2025-02-02"), NOW)
    assert (page.rows, page.ts) == (0, [])


def test_a_recorded_year_is_read_in_full(real_data: Path) -> None:
    body = recorded_body(real_data, "historical-via-chart-NVDA-split-2021-02-01-to-2022-01-31.csv.json")
    page = parse(body.replace(b"NVDA", b"EURUSD=X"), ask("EURUSD", "1d", "2021-01-01", "2022-02-01"), NOW)
    quote = orjson.loads(body)["chart"]["result"][0]["indicators"]["quote"][0]
    assert len(page.ts) == 252
    assert [row[3] for row in page.values] == quote["close"]
