"""The batching event log storage against the one it replaces."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster
import psycopg
import pytest
from dagster import DagsterInstance
from dagster._core.events.log import EventLogEntry
from dagster._serdes import deserialize_value
from dagster_postgres.event_log import PostgresEventLogStorage

from nexus_assets import event_log
from nexus_assets.event_log import BatchingPostgresEventLogStorage
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.dagster_homes import dagster_home
from nexus_assets_tests.toy_definitions import defs

STOCK = "dagster_postgres.event_log", "PostgresEventLogStorage"
DAYS, SYMBOLS = 10, 4
PARTITIONS = DAYS * SYMBOLS


def run_toy_job(instance: DagsterInstance) -> str:
    result = defs.resolve_job_def("load").execute_in_process(
        instance=instance,
        tags={
            "dagster/asset_partition_range_start": "2024-01-01|AAA",
            "dagster/asset_partition_range_end": f"2024-01-{DAYS}|DDD",
        },
    )
    assert result.success
    return result.run_id


class Log:
    """What a run left in an event log's tables."""

    def __init__(self, url: str, run_id: str) -> None:
        self.url, self.run_id = url, run_id

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement.encode()).fetchall()

    def events(self) -> Counter[tuple[Any, ...]]:
        columns = "run_id, dagster_event_type, step_key, asset_key, partition, event"
        return Counter((*row[1:5], self.content(row[5])) for row in self.rows(f"SELECT {columns} FROM event_logs"))

    def content(self, event: str) -> str | None:
        """The part of an event that is the same in every run."""
        entry = deserialize_value(event, EventLogEntry)
        if not entry.dagster_event or entry.get_dagster_event().event_type_value not in (
            "ASSET_MATERIALIZATION",
            "ASSET_MATERIALIZATION_PLANNED",
            "ASSET_CHECK_EVALUATION_PLANNED",
        ):
            return None
        assert entry.run_id == self.run_id
        materialization = entry.asset_materialization
        if materialization is None:
            return repr(entry.get_dagster_event().event_specific_data)
        tags = {key: value for key, value in (materialization.tags or {}).items() if "pointer" not in key}
        return repr((materialization.partition, materialization.metadata, tags))

    def transactions(self, event_type: str) -> int:
        return self.rows(
            f"SELECT count(DISTINCT xmin::text) FROM event_logs WHERE dagster_event_type = '{event_type}'"
        )[0][0]


@contextmanager
def toy_log(root: Path, url: str, **home: Any) -> Iterator[Log]:
    with dagster_home(root, url, **home) as place, place.instance() as instance:
        yield Log(url, run_toy_job(instance))


