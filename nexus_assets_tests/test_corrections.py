"""Corrections: what they reach is found, shown, and rebuilt exactly; nothing else is touched."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from psycopg import sql

from nexus_assets.correction_report import Effect
from nexus_assets.corrections import carry_out, pending, propagate
from nexus_assets.database import Database
from nexus_assets.errors import FeatureStoreError
from nexus_assets.feature_store import FeatureStore
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import day_of_rows, partition_key
from nexus_assets.planning import Ledger, stale_cells, stale_days
from nexus_assets.providers.interface import BAR_COLUMNS, Delivery, Request, empty_rejected
from nexus_assets.resources import open_feature_store, open_sources
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, PAIR_RANKINGS, Table
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
    rows = store.read_raw(symbol, "1h", start, end)
    factor = rows["ts"].map(dict(zip(chosen, factors, strict=True))).fillna(1.0)
    rows[["open", "high", "low", "close"]] = rows[["open", "high", "low", "close"]].mul(factor, axis=0)
    store.append_delivery(
        Delivery(
            provider="synthetic", request=Request(symbol, "1h", start, end),
            bars=rows[list(BAR_COLUMNS)], rejected=empty_rejected(), equal_repeats=0,
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


def partitions_of(table: Table, rows: pd.DataFrame) -> set[str]:
    if table.key[0] == "day":
        return {str(day) for day in rows["day"]}
    return {partition_key(symbol, day) for symbol, day in zip(rows["symbol"], day_of_rows(rows), strict=True)}


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
        rewritten = old[old != new].index.to_frame(index=False)
        # Exactly the partitions whose values differ have new rows; every other row is the one that was there.
        assert partitions_of(table, rewritten) == done.of(table).changed
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


def identifier(table: Table) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


def rebuilt_equals(loaded: Graph) -> None:
    """A full rebuild from the raw rows makes the same bits."""
    before = contents(loaded.store)
    for table in (BARS, *DERIVED):
        loaded.store.database.run(lambda c, name=table: c.execute(sql.SQL("TRUNCATE {}").format(identifier(name))))
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


def test_pushed_bars_are_served_at_once_and_recorded_in_dagster(loaded: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    import nexus_assets
    from nexus_assets import pushing

    store, features = loaded.store, open_feature_store(settings())
    # Redis is shared by the tests; its newest vectors are of other days.
    features.forget(SYMBOLS, ("1h", "4h"))
    monkeypatch.setattr(dg.DagsterInstance, "get", staticmethod(lambda: nullcontext(loaded.instance)))
    pushing._market.cache_clear()
    newest = bar_times(store, "USDJPY", "2021-05-31", "2021-06-01")[-3:]
    rows = store.read_raw("USDJPY", "1h", newest[0].to_pydatetime(), newest[-1].to_pydatetime() + timedelta(hours=1))
    rows["close"] = rows["close"] * 1.00001
    done = nexus_assets.push_bars("USDJPY", rows, provider="synthetic")
    assert [counts.changed for counts in done.deliveries] == [3]
    assert done.served_after < 60
    served = features.latest(["USDJPY"])["USDJPY"]
    stored = store.newest_features(["USDJPY"], "1h").iloc[0]
    assert served.ts == stored["ts"]
    assert served.known_at == stored["known_at"] == pd.Timestamp(done.deliveries[0].known_at)
    assert served.features["sma_15"] == stored["sma_15"]
    for table in (BARS, INDICATOR_ROWS, LABELS):
        for key in done.corrections.of(table).partitions:
            event = loaded.instance.get_latest_data_version_record(dg.AssetKey(table.asset_key), partition_key=key)
            assert event is not None
            assert event.asset_materialization is not None
            assert event.asset_materialization.metadata["correction"].value is True
    again = nexus_assets.push_bars("USDJPY", rows, provider="synthetic", record=False)
    assert [counts.unchanged for counts in again.deliveries] == [3]
    assert again.corrections.is_empty
    back = nexus_assets.withdraw_bars("USDJPY", [newest[-1].to_pydatetime()], provider="synthetic", record=False)
    assert not back.corrections.is_empty
    # An older vector never replaces a newer one by itself; that of a bar that is gone is removed first.
    assert features.latest(["USDJPY"])["USDJPY"].ts == newest[-2]
    assert pending(store) == set()


def test_vectors_are_served_before_labels_and_correlations_are_made(loaded: Graph) -> None:
    store, sources, features = loaded.store, open_sources(settings()), open_feature_store(settings())
    newest = bar_times(store, "GBPUSD", "2021-05-31", "2021-06-01")[-1]
    correct(store, "GBPUSD", [newest], [1.00002])
    later = (LABELS, CORRELATION_MATRIX, PAIR_RANKINGS)
    seen: list[tuple[datetime, list[datetime | None]]] = []

    def changes() -> list[datetime | None]:
        return [store.newest_change(table, "GBPUSD" if table is LABELS else "") for table in later]

    before = changes()
    carry_out(
        store, features, sources, pending(store),
        served=lambda: seen.append((features.latest(["GBPUSD"])["GBPUSD"].known_at, changes())),
    )  # fmt: skip
    known_at = store.newest_features(["GBPUSD"], "1h")["known_at"].iloc[0]
    assert seen == [(known_at, before)]
    assert all(new > old for new, old in zip(changes(), before, strict=True) if new and old)
    assert still_stale(store) == set()


def test_where_redis_cannot_be_reached_the_tables_are_whole_and_it_is_told(loaded: Graph) -> None:
    store, sources = loaded.store, open_sources(settings())
    times = bar_times(store, "EURUSD", "2021-05-28 10:00", "2021-05-28 11:00")
    correct(store, "EURUSD", times, [1.00003])
    nowhere = FeatureStore("redis://127.0.0.1:1/0")
    with pytest.raises(FeatureStoreError, match=r"127\.0\.0\.1:1 could not"):
        carry_out(store, nowhere, sources, pending(store))
    assert pending(store) == set()
    assert still_stale(store) == set()


def test_pushed_bars_without_a_zone_twice_or_of_an_unknown_provider_are_refused(loaded: Graph) -> None:
    import nexus_assets
    from nexus_assets import pushing
    from nexus_assets.errors import NexusError

    pushing._market.cache_clear()
    row = {"ts": [pd.Timestamp("2021-05-31 10:00")], "open": [1.0], "high": [1.0], "low": [1.0], "close": [1.0]}
    with pytest.raises(NexusError, match="no time zone"):
        nexus_assets.push_bars("EURUSD", pd.DataFrame(row), provider="synthetic")
    row["ts"] = [pd.Timestamp("2021-05-31 10:00", tz="UTC")]
    with pytest.raises(NexusError, match="somebody has no stored bar of EURUSD"):
        nexus_assets.push_bars("EURUSD", pd.DataFrame(row), provider="somebody")
    with pytest.raises(NexusError, match="no column close"):
        nexus_assets.push_bars("EURUSD", pd.DataFrame(row).drop(columns="close"), provider="synthetic")


def test_the_sensor_starts_one_run_that_carries_out_what_is_pending(loaded: Graph) -> None:
    repository = loaded.definitions.get_repository_def()
    sensor, job = repository.get_sensor_def("correction_sensor"), repository.get_job("market_corrections")
    times = bar_times(loaded.store, "EURUSD", "2021-04-20 03:00", "2021-04-20 05:00")
    correct(loaded.store, "EURUSD", times, [1.0001, 0.9999])

    def tick() -> dg.SensorResult | dg.RunRequest | dg.SkipReason:
        with dg.build_sensor_context(
            instance=loaded.instance, repository_def=repository, resources={"market_store": loaded.store}
        ) as context:
            return sensor(context)  # pyright: ignore[reportReturnType]

    assert isinstance(tick(), dg.SkipReason)  # a run may be about to make the bars
    loaded.store.database.run(
        lambda c: c.execute(
            "UPDATE nexus.slices SET written_at = written_at - interval '1 day', "
            "changed_at = changed_at - interval '1 day'"
        )
    )
    request = tick()
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == tick().run_key  # pyright: ignore[reportAttributeAccessIssue]
    result = job.execute_in_process(instance=loaded.instance)
    assert result.success
    assert pending(loaded.store) == set()
    assert isinstance(tick(), dg.SkipReason)
    for table in (BARS, INDICATOR_ROWS, LABELS, CORRELATION_MATRIX):
        event = loaded.instance.get_latest_materialization_event(dg.AssetKey(table.asset_key))
        assert event is not None
        assert event.run_id == result.run_id


def test_a_bar_that_is_not_there_cannot_be_withdrawn(loaded: Graph) -> None:
    from nexus_assets.errors import DatabaseError

    with pytest.raises(DatabaseError, match="are not stored or were withdrawn before"):
        loaded.store.withdraw("GBPUSD", "1h", "synthetic", [datetime(2021, 4, 24, 3, tzinfo=UTC)], run_id=None)


def test_a_value_that_appears_or_goes_is_a_change_without_a_size(loaded: Graph) -> None:
    rows = loaded.store.read_bars("EURUSD", "1h", datetime(2021, 4, 20, tzinfo=UTC), datetime(2021, 4, 21, tzinfo=UTC))
    gone = rows.assign(spread=np.nan)
    effect = Effect()
    effect.add(BARS, rows, gone)
    assert (effect.rows, effect.largest) == (len(rows), {})
    assert effect.changed == {"2021-04-20|EURUSD"}
