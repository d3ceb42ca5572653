"""The number of runs that write at a time."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
import yaml

from nexus_assets import launcher
from nexus_assets.backfill import Rectangle, submit
from nexus_assets.backfill_progress import follow
from nexus_assets.definitions import defs as real_defs
from nexus_assets.pools import WRITERS
from nexus_assets.schemas import ASSET_TABLES
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.dagster_homes import TOY_MODULE, DagsterHome, dagster_home
from nexus_assets_tests.selections.ui_client import Ui
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


@pytest.fixture
def roomy(databases: DatabaseMaker, tmp_path: Path) -> Iterator[DagsterHome]:
    """A place for four runs at a time, of which two may write."""
    with dagster_home(tmp_path, databases.empty(extension=False)) as place:
        config = yaml.safe_load((place.root / "dagster.yaml").read_text())
        config["concurrency"]["runs"]["max_concurrent_runs"] = 4
        config["concurrency"]["pools"]["default_limit"] = 2
        (place.root / "dagster.yaml").write_text(yaml.safe_dump(config))
        yield place


def most_at_once(spans: list[tuple[float, float]]) -> int:
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


@pytest.mark.end_to_end
def test_the_first_look_at_a_queue_starts_no_more_writers_than_the_pool_says(roomy: DagsterHome) -> None:
    repository = defs.get_repository_def()
    with roomy.instance() as instance:
        # A lane of its own each: nothing but the pool keeps them apart.
        rectangles = [Rectangle((symbol,), FIRST_DAY, date(2024, 1, 3)) for symbol in SYMBOLS[:3]]
        run_ids = submit(instance, repository, "writing_load", rectangles, plan="before the daemon", module=TOY_MODULE)
        with launcher.daemon(roomy.settings, roomy.root, lambda _: None):
            assert follow(instance, run_ids).failed == ()
        stats = [instance.get_run_stats(run_id) for run_id in run_ids]
    # From the launch on, not from the start: two launches at a time hide a third run that should have waited.
    assert most_at_once([(run.launch_time or 0, run.end_time or 0) for run in stats]) == 2


@pytest.mark.end_to_end
def test_a_backfill_of_the_ui_has_as_many_writers_at_a_time_as_the_pool_says(roomy: DagsterHome) -> None:
    with launcher.serve(roomy.settings, roomy.root, 34_200, lambda _: None) as running:
        ui = Ui(running.url)
        # Without a backfill policy each partition is a run.
        backfill = ui.backfill(["toy/writing"], [f"{FIRST_DAY}|{symbol}" for symbol in SYMBOLS])
        ui.await_backfills(backfill)
        runs = ui.runs(backfill=backfill)
    assert len(runs) == 4
    assert most_at_once([(run["startTime"], run["endTime"]) for run in runs]) == 2
