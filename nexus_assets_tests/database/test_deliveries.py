"""market.raw_ohlc and market.deliveries: nothing is lost, nothing is stored twice."""

from datetime import timedelta

import pandas as pd
import pytest

from nexus_assets.errors import PartitionError
from nexus_assets.market_store import MarketStore
from nexus_assets.providers.interface import rejected_frame
from nexus_assets_tests.database.rows import MONDAY, delivered_bars, delivery, instant


def test_a_first_delivery_is_new_in_every_row(fresh_store: MarketStore) -> None:
    counts = fresh_store.append_delivery(delivery(), run_id="run")
    assert (counts.delivered, counts.new, counts.changed, counts.unchanged, counts.quarantined) == (24, 24, 0, 0, 0)
    stored = fresh_store.read_raw("EURUSD", "1h", instant(MONDAY), instant(MONDAY, 24))
    pd.testing.assert_frame_equal(stored[["ts", "open", "close"]], delivered_bars()[["ts", "open", "close"]])
    assert (stored["known_at"] == counts.known_at).all()


def test_the_same_delivery_again_leaves_raw_ohlc_untouched_and_counts_unchanged(fresh_store: MarketStore) -> None:
    fresh_store.append_delivery(delivery(), run_id=None)
    before = fresh_store.database.rows("SELECT ctid::text, xmin::text, * FROM market.raw_ohlc ORDER BY ts")
    counts = fresh_store.append_delivery(delivery(), run_id=None)
    assert (counts.new, counts.changed, counts.unchanged) == (0, 0, 24)
    assert fresh_store.database.rows("SELECT ctid::text, xmin::text, * FROM market.raw_ohlc ORDER BY ts") == before
