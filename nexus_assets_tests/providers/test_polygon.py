"""Polygon's aggregates and quotes."""

from collections.abc import Iterator
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
from nexus_assets.providers.polygon import PolygonProvider, parse, parse_quote
from nexus_assets.providers.quotes import Quoting
from nexus_assets_tests.providers.scripted_transport import (
    KEY,
    Answer,
    ScriptedTransport,
    answering,
    ask,
    recorded,
    utc,
)

NOW = utc("2025-02-20T12:30:00")
DAY = ask("EURUSD", "1h", "2025-02-19", "2025-02-20")
MIDNIGHT = 1739923200_000
HOUR = 3_600_000


def bar(t: Any, price: Any = 1.04, **more: Any) -> dict[str, Any]:
    return {"v": 74147, "vw": 1.0, "o": price, "c": 1.05, "h": 1.06, "l": 1.03, "t": t, "n": 74147} | more


def page(*bars: Any, ticker: str = "C:EURUSD", **more: Any) -> dict[str, Any]:
    return {
        "ticker": ticker,
        "resultsCount": len(bars),
        "results": list(bars),
        "status": "OK",
        "adjusted": False,
    } | more


def provider(transport: ScriptedTransport) -> PolygonProvider:
    return PolygonProvider(transport, KEY, now=lambda: NOW)


def pages(*answers: dict[str, Any]) -> ScriptedTransport:
    each: Iterator[dict[str, Any]] = iter(answers)
    return ScriptedTransport(lambda _: Answer(orjson.dumps(next(each))))


def test_a_day_is_one_request_in_milliseconds_without_its_end() -> None:
    transport = answering(page(*(bar(MIDNIGHT + n * HOUR) for n in range(24)), status="DELAYED"))
    delivery = provider(transport).fetch(DAY)
    assert len(delivery.bars) == 24
    row = delivery.bars.iloc[0]
    assert row[["open", "high", "low", "close", "volume"]].tolist() == [1.04, 1.06, 1.03, 1.05, 74147.0]
    assert (delivery.price_kind, delivery.volume_kind, delivery.instrument_kind) == ("last", "ticks", "spot")
    (asked,) = transport.asked
    assert asked.url == ("https://api.polygon.io/v2/aggs/ticker/C:EURUSD/range/1/hour/1739923200000/1740009599999")
    assert asked.params == {"adjusted": "false", "sort": "asc", "limit": "50000"}
    assert asked.headers == {"Authorization": f"secret Bearer {KEY.get_secret_value()}"}


def test_pages_are_followed_to_the_end_and_the_key_stays_at_its_host() -> None:
    link = "https://elsewhere.example/v2/aggs/ticker/C:EURUSD/range/1/hour/1739962800000/1740009599999?cursor=YWJj"
    transport = pages(page(bar(MIDNIGHT), next_url=link), page(bar(MIDNIGHT + HOUR)))
    delivery = provider(transport).fetch(DAY)
    assert list(delivery.bars["ts"].dt.hour) == [0, 1]
    assert transport.asked[1].url.startswith(
        "https://api.polygon.io/v2/aggs/ticker/C:EURUSD/range/1/hour/1739962800000"
    )
    assert transport.asked[1].params == {"cursor": "YWJj"}


@pytest.mark.parametrize(
    "second", [page(bar(MIDNIGHT)), page(bar(MIDNIGHT), next_url="/v2/aggs/b"), page(next_url="/v2/aggs/a")]
)
def test_a_page_that_is_delivered_twice_is_a_fault_and_not_the_end(second: dict[str, Any]) -> None:
    transport = pages(page(bar(MIDNIGHT), next_url="/v2/aggs/a"), second, page())
    with pytest.raises(TransientProviderError, match="repeats an earlier one"):
        provider(transport).fetch(DAY)


def test_the_bar_under_way_is_left_out() -> None:
    today = ask("EURUSD", "1h", "2025-02-20", "2025-02-21")
    noon = MIDNIGHT + 36 * HOUR
    transport = answering(page(bar(noon - HOUR), bar(noon)))
    assert list(provider(transport).fetch(today).bars["ts"].dt.hour) == [11]
    assert transport.asked[0].url.endswith("/1740009600000/1740054599999")


def test_an_index_has_no_ticks_and_no_days() -> None:
    it = provider(answering(page(bar(MIDNIGHT), ticker="I:NDX")))
    delivery = it.fetch(ask("NAS100", "1h", "2025-02-19", "2025-02-20"))
    assert (delivery.volume_kind, delivery.instrument_kind) == ("none", "cash_index")
    assert delivery.bars["volume"].isna().all()
    assert not it.serves("NAS100", "1d")
    assert it.serves("EURUSD", "1d")


def test_no_results_is_an_empty_delivery() -> None:
    for answer in (
        page(),
        {"ticker": "C:EURUSD", "status": "OK", "resultsCount": 0},
        page(results=None, resultsCount=0),
    ):
        assert provider(answering(answer)).fetch(DAY).delivered == 0


