"""What is left to do when a run failed because the provider of one symbol failed."""

from datetime import UTC, date, datetime, timedelta

import pytest

from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import RANGE_END_TAG, RANGE_START_TAG
from nexus_assets.providers.interface import Request
from nexus_assets.providers.synthetic import SyntheticProvider
from nexus_assets.settings import settings

DAY = date(2024, 3, 5)


@pytest.fixture(autouse=True)
def three_symbols(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NEXUS_SYMBOLS", "EURUSD GBPUSD USDJPY")
    settings.cache_clear()
    yield
    settings.cache_clear()


def deliver(store: MarketStore, symbol: str) -> None:
    start = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    delivery = SyntheticProvider().fetch(Request(symbol, "1h", start, start + timedelta(days=1)))
    store.append_delivery(delivery, run_id=None)


def asked_for(store: MarketStore, since: datetime) -> list[tuple[str, str]]:
    from nexus_assets.catch_up import requests

    found = requests(store, ("EURUSD", "USDJPY"), DAY, DAY, since)
    return [(request.tags[RANGE_START_TAG], request.tags[RANGE_END_TAG]) for request in found]


def test_the_symbols_that_were_delivered_are_caught_up_and_the_failed_one_is_left_to_healing(
    fresh_store: MarketStore,
) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    deliver(fresh_store, "EURUSD")
    deliver(fresh_store, "USDJPY")
    assert asked_for(fresh_store, since) == [
        ("2024-03-05|EURUSD", "2024-03-05|EURUSD"),
        ("2024-03-05|USDJPY", "2024-03-05|USDJPY"),
    ]


def test_prices_that_came_before_the_failed_run_ask_for_nothing(fresh_store: MarketStore) -> None:
    deliver(fresh_store, "EURUSD")
    assert asked_for(fresh_store, datetime.now(UTC) + timedelta(minutes=1)) == []
