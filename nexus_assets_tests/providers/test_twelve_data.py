"""Twelve Data's time series."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
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
from nexus_assets.providers.twelve_data import TwelveDataProvider, parse, refusal, requests_for
from nexus_assets_tests.providers.scripted_transport import KEY, ScriptedTransport, answering, ask, recorded, utc

NOW = utc("2025-02-20T12:30:00")
DAY = ask("EURUSD", "1h", "2025-02-19", "2025-02-20")


def row(time: Any, close: Any = "1.05", **more: Any) -> dict[str, Any]:
    return {"datetime": time, "open": "1.04", "high": "1.06", "low": "1.03", "close": close} | more


def series(*rows: Any, symbol: str = "EUR/USD", interval: str = "1h") -> dict[str, Any]:
    meta = {"symbol": symbol, "interval": interval, "type": "Physical Currency"}
    return {"meta": meta, "values": list(rows), "status": "ok"}


def error(code: Any, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "status": "error"}


def provider(transport: ScriptedTransport) -> TwelveDataProvider:
    return TwelveDataProvider(transport, KEY, now=lambda: NOW)


def test_a_day_is_one_request_in_utc_without_its_end() -> None:
    transport = answering(series(row("2025-02-19 00:00:00"), row("2025-02-19 23:00:00", volume="3")))
    delivery = provider(transport).fetch(DAY)
    assert list(delivery.bars["ts"].dt.hour) == [0, 23]
    assert (delivery.price_kind, delivery.volume_kind, delivery.instrument_kind) == ("mid", "none", "spot")
    assert delivery.bars["volume"].isna().all()
    (asked,) = transport.asked
    assert asked.url == "https://api.twelvedata.com/time_series"
    assert asked.params == {
        "symbol": "EUR/USD",
        "interval": "1h",
        "start_date": "2025-02-19 00:00:00",
        "end_date": "2025-02-19 23:59:59",
        "timezone": "UTC",
        "order": "asc",
    }
    assert asked.headers == {"Authorization": f"secret apikey {KEY.get_secret_value()}"}


def test_a_cash_index_has_last_prices() -> None:
    answer = series(row("2025-02-19 14:30:00"), symbol="NDX")
    delivery = provider(answering(answer)).fetch(ask("NAS100", "1h", "2025-02-19", "2025-02-20"))
    assert (delivery.price_kind, delivery.instrument_kind) == ("last", "cash_index")


def test_a_year_of_hours_takes_two_requests_of_at_most_5000_bars() -> None:
    calls = requests_for(ask("EURUSD", "1h", "2024-01-01", "2025-01-01"), NOW)
    parts = [call.part for call in calls if call.part]
    assert len(calls) == len(parts) == 2
    assert all((part.end - part.start) / timedelta(hours=1) <= 5000 for part in parts)
    assert parts[0].end == parts[1].start
    assert (calls[0].params["end_date"], calls[1].params["start_date"]) == (
        "2024-07-27 07:59:59",
        "2024-07-27 08:00:00",
    )


@pytest.mark.parametrize("newest_first", [False, True])
def test_bars_come_out_ascending_whatever_the_order(newest_first: bool) -> None:
    rows = [row(f"2025-02-19 0{hour}:00:00") for hour in range(4)]
    rows.insert(2, row("2025-02-19 01:00:00", close="never"))
    answer = series(*(reversed(rows) if newest_first else rows))
    delivery = provider(answering(answer)).fetch(DAY)
    assert list(delivery.bars["ts"].dt.hour) == [0, 1, 2, 3]
    assert list(delivery.rejected["ts"].dt.hour) == [1]


def test_the_bar_under_way_is_left_out() -> None:
    today = ask("EURUSD", "1h", "2025-02-20", "2025-02-21")
    transport = answering(series(row("2025-02-20 11:00:00"), row("2025-02-20 12:00:00")))
    assert list(provider(transport).fetch(today).bars["ts"].dt.hour) == [11]
    assert transport.asked[0].params["end_date"] == "2025-02-20 12:29:59"


def test_rows_that_cannot_be_read_are_rejected() -> None:
    broken = [
        row("2025-02-19"),
        row("2025-02-30 00:00:00"),
        row("19.02.2025 01:00"),
        row(1739923200),
        row("0001-01-01 00:00:00"),
        row("9999-12-31 00:00:00"),
        row("2025-02-19 02:00:00", close="NaN"),
        row("2025-02-19 02:00:00", close="Infinity"),
        row("2025-02-19 02:00:00", close="1e999"),
        row("2025-02-19 02:00:00", close=True),
        {"datetime": "2025-02-19 02:00:00"},
        None,
    ]
    answer = series(row("2025-02-19 01:00:00"), *broken, row("2025-02-19 03:00:00"))
    delivery = provider(answering(answer)).fetch(DAY)
    assert list(delivery.bars["ts"].dt.hour) == [1, 3]
    assert len(delivery.rejected) == len(broken)


@pytest.mark.parametrize("status", [200, 400])
def test_a_range_without_bars_is_an_empty_delivery(status: int) -> None:
    no_bars = error(400, "No data is available on the specified dates. Try setting different start/end dates.")
    assert provider(answering(no_bars, status)).fetch(DAY).delivered == 0
    assert provider(answering(series())).fetch(DAY).delivered == 0


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (200, error(429, "You have run out of API credits for the current minute."), RateLimitedError),
        (429, error(429, "You have run out of API credits for the day."), RateLimitedError),
        (200, error(500, "internal"), TransientProviderError),
        (200, error(401, "**apikey** parameter is incorrect"), PermanentProviderError),
        (200, error(403, "available exclusively with grow plans"), PermanentProviderError),
        (200, error(400, "**symbol** not found: EUR/USX."), UnknownSymbolError),
        (404, error(404, "nothing found from your very strict query."), UnknownSymbolError),
        (200, error(400, "Invalid **interval** provided: 1ms."), PermanentProviderError),
        (200, error("x", "what?"), SourceFormatError),
        (503, "<html>", TransientProviderError),
        (200, "<html>", TransientProviderError),
        (200, '{"meta":{"symbol":"EUR/USD"},"values":[{"datetime"', TransientProviderError),
        (200, {"status": "ok"}, SourceFormatError),
        (200, {"values": {"a": 1}, "status": "ok"}, SourceFormatError),
        (200, series(row("2025-02-19 01:00:00"), symbol="GBP/USD"), TransientProviderError),
        (200, series(row("2025-02-19 01:00:00"), interval="1min"), TransientProviderError),
        (200, series(row("2024-02-19 01:00:00")), TransientProviderError),
    ],
)
def test_a_refusal_is_told_apart_by_what_helps(status: int, answer: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"twelve_data, EURUSD 1h \[2025-02-19T00:00Z, 2025-02-20T00:00Z\)") as caught:
        provider(answering(answer, status)).fetch(DAY)
    assert type(caught.value) is kind or kind is TransientProviderError


def test_days_are_not_served_because_no_zone_is_told() -> None:
    it = provider(answering(b""))
    assert isinstance(it, Provider)
    assert not isinstance(it, Quoting)
    assert it.serves("XAUUSD", "15m")
    assert not it.serves("EURUSD", "1d")


# Recorded answers


def test_recorded_minutes_of_a_pair_are_read(real_data: Path) -> None:
    raw = recorded(real_data, "twelve_data/time_series_USDJPY_1min_previous_close.json")
    delivery = provider(answering(raw)).fetch(ask("USDJPY", "1m", "2024-04-29T06:00:00", "2024-04-29T07:00:00"))
    assert delivery.bars["close"].tolist() == [155.84, 155.845]
    assert str(delivery.bars["ts"].iloc[-1]) == "2024-04-29 06:31:00+00:00"


def test_recorded_days_are_no_instants(real_data: Path) -> None:
    raw = recorded(real_data, "twelve_data/time_series.json").replace(b'"IBM"', b'"EUR/USD"').replace(b"1day", b"1h")
    page = parse(raw, ask("EURUSD", "1h", "2021-01-01", "2022-01-01"), NOW)
    assert (page.ts, len(page.unusable)) == ([], 30)


def test_recorded_bars_whose_high_is_not_the_highest_are_delivered_for_judgement(real_data: Path) -> None:
    raw = orjson.loads(recorded(real_data, "twelve_data/time_series_cross.json"))
    raw["meta"] = {"symbol": "EUR/USD", "interval": "1min"}
    page = parse(orjson.dumps(raw), ask("EURUSD", "1m", "2025-08-07", "2025-08-08"), utc("2025-09-01"))
    assert (len(page.ts), page.unusable) == (30, [])
    assert page.ts == sorted(page.ts)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bad_request_response_error", PermanentProviderError),
        ("unauthorized_response_error", PermanentProviderError),
        ("not_found_response_error", UnknownSymbolError),
    ],
)
def test_recorded_errors_are_told_apart(real_data: Path, name: str, kind: type[Exception]) -> None:
    found = refusal(200, recorded(real_data, f"twelve_data/{name}.json"), DAY)
    assert type(found) is kind
