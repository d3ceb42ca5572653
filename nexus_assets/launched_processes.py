"""Process groups that we start and must be able to find again, also after a kill -9 of ourselves.

Every process of a launch, whoever forked it, inherits an environment variable with the launch's random name. The
name stands in `pids.json`, so what carries it is provably ours; numbers of processes alone are given out again.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

LAUNCH_VARIABLE = "NEXUS_LAUNCH"
GRACE_SECONDS = 10.0

# A shell that starts us in the background makes us ignore SIGINT, and children inherit that: Dagster would never end.
_WITH_DEFAULT_SIGNALS = (
    "import os, signal, sys; "
    "[signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]; "
    "signal.pthread_sigmask(signal.SIG_SETMASK, []); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Launch:
    """A started process, the leader of its own process group, with everything that it starts in turn."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    record: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Interrupt the leader, which ends the others; kill what is left after the grace."""
        _end(self.name, self.pid if self.process.poll() is None else None, grace_seconds, self.process.poll)
        self.process.wait()
        _write(self.record, {"stopped": time.time()})


def launch(arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path, record: Path) -> Launch:
    """Start `python <arguments>` in a process group of its own, with its output going to `log`.

    Args:
        record: the file that remembers the launch until it is stopped.
    """
    name = secrets.token_hex(8)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *arguments]
    # Written before the start as well: a kill -9 in between must leave no process that nobody knows.
    _write(record, {"launch": name, "command": command})
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _WITH_DEFAULT_SIGNALS, *command],
            cwd=cwd,
            env={**environment, LAUNCH_VARIABLE: name},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = psutil.Process(process.pid).create_time()
    _write(record, {"launch": name, "pid": process.pid, "started": started, "command": command})
    return Launch(name, process, log, record)


def clear_orphans(record: Path, progress: Callable[[str], None]) -> int:
    """End what is left of a launch whose starter was killed. Returns how many processes that were."""
    remembered = read_record(record)
    if "launch" not in remembered:
        return 0
    orphans = members(remembered["launch"])
    if orphans:
        progress(f"Ending {len(orphans)} Dagster processes that an earlier `nexus` left behind")
        leader = remembered.get("pid")
        alive = any(process.pid == leader for process in orphans)
        _end(remembered["launch"], leader if alive else None, GRACE_SECONDS)
    _write(record, {"stopped": time.time()})
    return len(orphans)


def members(name: str) -> list[psutil.Process]:
    """The living processes of a launch."""
    return [
        process for process, environment in processes_with_environment() if environment.get(LAUNCH_VARIABLE) == name
    ]


def processes_with_environment() -> list[tuple[psutil.Process, dict[str, str]]]:
    """Living processes whose environment (as of their start) we may read: this user's own, or all of them as root."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process, process.environ()))
        except (psutil.Error, OSError):
            continue
    return found


def read_record(record: Path) -> dict[str, Any]:
    """What is remembered of the last launch; {} where there was none or the file is damaged."""
    try:
        content = json.loads(record.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(record: Path, content: Mapping[str, Any]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    new = record.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(record)


def _end(name: str, leader: int | None, grace_seconds: float, reap: Callable[[], int | None] = lambda: None) -> None:
    """Interrupt the leader, or all members where it is gone; after the grace kill what is left."""
    for process in members(name):
        if leader is None or process.pid == leader:
            _signal(process, signal.SIGINT)
    deadline = time.monotonic() + grace_seconds
    while members(name) and time.monotonic() < deadline:
        reap()
        time.sleep(0.1)
    # What is killed may have started others just before.
    while left := members(name):
        for process in left:
            _signal(process, signal.SIGKILL)
        reap()
        time.sleep(0.05)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
