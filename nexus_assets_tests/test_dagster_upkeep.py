"""Pruning of Dagster's database, over runs of the toy graph that are made older by hand."""

import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from nexus_assets import dagster_upkeep as upkeep
from nexus_assets.dagster_files import dagster_files
from nexus_assets.dagster_upkeep import Pruned, Terms, prune
from nexus_assets.database import Database
from nexus_assets.errors import DatabaseError
from nexus_assets.settings import load_settings
from nexus_assets_tests.conftest import ROOT, DatabaseMaker
from nexus_assets_tests.dagster_homes import dagster_home
from nexus_assets_tests.toy_definitions import PARTITIONS, defs

MATERIALIZATION = dg.DagsterEventType.ASSET_MATERIALIZATION
PLANNED = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
ASSETS = [dg.AssetKey(["toy", name]) for name in ("raw", "bars", "half_broken")]
CHECK = dg.AssetCheckKey(ASSETS[0], "every_partition_was_seen")
# Runs before what refers to them.
TABLES = (
    *("runs", "run_tags", "event_logs", "asset_event_tags", "asset_check_executions", "asset_keys"),
    *("bulk_actions", "job_ticks"),
)
SHIFT = """
UPDATE event_logs SET timestamp = timestamp - %(by)s;
UPDATE asset_event_tags SET event_timestamp = event_timestamp - %(by)s;
UPDATE asset_check_executions SET evaluation_event_timestamp = evaluation_event_timestamp - %(by)s;
UPDATE job_ticks SET timestamp = timestamp - %(by)s;
UPDATE runs SET start_time = start_time - extract(epoch FROM %(by)s), end_time = end_time - extract(epoch FROM %(by)s);
"""


@dataclass
class Log:
    """A Dagster instance on a database of a test's own."""

    instance: dg.DagsterInstance
    database: Database

    def run(self, job: str, first: str, last: str, *, succeeds: bool = True) -> str:
        """Materialise a rectangle of partitions."""
        result = defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
            raise_on_error=False,
        )
        assert result.success is succeeds
        return result.run_id

    def days_pass(self, days: int) -> None:
        with self.database.transaction() as connection:
            psycopg.ClientCursor(connection).execute(SHIFT, {"by": timedelta(days=days)})

    def prune(self, **days: int) -> Pruned:
        return prune(self.database, self.terms(**days))

    def terms(self, **days: int) -> Terms:
        config = load_settings(**{f"keep_{name}_days": count for name, count in days.items()})
        return Terms.of(config, datetime.now(UTC))

    def count(self, table: str, where: str = "true") -> int:
        return self.database.rows(f"SELECT count(*) AS rows FROM {table} WHERE {where}")[0]["rows"]

    def events(self) -> dict[int, dict[str, Any]]:
        columns = "id, run_id, asset_key, partition, dagster_event_type AS type, timestamp"
        return {row["id"]: row for row in self.database.rows(f"SELECT {columns} FROM event_logs")}

    def shown(self) -> dict[str, Any]:
        """What Dagster's own calls say of every asset, with its cache of partitions made anew."""
        storage = self.instance.event_log_storage
        told: dict[str, Any] = {}
        for key in ASSETS:
            storage.wipe_asset_cached_status(key)
            cache = get_and_update_asset_status_cache_value(self.instance, key, PARTITIONS)
            if cache is None:
                continue
            [record] = self.instance.get_asset_records([key])
            told[key.to_user_string()] = {
                "materialized": set(cache.deserialize_materialized_partition_subsets(PARTITIONS).get_partition_keys()),
                "failed": set(cache.deserialize_failed_partition_subsets(PARTITIONS).get_partition_keys()),
                "under way": set(cache.deserialize_in_progress_partition_subsets(PARTITIONS).get_partition_keys()),
                "newest": storage.get_latest_storage_id_by_partition(key, MATERIALIZATION),
                "versions": storage.get_latest_tags_by_partition(key, MATERIALIZATION, [DATA_VERSION_TAG]),
                "attempts": storage.get_latest_asset_partition_materialization_attempts_without_materializations(key),
                "plan": storage.get_latest_planned_materialization_info(key),
                "last": (record.asset_entry.last_run_id, record.asset_entry.last_materialization_storage_id),
            }
        checks = storage.get_latest_asset_check_execution_by_key([CHECK])
        told["checks"] = {key: (record.id, record.status) for key, record in checks.items()}
        return told


