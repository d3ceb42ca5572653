"""Into how many runs side by side a load is cut."""

from datetime import date, timedelta

import pytest

from nexus_assets.loading import Extent, plan_stage
from nexus_assets.market_store import MarketStore
from nexus_assets.resources import open_sources
from nexus_assets.settings import load_settings

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD")
FIRST_DAY = date(2024, 1, 1)


@pytest.mark.parametrize(
    ("parallel_runs", "days", "lanes"),
    [
        (1, 300, ["EURUSD..XAUUSD"]),
        (2, 74, ["EURUSD..XAUUSD"]),
        (2, 75, ["EURUSD..GBPUSD", "USDJPY..XAUUSD"]),
        (4, 75, ["EURUSD..GBPUSD", "USDJPY..XAUUSD"]),
        (4, 150, ["EURUSD..EURUSD", "GBPUSD..GBPUSD", "USDJPY..USDJPY", "XAUUSD..XAUUSD"]),
        (8, 300, ["EURUSD..EURUSD", "GBPUSD..GBPUSD", "USDJPY..USDJPY", "XAUUSD..XAUUSD"]),
    ],
)
def test_a_load_is_cut_into_as_many_runs_as_may_work_and_as_are_worth_starting(
    store: MarketStore, parallel_runs: int, days: int, lanes: list[str]
) -> None:
    config = load_settings(symbols=SYMBOLS, start_day=FIRST_DAY, parallel_runs=parallel_runs)
    extent = Extent(SYMBOLS, FIRST_DAY, FIRST_DAY + timedelta(days))
    pieces = plan_stage(store, open_sources(config), config, extent, "prices")
    assert [piece.rectangle.lane for piece in pieces] == lanes
    assert sum(piece.rectangle.partitions for piece in pieces) == days * len(SYMBOLS)
