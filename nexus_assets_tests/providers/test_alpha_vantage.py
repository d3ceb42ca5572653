"""Alpha Vantage's currencies."""

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
from nexus_assets.providers.alpha_vantage import AlphaVantageProvider, parse, parse_quote, refusal, requests_for
from nexus_assets.providers.interface import Provider
from nexus_assets.providers.quotes import Quoting
from nexus_assets_tests.providers.scripted_transport import KEY, ScriptedTransport, answering, ask, recorded, utc

NOW = utc("2025-02-20T12:30:00")
DAY = ask("EURUSD", "1h", "2025-02-19T03:00:00", "2025-02-19T08:00:00")
RATE_LIMIT = (
    "We have detected your API key as {key} and our standard API rate limit is 25 requests per day. "
    "Please subscribe to any of the premium plans."
)


def row(close: Any = "1.05") -> dict[str, Any]:
    return {"1. open": "1.04", "2. high": "1.06", "3. low": "1.03", "4. close": close}


def series(
    *times: str, zone: Any = "UTC", pair: tuple[str, str] = ("EUR", "USD"), interval: str = "60min"
) -> dict[str, Any]:
    meta = {"1. Information": "", "2. From Symbol": pair[0], "3. To Symbol": pair[1], "7. Time Zone": zone}
    if interval != "Daily":
        meta["5. Interval"] = interval
    return {"Meta Data": meta, f"Time Series FX ({interval})": {time: row() for time in times}}


def hours(*which: int, day: str = "2025-02-19") -> list[str]:
    return [f"{day} {hour:02d}:00:00" for hour in which]


def provider(transport: ScriptedTransport) -> AlphaVantageProvider:
    return AlphaVantageProvider(transport, KEY, now=lambda: NOW)


def test_the_newest_first_answer_becomes_the_bars_of_the_range() -> None:
    transport = answering(series(*hours(*range(12, -1, -1))))
    delivery = provider(transport).fetch(DAY)
    assert list(delivery.bars["ts"].dt.hour) == [3, 4, 5, 6, 7]
    assert (delivery.price_kind, delivery.volume_kind, delivery.instrument_kind) == ("last", "none", "spot")
    assert delivery.bars.iloc[0, 1:5].tolist() == [1.04, 1.06, 1.03, 1.05]
    (asked,) = transport.asked
    assert asked.url == "https://www.alphavantage.co/query"
    assert asked.secret_params == ("apikey",)
    assert asked.params == {
        "function": "FX_INTRADAY",
        "from_symbol": "EUR",
        "to_symbol": "USD",
        "interval": "60min",
        "outputsize": "compact",
        "apikey": f"secret {KEY.get_secret_value()}",
    }


def test_more_than_a_hundred_bars_are_asked_in_full() -> None:
    (call,) = requests_for(ask("EURUSD", "1h", "2025-02-10", "2025-02-11"), NOW)
    assert call.params["outputsize"] == "full"
    (daily,) = requests_for(ask("EURUSD", "1d", "2025-02-10", "2025-02-11"), NOW)
    assert (daily.params["function"], daily.params["outputsize"]) == ("FX_DAILY", "compact")


def test_times_of_new_york_are_converted_on_both_sides_of_the_change_of_its_clock() -> None:
    answer = series("2025-01-15 10:00:00", "2024-07-15 10:00:00", "2024-07-15 09:00:00", zone="US/Eastern")
    page = parse(orjson.dumps(answer), ask("EURUSD", "1h", "2024-07-01", "2025-02-01"), NOW)
    found = pd.DatetimeIndex(pd.to_datetime(page.ts, unit="us"))
    assert list(found) == [pd.Timestamp(t) for t in ("2024-07-15 13:00", "2024-07-15 14:00", "2025-01-15 15:00")]


def test_an_hour_that_new_york_shows_twice_or_never_is_rejected() -> None:
    times = [*hours(3, 1, 0, day="2024-11-03"), *hours(3, 2, 1, day="2024-03-10")]
    answer = series(*times, zone="US/Eastern")
    page = parse(orjson.dumps(answer), ask("EURUSD", "1h", "2024-03-01", "2024-12-01"), NOW)
    assert len(page.ts) == 4
    assert [u.item["time"] for u in page.unusable] == ["2024-03-10 02:00:00", "2024-11-03 01:00:00"]
    assert all("clock of the source" in u.why for u in page.unusable)


