"""Old history by month: the same tables and the same bits as by day, in assets of their own."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from nexus_assets import migrations
from nexus_assets.backfill import MAX_DAYS, Rectangle
from nexus_assets.correction_report import Corrections
from nexus_assets.database import Database
from nexus_assets.errors import MigrationError
from nexus_assets.loading import Extent, plan_stage, steps
from nexus_assets.market_store import MarketStore
from nexus_assets.materializations import announce
from nexus_assets.partitions import DAYS
from nexus_assets.partitions import MONTHS as BY_MONTH
from nexus_assets.resources import open_sources
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, PAIR_RANKINGS, RAW_OHLC, Table
from nexus_assets.settings import Settings, load_settings, settings
from nexus_assets.stored_partitions import record_stored
from nexus_assets_tests.conftest import ROOT, DatabaseMaker
from nexus_assets_tests.graphs import Graph, graph

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY")
ENDS = ("EURUSD", "USDJPY")
HISTORY_START, START_DAY, END_DAY = date(2021, 1, 15), date(2021, 3, 10), date(2021, 3, 20)
"""Neither is the first of its month."""
MONTHS = date(2021, 1, 1), date(2021, 3, 2)
PRICES, FEATURES, ANALYTICS = (
    ("raw_ohlc", "bars"),
    ("indicators", "labels"),
    ("correlation_matrix", "pair_rankings"),
)
NOT_OF_THE_MARKET = {"known_at", "delivery_id", "window_known_at"}
"""When we learned something differs between two databases."""


def history(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"history/{name}" for name in names)


Told = dict[str, dict[str, dict]]
"""By asset and partition, the metadata of its newest materialisation."""


def told_by(made: Graph, assets: tuple[str, ...]) -> Told:
    told = {}
    for asset in assets:
        records = made.instance.fetch_materializations(dg.AssetKey.from_user_string(asset), limit=2000).records
        events = [record.asset_materialization for record in reversed(records)]
        told[asset] = {str(e.partition): {k: v.value for k, v in e.metadata.items()} for e in events if e}
    return told


@pytest.fixture(scope="module")
def by_day(databases: DatabaseMaker, services, real_data: Path) -> tuple[MarketStore, Told]:
    """The reference: a partition for each day."""
    url = databases.migrated()
    with graph(
        MarketStore(Database(url)), url, services.redis_url,
        symbols=" ".join(SYMBOLS), start_day=str(HISTORY_START), feature_timeframes="1h",
        files_root=str(real_data / "oanda_h1"),
    ) as made:  # fmt: skip
        made.run(("market/raw_ohlc", "market/bars"), ENDS, HISTORY_START, END_DAY)
        made.run(("features/indicators", "features/labels"), ENDS, HISTORY_START, END_DAY)
        made.run_days(("analytics/correlation_matrix", "analytics/pair_rankings"), HISTORY_START, END_DAY)
        return made.store, told_by(made, ("market/raw_ohlc", "market/bars", "features/indicators", "features/labels"))


@pytest.fixture(scope="module")
def by_month(databases: DatabaseMaker, services, real_data: Path, by_day: object) -> Iterator[Graph]:
    """The same days, those before START_DAY by month."""
    url = databases.migrated()
    with graph(
        MarketStore(Database(url)), url, services.redis_url,
        symbols=" ".join(SYMBOLS), start_day=str(START_DAY), history_start=str(HISTORY_START),
        feature_timeframes="1h", files_root=str(real_data / "oanda_h1"),
    ) as made:  # fmt: skip
        made.run(history(PRICES), ENDS, *MONTHS)
        made.run(("market/raw_ohlc", "market/bars"), ENDS, START_DAY, END_DAY)
        made.run(history(FEATURES), ENDS, *MONTHS)
        made.run(("features/indicators", "features/labels"), ENDS, START_DAY, END_DAY)
        made.run_days(history(ANALYTICS), *MONTHS)
        made.run_days(("analytics/correlation_matrix", "analytics/pair_rankings"), START_DAY, END_DAY)
        yield made


def rows(store: MarketStore, table: Table) -> pd.DataFrame:
    names = [name for name in table.column_names if name not in NOT_OF_THE_MARKET]
    key = ", ".join(name for name in table.key if name in names)
    return store.database.frame(f"SELECT {', '.join(names)} FROM {table.qualified} ORDER BY {key}")


@pytest.mark.parametrize(
    "table",
    [RAW_OHLC, BARS, INDICATOR_ROWS, LABELS, CORRELATION_MATRIX, PAIR_RANKINGS],
    ids=lambda table: table.qualified,
)
def test_history_by_month_is_the_same_bits_as_by_day(
    by_day: tuple[MarketStore, Told], by_month: Graph, table: Table
) -> None:
    expected, found = rows(by_day[0], table), rows(by_month.store, table)
    times = pd.to_datetime(found["ts" if "ts" in found else "day"], utc=True)
    for first, end in ((HISTORY_START, START_DAY), (START_DAY, END_DAY)):
        inside = (times >= pd.Timestamp(first, tz="UTC")) & (times < pd.Timestamp(end, tz="UTC"))
        assert inside.sum() > 20
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    if table is INDICATOR_ROWS:
        first_day = found[times.dt.date == START_DAY]
        assert first_day[["rsi_14", "hv_50"]].notna().all(axis=None), "warmed up on bars of the history"


def test_a_month_tells_the_sums_of_its_days(by_day: tuple[MarketStore, Told], by_month: Graph) -> None:
    for name, schema in (
        ("bars", "market"),
        ("raw_ohlc", "market"),
        ("indicators", "features"),
        ("labels", "features"),
    ):
        days = by_day[1][f"{schema}/{name}"]
        months = told_by(by_month, (f"history/{name}",))[f"history/{name}"]
        assert set(months) == {f"2021-0{month}-01|{symbol}" for month in (1, 2, 3) for symbol in SYMBOLS}
        for key, told in months.items():
            mine = {
                day: of_day
                for day, of_day in days.items()
                if day[:7] == key[:7] and day[10:] == key[10:] and day[:10] < str(START_DAY)
            }
            for label in (
                "dagster/row_count",
                "quarantined",
                "suspects",
                "matured",
                "expected",
                "rows_without_warm_up",
            ):
                if label in told:
                    assert told[label] == sum(of_day[label] for of_day in mine.values()), (key, label)
            assert told["dagster/row_count"] > 100
            if "first_ts" in told:
                assert told["first_ts"] == min(of_day["first_ts"] for of_day in mine.values() if "first_ts" in of_day)
                assert told["last_ts"] == max(of_day["last_ts"] for of_day in mine.values() if "last_ts" in of_day)
            assert not {"quarantined_share", "data_age_minutes"} & told.keys()


def test_every_check_of_the_history_was_evaluated_and_passed(by_month: Graph) -> None:
    keys = by_month.definitions.get_repository_def().asset_graph.asset_check_keys
    of_days = {key for key in keys if key.asset_key.path[0] != "history"}
    of_months = keys - of_days
    # Freshness is of the newest bar, which is never history; splits are made of all labels at once.
    assert {key.name for key in of_days} - {key.name for key in of_months} == {"freshness", "splits_do_not_overlap"}
    records = by_month.instance.event_log_storage.get_latest_asset_check_execution_by_key(list(of_months))
    evaluations = [record.evaluation for record in records.values()]
    assert {(e.asset_check_key, e.passed) for e in evaluations if e} == {(key, True) for key in of_months}
    blocking = {e.asset_check_key.name for e in evaluations if e and e.blocking}
    assert "is_a_correlation_matrix" in blocking
    assert "every_delivery_accounted_for" in blocking
    # What a check judges reaches from the first day of the history to the day before the first of the days.
    (coverage,) = [e for e in evaluations if e and e.asset_check_key.name == "coverage"]
    stored = by_month.store.database.rows(
        "SELECT count(*) AS bars FROM market.bars WHERE ts + CASE timeframe WHEN '1h' THEN interval '1h' "
        "WHEN '4h' THEN interval '4h' ELSE interval '1d' END <= %s",
        (datetime.combine(START_DAY, time(), UTC),),
    )
    assert coverage.metadata["bars"].value == stored[0]["bars"]


def test_a_month_can_be_materialised_alone(by_month: Graph) -> None:
    job = by_month.definitions.resolve_job_def("history_update")
    keys = [dg.AssetKey(["history", name]) for name in (*PRICES, *FEATURES)]
    done = job.execute_in_process(instance=by_month.instance, partition_key="2021-02-01|GBPUSD", asset_selection=keys)
    recorded = done.get_asset_materialization_events()
    assert [(event.asset_key, event.partition) for event in recorded] == [(key, "2021-02-01|GBPUSD") for key in keys]


STAGES = ("prices", "features", "analytics")


def plan(store: MarketStore, config: Settings, extent: Extent) -> list[Rectangle]:
    sources = open_sources(config)
    return [run.rectangle for step in steps(extent, config) for run in plan_stage(store, sources, config, extent, step)]


def test_moving_the_start_day_either_way_leaves_nothing_to_load_and_keeps_the_rows(
    by_day: tuple[MarketStore, Told], by_month: Graph, real_data: Path
) -> None:
    mature = Extent(SYMBOLS, HISTORY_START, END_DAY - timedelta(days=8), STAGES)
    files = {"files_root": real_data / "oanda_h1", "symbols": SYMBOLS}
    for store in (by_day[0], by_month.store):
        for start_day, history_start in (
            (HISTORY_START, None),
            (START_DAY, HISTORY_START),
            (date(2021, 2, 1), HISTORY_START),
        ):
            config = load_settings(start_day=start_day, history_start=history_start, **files)
            migrations.migrate(store.database, ROOT, config)
            assert plan(store, config, mature) == []
    assert rows(by_day[0], BARS).equals(rows(by_month.store, BARS))


def test_the_first_day_of_all_moves_only_backwards_and_the_error_names_the_history(fresh_database: Database) -> None:
    migrations.migrate(fresh_database, ROOT, load_settings(start_day=date(2015, 1, 1), history_start=None))
    with pytest.raises(MigrationError, match="NEXUS_START_DAY is 2020-01-01") as caught:
        migrations.migrate(fresh_database, ROOT, load_settings(start_day=date(2020, 1, 1), history_start=None))
    assert "NEXUS_HISTORY_START=2015-01-01" in str(caught.value.next_step)
    migrations.migrate(fresh_database, ROOT, load_settings(start_day=date(2020, 1, 1), history_start=date(2015, 1, 1)))
    with pytest.raises(MigrationError, match="NEXUS_HISTORY_START is 2016-01-01"):
        migrations.migrate(
            fresh_database, ROOT, load_settings(start_day=date(2020, 1, 1), history_start=date(2016, 1, 1))
        )
    migrations.migrate(fresh_database, ROOT, load_settings(start_day=date(2012, 1, 1), history_start=None))


def test_a_plan_across_the_boundary_is_whole_months_then_days_in_runs_of_bounded_size(fresh_store: MarketStore) -> None:
    config = load_settings(
        symbols=SYMBOLS, start_day=START_DAY, history_start=date(2012, 1, 20), feature_timeframes=("1h", "4h"),
        parallel_runs=2,
    )  # fmt: skip
    extent = Extent(SYMBOLS, date(2012, 8, 31), END_DAY, STAGES)
    planned = plan(fresh_store, config, extent)
    order = [(piece.grain.dimension, piece.assets[0]) for piece in planned]
    assert list(dict.fromkeys(order)) == [
        ("month", "history/raw_ohlc"),
        ("day", "market/raw_ohlc"),
        ("month", "history/indicators"),
        ("day", "features/indicators"),
        ("month", "history/correlation_matrix"),
        ("day", "analytics/correlation_matrix"),
    ]
    prices = [piece for piece in planned if piece.assets[0] == "history/raw_ohlc"]
    # All of August is made, so its first day needs the 69 days of the warm-up of 4h: from 24 May.
    assert prices[0].first_day == date(2012, 5, 1)
    features = [piece for piece in planned if piece.assets[0] == "history/indicators"]
    assert features[0].first_day == date(2012, 8, 1)
    for pieces in (prices, features):
        for lane in {piece.lane for piece in pieces}:
            mine = [piece for piece in pieces if piece.lane == lane]
            assert [piece.end_day for piece in mine[:-1]] == [piece.first_day for piece in mine[1:]]
            assert all(piece.end_day.day == 1 for piece in mine[:-1])
            assert mine[-1].end_day == START_DAY
        assert max((piece.end_day - piece.first_day).days for piece in pieces) <= MAX_DAYS
    assert prices[0].partition_range() == ("2012-05-01|EURUSD", "2013-05-01|EURUSD")
    assert prices[0].partitions == 13
    days = [piece for piece in planned if piece.grain is DAYS]
    assert {(piece.first_day, piece.end_day) for piece in days} == {(START_DAY, END_DAY)}


def test_a_stale_day_repeats_its_month_and_no_other(by_month: Graph, real_data: Path) -> None:
    store = by_month.store
    config = load_settings(
        symbols=SYMBOLS, start_day=START_DAY, history_start=HISTORY_START, files_root=real_data / "oanda_h1"
    )
    extent = Extent(SYMBOLS, HISTORY_START, date(2021, 3, 12), ("prices",))
    with store.database.transaction() as connection:
        connection.execute(
            "UPDATE nexus.slices SET complete = false WHERE table_name = 'market.bars' AND symbol = 'GBPUSD' "
            "AND day = '2021-02-09'"
        )
    (only,) = plan(store, config, extent)
    assert only == Rectangle(
        ("GBPUSD",), date(2021, 2, 1), date(2021, 3, 1), ("history/raw_ohlc", "history/bars"), BY_MONTH
    )
    newest = "SELECT max(xmin::text::bigint) AS newest FROM market.bars"
    before = store.database.rows(newest)
    by_month.run(only.assets, ("GBPUSD", "GBPUSD"), only.first_day, date(2021, 2, 2))
    assert store.database.rows(newest) == before, "equal content is left alone"
    assert plan(store, config, extent) == []


def test_a_correction_before_the_start_day_is_told_of_the_month_that_holds_it(by_month: Graph) -> None:
    report = Corrections()
    effect = report.of(BARS)
    effect.partitions = {"2021-02-09|EURUSD", "2021-02-10|EURUSD", "2021-03-09|EURUSD", "2021-03-10|EURUSD"}
    effect.changed, effect.rows = {"2021-02-09|EURUSD"}, 1
    report.of(CORRELATION_MATRIX).partitions = {"2021-02-09", "2021-02-10", "2021-03-10"}
    module = importlib.import_module("nexus_assets.correction_runs")
    announce(module.materialisations(report), instance=by_month.instance)
    events = [
        (event.asset_key.to_user_string(), event.partition, event.metadata["rows_changed"].value)
        for event in module.materialisations(report)
    ]
    assert events == [
        ("history/bars", "2021-02-01|EURUSD", True),
        ("history/bars", "2021-03-01|EURUSD", False),
        ("market/bars", "2021-03-10|EURUSD", False),
        ("history/correlation_matrix", "2021-02-01", False),
        ("analytics/correlation_matrix", "2021-03-10", False),
    ]
    for asset, keys in (
        ("history/bars", {"2021-02-01|EURUSD", "2021-03-01|EURUSD"}), ("market/bars", {"2021-03-10|EURUSD"}),
    ):  # fmt: skip
        told = told_by(by_month, (asset,))[asset]
        assert {key for key, values in told.items() if values.get("correction")} == keys
        known = by_month.definitions.resolve_asset_graph().get(dg.AssetKey.from_user_string(asset)).partitions_def
        assert known is not None
        assert all(known.has_partition_key(key) for key in keys)


def test_partitions_that_were_stored_under_another_start_day_are_told_to_dagster_once(
    by_day: tuple[MarketStore, Told], by_month: Graph, real_data: Path
) -> None:
    whole = (SYMBOLS, HISTORY_START, END_DAY)
    with dg.DagsterInstance.ephemeral() as instance:
        assert record_stored(instance, by_day[0], settings(), *whole) == 4 * 3 * (3 + 10) + 2 * (3 + 10)
        assert record_stored(instance, by_day[0], settings(), *whole) == 0
        graph_of = by_month.definitions.resolve_asset_graph()
        for asset in ("history/raw_ohlc", "history/labels", "history/pair_rankings", "market/bars"):
            key = dg.AssetKey.from_user_string(asset)
            known = graph_of.get(key).partitions_def
            assert known is not None
            keys = known.get_partition_keys()
            assert instance.get_materialized_partitions(key) == set(keys[: 10 * 3] if asset == "market/bars" else keys)
    # A month of which a day was never written stays missing.
    with dg.DagsterInstance.ephemeral() as instance:
        record_stored(instance, by_day[0], settings(), SYMBOLS, date(2021, 2, 2), END_DAY)
        bars = dg.AssetKey(["history", "bars"])
        assert instance.get_materialized_partitions(bars) == {f"2021-03-01|{symbol}" for symbol in SYMBOLS}


def test_a_moved_start_day_leaves_old_events_without_harm(by_month: Graph) -> None:
    """Events of days that are months now."""
    asset = dg.AssetKey(["market", "bars"])
    definition = by_month.definitions.resolve_asset_graph().get(asset).partitions_def
    with dg.DagsterInstance.ephemeral() as instance:
        for day in ("2021-02-01", "2021-03-10"):
            key = dg.MultiPartitionKey({"day": day, "symbol": "EURUSD"})
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))
        cached = get_and_update_asset_status_cache_value(instance, asset, definition)
        assert cached is not None
        assert definition is not None
        assert set(cached.deserialize_materialized_partition_subsets(definition).get_partition_keys()) == {
            "2021-03-10|EURUSD"
        }


@pytest.mark.end_to_end
def test_nexus_backfill_across_the_boundary_loads_months_and_then_days(
    databases: DatabaseMaker, redis_url: str, tmp_path: Path
) -> None:
    for name in ("sql", "dagster.yaml", "workspace.yaml", "sources.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    url = databases.migrated()
    variables = {
        "NEXUS_DATABASE_URL": url,
        "NEXUS_DAGSTER_URL": databases.empty(extension=False).replace("postgresql://", "postgresql+psycopg2://", 1),
        "NEXUS_REDIS_URL": redis_url,
        "NEXUS_ROOT": str(tmp_path),
        "NEXUS_HOME": str(tmp_path / "home"),
        "NEXUS_SYMBOLS": "EURUSD XAUUSD",
        "NEXUS_START_DAY": "2023-06-15",
        "NEXUS_HISTORY_START": "2023-04-20",
        "NEXUS_FEATURE_TIMEFRAMES": "1h",
        "NEXUS_AUTOMATION": "off",
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
        "PYTHONPATH": str(ROOT),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEXUS_")}
    command = [sys.executable, "-m", "nexus_assets", "backfill", "--from", "2023-06-01", "--to", "2023-06-20"]
    done = subprocess.run(
        [*command, "--select", "prices"],
        env=kept | variables, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = MarketStore(Database(url))
    written = store.database.frame("SELECT DISTINCT table_name, day FROM nexus.slices ORDER BY 1, 2")
    days = {name: (mine["day"].min(), mine["day"].max()) for name, mine in written.groupby("table_name")}
    assert days == {
        "market.raw_ohlc": (date(2023, 5, 1), date(2023, 6, 19)),
        "market.bars": (date(2023, 5, 1), date(2023, 6, 19)),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            runs = [(run.job_name, run.tags["dagster/asset_partition_range_start"]) for run in instance.get_runs()]
            assert runs[::-1] == [
                ("history_update", "2023-05-01|EURUSD"),
                ("market_update", "2023-06-15|EURUSD"),
            ]
            assert instance.get_materialized_partitions(dg.AssetKey(["history", "bars"])) == {
                f"2023-0{month}-01|{symbol}" for month in (5, 6) for symbol in ("EURUSD", "XAUUSD")
            }
            assert len(instance.get_materialized_partitions(dg.AssetKey(["market", "bars"]))) == 5 * 2