def test_rows_that_cannot_be_read_are_rejected() -> None:
    broken = [bar("x"), bar(-1), bar(1e30), bar(None), bar(MIDNIGHT + 0.5), bar(MIDNIGHT, "NaN"), 7, {"t": MIDNIGHT}]
    delivery = provider(answering(page(bar(MIDNIGHT), *broken, bar(MIDNIGHT + HOUR)))).fetch(DAY)
    assert len(delivery.bars) == 2
    assert len(delivery.rejected) == len(broken)
    assert set(delivery.rejected["rule"]) == {"unusable_key"}


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (401, {"status": "ERROR", "error": "Unknown API Key"}, PermanentProviderError),
        (403, {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data."}, PermanentProviderError),
        (429, {"status": "ERROR", "error": "You've exceeded the maximum requests per minute"}, RateLimitedError),
        (200, {"status": "ERROR", "error": "You've exceeded the maximum requests per minute"}, TransientProviderError),
        (200, {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data."}, PermanentProviderError),
        (500, "", TransientProviderError),
        (200, "<html>", TransientProviderError),
        (200, '{"status":"OK","results":[{"v":1', TransientProviderError),
        (200, {"status": "OK", "results": {"t": 1}}, SourceFormatError),
        (200, {"status": "OK", "resultsCount": 3}, SourceFormatError),
        (200, [], SourceFormatError),
        (200, page(bar(MIDNIGHT), ticker="C:GBPUSD"), TransientProviderError),
        (200, page(bar(MIDNIGHT), next_url="https://api.polygon.io/login"), SourceFormatError),
        (200, page(bar(MIDNIGHT), next_url=5), SourceFormatError),
        (200, page(bar(MIDNIGHT), next_url="http://[bad/v2/aggs/"), SourceFormatError),
    ],
)
def test_a_refusal_is_told_apart_by_what_helps(status: int, answer: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"polygon, EURUSD 1h \[2025-02-19T00:00Z, 2025-02-20T00:00Z\)") as caught:
        provider(answering(answer, status)).fetch(DAY)
    assert type(caught.value) is kind or kind is TransientProviderError


def test_quotes_are_of_pairs_only() -> None:
    transport = answering({"last": {"ask": 1.1, "bid": 1.0, "timestamp": MIDNIGHT}, "symbol": "EUR/USD"})
    it = provider(transport)
    assert isinstance(it, Provider)
    assert isinstance(it, Quoting)
    quote = it.quote("EURUSD")
    assert (quote.bid, quote.ask, quote.mid, quote.time) == (1.0, 1.1, 1.05, utc("2025-02-19"))
    assert transport.asked[0].url == "https://api.polygon.io/v1/last_quote/currencies/EUR/USD"
    with pytest.raises(UnknownSymbolError, match="NAS100"):
        it.quote("NAS100")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"last": {"ask": 1.0, "bid": 1.1, "timestamp": MIDNIGHT}}, SourceFormatError),
        ({"last": {"ask": 1.0, "bid": None, "timestamp": MIDNIGHT}}, SourceFormatError),
        ({"last": {"ask": 1.0, "timestamp": MIDNIGHT}}, SourceFormatError),
        ({"last": None}, SourceFormatError),
        ({"last": {"ask": 1.1, "bid": 1.0, "timestamp": MIDNIGHT}, "symbol": "AUD/USD"}, TransientProviderError),
    ],
)
def test_a_quote_that_cannot_be_used_is_refused(answer: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="EURUSD"):
        parse_quote(orjson.dumps(answer), "EURUSD")


# Recorded answers


def test_recorded_days_of_a_pair_are_read_with_their_ticks(real_data: Path) -> None:
    raw = recorded(real_data, "polygon/v2_aggs_C_EURUSD_1day_2023-01-01_2023-01-10.json")
    delivery = provider(answering(raw)).fetch(ask("EURUSD", "1d", "2023-01-01", "2023-01-11"))
    assert delivery.delivered == len(delivery.bars) == 10
    assert str(delivery.bars["ts"].iloc[0]) == "2023-01-01 00:00:00+00:00"
    assert delivery.bars["volume"].tolist() == [bar["n"] for bar in orjson.loads(raw)["results"]]
    assert delivery.bars["close"].tolist()[:3] == [1.0793, 1.06764, 1.0545]


def test_a_recorded_quote_is_read(real_data: Path) -> None:
    quote = parse_quote(recorded(real_data, "polygon/v1__last_quote__currencies__AUD__USD.json"), "AUDUSD")
    assert (quote.bid, quote.ask, quote.time) == (0.6952, 0.69527, utc("2022-05-10T14:41:34"))


def test_recorded_bars_of_another_ticker_are_refused(real_data: Path) -> None:
    raw = recorded(real_data, "polygon/v2__aggs__ticker__AAPL__range__1__day__2005-04-01__2005-04-04.json")
    with pytest.raises(TransientProviderError, match="AAPL"):
        parse(raw, ask("EURUSD", "1d", "2005-04-01", "2005-04-05"), NOW)
