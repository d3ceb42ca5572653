"""Damaged answers: only our own errors come out, each with its place, and never the key.

FUZZ_MUTATIONS is how many each provider gets (a few hundred without it); the nightly run sets 100,000.
"""

import os

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_assets.errors import ProviderError
from nexus_assets.providers.alpha_vantage import parse_quote as parse_alpha_vantage_quote
from nexus_assets.providers.interface import Delivery
from nexus_assets.providers.oanda import parse_quote as parse_oanda_quote
from nexus_assets.providers.polygon import parse_quote as parse_polygon_quote
from nexus_assets_tests.providers.payload_mutations import APIS, Api, complaints, damaged, outcome

MUTATIONS = int(os.environ.get("FUZZ_MUTATIONS", "200"))

fuzzed = settings(max_examples=MUTATIONS, deadline=None, suppress_health_check=[HealthCheck.too_slow])

QUOTES = {
    "oanda": (
        parse_oanda_quote,
        {
            "prices": [
                {
                    "instrument": "EUR_USD",
                    "time": "2025-02-19T00:00:00Z",
                    "bids": [{"price": "1.0"}],
                    "asks": [{"price": "1.1"}],
                }
            ]
        },
    ),
    "polygon": (
        parse_polygon_quote,
        {"symbol": "EUR/USD", "last": {"bid": 1.0, "ask": 1.1, "timestamp": 1739923200000}},
    ),
    "alpha_vantage": (
        parse_alpha_vantage_quote,
        {
            "Realtime Currency Exchange Rate": {
                "1. From_Currency Code": "EUR",
                "3. To_Currency Code": "USD",
                "6. Last Refreshed": "2025-02-19 00:00:00",
                "7. Time Zone": "UTC",
                "8. Bid Price": "1.0",
                "9. Ask Price": "1.1",
            }
        },
    ),
}


@pytest.mark.parametrize("name", list(APIS))
def test_the_undamaged_answer_is_five_bars(name: str) -> None:
    result = outcome(APIS[name], 200, orjson.dumps(APIS[name].good))
    assert isinstance(result, Delivery)
    assert len(result.bars) == result.delivered == 5
    assert result.bars.iloc[0, 1] == 1.04


@pytest.mark.parametrize("name", list(APIS))
def test_damaged_bars_are_refused_or_add_up(name: str) -> None:
    api = APIS[name]

    @fuzzed
    @given(damaged(api))
    def run(answer: tuple[int, bytes]) -> None:
        assert complaints(name, outcome(api, *answer)) == []

    run()


@pytest.mark.parametrize("name", list(QUOTES))
def test_damaged_quotes_are_refused_or_positive(name: str) -> None:
    parse, good = QUOTES[name]
    assert parse(orjson.dumps(good), "EURUSD").ask == 1.1
    api = Api(APIS[name].make, good, {})

    @fuzzed
    @given(damaged(api))
    def run(answer: tuple[int, bytes]) -> None:
        try:
            quote, told = parse(answer[1], "EURUSD"), "EURUSD"
        except ProviderError as error:
            quote, told = None, str(error)
        assert "EURUSD" in told
        assert quote is None or 0 < quote.bid <= quote.mid <= quote.ask < float("inf")

    run()


@given(st.sampled_from(list(APIS)), st.integers(min_value=0))
@settings(max_examples=100, deadline=None)
def test_an_answer_cut_anywhere_is_never_a_shorter_delivery(name: str, cut: int) -> None:
    body = orjson.dumps(APIS[name].good)
    result = outcome(APIS[name], 200, body[: cut % len(body)])
    assert isinstance(result, ProviderError)
    assert result.transient
