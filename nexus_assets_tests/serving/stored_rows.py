"""Rows of the stored tables for tests, with everything filled in that a test does not care about."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow

from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, PAIR_RANKINGS, Table

TEN = datetime(2024, 1, 4, 10, tzinfo=UTC)
LEARNED = datetime(2024, 1, 4, 11, 0, 1, 250_000, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
SOON = TEN + HOUR + SECOND
"""A second after the bar of 10:00 was complete."""


def feature_rows(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of features.indicators: EURUSD 1h at 10:00 unless told otherwise; an indicator is its place in the table."""
    defaults = {
        "symbol": "EURUSD", "timeframe": "1h", "ts": TEN, "slice_start": TEN - 250 * HOUR, "known_at": LEARNED,
        "code_version": 1, **{name: float(place) for place, name in enumerate(INDICATOR_NAMES)},
        "hv_20": 0.05, "hv_50": 0.05,
    }  # fmt: skip
    return in_types(INDICATOR_ROWS, [{**defaults, **row} for row in rows])


def price_rows(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of market.bars: EURUSD 1h at 10:00 unless told otherwise."""
    defaults = {
        "symbol": "EURUSD", "timeframe": "1h", "ts": TEN, "open": 1.09, "high": 1.1, "low": 1.08, "close": 1.095,
        "volume": 1200.0, "spread": None, "provider": "synthetic", "price_kind": "mid", "volume_kind": "ticks",
        "instrument_kind": "spot", "known_at": LEARNED, "bars_expected": 1, "bars_present": 1, "suspect": None,
    }  # fmt: skip
    return in_types(BARS, [{**defaults, **row} for row in rows])


def correlation_rows(day: date, *pairs: tuple[str, str, float], known_at: datetime = LEARNED) -> pd.DataFrame:
    """Rows of analytics.correlation_matrix of one day."""
    return in_types(
        CORRELATION_MATRIX,
        [
            {
                "day": day, "timeframe": "1h", "symbol_a": a, "symbol_b": b, "window_bars": 100, "correlation": value,
                "n": 100, "standard_error": 0.085, "window_start": TEN, "window_end": TEN, "known_at": known_at,
                "code_version": 1,
            }
            for a, b, value in pairs
        ],
    )  # fmt: skip


def ranking_rows(day: date, *pairs: tuple[str, str, float, str], known_at: datetime = LEARNED) -> pd.DataFrame:
    """Rows of analytics.pair_rankings of one day, ranked in the order given."""
    return in_types(
        PAIR_RANKINGS,
        [
            {
                "day": day, "timeframe": "1h", "rank": rank, "symbol_a": a, "symbol_b": b, "correlation": value,
                "standard_error": 0.085, "change_7d": None, "category": category, "reason": "For the test.",
                "known_at": known_at, "code_version": 1,
            }
            for rank, (a, b, value, category) in enumerate(pairs, start=1)
        ],
    )  # fmt: skip


def in_types(table: Table, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows in the table's columns and types, as the database gives them."""
    return pyarrow.Table.from_pylist(rows, schema=table.arrow).to_pandas()