def test_a_range_that_begins_before_the_answer_is_refused_and_not_empty() -> None:
    it = provider(answering(series(*hours(12, 11, 10, 9, 8, 7, 6, 5))))
    with pytest.raises(PermanentProviderError, match="begins at 2025-02-19T05:00Z and does not reach back"):
        it.fetch(DAY)
    with pytest.raises(PermanentProviderError, match="does not reach back"):
        it.fetch(ask("EURUSD", "1h", "2025-02-17", "2025-02-18"))
    assert len(it.fetch(ask("EURUSD", "1h", "2025-02-19T05:00:00", "2025-02-19T07:00:00")).bars) == 2


def test_a_weekend_before_the_answer_is_no_missing_bar() -> None:
    sunday = [*hours(23, 22, day="2025-02-16"), *hours(0, day="2025-02-17")]
    it = provider(answering(series(*sunday)))
    assert len(it.fetch(ask("EURUSD", "1h", "2025-02-15", "2025-02-17")).bars) == 2
    daily = provider(answering(series("2025-02-18", "2025-02-17", interval="Daily")))
    assert len(daily.fetch(ask("EURUSD", "1d", "2025-02-15", "2025-02-18")).bars) == 1
    with pytest.raises(PermanentProviderError, match="does not reach back"):
        daily.fetch(ask("EURUSD", "1d", "2025-02-13", "2025-02-18"))


def test_the_bar_under_way_is_left_out() -> None:
    today = ask("EURUSD", "1h", "2025-02-20T10:00:00", "2025-02-21")
    delivery = provider(answering(series(*hours(12, 11, 10, day="2025-02-20")))).fetch(today)
    assert list(delivery.bars["ts"].dt.hour) == [10, 11]
    days = provider(answering(series("2025-02-20", "2025-02-19", interval="Daily")))
    assert list(days.fetch(ask("EURUSD", "1d", "2025-02-19", "2025-02-21")).bars["ts"].dt.day) == [19]


def test_nothing_is_asked_for_an_empty_range_or_the_future() -> None:
    transport = answering(b"")
    for start, end in (("2025-02-19", "2025-02-19"), ("2025-07-01", "2025-07-02")):
        assert provider(transport).fetch(ask("EURUSD", "1h", start, end)).delivered == 0
    assert transport.asked == []


def test_rows_that_cannot_be_read_are_rejected() -> None:
    answer = series(*hours(7, 6), "yesterday", "2025-02-31 00:00:00")
    answer["Time Series FX (60min)"] |= {hours(5)[0]: row("NaN"), hours(4)[0]: 5, hours(3)[0]: row()}
    answer["Time Series FX (60min)"] |= {"1969-01-01 00:00:00": row()}
    delivery = provider(answering(answer)).fetch(DAY)
    assert list(delivery.bars["ts"].dt.hour) == [3, 6, 7]
    assert len(delivery.rejected) == 5


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (200, {"Note": "Our standard API call frequency is 5 calls per minute."}, RateLimitedError),
        (200, {"Information": RATE_LIMIT}, RateLimitedError),
        (
            200,
            {"Information": "Please consider spreading out your requests (1 request per second)"},
            RateLimitedError,
        ),
        (200, {"Information": "This is a premium endpoint. You may subscribe"}, PermanentProviderError),
        (200, {"Error Message": "the parameter apikey is invalid or missing."}, PermanentProviderError),
        (200, {"Error Message": "Invalid API call. Please retry or visit the documentation"}, UnknownSymbolError),
        (200, {}, TransientProviderError),
        (200, "<html>", TransientProviderError),
        (503, "<html>", TransientProviderError),
        (200, '{"Meta Data": {"1. Inf', TransientProviderError),
        (200, [], SourceFormatError),
        (200, {"Meta Data": {}}, TransientProviderError),
        (200, series(*hours(5), pair=("GBP", "USD")), TransientProviderError),
        (200, series(*hours(5), interval="5min"), TransientProviderError),
        (200, series(*hours(5), zone="Mars/Olympus"), SourceFormatError),
        (200, series(*hours(5), zone=None), SourceFormatError),
        (200, series(*hours(5), zone="../../etc/passwd"), SourceFormatError),
        (200, series(*hours(5)) | {"Time Series FX (60min)": []}, SourceFormatError),
    ],
)
def test_a_refusal_is_told_apart_by_what_helps(status: int, answer: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"alpha_vantage, EURUSD 1h \[2025-02-19T03:00Z, 2025-02-19T08:00Z\)") as caught:
        provider(answering(answer, status)).fetch(DAY)
    assert type(caught.value) is kind or kind is TransientProviderError


def test_the_key_that_the_rate_limit_repeats_is_masked() -> None:
    message = {"Information": RATE_LIMIT.format(key=KEY.get_secret_value())}
    with pytest.raises(TransientProviderError, match=r"API key as \*\*\*") as caught:
        provider(answering(message)).fetch(DAY)
    assert KEY.get_secret_value() not in str(caught.value)


