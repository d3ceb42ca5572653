"""Dagster's storages while their server breaks off what it does, or is away."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster_postgres.utils import DagsterPostgresException
from psycopg import sql
from sqlalchemy.exc import ProgrammingError

from nexus_assets import patient_storage
from nexus_assets.patient_storage import PatientPostgresRunStorage, patient
from nexus_assets.services.processes import free_port
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.dagster_homes import dagster_home
from nexus_assets_tests.toy_definitions import defs

BLOCKED = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE %s"


@pytest.fixture
def url(databases: DatabaseMaker) -> str:
    return databases.empty(extension=False)


@pytest.fixture
def instance(url: str, tmp_path: Path) -> Iterator[DagsterInstance]:
    with dagster_home(tmp_path, url) as place, place.instance() as opened:
        yield opened


@contextmanager
def broken_off_once(url: str, table: str) -> Iterator[list[str]]:
    """The first statement on a table waits, and its connection is ended, as by a kill of the server."""
    ended: list[str] = []
    lock = psycopg.connect(url)
    lock.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))

    def end() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not connection.execute(BLOCKED, (f"%{table}%",)).fetchall():
                time.sleep(0.02)
            ended.append(table)
            lock.close()

    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield ended
    finally:
        thread.join()


def test_every_storage_repeats_a_read_that_was_broken_off(instance: DagsterInstance, url: str) -> None:
    calls = {
        "runs": instance.get_runs,
        "asset_keys": instance.all_asset_keys,
        "instigators": instance.all_instigator_state,
    }
    for table, call in calls.items():
        with broken_off_once(url, table) as ended:
            assert list(call()) == []
        assert ended == [table]


def test_a_write_that_was_broken_off_is_written(instance: DagsterInstance, url: str) -> None:
    run = instance.create_run_for_job(defs.resolve_job_def("load"))
    with broken_off_once(url, "event_logs"):
        instance.report_engine_event("the server was away", run)
    messages = [record.event_log_entry.message for record in instance.get_records_for_run(run.run_id).records]
    assert messages.count("the server was away") == 1


def test_nobody_sees_a_failed_run_without_seeing_that_it_will_be_retried(instance: DagsterInstance, url: str) -> None:
    run = instance.create_run_for_job(defs.resolve_job_def("load"))
    with psycopg.connect(url) as lock:
        lock.execute("LOCK TABLE run_tags IN SHARE MODE")
        thread = threading.Thread(target=instance.report_run_failed, args=(run,))
        thread.start()
        with psycopg.connect(url, autocommit=True) as connection:
            while not connection.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():
                time.sleep(0.02)
        (seen,) = instance.get_runs()
    thread.join()
    assert seen.status != DagsterRunStatus.FAILURE
    (after,) = instance.get_runs()
    assert (after.status, after.tags["dagster/will_retry"]) == (DagsterRunStatus.FAILURE, "true")


def test_a_server_that_stays_away_is_waited_for_once_however_deep_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_storage, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr("dagster_postgres.utils.calculate_delay", lambda **_: 0.0)
    began = time.monotonic()
    with pytest.raises(DagsterPostgresException, match="too many retries"):
        PatientPostgresRunStorage(f"postgresql+psycopg2://nobody@127.0.0.1:{free_port()}/none")
    assert 0.1 <= time.monotonic() - began < 5


def test_what_the_server_refuses_is_raised_at_once(instance: DagsterInstance, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE runs CASCADE")
    began = time.monotonic()
    with pytest.raises(ProgrammingError, match="runs"):
        instance.get_runs()
    assert time.monotonic() - began < 1


def test_inner_calls_belong_to_the_outer_one() -> None:
    @patient
    class Storage:
        attempts = 0

        def outer(self) -> None:
            self.inner()

        def inner(self) -> None:
            self.attempts += 1
            if self.attempts < 3:
                raise DagsterPostgresException("too many retries for DB connection")

    storage = Storage()
    storage.outer()
    assert storage.attempts == 3
