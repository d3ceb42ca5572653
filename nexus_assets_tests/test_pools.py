"""The number of runs that write at a time."""

from datetime import date
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
import yaml

from nexus_assets import launcher
from nexus_assets.assets.specification import WRITERS
from nexus_assets.backfill import Rectangle, submit
from nexus_assets.backfill_progress import follow
from nexus_assets.definitions import defs as real_defs
from nexus_assets.schemas import ASSET_TABLES
from nexus_assets_tests.conftest import ROOT, DatabaseMaker
from nexus_assets_tests.dagster_homes import TOY_MODULE, dagster_home
from nexus_assets_tests.toy_definitions import SYMBOLS, defs

FIRST_DAY = date(2024, 1, 1)


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
def test_runs_that_write_wait_for_each_other_where_the_pool_says_so(databases: DatabaseMaker, tmp_path: Path) -> None:
    with dagster_home(tmp_path, databases.empty(extension=False)) as place:
        config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
        config["concurrency"]["runs"]["max_concurrent_runs"] = 3
        config["concurrency"]["pools"]["default_limit"] = 1
        (place.root / "dagster.yaml").write_text(yaml.safe_dump(config))
        with place.instance() as instance, launcher.daemon(place.settings, place.root, lambda _: None):

            def load(plan: str, *symbols: str) -> list[dg.RunRecord]:
                # A lane of its own each: nothing but the pool keeps them apart.
                rectangles = [Rectangle((symbol,), FIRST_DAY, date(2024, 1, 3)) for symbol in symbols]
                repository = defs.get_repository_def()
                run_ids = submit(instance, repository, "writing_load", rectangles, plan=plan, module=TOY_MODULE)
                assert follow(instance, run_ids).failed == ()
                return [record for run_id in run_ids if (record := instance.get_run_record_by_id(run_id))]

            # Dagster counts a pool from the first look at its queue after the pool was first seen.
            load("the pool is seen", SYMBOLS[0])
            records = load("three at once", *SYMBOLS[:3])
            spans = sorted((record.start_time or 0, record.end_time or 0) for record in records)
            assert len(spans) == 3
            assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans))
