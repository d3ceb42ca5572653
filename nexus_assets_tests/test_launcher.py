"""Starting and stopping Dagster's processes for real, over the toy graph."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from dagster import DagsterRunStatus

from nexus_assets import launched_processes, launcher
from nexus_assets.errors import ServiceError
from nexus_assets.lost_runs import release_lost_runs
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.dagster_homes import DagsterHome, dagster_home
from nexus_assets_tests.test_backfill import days, toy_follow, toy_submit, worker_of

pytestmark = pytest.mark.end_to_end

RECORD = Path("home", "dagster", "pids.json")

START_A_DAEMON = """
import sys, time
from pathlib import Path
from nexus_assets import launcher
from nexus_assets.settings import load_settings
with launcher.daemon(load_settings(), Path.cwd(), print):
    print("ready", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def home(databases: DatabaseMaker, tmp_path: Path) -> Iterator[DagsterHome]:
    with dagster_home(tmp_path, databases.empty()) as place:
        yield place
        for process in ours(place):
            process.kill()


def ours(home: DagsterHome) -> list[psutil.Process]:
    """Living processes that were given this home, ourselves apart."""
    return [
        process
        for process, environment in launched_processes.processes_with_environment()
        if environment.get("DAGSTER_HOME") == str(home.root)
    ]


@contextmanager
def daemon_of_another_process(home: DagsterHome) -> Iterator[subprocess.Popen[str]]:
    """A `nexus` that has started a daemon."""
    command = [sys.executable, "-W", "ignore", "-c", START_A_DAEMON]
    with subprocess.Popen(command, cwd=home.root, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        try:
            assert "ready\n" in iter(starter.stdout.readline, "")
            yield starter
        finally:
            starter.kill()


def test_serve_is_ready_on_the_next_free_port_and_leaves_nothing_behind(home: DagsterHome) -> None:
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with launcher.serve(home.settings, home.root, port, said.append) as running:
            assert running.url != f"http://127.0.0.1:{port}"
            assert any(f"Port {port} is taken by process {os.getpid()}" in sentence for sentence in said)
            query = b'{"query": "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy required } } } }"}'
            request = urllib.request.Request(f"{running.url}/graphql", query, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=10) as response:
                health = json.load(response)["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
            healthy = {status["daemonType"]: status["healthy"] for status in health if status["required"]}
            assert healthy["QUEUED_RUN_COORDINATOR"]
            with pytest.raises(ServiceError, match="already works on this database"):
                next(iter_context(launcher.serve(home.settings, home.root, port, said.append)))
    assert ours(home) == []


def iter_context(manager: object) -> Iterator[object]:
    with manager as value:  # pyright: ignore[reportGeneralTypeIssues]
        yield value


def test_definitions_that_cannot_be_loaded_are_told_and_nothing_stays_up(home: DagsterHome) -> None:
    (home.root / "broken.py").write_text("raise RuntimeError('no such symbol')\n")
    module = {"module_name": "broken", "location_name": "nexus_assets", "working_directory": str(home.root)}
    (home.root / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_module": module}]}))
    with (
        pytest.raises(ServiceError, match=r"cannot load the definitions of nexus_assets: .*no such symbol"),
        launcher.serve(home.settings, home.root, 31_000, lambda _: None),
    ):
        raise AssertionError("it served")
    assert ours(home) == []


def test_a_daemon_that_is_up_is_used_and_left_alone(home: DagsterHome) -> None:
    with daemon_of_another_process(home) as starter:
        with launcher.daemon(home.settings, home.root, lambda _: None) as running:
            assert running.launch is None
            assert psutil.Process(running.pid).ppid() == starter.pid
        assert psutil.pid_exists(running.pid)


def test_a_sigterm_to_the_starter_ends_the_daemon(home: DagsterHome) -> None:
    with daemon_of_another_process(home) as starter:
        starter.terminate()
        starter.wait(timeout=30)
    assert ours(home) == []


def test_after_a_kill_of_everything_the_next_start_clears_up_and_the_same_plan_completes(home: DagsterHome) -> None:
    """kill -9 of the starter leaves the daemon; kill -9 of the run's worker and its code server leaves a run that
    nobody ends."""
    with home.instance() as instance, daemon_of_another_process(home) as starter:
        run_ids = toy_submit(instance, "slow_load", days(1), plan="killed")
        worker_of(instance, run_ids[0])
        orphans = ours(home)
        starter.kill()
        starter.wait()
        record = json.loads((home.root / RECORD).read_text())
        assert psutil.Process(record["pid"]).is_running()
        for process in orphans:
            if process.pid not in (record["pid"], starter.pid) and process.is_running():
                process.kill()
        said: list[str] = []
        with launcher.daemon(home.settings, home.root, said.append):
            assert any("that an earlier `nexus` left behind" in sentence for sentence in said)
            assert any(f"Run {run_ids[0]} had lost its process" in sentence for sentence in said)
            outcome, _ = toy_follow(instance, toy_submit(instance, "slow_load", days(1), plan="killed"))
            assert outcome.failed == ()
    assert ours(home) == []


def test_a_process_that_got_the_number_of_an_orphan_is_not_touched(home: DagsterHome) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        (home.root / RECORD).parent.mkdir(parents=True)
        record = {"launch": "0123456789abcdef", "pid": stranger.pid, "started": time.time(), "command": ["python"]}
        (home.root / RECORD).write_text(json.dumps(record))
        assert launched_processes.clear_orphans(home.root / RECORD, print) == 0
        assert stranger.poll() is None
        stranger.kill()


def test_a_launch_that_ignores_the_interrupt_is_killed_after_the_grace_with_its_children(tmp_path: Path) -> None:
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); "
        "print('up', flush=True); time.sleep(60)"
    )
    log, record = tmp_path / "log", tmp_path / "pids.json"
    launch = launched_processes.launch(["-c", stubborn], cwd=tmp_path, environment=os.environ, log=log, record=record)
    while "up" not in log.read_text():
        time.sleep(0.05)
    assert len(launched_processes.members(launch.name)) == 2
    began = time.monotonic()
    launch.stop(grace_seconds=0.5)
    assert 0.5 <= time.monotonic() - began < 10
    assert launched_processes.members(launch.name) == []


def test_a_launch_receives_the_interrupt_although_we_ignore_it(tmp_path: Path) -> None:
    """A shell makes what it starts in the background ignore SIGINT, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        launch = launched_processes.launch(
            ["-c", "import time; time.sleep(60)"],
            cwd=tmp_path,
            environment=os.environ,
            log=tmp_path / "log",
            record=tmp_path / "pids.json",
        )
        time.sleep(0.5)
        launch.stop(grace_seconds=30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert launch.process.returncode == -signal.SIGINT


def test_a_run_of_another_machine_is_not_taken_for_lost(home: DagsterHome) -> None:
    with home.instance() as instance:
        (here, elsewhere) = toy_submit(instance, "slow_load", days(1), days(2), plan="machines")
        instance.add_run_tags(elsewhere, {".dagster/grpc_info": '{"host": "code-server", "port": 4000}'})
        instance.add_run_tags(here, {".dagster/grpc_info": '{"host": "localhost", "socket": "/nowhere"}'})
        for run_id in (here, elsewhere):
            run = instance.get_run_by_id(run_id)
            assert run
            instance.report_run_canceling(run)
        assert release_lost_runs(instance) == [here]
        assert {run.run_id: run.status for run in instance.get_runs()} == {
            here: DagsterRunStatus.FAILURE,
            elsewhere: DagsterRunStatus.CANCELING,
        }
