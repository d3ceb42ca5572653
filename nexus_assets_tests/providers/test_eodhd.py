"""EODHD's intraday bars."""

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
from nexus_assets.providers.eodhd import EodhdProvider, parse, requests_for
from nexus_assets.providers.interface import Provider
from nexus_assets.providers.quotes import Quoting
from nexus_assets_tests.providers.scripted_transport import KEY, ScriptedTransport, answering, ask, recorded, utc

NOW = utc("2025-02-20T12:30:00")
DAY = ask("EURUSD", "1h", "2025-02-19", "2025-02-20")
MIDNIGHT = 1739923200


def row(timestamp: Any, close: Any = 1.05, **more: Any) -> dict[str, Any]:
    return {"timestamp": timestamp, "open": 1.04, "high": 1.06, "low": 1.03, "close": close, "volume": 0} | more


def provider(transport: ScriptedTransport) -> EodhdProvider:
    return EodhdProvider(transport, KEY, now=lambda: NOW)


def test_a_day_is_one_request_in_seconds_without_its_end() -> None:
    transport = answering([row(MIDNIGHT + hour * 3600) for hour in range(24)])
    delivery = provider(transport).fetch(DAY)
    assert len(delivery.bars) == 24
    assert (delivery.price_kind, delivery.volume_kind, delivery.instrument_kind) == ("last", "none", "spot")
    assert delivery.bars["volume"].isna().all()
    (asked,) = transport.asked
    assert asked.url == "https://eodhd.com/api/intraday/EURUSD.FOREX"
    assert asked.secret_params == ("api_token",)
    assert asked.params == {
        "interval": "1h",
        "from": "1739923200",
        "to": "1740009599",
        "fmt": "json",
        "api_token": f"secret {KEY.get_secret_value()}",
    }


@pytest.mark.parametrize(("timeframe", "days", "count"), [("1m", 366, 4), ("5m", 366, 1), ("1h", 3650, 1)])
def test_a_request_spans_as_much_as_is_allowed(timeframe: str, days: int, count: int) -> None:
    start = NOW - timedelta(days=days)
    calls = requests_for(ask("EURUSD", timeframe, start.isoformat()[:19], NOW.isoformat()[:19]), NOW)
    assert len(calls) == count
    edges = [(int(c.params["from"]), int(c.params["to"])) for c in calls]
    assert [end + 1 for _, end in edges[:-1]] == [start for start, _ in edges[1:]]


def test_the_clock_of_the_exchange_is_checked_against_the_timestamp() -> None:
    offset = row(MIDNIGHT, datetime="2025-02-18 19:00:00", gmtoffset=-18000)
    plain = row(MIDNIGHT + 3600, datetime="2025-02-19 01:00:00", gmtoffset=0)
    wrong = row(MIDNIGHT + 7200, datetime="2025-02-18 20:00:00", gmtoffset=3600)
    delivery = provider(answering([offset, plain, wrong])).fetch(DAY)
    assert list(delivery.bars["ts"].dt.hour) == [0, 1]
    assert delivery.rejected["detail"].tolist() == ["the row's timestamp and datetime are different times"]
    assert list(delivery.rejected["ts"].dt.hour) == [2]


def test_the_bar_under_way_is_left_out() -> None:
    today = ask("EURUSD", "1h", "2025-02-20", "2025-02-21")
    noon = MIDNIGHT + 36 * 3600
    assert list(provider(answering([row(noon - 3600), row(noon)])).fetch(today).bars["ts"].dt.hour) == [11]


def test_repeats_are_settled_and_rows_outside_the_range_left_out() -> None:
    rows = [row(MIDNIGHT), row(MIDNIGHT), row(MIDNIGHT, 1.07), row(MIDNIGHT - 3600), row(MIDNIGHT + 86400)]
    delivery = provider(answering(rows)).fetch(DAY)
    assert (len(delivery.bars), delivery.equal_repeats, delivery.delivered) == (1, 1, 3)
    assert delivery.rejected["rule"].tolist() == ["conflicting_repeat"]


def test_rows_that_cannot_be_read_are_rejected() -> None:
    broken = [row("x"), row(-1), row(1e30), row(None), row(0), row(MIDNIGHT, "NaN"), row(MIDNIGHT, datetime=5), 7, {}]
    broken.append(row(MIDNIGHT, datetime="2025-02-19 00:00:00", gmtoffset="east"))
    broken.append(row(MIDNIGHT, datetime="2025-02-19 05:00:00", gmtoffset=1e308))
    delivery = provider(answering([row(MIDNIGHT), *broken, row(MIDNIGHT + 3600)])).fetch(DAY)
    assert len(delivery.bars) == 2
    assert len(delivery.rejected) == len(broken)


def test_no_bars_is_an_empty_delivery() -> None:
    assert provider(answering([])).fetch(DAY).delivered == 0


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (401, "Unauthenticated", PermanentProviderError),
        (402, "You exceeded your daily API requests limit.", RateLimitedError),
        (402, "Payment required", PermanentProviderError),
        (403, "Forbidden. Please contact support@eodhistoricaldata.com", PermanentProviderError),
        (404, "Ticker Not Found.", UnknownSymbolError),
        (429, "Too many requests", RateLimitedError),
        (502, "<html>", TransientProviderError),
        (200, "<html>", TransientProviderError),
        (200, '[{"timestamp":17399', TransientProviderError),
        (200, "", TransientProviderError),
        (200, {"errors": {"interval": ["wrong"]}}, SourceFormatError),
        (200, [row(MIDNIGHT - 10 * 86400)], TransientProviderError),
    ],
)
def test_a_refusal_is_told_apart_by_what_helps(status: int, answer: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"eodhd, EURUSD 1h \[2025-02-19T00:00Z, 2025-02-20T00:00Z\)") as caught:
        provider(answering(answer, status)).fetch(DAY)
    assert type(caught.value) is kind or kind is TransientProviderError


def test_what_it_serves() -> None:
    it = provider(answering(b""))
    assert isinstance(it, Provider)
    assert not isinstance(it, Quoting)
    assert it.serves("US500", "1h")
    assert not it.serves("EURUSD", "15m")
    assert not it.serves("EURUSD", "1d")
    assert it.spelled("US500", "1h").instrument_kind == "cash_index"


def test_recorded_bars_are_read_with_their_null_volumes(real_data: Path) -> None:
    raw = recorded(real_data, "eodhd/intraday_AAPL_US_5m.json")
    page = parse(raw, ask("US500", "5m", "2025-06-01", "2025-11-01"), utc("2025-11-01"))
    assert (len(page.ts), page.unusable) == (6442, [])
    rows = orjson.loads(raw)
    assert [v[0] for v in page.values] == [r["open"] for r in rows]
    assert page.ts == [r["timestamp"] * 1_000_000 for r in rows]


def test_the_recorded_wrong_token_is_refused_for_good(real_data: Path) -> None:
    with pytest.raises(PermanentProviderError, match=r"401: Unauthenticated.*EODHD_API_TOKEN"):
        provider(answering(recorded(real_data, "eodhd/intraday_401.txt"), 401)).fetch(DAY)
