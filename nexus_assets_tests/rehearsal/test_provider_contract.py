"""What every market-data service's provider must do, over HTTP, with every fault that the rehearsal knows."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pandas as pd
import pytest
from pydantic import SecretStr

from nexus_assets.doubts import doubt
from nexus_assets.errors import (
    PermanentProviderError,
    ProviderError,
    RateLimitedError,
    StaleDataError,
    TransientProviderError,
    UnknownSymbolError,
)
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.connections import Access, Connections, forget_clients
from nexus_assets.providers.http import HttpLimits
from nexus_assets.providers.interface import Delivery, Provider, Request
from nexus_assets.providers.quotes import Quoting
from nexus_assets.providers.source_declaration import DEFAULT_ORDER
from nexus_assets.rehearsal import Fault, Rehearsal
from nexus_assets_tests.rehearsal.market import FRAMES, NOW, instant, opens, rehearsal

LIMITS = HttpLimits(connect_s=2, read_s=2, deadline_s=5, budget_s=2, attempts=3, backoff_s=0.01, longest_backoff_s=0.05)
FIRST, START, END = instant("2024-03-01"), instant("2024-03-04"), instant("2024-03-06")
TOLD_IN_THE_BODY = ("alpha_vantage", "twelve_data")
"""They name a limit of a minute, which is longer than anybody waits here."""


@contextmanager
def market(name: str, *faults: Fault, key: str | None = None) -> Iterator[tuple[Rehearsal, ApiProvider]]:
    """The rehearsal and a provider that asks it."""
    forget_clients()
    with rehearsal(faults=faults, limits=dict.fromkeys(DEFAULT_ORDER, ())) as server:
        right = server.keys.get(name)
        access = Access(
            key=SecretStr(key or right) if right else None,
            account_id=SecretStr("101-001-1234567-001"),
            url=server.urls[name],
            budget="unlimited",
        )
        yield server, Connections({name: access}, None, limits=LIMITS, now=lambda: NOW).open(name)
    forget_clients()


def fetch(provider: ApiProvider, start: datetime = START, end: datetime = END, symbol: str = "EURUSD") -> Delivery:
    return provider.fetch(Request(symbol, "1h", start, end))


def complete(start: str = "2024-03-04", end: str = "2024-03-05T10:00") -> pd.DataFrame:
    """The bars of EURUSD that are over at NOW."""
    return opens(FRAMES["EURUSD", "1h"], start, end)


def assert_whole(delivery: Delivery, expected: pd.DataFrame | None = None) -> None:
    expected = complete() if expected is None else expected
    assert delivery.bars["ts"].tolist() == expected["ts"].tolist()
    for column in ("open", "high", "low", "close"):
        assert delivery.bars[column].tolist() == pytest.approx(expected[column].tolist(), abs=1e-9)
    # Yahoo prints hours without a trade as nulls.
    told = delivery.rejected["detail"].str.contains("every price is null")
    assert told.all()
    assert delivery.provider == "yahoo" or len(told) == 0


@pytest.fixture(params=DEFAULT_ORDER)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_bar_that_is_over_comes_once_and_none_that_is_not(name: str) -> None:
    with market(name) as (server, provider):
        delivery = fetch(provider)
        assert_whole(delivery)
        assert delivery.provider == name
        assert isinstance(provider, Provider)
        assert delivery.equal_repeats == 0
        parts = [
            fetch(provider, a, b) for a, b in ((START, START + timedelta(hours=7)), (START + timedelta(hours=7), END))
        ]
        pd.testing.assert_frame_equal(pd.concat([part.bars for part in parts], ignore_index=True), delivery.bars)
        assert_whole(fetch(provider, FIRST), pd.concat([complete("2024-03-01", "2024-03-03"), complete("2024-03-03")]))
        assert server.violations == []
        assert {call.user_agent.partition("/")[0] for call in server.calls} == {"nexus_assets"}
        wanted = "" if name == "yahoo" else "query" if name in ("eodhd", "alpha_vantage") else "header"
        assert {call.key_place for call in server.calls} == {wanted}
        assert (delivery.price_kind == "mid") == (name in ("oanda", "twelve_data"))


def test_a_weekend_is_empty_and_a_symbol_that_nobody_knows_is_an_error(name: str) -> None:
    with market(name) as (_, provider):
        weekend = fetch(provider, instant("2024-03-02"), instant("2024-03-03"))
        assert weekend.delivered == 0
        assert fetch(provider, START, START).delivered == 0
        with pytest.raises(UnknownSymbolError):
            fetch(provider, symbol="DOGEUR")
        if name == "polygon":
            # It answers a name that does not exist like a range without bars.
            assert fetch(provider, symbol="GBPUSD").delivered == 0
        else:
            with pytest.raises(UnknownSymbolError, match=f"{name}, GBPUSD 1h"):
                fetch(provider, symbol="GBPUSD")


@pytest.mark.parametrize("name", [provider for provider in DEFAULT_ORDER if provider != "yahoo"])
def test_a_wrong_key_is_an_error_that_names_the_setting_and_not_the_key(name: str) -> None:
    with market(name, key="a-very-wrong-key") as (server, provider), pytest.raises(PermanentProviderError) as caught:
        fetch(provider)
    assert len(server.calls) == 1
    assert provider.key_setting in str(caught.value)
    assert "wrong-key" not in repr(caught.value) + str(caught.value) + repr(provider)


ONE_BAD_CALL = {
    "latency": Fault("latency", seconds=0.2),
    "a status of 500": Fault("status", calls=(1,)),
    "a status of 429": Fault("status", calls=(1,), status=429, seconds=1),
    "a connection cut in the body": Fault("cut", calls=(1,)),
    "a connection cut at once": Fault("cut", calls=(1,), share=0.0),
    "truncated JSON": Fault("truncated", calls=(1,)),
    "a wrong content type": Fault("wrong_content_type"),
    "an HTML page": Fault("html", calls=(1,)),
    "a fast clock": Fault("clock_skew", seconds=7200),
    "a slow clock": Fault("clock_skew", seconds=-60),
}


@pytest.mark.parametrize("fault", ONE_BAD_CALL.values(), ids=list(ONE_BAD_CALL))
def test_one_bad_call_loses_no_bar_and_invents_none(name: str, fault: Fault) -> None:
    with market(name, fault) as (server, provider):
        assert_whole(fetch(provider))
        assert len(server.calls) == (2 if fault.calls else 1)
        if fault.status == 429:
            assert server.calls[1].at - server.calls[0].at >= 1


LASTING = {
    "a status of 503": Fault("status", status=503),
    "a connection cut in the body": Fault("cut", share=0.9),
    "truncated JSON": Fault("truncated", share=0.9),
    "an HTML page": Fault("html"),
}


@pytest.mark.parametrize("fault", LASTING.values(), ids=list(LASTING))
def test_a_lasting_fault_is_one_of_our_errors_after_few_attempts(name: str, fault: Fault) -> None:
    with market(name, fault) as (server, provider), pytest.raises(TransientProviderError) as caught:
        fetch(provider)
    assert len(server.calls) == LIMITS.attempts
    assert name in str(caught.value)
    assert server.keys.get(name, "no key") not in str(caught.value)


def test_a_body_of_100_mb_is_not_read(name: str) -> None:
    with market(name, Fault("huge")) as (server, provider), pytest.raises(PermanentProviderError, match="more than"):
        fetch(provider)
    assert len(server.calls) == 1


def test_the_apis_own_word_for_too_many_requests_is_waited_for_or_told_at_once(name: str) -> None:
    with market(name, Fault("rate_limit", calls=(1,))) as (server, provider):
        if name not in TOLD_IN_THE_BODY:
            assert_whole(fetch(provider))
            return
        with pytest.raises(RateLimitedError) as caught:
            fetch(provider)
        assert caught.value.retry_after == 60
        # Nobody asks before the minute is over.
        with pytest.raises(RateLimitedError):
            fetch(provider)
        assert len(server.calls) == 1


def test_an_answer_without_the_newest_bars_is_delivered_and_doubted(name: str) -> None:
    with market(name, Fault("stale", bars=5)) as (_, provider):
        delivery = fetch(provider)
    # The bar that is not over yet is one of the five.
    assert_whole(delivery, complete().iloc[:-4])
    found = doubt(delivery, now=NOW, lag=timedelta(0))
    assert found is not None
    assert isinstance(found[1], StaleDataError)
    assert found[0].start == instant("2024-03-05T06:00")
    assert doubt(delivery, now=NOW, lag=timedelta(hours=3)) is None


def test_a_page_of_another_range_is_refused_and_asked_for_again(name: str) -> None:
    with market(name, Fault("repeated_page", calls=(2,))) as (_, provider):
        assert_whole(fetch(provider, FIRST, START), complete("2024-03-01", "2024-03-04"))
        assert_whole(fetch(provider))


def test_rows_that_stand_in_an_answer_twice_are_counted_and_delivered_once(name: str) -> None:
    with market(name, Fault("repeated_rows", bars=3)) as (_, provider):
        delivery = fetch(provider)
    assert_whole(delivery)
    # A JSON object cannot hold a name twice; Alpha Vantage's and Yahoo's rows may lie outside the range.
    assert delivery.equal_repeats in ((3,) if name in ("oanda", "eodhd", "twelve_data", "polygon") else (0, 1, 2, 3))


def test_quotes_have_bid_ask_and_time_where_the_api_has_them(name: str) -> None:
    with market(name) as (_, provider):
        assert isinstance(provider, Quoting) == (name in ("oanda", "alpha_vantage", "polygon"))
        if not isinstance(provider, Quoting):
            return
        quote = provider.quote("EURUSD")
        assert 1.0 < quote.bid < quote.mid < quote.ask < 1.2
        assert abs(quote.time - NOW) < timedelta(minutes=3)


def test_no_message_of_any_fault_tells_the_key(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    told, key = [], ""
    for kind in ("status", "cut", "html", "huge"):
        with market(name, Fault(kind)) as (server, provider):
            with pytest.raises(ProviderError) as caught:
                fetch(provider)
            key = server.keys.get(name, "no key at all")
            told += [str(caught.value), repr(caught.value), repr(provider), repr(caught.value.__cause__)]
    assert name in caplog.text
    assert [text for text in (*told, caplog.text) if key in text] == []
