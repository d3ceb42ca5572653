"""What checks count; which of them a run makes, and when they warn, is in test_graph.py."""

from datetime import date

import pandas as pd

from nexus_assets.checks import Scope, triangles_off
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import BARS
from nexus_assets_tests.database.rows import bar_rows

FIRST_DAY, END_DAY = date(2024, 1, 8), date(2024, 3, 20)
SYMBOLS = ("EURUSD", "USDJPY", "EURJPY")
OFF = [pd.Timestamp("2024-01-08T00:00Z"), pd.Timestamp("2024-02-07T23:00Z"), pd.Timestamp("2024-03-19T22:00Z")]


def test_triangles_that_are_off_are_counted_over_all_months_of_a_run(fresh_store: MarketStore) -> None:
    with fresh_store.database.transaction() as connection:
        for symbol, close in zip(SYMBOLS, (1.1, 150.0, 165.0), strict=True):
            rows = bar_rows(FIRST_DAY, END_DAY, symbol=symbol).assign(open=close, high=close, low=close, close=close)
            if symbol == "EURJPY":
                rows.loc[rows["ts"].isin(OFF), ["high", "close"]] = 165.4  # by 24 basis points
                rows.loc[rows["ts"] == pd.Timestamp("2024-02-12T05:00Z"), ["high", "close"]] = 165.3  # by 18
            fresh_store.database.copy(connection, BARS, rows)
    found = triangles_off(fresh_store, Scope(SYMBOLS, FIRST_DAY, END_DAY), "1h")
    assert found == {"EURUSD x USDJPY against EURJPY": len(OFF)}
    assert triangles_off(fresh_store, Scope(SYMBOLS, FIRST_DAY, date(2024, 1, 9)), "1h") == {
        "EURUSD x USDJPY against EURJPY": 1
    }
