"""Which slices a run leaves alone because an earlier attempt wrote them."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository

from nexus_assets.backfill import LEAVE_TAG
from nexus_assets.database import Database
from nexus_assets.loading import BEGINNING
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import BARS, RAW_OHLC
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.graphs import Graph, graph

SYMBOLS = ("EURUSD", "GBPUSD")
FIRST_DAY, LAST_DAY = date(2024, 1, 8), date(2024, 1, 9)
RANGE = {
    "dagster/asset_partition_range_start": f"{FIRST_DAY}|{SYMBOLS[0]}",
    "dagster/asset_partition_range_end": f"{LAST_DAY}|{SYMBOLS[1]}",
}
PRICES = [dg.AssetKey(table.asset_key) for table in (RAW_OHLC, BARS)]

Written = dict[tuple[str, str], datetime]
"""When the slices of a table and symbol were written."""


@pytest.fixture(scope="module")
def url(databases: DatabaseMaker) -> str:
    return databases.migrated()


@pytest.fixture(scope="module")
def loaded(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """Two days of prices of two symbols, made by the run `first`."""
    with graph(
        MarketStore(Database(url)), url, "redis://127.0.0.1:1/0", folder=tmp_path_factory.mktemp("dagster"),
        symbols=" ".join(SYMBOLS), start_day=f"{FIRST_DAY}", feature_timeframes="1h",
    ) as made:  # fmt: skip
        yield made


@pytest.fixture(scope="module")
def first(loaded: Graph) -> str:
    return run(loaded)


def run(made: Graph, tags: Mapping[str, str] | None = None, retry_of: str | None = None) -> str:
    """Materialise the two days' prices; returns the run's id."""
    repository = ReconstructableRepository.for_module("nexus_assets.definitions", "defs")
    with dg.execute_job(
        repository.get_reconstructable_job("market_update"),
        instance=made.instance,
        tags={**RANGE, **(tags or {})},
        asset_selection=PRICES,
        reexecution_options=dg.ReexecutionOptions(parent_run_id=retry_of) if retry_of else None,
    ) as result:
        assert result.success
        return result.run_id


def written(url: str) -> Written:
    with psycopg.connect(url) as connection:
        query = "SELECT table_name, symbol, min(written_at), max(written_at) FROM nexus.slices GROUP BY 1, 2"
        found = connection.execute(query).fetchall()
    assert all(earliest == latest for _, _, earliest, latest in found)
    return {(table, symbol): at for table, symbol, at, _ in found}


def test_a_planned_run_leaves_alone_what_is_there_and_records_it_with_its_rows(
    loaded: Graph, first: str, url: str
) -> None:
    before = written(url)
    again = run(loaded, {LEAVE_TAG: BEGINNING.isoformat()})
    assert written(url) == before
    rows = []
    for run_id in (first, again):
        found = loaded.instance.fetch_materializations(PRICES[1], limit=100)
        rows.append(
            {
                r.asset_materialization.partition: r.asset_materialization.metadata["dagster/row_count"].value
                for r in found.records
                if r.run_id == run_id and r.asset_materialization
            }
        )
    assert rows[0] == rows[1]
    assert len(rows[1]) == 2 * len(SYMBOLS)
    assert rows[1][f"{FIRST_DAY}|EURUSD"] == 24 + 6 + 1


def test_a_slice_is_written_again_where_what_it_reads_changed_since(loaded: Graph, first: str, url: str) -> None:
    before = written(url)
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE nexus.slices SET changed_at = clock_timestamp() "
            "WHERE table_name = 'market.raw_ohlc' AND symbol = 'EURUSD' AND day = %s",
            (FIRST_DAY,),
        )
    run(loaded, {LEAVE_TAG: BEGINNING.isoformat()})
    after = written(url)
    assert {key for key in after if after[key] != before[key]} == {("market.bars", "EURUSD")}


def test_a_plan_that_repeats_everything_leaves_alone_only_what_it_wrote_itself(
    loaded: Graph, first: str, url: str
) -> None:
    before = written(url)
    plan = {LEAVE_TAG: datetime.now(UTC).isoformat()}
    run(loaded, plan)
    between = written(url)
    assert all(between[key] > before[key] for key in before)
    run(loaded, plan)
    assert written(url) == between


def test_an_automatic_retry_of_any_run_leaves_alone_what_that_wrote_and_a_repetition_by_hand_does_not(
    loaded: Graph, url: str
) -> None:
    attempt = run(loaded)
    before = written(url)
    run(loaded, {"dagster/retry_number": "1"}, retry_of=attempt)
    assert written(url) == before
    run(loaded, {LEAVE_TAG: BEGINNING.isoformat()}, retry_of=attempt)
    after = written(url)
    assert all(after[key] > before[key] for key in before)
