"""The number of runs that write at a time."""

from pathlib import Path

import dagster as dg
import pytest
import yaml

from nexus_assets import launcher
from nexus_assets.definitions import defs as real_defs
from nexus_assets.pools import WRITERS
from nexus_assets.schemas import ASSET_TABLES
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.dagster_homes import dagster_home
from nexus_assets_tests.selections.served_market import IMPATIENT_MODULE
from nexus_assets_tests.selections.ui_client import Ui
from nexus_assets_tests.toy_definitions import SYMBOLS


def test_every_asset_that_writes_a_table_and_the_corrections_are_in_the_pool() -> None:
    repository = real_defs.get_repository_def()
    pools = {key: repository.assets_defs_by_key[key].op.pool for key in repository.asset_graph.executable_asset_keys}
    tables = {dg.AssetKey(table.asset_key) for table in ASSET_TABLES}
    assert tables == {key for key, pool in pools.items() if pool == WRITERS}
    corrections = repository.get_job("market_corrections").nodes
    assert [node.definition.pool for node in corrections] == [WRITERS]  # pyright: ignore[reportAttributeAccessIssue]


def test_the_projects_dagster_yaml_bounds_the_pool_by_run(databases: DatabaseMaker, tmp_path: Path) -> None:
    with dagster_home(tmp_path, databases.empty(extension=False)) as place, place.instance() as instance:
        pools = instance.get_concurrency_config().pool_config
        assert pools.pool_granularity
        assert pools.pool_granularity.value == "run"
        assert pools.default_pool_limit
        assert pools.default_pool_limit >= instance.get_concurrency_config().run_queue_config.max_concurrent_runs  # pyright: ignore


@pytest.mark.end_to_end
def test_a_backfill_of_the_ui_has_as_many_writers_at_a_time_as_the_pool_says_from_its_first_run_on(
    databases: DatabaseMaker, tmp_path: Path
) -> None:
    event_log = (IMPATIENT_MODULE, "BatchingPostgresEventLogStorage")
    with dagster_home(tmp_path, databases.empty(extension=False), event_log=event_log) as place:
        config = yaml.safe_load((place.root / "dagster.yaml").read_text())
        config["concurrency"]["runs"]["max_concurrent_runs"] = 4
        config["concurrency"]["pools"]["default_limit"] = 2
        (place.root / "dagster.yaml").write_text(yaml.safe_dump(config))
        with launcher.serve(place.settings, place.root, 34_200, lambda _: None) as running:
            ui = Ui(running.url)
            # Without a backfill policy each partition is a run, and nothing but the pool keeps them apart.
            backfill = ui.backfill(["toy/writing"], [f"2024-01-01|{symbol}" for symbol in SYMBOLS])
            ui.await_backfills(backfill)
            spans = [(run["startTime"], run["endTime"]) for run in ui.runs(backfill=backfill)]
    assert len(spans) == 4
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) == 2