@pytest.fixture(scope="module")
def ours(databases: DatabaseMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    with toy_log(tmp_path_factory.mktemp("ours"), databases.empty()) as log:
        yield log


@pytest.fixture(scope="module")
def stock(databases: DatabaseMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    with toy_log(tmp_path_factory.mktemp("stock"), databases.empty(), event_log=STOCK) as log:
        yield log


def test_the_same_run_leaves_the_same_events_as_stock_storage(ours: Log, stock: Log) -> None:
    assert ours.events() == stock.events()
    kinds = Counter({event[0]: 0 for event in ours.events()})
    for event, count in ours.events().items():
        kinds[event[0]] += count
    assert kinds["ASSET_MATERIALIZATION_PLANNED"] == kinds["ASSET_MATERIALIZATION"] == 2 * PARTITIONS
    assert kinds["ASSET_CHECK_EVALUATION_PLANNED"] == 1


def test_the_same_run_leaves_the_same_assets_tags_and_checks_as_stock_storage(ours: Log, stock: Log) -> None:
    assets = "SELECT asset_key, last_run_id, last_materialization IS NULL, asset_details FROM asset_keys ORDER BY 1"
    assert [(*row[:1], row[1] == ours.run_id, *row[2:]) for row in ours.rows(assets)] == [
        (*row[:1], row[1] == stock.run_id, *row[2:]) for row in stock.rows(assets)
    ]
    tags = """SELECT tag.asset_key, event.partition, key, value FROM asset_event_tags AS tag
              JOIN event_logs AS event ON event.id = tag.event_id
              WHERE key NOT LIKE '%%pointer%%' ORDER BY 1, 2, 3, 4"""
    assert ours.rows(tags) == stock.rows(tags)
    checks = "SELECT asset_key, check_name, partition, execution_status FROM asset_check_executions"
    assert ours.rows(checks) == stock.rows(checks) != []


def test_announced_partitions_are_stored_in_one_transaction_although_a_check_is_announced_too(
    ours: Log, stock: Log
) -> None:
    assert ours.transactions("ASSET_MATERIALIZATION_PLANNED") == 1
    assert stock.transactions("ASSET_MATERIALIZATION_PLANNED") == 2 * PARTITIONS


def test_an_asset_refers_to_the_run_that_announced_it_last(databases: DatabaseMaker, tmp_path: Path) -> None:
    url = databases.empty()
    with dagster_home(tmp_path, url) as place, place.instance() as instance:
        run_toy_job(instance)
        log = Log(url, run_toy_job(instance))
        assert log.rows("SELECT DISTINCT last_run_id FROM asset_keys") == [(log.run_id,)]
        newest = log.rows('SELECT last_materialization FROM asset_keys WHERE asset_key = \'["toy", "bars"]\'')[0][0]
        assert log.run_id in json.dumps(newest)


def test_the_highest_id_is_told_only_when_no_lower_one_can_appear_any_more(
    databases: DatabaseMaker, tmp_path: Path
) -> None:
    """A reader that goes on from it, as the backfill daemon does, then misses no batch that commits late."""
    url = databases.empty()
    insert = "INSERT INTO event_logs (run_id, event, timestamp) VALUES ('late', '{}', now()) RETURNING id"
    with (
        dagster_home(tmp_path, url) as place,
        place.instance() as instance,
        psycopg.connect(url) as late,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        row = late.execute(insert).fetchone()
        instance.report_engine_event("a later event that is visible at once", run_id="early", job_name="job")
        told = elsewhere.submit(instance.event_log_storage.get_maximum_record_id)
        with pytest.raises(TimeoutError):
            told.result(timeout=0.5)
        late.commit()
        assert row is not None
        assert told.result(timeout=10) == row[0] + 1
        assert instance.event_log_storage.get_maximum_record_id() == row[0] + 1


def test_connections_are_kept_and_a_server_that_closed_them_is_connected_to_again(
    databases: DatabaseMaker, tmp_path: Path
) -> None:
    url = databases.empty()
    mine = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"  # TimescaleDB has workers of its own
    )
    stored = "SELECT count(*) FROM event_logs"
    with dagster_home(tmp_path, url) as place, place.instance() as instance, psycopg.connect(url) as other:
        other.autocommit = True
        backends = []
        for number in range(3):
            instance.report_engine_event("an event", run_id=f"run {number}", job_name="job")
            backends.append(other.execute(mine).fetchall())
        assert backends[0] == backends[1] == backends[2]
        assert len(backends[0]) <= 2
        for backend in backends[0]:
            other.execute("SELECT pg_terminate_backend(%s)", backend)
        instance.report_engine_event("an event", run_id="run 3", job_name="job")
        assert other.execute(stored).fetchone() == (4,)
        instance.event_log_storage.dispose()
        assert other.execute(mine).fetchall() == []


def test_a_failed_batch_leaves_no_announcement_behind(
    databases: DatabaseMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dagster answers an error by storing the events again one by one: what a batch left would then be there twice."""
    url = databases.empty()
    failures = iter([RuntimeError("the connection broke")])
    store: Callable[..., None] = BatchingPostgresEventLogStorage._store_asset_event

    def store_asset_event(*arguments: Any) -> None:
        for failure in failures:
            raise failure
        store(*arguments)

    with dagster_home(tmp_path, url) as place, place.instance() as instance:
        monkeypatch.setattr(BatchingPostgresEventLogStorage, "_store_asset_event", store_asset_event)
        log = Log(url, run_toy_job(instance))
        counted = log.rows("SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'")
        assert counted == [(2 * PARTITIONS,)]
    assert "the connection broke" in capfd.readouterr().err


def test_an_untested_dagster_version_is_left_to_stock_storage_with_one_warning(
    databases: DatabaseMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    event_log._warn_untested.cache_clear()
    url = databases.empty()
    with dagster_home(tmp_path, url) as place, caplog.at_level(logging.WARNING, "dagster"):
        monkeypatch.setattr(dagster, "__version__", "1.99.0")
        with place.instance():
            pass
        with place.instance() as instance:
            log = Log(url, run_toy_job(instance))
            assert log.transactions("ASSET_MATERIALIZATION_PLANNED") == 2 * PARTITIONS
    assert sum("was not tested with Dagster 1.99.0" in record.getMessage() for record in caplog.records) == 1


def test_the_projects_dagster_yaml_names_the_batching_storage(databases: DatabaseMaker, tmp_path: Path) -> None:
    with dagster_home(tmp_path, databases.empty()) as place, place.instance() as instance:
        assert type(instance.event_log_storage) is BatchingPostgresEventLogStorage
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
