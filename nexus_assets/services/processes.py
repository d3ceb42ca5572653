"""Server processes and ports, as the operating system shows them."""

import errno
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from nexus_assets.services.state import LOOPBACK

# Below the ranges from which Linux (32768) and macOS (49152) take the ports of outgoing connections, so that a port
# that is kept over a restart is rarely in use by then.
_FIRST_PORT, _LAST_PORT = 20_000, 31_999


class PortTaken(Exception):
    """Another program listens on the port."""


def server_process(pid_file: Path, folder: Path, uid: int) -> psutil.Process | None:
    """The living process that a pid file names, if it is our server and not another one that got its number.

    Args:
        pid_file: its first line is the process id.
        folder: the data folder; PostgreSQL and Redis both make it their working folder.
        uid: the user that the server runs as.
    """
    try:
        process = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
        ours = process.uids().real == uid and os.path.samefile(process.cwd(), folder)
    except (OSError, ValueError, psutil.Error):
        return None
    return process if ours and process.status() != psutil.STATUS_ZOMBIE else None


def leftovers(folder: Path, uid: int) -> list[psutil.Process]:
    """Every process of a user that works in a data folder: after a kill -9 PostgreSQL's children may live on."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == uid and os.path.samefile(process.cwd(), folder):
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def stop_process(process: psutil.Process, gentle: signal.Signals, *, seconds: float) -> bool:
    """Ask a process to end and wait; kill it when it does not. Returns whether it ended by itself."""
    try:
        process.send_signal(gentle)
        if wait_until(lambda: has_ended(process), seconds=seconds):
            return True
        process.kill()
        wait_until(lambda: has_ended(process), seconds=10)
        return False
    except psutil.NoSuchProcess:
        return True


def has_ended(process: psutil.Process) -> bool:
    """Whether a process is gone. One that only waits to be collected by its parent counts: pid 1 of a container may
    never do that."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], bool], *, seconds: float, every: float = 0.02) -> bool:
    """Whether a condition became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def is_free(port: int) -> bool:
    """Whether a server could listen on a loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_port() -> int:
    """A random loopback port on which nothing listens now."""
    while True:
        port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT + 1)
        if is_free(port):
            return port


def answers(host: str, port: int, *, seconds: float = 1.0) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def folder_bytes(folder: Path) -> int:
    """Bytes on disk below a folder; files that vanish meanwhile count as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except OSError:
                continue
    return total
