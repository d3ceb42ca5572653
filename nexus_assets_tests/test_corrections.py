"""Corrections: what they reach is found, shown, and rebuilt exactly; nothing else is touched."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from nexus_assets.corrections import pending, propagate
from nexus_assets.database import Database
from nexus_assets.market_store import MarketStore
from nexus_assets.planning import Ledger, stale_cells, stale_days
from nexus_assets.providers.interface import BAR_COLUMNS, Delivery, Request, empty_rejected
from nexus_assets.resources import open_sources
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, PAIR_RANKINGS
from nexus_assets.services import ServiceState
from nexus_assets.settings import settings
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.graphs import Graph, graph

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY")
ENDS = ("EURUSD", "USDJPY")
LOADED_FROM, FIRST_DAY, END_DAY = date(2021, 1, 4), date(2021, 3, 22), date(2021, 6, 1)
PRICES = ("market/raw_ohlc", "market/bars")
DERIVED = (INDICATOR_ROWS, LABELS, CORRELATION_MATRIX, PAIR_RANKINGS)


@pytest.fixture(scope="module")
def loaded(databases: DatabaseMaker, services: ServiceState) -> Iterator[Graph]:
    """Five months of three pairs with invented prices, features of ten weeks."""
    url = databases.migrated()
    with graph(
        MarketStore(Database(url)), url, services.redis_url, symbols=" ".join(SYMBOLS), start_day="2021-01-01"
    ) as made:
        made.run(PRICES, ENDS, LOADED_FROM, END_DAY)
        derive(made)
        yield made


def derive(made: Graph) -> None:
    made.run(("features/indicators", "features/labels"), ENDS, FIRST_DAY, END_DAY)
    made.run_days(("analytics/correlation_matrix", "analytics/pair_rankings"), FIRST_DAY, END_DAY)


def correct(store: MarketStore, symbol: str, chosen: Sequence[pd.Timestamp], factors: Sequence[float]) -> None:
    """Deliver these bars anew, multiplied; a factor of zero makes a row that is quarantined."""
    start, end = min(chosen), max(chosen) + pd.Timedelta(1, "h")
    rows = store.read_raw(symbol, "1h", start, end).set_index("ts", drop=False)
    rows.loc[list(chosen), ["open", "high", "low", "close"]] *= np.asarray(factors)[:, None]
    store.append_delivery(
        Delivery(
            provider="synthetic", request=Request(symbol, "1h", start, end),
            bars=rows[list(BAR_COLUMNS)].reset_index(drop=True), rejected=empty_rejected(), equal_repeats=0,
            price_kind=rows["price_kind"].iloc[0], volume_kind=rows["volume_kind"].iloc[0],
            instrument_kind=rows["instrument_kind"].iloc[0], source="a test",
        ), run_id=None,
    )  # fmt: skip


def contents(store: MarketStore) -> dict[str, str]:
    """A hash of each derived table's rows."""
    return {
        table.qualified: hashlib.sha256(store.read_all(table).to_csv().encode()).hexdigest()
        for table in (BARS, *DERIVED)
    }


def row_versions(store: MarketStore) -> dict[str, pd.DataFrame]:
    """When each row was written, as PostgreSQL counts transactions."""
    found = {}
    for table in DERIVED:
        keys = ", ".join(table.key)
        rows = store.database.rows(f"SELECT {keys}, xmin::text::bigint AS written FROM {table.qualified}")
        found[table.qualified] = pd.DataFrame(rows).set_index(list(table.key))["written"]
    return found


def bar_times(store: MarketStore, symbol: str, first: str, end: str) -> list[pd.Timestamp]:
    utc = [pd.Timestamp(text, tz="UTC").to_pydatetime() for text in (first, end)]
    return list(store.read_bars(symbol, "1h", *utc)["ts"])


def test_nothing_is_pending_after_a_load(loaded: Graph) -> None:
    assert pending(loaded.store) == set()


