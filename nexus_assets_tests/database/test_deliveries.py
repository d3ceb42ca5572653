"""market.raw_ohlc and market.deliveries: nothing is lost, nothing is stored twice."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from nexus_assets.database import Database
from nexus_assets.errors import DatabaseError, PartitionError
from nexus_assets.market_store import DeliveryCounts, MarketStore
from nexus_assets.providers.interface import empty_bars, rejected_frame
from nexus_assets.schemas import RAW_OHLC
from nexus_assets_tests.database.rows import MONDAY, delivered_bars, delivery, instant

DAY = (instant(MONDAY), instant(MONDAY, 24))


def totals(counts: DeliveryCounts) -> tuple[int, int, int, int, int]:
    """delivered, new, changed, unchanged, quarantined."""
    return counts.delivered, counts.new, counts.changed, counts.unchanged, counts.quarantined


def rejected(count: int = 2) -> pd.DataFrame:
    """Rows that a provider could not hand over as bars; the last two are equal in every word."""
    rows = delivered_bars(count=count)
    rows["origin"] = "EURUSD.csv:7"
    rows["content"] = "2024-01-08 00:00;1.1;1.1"
    return rejected_frame(rows.assign(ts=instant(MONDAY)), "conflicting_repeat", detail="close 1.1 and 1.2")


def test_a_first_delivery_is_new_in_every_row(fresh_store: MarketStore) -> None:
    counts = fresh_store.append_delivery(delivery(), run_id="run")
    assert totals(counts) == (24, 24, 0, 0, 0)
    stored = fresh_store.read_raw("EURUSD", "1h", *DAY)
    pd.testing.assert_frame_equal(stored[["ts", "open", "close"]], delivered_bars()[["ts", "open", "close"]])
    assert (stored["known_at"] == counts.known_at).all()
    assert stored.dtypes.to_dict() == RAW_OHLC.empty().dtypes.to_dict()


def test_a_delivery_is_accounted_for_on_every_level(any_level_database: Database) -> None:
    store = MarketStore(any_level_database)
    store.append_delivery(delivery(), run_id=None)
    bars = delivered_bars()
    bars.loc[3, "close"] = 1.1009
    bars.loc[4, "volume"] = np.nan
    bars = pd.concat([bars.drop(index=9), delivered_bars(instant(MONDAY, 24), 2)], ignore_index=True)
    counts = store.append_delivery(delivery(bars, days=2, rejected=rejected(), equal_repeats=5), run_id=None)
    # 23 of the first day: two differ, 21 are equal and 5 repeat a row of the delivery.
    assert totals(counts) == (25 + 2 + 5, 2, 2, 21 + 5, 2)
    assert counts.per_day.to_dict("list") == {
        "day": [MONDAY, MONDAY + timedelta(days=1)],
        "new": [0, 2],
        "changed": [2, 0],
        "unchanged": [21, 0],
        "quarantined": [2, 0],
    }
    assert store.unaccounted([counts.delivery_id]) == []
    assert store.table_counts()["market.raw_ohlc"] == 24 + 4


def test_the_same_delivery_again_leaves_raw_ohlc_untouched_and_counts_unchanged(fresh_store: MarketStore) -> None:
    fresh_store.append_delivery(delivery(rejected=rejected()), run_id=None)
    query = "SELECT ctid::text, xmin::text, * FROM {} ORDER BY ts"
    tables = ("market.raw_ohlc", "market.quarantined_bars")
    before = [fresh_store.database.rows(query.format(name)) for name in tables]
    counts = fresh_store.append_delivery(delivery(rejected=rejected()), run_id=None)
    assert totals(counts) == (26, 0, 0, 24, 2)
    assert [fresh_store.database.rows(query.format(name)) for name in tables] == before


def test_two_rejected_rows_that_are_equal_in_every_word_are_both_kept(fresh_store: MarketStore) -> None:
    fresh_store.append_delivery(delivery(rejected=rejected(2)), run_id=None)
    kept = fresh_store.database.rows("SELECT rule, stage, content, detail, close FROM market.quarantined_bars")
    assert len(kept) == 2
    assert {(row["rule"], row["stage"], row["content"]) for row in kept} == {
        ("conflicting_repeat", "delivery", "2024-01-08 00:00;1.1;1.1")
    }


def test_a_rejected_row_with_zero_bytes_is_kept_with_them_written_out(fresh_store: MarketStore) -> None:
    broken = rejected(1).assign(content="2024\0;1.1 \u00e9")
    fresh_store.append_delivery(delivery(rejected=broken), run_id=None)
    again = fresh_store.append_delivery(delivery(rejected=broken), run_id=None)
    assert again.quarantined == 1
    kept = fresh_store.database.rows("SELECT content FROM market.quarantined_bars")
    assert kept == [{"content": "2024\\x00;1.1 \u00e9"}]


def test_a_rejected_row_without_a_time_is_kept_at_the_start_of_the_range(fresh_store: MarketStore) -> None:
    lost = rejected(1).assign(rule="unusable_key")
    lost["ts"] = lost["ts"].shift()
    counts = fresh_store.append_delivery(delivery(empty_bars(), rejected=lost), run_id=None)
    assert totals(counts) == (1, 0, 0, 0, 1)
    assert fresh_store.database.rows("SELECT ts FROM market.quarantined_bars") == [{"ts": DAY[0]}]


def test_a_value_that_returns_to_an_older_one_is_a_new_revision(fresh_store: MarketStore) -> None:
    changed = delivered_bars()
    changed.loc[0, "close"] = 1.0995
    for bars in (delivered_bars(), changed, delivered_bars()):
        counts = fresh_store.append_delivery(delivery(bars), run_id=None)
    assert totals(counts) == (24, 0, 1, 23, 0)
    revisions = fresh_store.database.rows("SELECT close FROM market.raw_ohlc WHERE ts = %s ORDER BY known_at", DAY[:1])
    assert [row["close"] for row in revisions] == [1.1, 1.0995, 1.1]
    assert fresh_store.read_raw("EURUSD", "1h", *DAY)["close"].iloc[0] == 1.1


def test_missing_equals_missing_and_a_number_in_its_place_is_a_change(fresh_store: MarketStore) -> None:
    gaps = delivered_bars().assign(volume=np.nan)
    gaps.loc[0, "close"] = np.nan
    fresh_store.append_delivery(delivery(gaps), run_id=None)
    assert totals(fresh_store.append_delivery(delivery(gaps), run_id=None)) == (24, 0, 0, 24, 0)
    filled = gaps.copy()
    filled.loc[0, "close"] = 1.1
    assert totals(fresh_store.append_delivery(delivery(filled), run_id=None)) == (24, 0, 1, 23, 0)


def test_another_price_kind_of_the_same_numbers_is_a_change(fresh_store: MarketStore) -> None:
    fresh_store.append_delivery(delivery(), run_id=None)
    assert fresh_store.append_delivery(delivery(price_kind="bid"), run_id=None).changed == 24


def test_two_providers_of_one_bar_are_two_rows(fresh_store: MarketStore) -> None:
    fresh_store.append_delivery(delivery(), run_id=None)
    assert fresh_store.append_delivery(delivery(provider="oanda"), run_id=None).new == 24
    assert list(fresh_store.read_raw("EURUSD", "1h", *DAY)["provider"][:2]) == ["files", "oanda"]


def test_a_withdrawn_bar_is_not_read_and_comes_back_as_a_change(fresh_store: MarketStore) -> None:
    first = fresh_store.append_delivery(delivery(), run_id=None)
    names = [name for name in RAW_OHLC.column_names if name not in ("delivery_id", "withdrawn")]
    with fresh_store.database.transaction() as connection:
        connection.execute(
            f"INSERT INTO market.raw_ohlc ({', '.join(names)}, delivery_id, withdrawn) "  # pyright: ignore[reportArgumentType]
            f"SELECT {', '.join(names)}, nextval('market.delivery_number'), true FROM market.raw_ohlc WHERE ts = %s",
            DAY[:1],
        )
    assert len(fresh_store.read_raw("EURUSD", "1h", *DAY)) == 23
    again = fresh_store.append_delivery(delivery(), run_id=None)
    assert (again.changed, again.unchanged) == (1, 23)
    assert again.known_at > first.known_at
    assert len(fresh_store.read_raw("EURUSD", "1h", *DAY)) == 24


def test_known_at_is_one_value_per_delivery_and_later_than_any_before_it(fresh_store: MarketStore) -> None:
    first = fresh_store.append_delivery(delivery(), run_id=None)
    with fresh_store.database.transaction() as connection:
        # As if the server's clock had been set back since.
        connection.execute("UPDATE market.deliveries SET known_at = known_at + INTERVAL '1 hour'")
    second = fresh_store.append_delivery(delivery(delivered_bars(price=1.2)), run_id=None)
    assert second.known_at == first.known_at + timedelta(hours=1, microseconds=1)
    assert second.delivery_id > first.delivery_id
    known = fresh_store.database.rows("SELECT DISTINCT known_at FROM market.raw_ohlc ORDER BY known_at")
    assert [row["known_at"] for row in known] == [first.known_at, second.known_at]


def test_only_the_first_revision_of_a_bar_delivered_long_after_its_end_is_backfilled(fresh_store: MarketStore) -> None:
    fresh_store.append_delivery(delivery(), run_id=None)
    fresh_store.append_delivery(delivery(delivered_bars(price=1.2)), run_id=None)
    rows = fresh_store.database.rows("SELECT close < 1.15 AS first, backfilled FROM market.raw_ohlc")
    assert {(row["first"], row["backfilled"]) for row in rows} == {(True, True), (False, False)}


def test_a_delivery_of_today_is_not_backfilled(fresh_store: MarketStore) -> None:
    now = pd.Timestamp.now("UTC").floor("h")
    request = delivery().request
    recent = type(request)("EURUSD", "1h", now.to_pydatetime() - timedelta(hours=24), now.to_pydatetime())
    fresh_store.append_delivery(delivery(delivered_bars(recent.start), request=recent), run_id=None)
    assert not any(row["backfilled"] for row in fresh_store.database.rows("SELECT backfilled FROM market.raw_ohlc"))
    assert fresh_store.database.rows("SELECT backfilled FROM market.deliveries") == [{"backfilled": False}]


def test_an_empty_delivery_is_recorded(fresh_store: MarketStore) -> None:
    counts = fresh_store.append_delivery(delivery(empty_bars(), days=2), run_id=None)
    assert totals(counts) == (0, 0, 0, 0, 0)
    assert len(counts.per_day) == 2
    assert fresh_store.table_counts()["market.deliveries"] == 1


def test_a_bar_outside_the_requested_range_is_refused_and_nothing_is_stored(fresh_store: MarketStore) -> None:
    with pytest.raises(PartitionError, match="1 bars outside of EURUSD 1h"):
        fresh_store.append_delivery(delivery(delivered_bars(count=25)), run_id=None)
    doubled = pd.concat([delivered_bars(), delivered_bars(count=1)], ignore_index=True)
    with pytest.raises(PartitionError, match="twice"):
        fresh_store.append_delivery(delivery(doubled), run_id=None)
    counts = fresh_store.table_counts()
    assert counts["market.raw_ohlc"] == counts["market.deliveries"] == 0


def test_a_delivery_with_a_row_that_is_gone_from_raw_ohlc_is_reported(fresh_store: MarketStore) -> None:
    counts = fresh_store.append_delivery(delivery(), run_id=None)
    with fresh_store.database.transaction() as connection:
        connection.execute("DELETE FROM market.raw_ohlc WHERE ts = %s", DAY[:1])
    wrong = fresh_store.unaccounted([counts.delivery_id, 999_999])
    assert "counted 24 new and changed rows, 23 are stored" in wrong[0]
    assert "999999 is not in market.deliveries" in wrong[1]


def test_the_database_itself_refuses_a_delivery_that_does_not_add_up(fresh_store: MarketStore) -> None:
    fresh_store.append_delivery(delivery(), run_id=None)
    with (
        pytest.raises(DatabaseError, match="deliveries_accounting_check"),
        fresh_store.database.transaction() as connection,
    ):
        connection.execute("UPDATE market.deliveries SET unchanged = unchanged + 1")


def test_the_ledger_moves_changed_at_only_for_days_that_changed(fresh_store: MarketStore) -> None:
    two_days = pd.concat([delivered_bars(), delivered_bars(instant(MONDAY, 24))], ignore_index=True)
    first = fresh_store.append_delivery(delivery(two_days, days=3), run_id=None)
    two_days.loc[30, "close"] = 1.1009
    second = fresh_store.append_delivery(delivery(two_days, days=3), run_id=None)
    ledger = fresh_store.ledger(RAW_OHLC, ["EURUSD"], MONDAY, MONDAY + timedelta(days=7))
    assert list(ledger["rows"]) == [24, 25, 0]
    assert list(ledger["changed_at"]) == [first.known_at, second.known_at, first.known_at]
    assert (ledger["written_at"] == second.known_at).all()
    assert ledger["complete"].all()
