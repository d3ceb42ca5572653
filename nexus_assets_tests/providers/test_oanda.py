"""OANDA v20: pages, candles, quotes, refusals."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from pydantic import SecretStr

from nexus_assets import trading_calendar
from nexus_assets.errors import (
    PermanentProviderError,
    RateLimitedError,
    SourceFormatError,
    TransientProviderError,
    UnknownSymbolError,
)
from nexus_assets.providers import oanda
from nexus_assets.providers.interface import Provider
from nexus_assets.providers.oanda import OandaProvider, parse, parse_quote, requests_for
from nexus_assets.providers.pages import deliver
from nexus_assets.providers.quotes import Quoting
from nexus_assets.providers.spellings import SPELLINGS
from nexus_assets.timeframes import length
from nexus_assets_tests.providers.scripted_transport import (
    KEY,
    Answer,
    Asked,
    ScriptedTransport,
    answering,
    ask,
    recorded,
    utc,
)

NOW = utc("2025-06-02T12:30:00")
TIMEFRAMES = {"M1": "1m", "M5": "5m", "M15": "15m", "H1": "1h", "H4": "4h", "D": "1d"}


def candle(time: datetime, price: float = 1.1, *, complete: bool = True, **more: Any) -> dict[str, Any]:
    sides = {
        name: {"o": f"{p:.5f}", "h": f"{p + 0.001:.5f}", "l": f"{p - 0.001:.5f}", "c": f"{p + 0.0005:.5f}"}
        for name, p in (("mid", price), ("bid", price - 0.00006), ("ask", price + 0.00007))
    }
    return {"time": f"{time:%Y-%m-%dT%H:%M:%S}.000000000Z", "volume": 12, "complete": complete} | sides | more


def body(*candles: Any, granularity: str = "H1", instrument: str = "EUR_USD") -> bytes:
    return orjson.dumps({"instrument": instrument, "granularity": granularity, "candles": candles})


class Market:
    """Answers as the API does: `count` candles of open hours from `from`, of which the last may be incomplete."""

    def __init__(self, *, now: datetime = NOW, one_short: bool = False) -> None:
        self._now, self._one_short = now, one_short

    def __call__(self, asked: Asked) -> Answer:
        granularity, count = asked.params["granularity"], int(asked.params["count"])
        assert 1 <= count <= 5000
        timeframe = TIMEFRAMES[granularity]
        start = datetime.fromisoformat(asked.params["from"][:19]).replace(tzinfo=NOW.tzinfo)
        opens = trading_calendar.expected("fx", start - length(timeframe), self._now, timeframe)
        covered = opens[trading_calendar.bar_end(opens, timeframe) > pd.Timestamp(start)][:count]
        if self._one_short:
            covered = covered[:-1]
        ends = trading_calendar.bar_end(covered, timeframe)
        candles = [
            candle(ts.to_pydatetime(), 1.0 + n % 100 / 1000, complete=end <= self._now)
            for n, (ts, end) in enumerate(zip(covered, ends, strict=True))
        ]
        return Answer(body(*candles, granularity=granularity))


def provider(transport: ScriptedTransport, **options: Any) -> OandaProvider:
    return OandaProvider(transport, KEY, now=lambda: NOW, **options)


@pytest.mark.parametrize("one_short", [False, True])
def test_a_year_of_hours_takes_two_requests_and_lacks_no_bar(one_short: bool) -> None:
    transport = ScriptedTransport(Market(one_short=one_short))
    delivery = provider(transport).fetch(ask("EURUSD", "1h", "2024-01-01", "2025-01-01"))
    expected = trading_calendar.expected("fx", utc("2024-01-01"), utc("2025-01-01"), "1h")
    assert len(expected) > 6000
    assert list(delivery.bars["ts"]) == list(expected)
    assert len(transport.asked) == 2
    assert (delivery.delivered, delivery.equal_repeats) == (len(expected), 0)


def test_minutes_use_up_no_request_on_weekends() -> None:
    transport = ScriptedTransport(Market())
    delivery = provider(transport).fetch(ask("EURUSD", "1m", "2025-03-01", "2025-03-29"))
    minutes = len(trading_calendar.expected("fx", utc("2025-03-01"), utc("2025-03-29"), "1m"))
    assert len(delivery.bars) == minutes
    assert len(transport.asked) == -(-minutes // 5000) == 6


@pytest.mark.parametrize("timeframe", ["4h", "1d"])
def test_long_candles_across_changes_of_the_clock_are_asked_and_delivered_once(timeframe: str) -> None:
    transport = ScriptedTransport(Market(one_short=True))
    start, end = utc("2015-01-01"), utc("2025-01-01")
    delivery = provider(transport).fetch(ask("EURUSD", timeframe, "2015-01-01", "2025-01-01"))
    assert list(delivery.bars["ts"]) == list(trading_calendar.expected("fx", start, end, timeframe))
    assert delivery.equal_repeats == 0
    assert transport.asked[0].params["dailyAlignment"] == "17"
    assert transport.asked[0].params["alignmentTimezone"] == "America/New_York"


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_page_may_end_with_the_day_of_25_hours(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oanda, "PAGE_CANDLES", size)
    delivery = provider(ScriptedTransport(Market())).fetch(ask("EURUSD", "1d", "2024-10-28", "2024-11-09"))
    assert list(delivery.bars["ts"]) == list(
        trading_calendar.expected("fx", utc("2024-10-28"), utc("2024-11-09"), "1d")
    )
    assert delivery.equal_repeats == 0


def test_a_day_takes_one_request_also_where_a_weekend_follows() -> None:
    transport = ScriptedTransport(Market())
    delivery = provider(transport).fetch(ask("EURUSD", "1h", "2025-05-30", "2025-05-31"))
    assert len(delivery.bars) == 21
    assert len(transport.asked) == 1
    assert transport.asked[0].url == "https://api-fxpractice.oanda.com/v3/instruments/EUR_USD/candles"
    assert transport.asked[0].params == {
        "price": "MBA",
        "granularity": "H1",
        "from": "2025-05-30T00:00:00.000000000Z",
        "count": "24",
    }
    assert transport.asked[0].headers == {"Authorization": f"secret Bearer {KEY.get_secret_value()}"}


def test_nothing_is_asked_for_an_empty_range_or_the_future() -> None:
    transport = ScriptedTransport(Market())
    for start, end in (("2025-05-30", "2025-05-30"), ("2025-07-01", "2025-07-02")):
        assert provider(transport).fetch(ask("EURUSD", "1h", start, end)).delivered == 0
    assert transport.asked == []


def test_the_candle_that_is_not_over_is_left_out() -> None:
    transport = ScriptedTransport(Market())
    delivery = provider(transport).fetch(ask("EURUSD", "1h", "2025-06-02", "2025-06-03"))
    assert delivery.bars["ts"].iloc[-1] == pd.Timestamp("2025-06-02T11:00Z")
    assert delivery.delivered == 12
    assert "1 bar not over yet left out" in delivery.source


def test_a_candle_that_claims_to_be_complete_before_its_end_is_left_out() -> None:
    page = parse(
        body(candle(utc("2025-06-02T11:00:00")), candle(utc("2025-06-02T12:00:00"))),
        ask("EURUSD", "1h", "2025-06-02", "2025-06-03"),
        NOW,
    )
    assert (len(page.ts), page.incomplete) == (1, 1)


def test_the_bar_has_mid_prices_ticks_and_the_spread_of_the_closes() -> None:
    delivery = provider(answering(body(candle(utc("2025-05-01T10:00:00"), 1.1)))).fetch(
        ask("EURUSD", "1h", "2025-05-01T10:00:00", "2025-05-01T11:00:00")
    )
    row = delivery.bars.iloc[0]
    assert row[["open", "high", "low", "close", "volume", "spread"]].tolist() == [
        1.1,
        1.101,
        1.099,
        1.1005,
        12.0,
        0.00013,
    ]
    assert (delivery.price_kind, delivery.volume_kind, delivery.instrument_kind) == ("mid", "ticks", "spot")
    assert "not adjusted" in delivery.source


def test_bid_candles_are_declared_as_such() -> None:
    transport = answering(body(candle(utc("2025-05-01T10:00:00"), 1.1)))
    delivery = provider(transport, price_kind="bid").fetch(
        ask("EURUSD", "1h", "2025-05-01T10:00:00", "2025-05-01T11:00:00")
    )
    assert transport.asked[0].params["price"] == "B"
    assert delivery.price_kind == "bid"
    assert delivery.bars["open"].tolist() == [1.09994]
    with pytest.raises(PermanentProviderError, match="'last'"):
        provider(transport, price_kind="last")


def test_a_candle_whose_time_or_numbers_cannot_be_read_is_rejected_with_its_text() -> None:
    ten = utc("2025-05-01T10:00:00")
    broken = [
        candle(ten) | {"time": "NaN"},
        candle(ten) | {"time": "99999999999999999.0"},
        candle(ten) | {"time": "-5.0"},
        candle(ten) | {"time": None},
        candle(ten + timedelta(hours=1)) | {"mid": {"o": "1.1", "h": "NaN", "l": "1.0", "c": "1.1"}},
        candle(ten + timedelta(hours=1)) | {"mid": {"o": "1.1", "h": "1.2", "l": "1.0"}},
        candle(ten + timedelta(hours=1)) | {"complete": "yes"},
        candle(ten + timedelta(hours=1)) | {"volume": -3},
        candle(ten + timedelta(hours=1)) | {"bid": {"c": "-1e308"}, "ask": {"c": "1e308"}},
        candle(utc("2031-01-01")),
        "candle",
    ]
    last = candle(ten + timedelta(hours=2))
    request = ask("EURUSD", "1h", "2025-05-01T10:00:00", "2025-05-01T13:00:00")
    delivery = provider(answering(body(candle(ten), *broken, last))).fetch(request)
    assert list(delivery.bars["ts"].dt.hour) == [10, 12]
    assert len(delivery.rejected) == len(broken)
    assert set(delivery.rejected["rule"]) == {"unusable_key"}
    assert set(delivery.rejected["ts"].dt.hour) == {10, 11}
    assert orjson.loads(delivery.rejected["content"].iloc[0])["time"] == "NaN"
    assert set(delivery.rejected["origin"]) == {"oanda EUR_USD H1"}
    assert delivery.delivered == 2 + len(broken)


def test_a_missing_price_is_delivered_for_judgement() -> None:
    ten = candle(utc("2025-05-01T10:00:00"))
    ten["mid"]["h"] = None
    page = parse(body(ten), ask("EURUSD", "1h", "2025-05-01", "2025-05-02"), NOW)
    assert np.isnan(page.values[0][1])


def test_repeats_within_a_page_are_settled() -> None:
    ten, eleven = candle(utc("2025-05-01T10:00:00")), candle(utc("2025-05-01T11:00:00"))
    other = candle(utc("2025-05-01T10:00:00"), 1.2)
    request = ask("EURUSD", "1h", "2025-05-01T10:00:00", "2025-05-01T12:00:00")
    delivery = provider(answering(body(ten, ten, other, eleven))).fetch(request)
    assert (len(delivery.bars), delivery.equal_repeats) == (2, 1)
    assert delivery.rejected["rule"].tolist() == ["conflicting_repeat"]
    assert delivery.bars["open"].tolist() == [1.1, 1.1]


def test_a_page_that_is_delivered_twice_is_a_fault_and_not_the_end() -> None:
    answers: Iterator[Answer] = iter([Market()(first) for first in [_asked()] * 2])
    transport = ScriptedTransport(lambda _: next(answers))
    with pytest.raises(TransientProviderError, match="only earlier candles"):
        provider(transport).fetch(ask("EURUSD", "1h", "2023-01-01", "2025-01-01"))


def test_a_stale_page_is_a_fault_and_not_the_end() -> None:
    with pytest.raises(TransientProviderError, match="only earlier candles"):
        provider(answering(body(candle(utc("2025-04-01T10:00:00"))))).fetch(
            ask("EURUSD", "1h", "2025-05-01", "2025-05-02")
        )


def _asked() -> Asked:
    params = {"granularity": "H1", "count": "5000", "from": "2023-01-01T00:00:00.000000000Z", "price": "MBA"}
    return Asked("", params, {}, ())


def test_a_page_without_one_readable_time_does_not_end_the_range() -> None:
    with pytest.raises(SourceFormatError, match="the time of none of 3 candles"):
        provider(answering(body({"time": "x"}, {}, 5))).fetch(ask("EURUSD", "1h", "2025-05-01", "2025-05-02"))


@pytest.mark.parametrize("end", ["2025-05-01T01:00:00", "2025-05-02"])
def test_no_candles_is_an_empty_delivery_after_one_request(end: str) -> None:
    transport = answering(body())
    assert provider(transport).fetch(ask("EURUSD", "1h", "2025-05-01", end)).delivered == 0
    assert len(transport.asked) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "match"),
    [
        (b"", TransientProviderError, "the answer is empty"),
        (b'{"instrument": "EUR_USD", "candles": [{"ti', TransientProviderError, "is not JSON"),
        (b"<html><h1>502 Bad Gateway</h1>", TransientProviderError, "502 Bad Gateway"),
        (b"[]", SourceFormatError, "no list 'candles'"),
        (b'{"candles": {"time": 1}}', SourceFormatError, "no list 'candles'"),
        (b"null", SourceFormatError, "no list 'candles'"),
        (body(granularity="M5"), TransientProviderError, "about something else"),
        (body(instrument="GBP_USD"), TransientProviderError, "about something else"),
        (body(instrument="LEI_RON"), TransientProviderError, "about something else"),
    ],
)
def test_an_answer_that_is_not_one_is_refused_with_symbol_range_and_excerpt(
    answer: bytes, kind: type[Exception], match: str
) -> None:
    with pytest.raises(kind, match=match) as caught:
        provider(answering(answer)).fetch(ask("EURUSD", "1h", "2025-05-01", "2025-05-02"))
    assert type(caught.value) is kind or kind is TransientProviderError
    assert "oanda, EURUSD 1h [2025-05-01T00:00Z, 2025-05-02T00:00Z)" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (400, b'{"errorMessage":"Invalid value specified for \'instrument\'"}', UnknownSymbolError),
        (400, b'{"errorMessage":"Maximum value for \'count\' exceeded"}', PermanentProviderError),
        (401, b'{"errorMessage":"Insufficient authorization to perform request."}', PermanentProviderError),
        (429, b"", RateLimitedError),
        (500, b"<html>", TransientProviderError),
        (503, b'{"errorMessage":"instrument service down"}', TransientProviderError),
    ],
)
def test_a_refusal_is_told_apart_by_what_helps(status: int, answer: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        provider(answering(answer, status)).fetch(ask("EURUSD", "1h", "2025-05-01", "2025-05-02"))
    assert type(caught.value) is kind or kind is TransientProviderError


def test_a_key_that_the_server_repeats_is_in_no_error_and_no_row() -> None:
    key = KEY.get_secret_value()
    with pytest.raises(PermanentProviderError) as caught:
        provider(answering(f"bad token {key}", 401)).fetch(ask("EURUSD", "1h", "2025-05-01", "2025-05-02"))
    assert key not in str(caught.value)
    assert "bad token ***" in str(caught.value)
    delivery = provider(answering(body({"time": key}, candle(utc("2025-05-01T23:00:00"))))).fetch(
        ask("EURUSD", "1h", "2025-05-01", "2025-05-02")
    )
    assert len(delivery.rejected) == 1
    assert key not in delivery.rejected.to_csv()
    assert key not in repr(provider(answering(b"")).__dict__)


def test_without_a_key_nothing_is_asked() -> None:
    transport = answering(body())
    with pytest.raises(PermanentProviderError, match="OANDA_API_KEY"):
        OandaProvider(transport, None, now=lambda: NOW).fetch(ask("EURUSD", "1h", "2025-05-01", "2025-05-02"))
    assert transport.asked == []


def test_what_it_serves_follows_the_table() -> None:
    it = provider(answering(body()))
    assert isinstance(it, Provider)
    assert isinstance(it, Quoting)
    assert it.serves("NAS100", "1m")
    assert not it.serves("DOGEUR", "1h")
    assert not it.serves("EURUSD", "2h")
    assert it.available("EURUSD", "1h") is None
    with pytest.raises(UnknownSymbolError):
        it.available("DOGEUR", "1h")


# Recorded responses


def test_recorded_ask_candles_are_read(real_data: Path) -> None:
    raw = recorded(real_data, "oanda/candles_GBP_USD_D_ask.json")
    request = ask("GBPUSD", "1d", "2018-10-01", "2019-03-01")
    page = parse(raw, request, NOW, price_kind="ask")
    assert (page.rows, len(page.ts), page.incomplete, page.unusable) == (100, 99, 1, [])
    times = pd.DatetimeIndex(np.array(page.ts).astype("datetime64[us]"))
    assert times[0] == pd.Timestamp("2018-10-11")
    assert page.values[0][:5] == (1.32059, 1.32571, 1.31831, 1.32346, 81734.0)
    reference = [c for c in orjson.loads(raw)["candles"] if c["complete"]]
    assert [v[3] for v in page.values] == [float(c["ask"]["c"]) for c in reference]


def test_recorded_times_in_unix_seconds_are_read(real_data: Path) -> None:
    raw = orjson.loads(recorded(real_data, "oanda/candles_AUD_USD_S5_mid_unixtime.json"))
    # Five-second candles are none of our timeframes; their times are read as those of minutes.
    raw["granularity"] = "M1"
    page = parse(orjson.dumps(raw), ask("AUDUSD", "1m", "2017-10-01", "2017-11-01"), NOW)
    assert (page.rows, len(page.ts), page.unusable) == (500, 500, [])
    assert page.ts[0] == 1509126185_000_000
    assert page.values[0][:4] == (0.76596,) * 4


def test_recorded_candles_of_an_instrument_that_nobody_asked_for_are_refused(real_data: Path) -> None:
    raw = recorded(real_data, "oanda/candles_DE30_EUR_M5_mid.json")
    with pytest.raises(TransientProviderError, match="DE30_EUR M5"):
        parse(raw, ask("NAS100", "5m", "2016-10-17", "2016-10-18"), NOW)


def test_recorded_rows_become_a_delivery(real_data: Path) -> None:
    raw = recorded(real_data, "oanda/candles_DE30_EUR_M5_mid.json").replace(b"DE30/EUR", b"NAS100/USD")
    request = ask("NAS100", "5m", "2016-10-17", "2016-10-18")
    it = provider(answering(raw))
    delivery = deliver("oanda", request, [it.parse(raw, request, NOW)], it.kinds(it.spelled("NAS100", "5m")), source="")
    assert delivery.bars["volume"].tolist() == [132, 162, 196, 153, 172]
    assert str(delivery.bars["ts"].iloc[0]) == "2016-10-17 19:35:00+00:00"
    assert delivery.bars["spread"].isna().all()
    assert delivery.instrument_kind == "cfd"


def test_all_our_pairs_are_in_the_recorded_list_of_instruments(real_data: Path) -> None:
    names = {i["name"] for i in orjson.loads(recorded(real_data, "oanda/instruments.json"))["instruments"]}
    pairs = {row.text for row in SPELLINGS if row.provider == "oanda" and len(row.text) == 7} - {"XAU_USD", "XAG_USD"}
    assert pairs - {"BTC_USD", "ETH_USD"} <= names


# Quotes


def price(bids: list[str], asks: list[str], **more: Any) -> bytes:
    sides = {"bids": [{"price": p} for p in bids], "asks": [{"price": p} for p in asks]}
    return orjson.dumps(
        {"prices": [{"instrument": "EUR_USD", "time": "2025-06-02T12:29:58.5Z", "tradeable": True} | sides | more]}
    )


def test_a_quote_is_the_best_bid_and_ask_with_their_time() -> None:
    transport = answering(price(["1.10000", "1.09990"], ["1.10010", "1.10020"]))
    quote = provider(transport, account_id=SecretStr("101-004-1")).quote("EURUSD")
    assert (quote.symbol, quote.bid, quote.ask) == ("EURUSD", 1.1, 1.1001)
    assert quote.mid == pytest.approx(1.10005, abs=1e-12)
    assert quote.time == utc("2025-06-02T12:29:58.500000")
    assert transport.asked[0].url.endswith("/v3/accounts/101-004-1/pricing")
    assert transport.asked[0].params == {"instruments": "EUR_USD"}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (price([], ["1.1"]), TransientProviderError),
        (price(["1.2"], ["1.1"]), SourceFormatError),
        (price(["0"], ["1.1"]), SourceFormatError),
        (price(["x"], ["1.1"]), SourceFormatError),
        (price(["1.1"], ["1.1"], time="soon"), SourceFormatError),
        (price(["1.1"], ["1.1"], instrument="GBP_USD"), TransientProviderError),
        (b'{"prices": [5]}', SourceFormatError),
        (b"{}", SourceFormatError),
        (b"<html>", TransientProviderError),
    ],
)
def test_a_quote_that_cannot_be_used_is_refused(answer: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="EURUSD"):
        parse_quote(answer, "EURUSD")


def test_a_quote_needs_an_account() -> None:
    with pytest.raises(PermanentProviderError, match="OANDA_ACCOUNT_ID"):
        provider(answering(b"")).quote("EURUSD")


def test_recorded_prices_become_quotes(real_data: Path) -> None:
    both = parse_quote(recorded(real_data, "oanda/pricing_EUR_USD_EUR_JPY.json"), "EURJPY")
    assert (both.ask, both.symbol) == (115.346, "EURJPY")
    single = parse_quote(recorded(real_data, "oanda/pricing.json"), "EURUSD")
    assert (single.bid, single.ask, single.time) == (1.2936, 1.2947, utc("2019-01-01"))


def test_pages_are_pure_values() -> None:
    request = ask("EURUSD", "1h", "2024-01-01", "2025-01-01")
    assert requests_for(request, NOW) == requests_for(request, NOW)
    first = requests_for(request, NOW)
    assert first is not None
    assert first.params["count"] == "5000"