def test_a_correction_reaches_exactly_what_reads_its_bar(loaded: Graph) -> None:
    store, sources = loaded.store, open_sources(settings())
    ts = pd.Timestamp("2021-04-14 10:00", tz="UTC")
    correct(store, "EURUSD", [ts], [1.0005])
    cells = pending(store)
    # Before 17:00 New York a bar is read by its own day only; the next day is looked at, because days are counted.
    assert cells == {("EURUSD", date(2021, 4, 14)), ("EURUSD", date(2021, 4, 15))}
    before, versions = contents(store), row_versions(store)
    planned = propagate(store, sources, cells, write=False)
    assert contents(store) == before
    assert pending(store) == cells
    assert planned.of(BARS).rows == 3  # 1h, 4h, 1d
    assert planned.of(BARS).changed == {"2021-04-14|EURUSD"}
    days = {key.partition("|")[0] for key in planned.of(INDICATOR_ROWS).changed}
    # 250 hours from 10:00 on a Wednesday are over on a Wednesday two weeks later, 250 4h bars in June.
    assert (min(days), max(days)) == ("2021-04-14", "2021-05-31")
    assert planned.of(INDICATOR_ROWS).changed <= planned.of(INDICATOR_ROWS).partitions
    assert planned.of(INDICATOR_ROWS).largest["sma_15"] > 0

    done = propagate(store, sources, cells, write=True)
    for table in (BARS, *DERIVED):
        assert done.of(table) == planned.of(table), table.qualified
    assert pending(store) == set()
    after = row_versions(store)
    for table in DERIVED:
        old, new = versions[table.qualified], after[table.qualified].reindex(versions[table.qualified].index)
        touched = old.index[old != new]
        rewritten = touched.to_frame(index=False)
        if table.key[0] == "symbol":
            assert set(rewritten["symbol"]) == {"EURUSD"}
        assert len(rewritten) > 0
    assert still_stale(store) == set()
    rebuilt_equals(loaded)


def still_stale(store: MarketStore) -> set[object]:
    """What the next healing or backfill would do."""
    config = settings()
    ledger = Ledger.read(store, config.symbols, LOADED_FROM - timedelta(days=60), END_DAY)
    matured = END_DAY - timedelta(days=10)
    return {
        *(cell for table in (BARS, INDICATOR_ROWS) for cell in
          stale_cells(ledger, table, SYMBOLS, FIRST_DAY, END_DAY, config=config)),
        *stale_cells(ledger, LABELS, SYMBOLS, FIRST_DAY, matured, config=config),
        *(day for table in (CORRELATION_MATRIX, PAIR_RANKINGS) for day in
          stale_days(ledger, table, SYMBOLS, FIRST_DAY, END_DAY, config=config)),
    }  # fmt: skip


def rebuilt_equals(loaded: Graph) -> None:
    """A full rebuild from the raw rows makes the same bits."""
    before = contents(loaded.store)
    for table in (BARS, *DERIVED):
        loaded.store.database.run(lambda c, name=table.qualified: c.execute(f"TRUNCATE {name}"))
    loaded.run(("market/bars",), ENDS, LOADED_FROM, END_DAY)
    derive(loaded)
    assert contents(loaded.store) == before


def test_a_thousand_random_corrections_end_where_a_full_rebuild_does(loaded: Graph) -> None:
    store, sources = loaded.store, open_sources(settings())
    random = np.random.default_rng(7)
    for symbol, count in zip(SYMBOLS, (500, 300, 200), strict=True):
        times = bar_times(store, symbol, "2021-03-01", "2021-05-31")
        chosen = [times[n] for n in np.sort(random.choice(len(times), count, replace=False))]
        # Most are small; a few rows break a rule, so that bars vanish.
        factors = np.where(random.random(count) < 0.03, 0.0, 1 + random.uniform(-1e-3, 1e-3, count))
        correct(store, symbol, chosen, list(factors))
    done = propagate(store, sources, pending(store), write=True)
    assert pending(store) == set()
    assert done.of(BARS).rows > 1000
    assert still_stale(store) == set()
    rebuilt_equals(loaded)


def test_a_withdrawn_bar_and_one_that_comes_back_shift_every_slice_that_holds_them(loaded: Graph) -> None:
    store, sources = loaded.store, open_sources(settings())
    original = contents(store)
    times = bar_times(store, "GBPUSD", "2021-04-21 03:00", "2021-04-21 05:00")
    store.withdraw("GBPUSD", "1h", "synthetic", [ts.to_pydatetime() for ts in times], run_id=None)
    done = propagate(store, sources, pending(store), write=True)
    # Two hours gone, a 4h and a 1d bar of fewer, and the hour before, which now is before a gap.
    assert done.of(BARS).rows == 5
    assert bar_times(store, "GBPUSD", "2021-04-21 03:00", "2021-04-21 05:00") == []
    gaps = store.gap_counts(["GBPUSD"], "1h", times[0].to_pydatetime(), times[-1].to_pydatetime())
    assert gaps[["state", "bars"]].values.tolist() == [["missing", 2]]
    rebuilt_equals(loaded)
    assert contents(store) != original


def test_a_bar_that_is_not_there_cannot_be_withdrawn(loaded: Graph) -> None:
    from nexus_assets.errors import DatabaseError

    with pytest.raises(DatabaseError, match="are not stored or were withdrawn before"):
        loaded.store.withdraw("GBPUSD", "1h", "synthetic", [datetime(2021, 4, 24, 3, tzinfo=UTC)], run_id=None)