def rate(**more: Any) -> dict[str, Any]:
    fields = {
        "1. From_Currency Code": "EUR",
        "3. To_Currency Code": "USD",
        "5. Exchange Rate": "1.05",
        "6. Last Refreshed": "2025-02-20 12:29:02",
        "7. Time Zone": "UTC",
        "8. Bid Price": "1.0499",
        "9. Ask Price": "1.0501",
    }
    return {"Realtime Currency Exchange Rate": fields | more}


def test_a_quote_has_bid_ask_and_time() -> None:
    transport = answering(rate())
    it = provider(transport)
    assert isinstance(it, Provider)
    assert isinstance(it, Quoting)
    quote = it.quote("EURUSD")
    assert (quote.bid, quote.ask, quote.time) == (1.0499, 1.0501, utc("2025-02-20T12:29:02"))
    assert transport.asked[0].params["function"] == "CURRENCY_EXCHANGE_RATE"
    with pytest.raises(UnknownSymbolError, match="XAUUSD"):
        it.quote("XAUUSD")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (rate(**{"8. Bid Price": "-"}), SourceFormatError),
        (rate(**{"8. Bid Price": "1.2"}), SourceFormatError),
        (rate(**{"6. Last Refreshed": "now"}), SourceFormatError),
        (rate(**{"7. Time Zone": "?"}), SourceFormatError),
        (rate(**{"1. From_Currency Code": "GBP"}), TransientProviderError),
        ({}, SourceFormatError),
    ],
)
def test_a_quote_that_cannot_be_used_is_refused(answer: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="EURUSD"):
        parse_quote(orjson.dumps(answer), "EURUSD")


# Recorded answers


def test_recorded_five_minute_bars_are_read(real_data: Path) -> None:
    raw = recorded(real_data, "alpha_vantage/mock_fx_intraday.json")
    page = parse(raw, ask("EURUSD", "5m", "2020-09-22", "2020-09-23"), NOW)
    assert (len(page.ts), page.unusable) == (100, [])
    assert page.ts[-1] == int(utc("2020-09-22T15:35:00").timestamp()) * 1_000_000
    assert page.values[-1][:4] == (1.1712, 1.1712, 1.1698, 1.1703)
    assert all(later - earlier == 300_000_000 for earlier, later in zip(page.ts, page.ts[1:], strict=False))


def test_recorded_days_are_read_in_utc(real_data: Path) -> None:
    raw = recorded(real_data, "alpha_vantage/mock_fx_daily.json")
    page = parse(raw, ask("EURUSD", "1d", "2020-09-01", "2020-09-23"), utc("2020-09-22T15:40:00"))
    assert page.incomplete == 1
    assert page.ts[-1] == int(utc("2020-09-21").timestamp()) * 1_000_000


def test_a_recorded_table_has_the_same_bars_as_an_object(real_data: Path) -> None:
    table = recorded(real_data, "alpha_vantage/FX_INTRADAY.csv").decode().splitlines()
    cells = [line.split(",") for line in table[1:]]
    answer = series(interval="5min")
    answer["Time Series FX (5min)"] = {
        c[0]: dict(zip(("1. open", "2. high", "3. low", "4. close"), c[1:], strict=True)) for c in cells
    }
    page = parse(orjson.dumps(answer), ask("EURUSD", "5m", "2026-05-01", "2026-06-01"), utc("2026-06-01"))
    assert len(page.ts) == len(cells)
    assert [list(v[:4]) for v in page.values] == [[float(x) for x in c[1:]] for c in reversed(cells)]


def test_a_recorded_quote_is_read(real_data: Path) -> None:
    quote = parse_quote(recorded(real_data, "alpha_vantage/mock_fx.json"), "USDJPY")
    assert (quote.bid, quote.ask, quote.time) == (106.08834755, 106.09070273, utc("2020-09-13T21:18:02"))


def test_the_recorded_demonstration_key_is_refused_for_good(real_data: Path) -> None:
    raw = recorded(real_data, "alpha_vantage/information_demo_key_error.json")
    assert type(refusal(200, raw, DAY)) is PermanentProviderError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Our standard API call frequency is 5 calls per minute and 500 calls per day.", 60),
        ("We have detected your API key and our rate limit is 25 requests per day.", 3600),
        ("Please spread out your requests (1 request per second); the rate limit is 25 requests per day.", 1),
        ("Our rate limit was reached.", 60),
    ],
)
def test_everybody_waits_until_the_limit_that_was_named_may_be_over(text: str, seconds: float) -> None:
    with pytest.raises(RateLimitedError) as caught:
        provider(answering({"Information": text})).fetch(DAY)
    assert caught.value.retry_after == seconds
