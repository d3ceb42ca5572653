"""Runs on Celery workers: deploy/celery/dagster.yaml and the worker of docker-compose.celery.yml, started for real.

A code server, a daemon and two workers are processes with environments and folders of their own, as on machines of
their own; only the time after which a worker is taken for lost is shortened."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis
import yaml
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.launcher import WorkerStatus

from nexus_assets.lost_runs import release_lost_runs
from nexus_assets.services import ServiceState
from nexus_assets.services.processes import free_port
from nexus_assets_tests.conftest import ROOT, DatabaseMaker

pytest.importorskip("dagster_celery", reason="the extra `celery` is not installed")

from kombu.exceptions import OperationalError

from nexus_assets.celery_runs import CeleryRuns

BROKER_DATABASE = 8
SYMBOLS = "EURUSD GBPUSD USDJPY XAUUSD"
FIRST_DAY, END_DAY = "2024-01-01", "2024-03-17"
DAYS = 76
"""With four symbols just enough for two runs side by side."""
LOST_AFTER_SECONDS = 4
PATIENCE_SECONDS = 120


@dataclass
class Cluster:
    """Folders, environments and processes, by the name of the part."""

    folder: Path
    variables: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self, name: str) -> dict[str, str]:
        """What the process of that name gets; nothing of ours but PATH and the variables that all share."""
        return {
            **{key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ},
            **self.variables,
            "NEXUS_ROOT": str(self.folder / name),
            "DAGSTER_HOME": str(self.folder / name),
        }

    def start(self, name: str, command: list[str]) -> None:
        """Start a part in a process group of its own, with a dagster.yaml of its own."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        for shared in ("sql", "sources.toml"):
            (home / shared).symlink_to(ROOT / shared)
        (home / "dagster.yaml").write_text(yaml.safe_dump(impatient_dagster_yaml()))
        with (home / "log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]],
                env=self.environment(name), cwd=home, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text(errors="replace")

    def kill(self, name: str) -> None:
        """As when the machine is gone: the part and all its children at once."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes.pop(name).wait()

    def owner(self, pid: int) -> str:
        """The part that a process belongs to."""
        (name,) = (name for name, process in self.processes.items() if os.getpgid(pid) == process.pid)
        return name

    def stop(self) -> None:
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def impatient_dagster_yaml() -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "deploy" / "celery" / "dagster.yaml").read_text())
    config["run_launcher"]["config"]["lost_after_seconds"] = LOST_AFTER_SECONDS
    config["run_monitoring"]["poll_interval_seconds"] = 1
    return config


def worker_command(name: str) -> list[str]:
    compose = yaml.safe_load((ROOT / "docker-compose.celery.yml").read_text())
    return [*compose["services"]["worker"]["command"], "--hostname", f"{name}@%h"]


def eventually(what: str, condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS} s"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def broker_url(services: ServiceState) -> str:
    url = f"{services.redis_url.rsplit('/', 1)[0]}/{BROKER_DATABASE}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="module")
def cluster(
    databases: DatabaseMaker, services: ServiceState, broker_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    variables = {
        "NEXUS_DATABASE_URL": databases.migrated(),
        "NEXUS_DAGSTER_URL": databases.empty(extension=False).replace("postgresql://", "postgresql+psycopg2://", 1),
        "NEXUS_REDIS_URL": f"{services.redis_url.rsplit('/', 1)[0]}/9",
        "NEXUS_SYMBOLS": SYMBOLS,
        "NEXUS_START_DAY": FIRST_DAY,
        "NEXUS_AUTOMATION": "off",
        "NEXUS_PARALLEL_RUNS": "2",
        "NEXUS_CODE_HOST": "127.0.0.1",
        "NEXUS_CODE_PORT": str(free_port()),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
        "PYTHONPATH": str(ROOT),
    }
    place = Cluster(folder, variables)
    try:
        code = ["dagster", "code-server", "start", "-h", "127.0.0.1", "-p", variables["NEXUS_CODE_PORT"]]
        for name in ("worker_a", "worker_b"):
            place.start(name, worker_command(name))
        place.start("code", [*code, "-m", "nexus_assets.definitions"])
        eventually("the code server", lambda: "Started Dagster code proxy server" in place.log("code"))
        place.start("daemon", ["dagster-daemon", "run", "-w", str(ROOT / "deploy" / "workspace.yaml")])
        for name in ("worker_a", "worker_b"):
            eventually(name, lambda name=name: " ready." in place.log(name))
        yield place
    finally:
        place.stop()


@pytest.fixture(scope="module")
def instance(cluster: Cluster) -> Iterator[DagsterInstance]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment("daemon").items():
            patch.setenv(name, value)
        with DagsterInstance.get() as opened:
            yield opened


@contextmanager
def backfill(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """`nexus backfill` of prices, as somebody types it on the daemon's machine."""
    arguments = ["backfill", "--from", FIRST_DAY, "--to", END_DAY, "--select", "prices"]
    log = cluster.folder / "backfill.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "nexus_assets", *arguments],
            env=cluster.environment("daemon"), cwd=cluster.folder / "daemon", stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def working(instance: DagsterInstance, *, apart_from: set[str]) -> dict[str, int]:
    """Runs that are started, and the process that works on each."""
    found = {}
    for run in instance.get_runs():
        if run.status != DagsterRunStatus.STARTED or run.run_id in apart_from:
            continue
        for record in instance.get_records_for_run(run.run_id).records:
            message = record.event_log_entry.message or ""
            if message.startswith("Started process for run (pid: "):
                found[run.run_id] = int(message.split("pid: ")[1].split(")")[0])
    return found


def outcome(cluster: Cluster, command: subprocess.Popen[bytes]) -> str:
    """Wait for `nexus backfill`; what it told, on one line."""
    command.wait(PATIENCE_SECONDS)
    return " ".join((cluster.folder / "backfill.log").read_text().split())


def written_days(cluster: Cluster) -> dict[tuple[str, str], int]:
    """Days that were written of each table and symbol."""
    with psycopg.connect(cluster.variables["NEXUS_DATABASE_URL"]) as connection:
        rows = connection.execute("SELECT table_name, symbol, count(*) FROM nexus.slices GROUP BY 1, 2").fetchall()
    return {(table, symbol): days for table, symbol, days in rows}


def test_only_where_runs_go_differs_from_every_other_installation() -> None:
    everywhere = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    here = yaml.safe_load((ROOT / "deploy" / "celery" / "dagster.yaml").read_text())
    assert here.pop("run_launcher")["class"] == "CeleryRuns"
    limits = everywhere.pop("concurrency")["runs"]
    assert here["run_queue"].pop("tag_concurrency_limits") == limits["tag_concurrency_limits"]
    assert here["run_queue"].pop("max_concurrent_runs") == {"env": "NEXUS_PARALLEL_RUNS"}
    assert here["run_monitoring"].pop("start_timeout_seconds") > everywhere["run_monitoring"].pop(
        "start_timeout_seconds"
    )
    assert here == everywhere


def test_every_process_of_dagster_gets_the_configuration_and_the_broker() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.celery.yml").read_text())
    base = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    dagster = {name for name, service in base["services"].items() if service.get("build")} | {"worker"}
    assert set(compose["services"]) == dagster | {"broker"}
    for name in dagster:
        service = compose["services"][name]
        assert service["volumes"] == ["./deploy/celery/dagster.yaml:/app/dagster.yaml:ro"]
        assert {"CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "NEXUS_PARALLEL_RUNS"} == set(service["environment"])
    worker = compose["services"]["worker"]
    assert worker["deploy"]["replicas"] == worker["environment"]["NEXUS_PARALLEL_RUNS"]
    assert "noeviction" in compose["services"]["broker"]["command"]


def launched(broker: str, **config: int) -> tuple[CeleryRuns, DagsterRun]:
    """A launcher of its own and a run that was handed to Celery, which no worker has."""
    run = DagsterRun(job_name="market_update", tags={"dagster-celery/task_id": "nobodys"})
    return CeleryRuns(default_queue="dagster", broker=broker, backend=broker, **config), run


def test_a_run_that_no_worker_claims_is_lost_after_a_while_and_not_at_once(broker_url: str) -> None:
    launcher, run = launched(broker_url, lost_after_seconds=1)
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    time.sleep(1)
    lost = launcher.check_run_worker_health(run)
    assert lost.status == WorkerStatus.FAILED
    assert "its machine may be lost" in (lost.msg or "")
    launcher.celery.close()


def test_the_time_in_which_the_broker_is_away_does_not_count_against_a_run(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, run = launched(broker_url, lost_after_seconds=1)
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    away, _ = launched(f"redis://127.0.0.1:{free_port()}/0")
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "celery", away.celery)
        time.sleep(1)
        with pytest.raises(OperationalError):
            launcher.check_run_worker_health(run)
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    launcher.celery.close()
    away.celery.close()


@pytest.mark.end_to_end
def test_runs_that_are_cancelled_end_on_their_workers_and_are_not_retried(
    cluster: Cluster, instance: DagsterInstance
) -> None:
    # The command that queued them is gone by then: it would plan what is missing anew.
    with backfill(cluster):
        runs = eventually("two runs", lambda: len(found := working(instance, apart_from=set())) == 2 and found)
    assert {cluster.owner(pid) for pid in runs.values()} == {"worker_a", "worker_b"}
    for run_id in runs:
        assert instance.run_coordinator.cancel_run(run_id)
    eventually("their end", lambda: all(run.is_finished for run in instance.get_runs()))
    eventually("their processes' end", lambda: not any(map(psutil.pid_exists, runs.values())))
    assert {run.run_id: run.status for run in instance.get_runs()} == dict.fromkeys(runs, DagsterRunStatus.CANCELED)


@pytest.mark.end_to_end
def test_a_backfill_is_completed_by_the_other_worker_when_one_is_killed(
    cluster: Cluster, instance: DagsterInstance
) -> None:
    before = {run.run_id for run in instance.get_runs()}
    with backfill(cluster) as command:
        runs = eventually("two runs", lambda: len(found := working(instance, apart_from=before)) == 2 and found)
        lost, pid = runs.popitem()
        cluster.kill(cluster.owner(pid))
        # What a `nexus` on another machine must not decide: it sees no process of either run.
        assert release_lost_runs(instance) == []
        told = outcome(cluster, command)
    assert command.returncode == 0, told
    after = {run.run_id: run for run in instance.get_runs() if run.run_id not in before}
    (retry,) = (run for run in after.values() if run.parent_run_id == lost)
    assert {run_id: run.status for run_id, run in after.items()} == {
        lost: DagsterRunStatus.FAILURE,
        retry.run_id: DagsterRunStatus.SUCCESS,
        **dict.fromkeys(runs, DagsterRunStatus.SUCCESS),
    }
    failure = instance.get_records_for_run(lost, of_type=DagsterEventType.RUN_FAILURE).records[0].event_log_entry
    assert "No Celery worker has worked on the run for" in (failure.message or "")
    assert written_days(cluster) == {
        (table, symbol): DAYS for table in ("market.raw_ohlc", "market.bars") for symbol in SYMBOLS.split()
    }
