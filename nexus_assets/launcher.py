"""Starting Dagster: `dagster dev` for people, the daemon alone for a load without a UI.

At most one daemon works on a Dagster database: two would launch the same schedules twice.
"""

import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil
from dagster import DagsterInstance
from filelock import FileLock, Timeout

from nexus_assets import launched_processes
from nexus_assets.dagster_files import dagster_files
from nexus_assets.errors import ServiceError
from nexus_assets.launched_processes import Launch
from nexus_assets.lost_runs import release_lost_runs
from nexus_assets.settings import Settings

Progress = Callable[[str], None]

HOST = "127.0.0.1"
READY_SECONDS = 120.0
HEARTBEAT_SECONDS = 30.0
"""A daemon reports this often, and right after its start."""
QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"
PORTS_TO_TRY = 50
MOST_DEATHS, DEATHS_SECONDS = 4, 120.0
"""A daemon that dies so often in so many seconds is not started again."""

_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus
  locationOrLoadError { __typename ... on PythonError { message errorChain { error { message } } } } } } } }"""


@dataclass
class Running:
    """A Dagster that is up. `url` is empty for a daemon alone, `launch` is None for one that others started."""

    url: str
    pid: int
    log: Path | None
    launch: Launch | None

    def wait(self) -> None:
        """Wait until it ends or the user interrupts us.

        Raises:
            ServiceError: it ended by itself.
            KeyboardInterrupt: the user's Ctrl-C, or a SIGTERM.
        """
        if self.launch is not None:
            raise _ended(self.launch, self.launch.process.wait())

    def tend(self) -> None:
        """Look after what we started; to be called now and then by whom it works for.

        Raises:
            ServiceError: it ended by itself.
        """
        if self.launch is not None and (code := self.launch.process.poll()) is not None:
            raise _ended(self.launch, code)


@contextmanager
def serve(settings: Settings, root: Path, port: int, progress: Progress) -> Iterator[Running]:
    """Run `dagster dev` in `root` until the block ends; it is entered when UI, definitions and daemon are ready.

    Args:
        root: the folder with workspace.yaml; dagster.yaml lies in DAGSTER_HOME.
        port: of the UI, on loopback; the next free one where it is taken.

    Raises:
        ServiceError: a daemon works on this Dagster database already, the definitions cannot be loaded, or Dagster
            does not come up.
    """
    with _single_daemon(settings, root, progress) as (instance, others):
        if others:
            raise ServiceError(
                f"Dagster's daemon already works on this database: {others}.",
                next_step="Use that one, or end it first.",
            )
        port = _free_port(port, progress)
        progress("Starting Dagster: code server, webserver, daemon")
        started_at = time.time()
        arguments = ["dev", "--host", HOST, "--port", str(port), "--workspace", str(root / "workspace.yaml")]
        with _launched(["-m", "dagster", *arguments], settings, root) as launch:
            url = f"http://{HOST}:{port}"
            _wait_for(launch, "the webserver", lambda: _get(f"{url}/server_info") is not None, progress)
            _wait_for(launch, "the definitions", lambda: _locations_are_loaded(url, launch), progress)
            _wait_for(launch, "the daemon", lambda: _last_heartbeat(instance) >= started_at, progress)
            yield Running(url, launch.pid, launch.log, launch)


@contextmanager
def daemon(settings: Settings, root: Path, progress: Progress) -> Iterator[Running]:
    """Run Dagster's daemon with a code server of its own until the block ends; `tend` starts it again when it died.

    Where a daemon works on this Dagster database already, that one is used and left as it is.

    Raises:
        ServiceError: Dagster does not come up.
    """
    with _single_daemon(settings, root, progress) as (instance, others):
        if others:
            progress(f"Dagster's daemon is up already: {others}")
            yield Running("", others.pid, None, None)
            return
        progress("Starting Dagster's daemon")
        with _sigterm_interrupts():
            own = _OwnDaemon(settings, root, progress, instance)
            try:
                own.start()
                yield own
            finally:
                own.stop()


class _OwnDaemon(Running):
    """A daemon that we started, and start again when it dies."""

    def __init__(self, settings: Settings, root: Path, progress: Progress, instance: DagsterInstance) -> None:
        super().__init__("", 0, None, None)
        self._settings, self._root, self._progress, self._instance = settings, root, progress, instance
        self._deaths: list[float] = []

    def start(self) -> None:
        """Start it and wait until it reports."""
        started_at = time.time()
        arguments = ["-m", "dagster._daemon", "run", "--workspace", str(self._root / "workspace.yaml")]
        self.launch = launch = _launch(arguments, self._settings, self._root)
        self.pid, self.log = launch.pid, launch.log
        _wait_for(launch, "the daemon", lambda: _last_heartbeat(self._instance) >= started_at, self._progress)

    def stop(self) -> None:
        """End it, its code server and their runs."""
        if self.launch is not None:
            self.launch.stop()

    def tend(self) -> None:
        """Start the daemon again where it died, after ending what was left of it: its code server and their runs,
        which the new one retries.

        Raises:
            ServiceError: it died too often, or does not come up.
        """
        if self.launch is None or (code := self.launch.process.poll()) is None:
            return
        self._deaths = [*self._deaths, time.monotonic()][-MOST_DEATHS:]
        if len(self._deaths) == MOST_DEATHS and self._deaths[-1] - self._deaths[0] < DEATHS_SECONDS:
            raise _ended(self.launch, code)
        self._progress(f"Dagster's daemon ended with code {code}; starting it again")
        self.stop()
        _release(self._instance, self._progress)
        self.start()


@dataclass(frozen=True)
class _OtherDaemon:
    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.pid else self.command


@contextmanager
def _single_daemon(
    settings: Settings, root: Path, progress: Progress
) -> Iterator[tuple[DagsterInstance, _OtherDaemon | None]]:
    """The instance, and who works on it already. While the block runs nobody of this state folder starts another."""
    if settings.dagster_url is None:
        raise ServiceError("NEXUS_DAGSTER_URL is not set, so Dagster has no database.", next_step="Run `nexus up`.")
    files = dagster_files(settings)
    files.mkdir(parents=True, exist_ok=True)
    lock = FileLock(files / "daemon.lock")
    with DagsterInstance.from_config(os.environ.get("DAGSTER_HOME", str(root))) as instance:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            pid = launched_processes.read_record(files / "pids.json").get("pid", 0)
            yield instance, _OtherDaemon(pid, "started by another `nexus`")
            return
        with lock:
            launched_processes.clear_orphans(files / "pids.json", progress)
            others = _local_daemon(settings) or _silent_daemon(instance, files / "pids.json", progress)
            if not others:
                _release(instance, progress)
            yield instance, others


def _release(instance: DagsterInstance, progress: Progress) -> None:
    for run_id in release_lost_runs(instance):
        progress(f"Run {run_id} had lost its process; marked as failed")


def _local_daemon(settings: Settings) -> _OtherDaemon | None:
    """A daemon on this machine that was given the same Dagster database, such as that of a bare `dagster dev`."""
    assert settings.dagster_url is not None
    for process, environment in launched_processes.processes_with_environment():
        if environment.get("NEXUS_DAGSTER_URL") != settings.dagster_url.get_secret_value():
            continue
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if "run" in command and any(part == "dagster._daemon" or part.endswith("dagster-daemon") for part in command):
            return _OtherDaemon(process.pid, " ".join(command[:4]))
    return None


def _silent_daemon(instance: DagsterInstance, record: Path, progress: Progress) -> _OtherDaemon | None:
    """A daemon that we cannot see, for example on another machine, but that goes on reporting."""
    last = _last_heartbeat(instance)
    stopped = launched_processes.read_record(record).get("stopped", 0.0)
    until = last + HEARTBEAT_SECONDS + 5
    if last <= stopped or until < time.time():
        return None
    progress(f"Waiting up to {until - time.time():.0f} s: a daemon that is not ours reported a moment ago")
    while time.time() < until:
        if _last_heartbeat(instance) > last:
            return _OtherDaemon(0, "one that is not on this machine, or belongs to another user, keeps reporting")
        time.sleep(0.5)
    return None


def _last_heartbeat(instance: DagsterInstance) -> float:
    heartbeat = instance.get_daemon_heartbeats().get(QUEUE_DAEMON)
    return heartbeat.timestamp if heartbeat else 0.0


def _launch(arguments: list[str], settings: Settings, root: Path) -> Launch:
    files = dagster_files(settings)
    return launched_processes.launch(
        arguments,
        cwd=root,
        environment=_environment(root),
        log=files / "dagster.log",
        record=files / "pids.json",
    )


@contextmanager
def _launched(arguments: list[str], settings: Settings, root: Path) -> Iterator[Launch]:
    launch = _launch(arguments, settings, root)
    with _sigterm_interrupts():
        try:
            yield launch
        finally:
            launch.stop()


def _environment(root: Path) -> Mapping[str, str]:
    """What Dagster's processes get: ours, which the caller has completed from .env."""
    return {
        "DAGSTER_HOME": str(root),
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
        **os.environ,
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Make a SIGTERM end us like Ctrl-C, so that what we started is stopped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for(launch: Launch, what: str, is_ready: Callable[[], bool], progress: Progress) -> None:
    began = time.monotonic()
    told = began
    while not is_ready():
        if (code := launch.process.poll()) is not None:
            raise _ended(launch, code)
        now = time.monotonic()
        if now - began > READY_SECONDS:
            raise ServiceError(
                f"Dagster did not bring up {what} within {READY_SECONDS:.0f} s.", next_step=f"Read {launch.log}."
            )
        if now - told > 2:
            told = now
            progress(f"Waiting for {what} ({now - began:.0f} s)")
        time.sleep(0.1)


def _ended(launch: Launch, code: int) -> ServiceError:
    lines = launch.log.read_text(errors="replace").splitlines()[-5:]
    return ServiceError(
        f"Dagster ended by itself with code {code}. Its last words:\n  " + "\n  ".join(lines) + "\n",
        next_step=f"Read {launch.log}.",
    )


def _get(url: str, body: Mapping[str, str] | None = None) -> dict | None:
    """The JSON that a URL answers, or None where nobody answers yet."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)
    except (urllib.error.URLError, ConnectionError, TimeoutError, json.JSONDecodeError):
        return None


def _locations_are_loaded(url: str, launch: Launch) -> bool:
    answer = _get(f"{url}/graphql", {"query": _LOCATIONS})
    workspace = ((answer or {}).get("data") or {}).get("workspaceOrError") or {}
    entries = workspace.get("locationEntries")
    if not entries or any(entry["loadStatus"] != "LOADED" for entry in entries):
        return False
    for entry in entries:
        problem = entry["locationOrLoadError"] or {}
        if problem.get("__typename") == "PythonError":
            messages = [problem["message"], *(link["error"]["message"] for link in problem["errorChain"])]
            # The first errors of the chain say where Dagster was; the last one is what is wrong.
            raise ServiceError(
                f"Dagster cannot load the definitions of {entry['name']}: {messages[-1].strip()}",
                next_step=f"Run `dagster definitions validate`, or read {launch.log}.",
            )
    return True


def _free_port(wanted: int, progress: Progress) -> int:
    for port in range(wanted, min(wanted + PORTS_TO_TRY, 65536)):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port != wanted:
            progress(f"Port {wanted} is taken{_owner(wanted)}; the UI is on port {port}")
        return port
    raise ServiceError(f"No port from {wanted} to {wanted + PORTS_TO_TRY - 1} is free.", next_step="Name another one.")


def _owner(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr[1] == port and connection.status == "LISTEN" and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        return ""
    return ""