@pytest.fixture(scope="module")
def opened(databases: DatabaseMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    url = databases.empty(extension=False)
    with dagster_home(tmp_path_factory.mktemp("upkeep"), url) as place, place.instance() as instance:
        yield Log(instance, Database(url, patience=5))


@pytest.fixture
def log(opened: Log) -> Log:
    """The instance, emptied. Ids go on."""
    with opened.database.transaction() as connection:
        connection.execute(f"TRUNCATE {', '.join(TABLES)}".encode())
    return opened


@pytest.fixture(scope="module")
def saved(opened: Log) -> Log:
    """Copies of the tables after three_months, in the schema `saved`."""
    three_months(opened)
    with opened.database.transaction() as connection:
        connection.execute("CREATE SCHEMA saved")
        for table in TABLES:
            connection.execute(f"CREATE TABLE saved.{table} AS TABLE {table}".encode())
    return opened


@pytest.fixture
def lived(saved: Log, log: Log) -> Log:
    """The instance after three_months."""
    with log.database.transaction() as connection:
        for table in TABLES:
            connection.execute(f"INSERT INTO {table} SELECT * FROM saved.{table}".encode())
    return log


def three_months(log: Log) -> None:
    """Runs over the same partitions: 90, 60 and 45 days ago, and today; DDD of half_broken always failed."""
    log.run("load", "2024-01-01|AAA", "2024-01-04|DDD")
    log.run("half_broken_load", "2024-01-01|AAA", "2024-01-02|DDD", succeeds=False)
    log.days_pass(30)
    log.run("load", "2024-01-02|BBB", "2024-01-04|DDD")
    log.run("half_broken_load", "2024-01-01|AAA", "2024-01-02|DDD", succeeds=False)
    log.days_pass(15)
    log.run("load", "2024-01-04|AAA", "2024-01-06|BBB")
    log.days_pass(45)
    log.run("load", "2024-01-01|AAA", "2024-01-01|AAA")


def must_stay(events: dict[int, dict[str, Any]], before: datetime) -> set[int]:
    """Ids of asset events that may not go, by the plainest reading of the rule."""
    stay = {id for id, event in events.items() if event["timestamp"] >= before.replace(tzinfo=None)}
    history: dict[tuple[str, str], list[int]] = defaultdict(list)
    for id, event in events.items():
        if event["asset_key"]:
            history[event["asset_key"], event["partition"]].append(id)
    newest_plans: dict[str, int] = {}
    for (asset, _), ids in history.items():
        made = max((id for id in ids if events[id]["type"] == MATERIALIZATION.value), default=0)
        planned = max((id for id in ids if events[id]["type"] == PLANNED.value), default=0)
        stay |= {made} | ({planned} if planned > made else set())
        newest_plans[asset] = max(newest_plans.get(asset, 0), planned)
    return stay - {0} | set(newest_plans.values())


def test_what_the_ui_and_automation_read_is_the_same_and_everything_replaced_is_gone(lived: Log) -> None:
    before, shown = lived.events(), lived.shown()
    terms = lived.terms()
    assert shown["toy/half_broken"]["failed"] == {"2024-01-01|DDD", "2024-01-02|DDD"}
    assert len(shown["toy/raw"]["materialized"]) == 20
    pruned = prune(lived.database, terms)
    after = lived.events()
    assert lived.shown() == shown
    assert pruned.events == len(before) - len(after) > len(before) / 2
    assert {id for id, event in after.items() if event["asset_key"]} == {
        id for id in must_stay(before, terms.events) if before[id]["asset_key"]
    }
    assert pruned.tags > 0
    assert lived.count("asset_event_tags", "event_id NOT IN (SELECT id FROM event_logs)") == 0


def test_an_old_run_still_tells_what_it_was_and_how_it_ended(log: Log) -> None:
    run_id = log.run("load", "2024-01-01|AAA", "2024-01-02|BBB")
    log.run("load", "2024-01-01|AAA", "2024-01-02|BBB")
    step = "toy__raw"

    def told() -> Any:
        stats = log.instance.get_run_stats(run_id)
        steps = log.instance.get_run_step_stats(run_id)
        return (
            stats.steps_succeeded,
            stats.start_time and stats.end_time and stats.end_time - stats.start_time,
            {s.step_key: (s.status, s.start_time, s.end_time) for s in steps},
        )

    log.days_pass(31)
    before = told()
    lines = log.count("event_logs", f"run_id = '{run_id}' AND asset_key IS NULL")
    log.prune()
    assert told() == before
    assert before[2][step][0].value == "SUCCESS"
    assert log.count("event_logs", f"run_id = '{run_id}' AND asset_key IS NULL") < lines
    assert log.count("event_logs", f"run_id = '{run_id}' AND dagster_event_type IS NULL") == 0


def test_what_an_old_run_printed_is_removed_with_its_log_and_that_of_a_young_one_is_not(log: Log) -> None:
    old = log.run("load", "2024-01-01|AAA", "2024-01-01|BBB")
    log.days_pass(31)
    young = log.run("load", "2024-01-01|AAA", "2024-01-01|BBB")
    assert log.count("event_logs", "dagster_event_type = 'LOGS_CAPTURED'") == 2
    forgotten: list[str] = []
    pruned = prune(log.database, log.terms(), forget_output=forgotten.append)
    assert (forgotten, pruned.outputs) == ([old], 1)
    assert young not in forgotten
    prune(log.database, log.terms(), forget_output=forgotten.append)
    assert forgotten == [old]


def test_nothing_young_is_removed(lived: Log) -> None:
    everything = lived.events()
    assert lived.prune(events=100, ticks=100) == Pruned()
    assert lived.events() == everything


@pytest.mark.parametrize("busy", ["run", "backfill"])
def test_a_run_that_is_not_over_loses_nothing_however_old(log: Log, busy: str) -> None:
    run_id = log.run("load", "2024-01-01|AAA", "2024-01-02|BBB")
    log.run("load", "2024-01-01|AAA", "2024-01-02|BBB")
    log.days_pass(500)
    with log.database.transaction() as connection:
        if busy == "run":
            connection.execute("UPDATE runs SET status = 'STARTED' WHERE run_id = %s", (run_id,))
        else:
            connection.execute("UPDATE runs SET backfill_id = 'slow' WHERE run_id = %s", (run_id,))
            connection.execute("INSERT INTO bulk_actions (key, status, timestamp) VALUES ('slow', 'REQUESTED', now())")
    rows = log.count("event_logs", f"run_id = '{run_id}'")
    assert log.prune(runs=30).events > 0
    assert log.count("event_logs", f"run_id = '{run_id}'") == rows
    assert log.instance.get_run_by_id(run_id)


def test_an_old_run_goes_with_everything_unless_a_partition_still_needs_it(log: Log) -> None:
    replaced = log.run("load", "2024-01-01|AAA", "2024-01-01|BBB")
    needed = log.run("load", "2024-01-02|AAA", "2024-01-02|BBB")
    failed = log.run("half_broken_load", "2024-01-01|AAA", "2024-01-01|DDD", succeeds=False)
    log.run("load", "2024-01-01|AAA", "2024-01-01|BBB")
    log.days_pass(366)
    last = log.run("load", "2024-01-03|AAA", "2024-01-03|BBB")
    shown = log.shown()
    pruned = log.prune()
    assert pruned.runs == 1
    assert log.shown() == shown
    assert log.instance.get_run_by_id(replaced) is None
    assert all(log.instance.get_run_by_id(run_id) for run_id in (needed, failed, last))
    for table in ("event_logs", "run_tags"):
        assert log.count(table, f"run_id = '{replaced}'") == 0


def test_a_run_stays_while_its_retry_does(log: Log) -> None:
    first = log.run("load", "2024-01-01|AAA", "2024-01-01|BBB")
    retry = log.run("load", "2024-01-01|AAA", "2024-01-01|BBB")
    log.instance.add_run_tags(retry, {"dagster/root_run_id": first, "dagster/parent_run_id": first})
    log.days_pass(366)
    assert log.prune().runs == 0
    log.run("load", "2024-01-01|AAA", "2024-01-01|BBB")
    assert [log.prune().runs, log.prune().runs] == [1, 1]
    assert log.instance.get_run_by_id(first) is None


def test_of_each_check_the_newest_result_stays(lived: Log) -> None:
    with lived.database.transaction() as connection:
        # A run that died after the newest result: planned, never evaluated.
        connection.execute(
            "INSERT INTO asset_check_executions (asset_key, check_name, run_id, execution_status, evaluation_event, "
            "evaluation_event_timestamp) SELECT asset_key, check_name, 'died', 'PLANNED', evaluation_event, "
            "now() - interval '40 days' FROM asset_check_executions LIMIT 1"
        )
    rows = lived.database.rows("SELECT id, execution_status AS status FROM asset_check_executions ORDER BY id")
    assert lived.prune().checks == len(rows) - 2 == 3
    assert (
        lived.database.rows("SELECT id, execution_status AS status FROM asset_check_executions ORDER BY id")
        == rows[-2:]
    )
    assert [row["status"] for row in rows[-2:]] == ["SUCCEEDED", "PLANNED"]


def test_of_each_schedule_and_sensor_the_newest_tick_stays(log: Log) -> None:
    storage = log.instance.schedule_storage
    assert storage
    now = datetime.now(UTC).timestamp()
    for name, ages in {"hourly": (50, 40, 31, 1), "gone": (90, 80), "young": (3, 2)}.items():
        for age in ages:
            storage.create_tick(
                TickData(
                    instigator_origin_id=name,
                    instigator_name=name,
                    instigator_type=InstigatorType.SCHEDULE,
                    status=TickStatus.SUCCESS,
                    timestamp=now - age * 86_400,
                    selector_id=name,
                    run_ids=[],
                )
            )
    assert log.prune().ticks == 4
    left = {name: len(storage.get_ticks(name, name)) for name in ("hourly", "gone", "young")}
    assert left == {"hourly": 1, "gone": 1, "young": 2}


def test_pruning_that_was_broken_off_is_completed_by_the_next(lived: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, terms = lived.shown(), lived.terms()
    events = lived.events()
    monkeypatch.setattr(upkeep, "BATCH_ROWS", 20)
    calls = iter(range(100))

    def forget(run_id: str) -> None:
        if next(calls) == 2:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        prune(lived.database, terms, forget_output=forget)
    assert 0 < lived.count("event_logs") < len(events)
    assert lived.shown() == shown
    prune(lived.database, terms, forget_output=forget)
    assert lived.shown() == shown
    kept = {id for id, event in lived.events().items() if event["asset_key"]}
    assert kept == {id for id in must_stay(events, terms.events) if events[id]["asset_key"]}


def test_runs_that_write_the_same_partitions_meanwhile_succeed_and_keep_all_they_wrote(
    lived: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "BATCH_ROWS", 10)
    stop, failures = threading.Event(), []

    def prune_again_and_again() -> None:
        try:
            while not stop.is_set():
                # Everything that was written before this moment is old.
                prune(lived.database, replace(lived.terms(), events=datetime.now(UTC)))
        except Exception as error:
            failures.append(error)
            raise

    pruners = [threading.Thread(target=prune_again_and_again) for _ in range(2)]
    for pruner in pruners:
        pruner.start()
    try:
        runs = [lived.run("load", "2024-01-01|AAA", "2024-01-04|DDD") for _ in range(3)]
    finally:
        stop.set()
        for pruner in pruners:
            pruner.join()
    assert failures == []
    for asset in ASSETS[:2]:
        newest = lived.instance.event_log_storage.get_latest_storage_id_by_partition(asset, MATERIALIZATION)
        events = lived.events()
        mine = {key: events[newest[key]]["run_id"] for key in newest if key < "2024-01-05"}
        assert (set(mine.values()), len(mine)) == ({runs[-1]}, 16)


def test_a_dagster_version_whose_tables_are_not_known_is_refused(lived: Log) -> None:
    everything = lived.events()
    with pytest.raises(DatabaseError, match=r"Dagster 1\.99\.0.*Nothing was removed"):
        prune(lived.database, lived.terms(), dagster_version="1.99.0")
    assert lived.events() == everything


def test_the_job_prunes_the_database_of_its_own_instance(log: Log) -> None:
    old = log.run("load", "2024-01-01|AAA", "2024-01-01|BBB")
    log.days_pass(31)
    log.run("load", "2024-01-01|AAA", "2024-01-01|BBB")
    printed = dagster_files() / "compute_logs" / old
    assert list(printed.rglob("*.err"))
    shown = log.shown()
    result = upkeep.dagster_upkeep.execute_in_process(instance=log.instance)
    assert result.success
    assert log.shown() == shown
    assert not printed.exists()
    said = [
        record.event_log_entry.user_message
        for record in log.instance.get_records_for_run(result.run_id).records
        if "Removed in" in record.event_log_entry.user_message
    ]
    assert len(said) == 1
    assert log.count("event_logs", f"run_id = '{old}' AND asset_key IS NOT NULL") == 0


@pytest.mark.parametrize(("automation", "status"), [("on", "RUNNING"), ("off", "STOPPED")])
def test_it_runs_once_a_week_unless_automation_is_off(automation: str, status: str) -> None:
    program = (
        "from nexus_assets.schedules import weekly_upkeep as s; "
        "print(s.default_status.value, s.job_name, s.cron_schedule)"
    )
    environment = {"NEXUS_AUTOMATION": automation, "PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"{status} dagster_upkeep 15 3 * * 0", done.stderr
