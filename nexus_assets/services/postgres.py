"""Our PostgreSQL: its data folder, its configuration, starting, stopping, roles and databases.

The server listens on loopback TCP only, with passwords (scram). Everything is configured in `postgresql.conf`, which
is written anew at every start; a user's own settings go into `custom.conf` beside it.
"""

import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from nexus_assets.errors import ServiceError
from nexus_assets.services import processes
from nexus_assets.services.accounts import Account
from nexus_assets.services.state import ADMIN, DAGSTER, LOOPBACK, OWNER, PostgresRecord, postgres_url, write_private

if TYPE_CHECKING:
    import psycopg

_STOP_SECONDS = 60.0
_START_SECONDS = 120
_LOG_BYTES = 10_000_000
_SMALL_SHM = 256 * 2**20


@dataclass(frozen=True)
class PostgresServer:
    """One data folder and the programs that serve it. `folder` is the real path of the servers' folder."""

    record: PostgresRecord
    folder: Path
    account: Account

    @property
    def data(self) -> Path:
        return self.folder / self.record.data

    @property
    def bin_dir(self) -> Path:
        return self.folder / self.record.bin_dir

    @property
    def log(self) -> Path:
        return self.data / "server.log"

    def process(self) -> psutil.Process | None:
        """The postmaster, or None when it does not run."""
        return running(self.data, self.account)

    def is_ready(self) -> bool:
        """Whether it runs on the recorded port and accepts connections (not while it recovers)."""
        if self.process() is None:
            return False
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        # Lines 4 and 8 of the pid file: port and status.
        return len(lines) >= 8 and lines[3] == str(self.record.port) and lines[7].strip() == "ready"

    def create(self, progress: Callable[[str], None]) -> None:
        """Make the data folder. It appears in one step, so that an interrupted attempt leaves nothing half-made.

        Raises:
            ServiceError: initdb failed.
        """
        progress("Creating the database cluster")
        unfinished = self.folder / f"{self.record.data}.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        self.account.make_private_folder(unfinished)
        with tempfile.TemporaryDirectory(prefix=".initdb-", dir=self.folder) as secret:
            password = Path(secret) / "password"
            write_private(password, self.record.passwords[ADMIN] + "\n")
            self.account.give(password)
            self.account.give(Path(secret))
            command = [self.bin_dir / "initdb", "-D", unfinished, "-U", ADMIN, "--pwfile", password]
            command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--data-checksums"]
            done = self.account.run(command, timeout=120)
        if done.returncode != 0:
            raise ServiceError(
                f"initdb failed for {self.data}: {_last_line(done.stderr)}.",
                next_step="Look at free disk space and at the folder's permissions, then run `nexus up` again.",
            )
        unfinished.rename(self.data)

    def start(self, progress: Callable[[str], None]) -> None:
        """Start the server and wait until it accepts connections; crash recovery is part of that.

        Raises:
            PortTaken: another program listens on the recorded port.
            ServiceError: the server does not start.
        """
        progress(f"Starting PostgreSQL {self.record.version} on port {self.record.port}")
        self._clear_crashed()
        self._write_configuration()
        if not processes.is_free(self.record.port):
            raise processes.PortTaken
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.rename(self.log.with_suffix(".log.1"))
        written = self.log.stat().st_size if self.log.exists() else 0
        command = [self.bin_dir / "pg_ctl", "start", "-D", self.data, "-l", self.log, "-s", "-w"]
        done = self.account.run([*command, "-t", str(_START_SECONDS)], timeout=_START_SECONDS + 30)
        if done.returncode == 0:
            return
        said = self._said_since(written)
        if "could not bind" in said or "Address already in use" in said:
            raise processes.PortTaken
        if self.process() is not None:
            raise ServiceError(
                f"PostgreSQL is still recovering after {_START_SECONDS} s.",
                next_step="Run `nexus up` again in a minute.",
            )
        raise ServiceError(
            f"PostgreSQL did not start: {_last_line(said) or _last_line(done.stderr)}.",
            next_step=f"Read {self.log}.",
        )

    def run_client(self, program: str, database: str, *arguments: str | Path, timeout: float) -> str:
        """Run one of PostgreSQL's client programs on a database, as superuser, and return what it prints.

        Raises:
            ServiceError: it fails.
        """
        with tempfile.TemporaryDirectory(prefix=".client-", dir=self.folder) as secret:
            # The password goes through a file: a command line is visible to everybody.
            passwords = Path(secret) / "passwords"
            write_private(passwords, f"{LOOPBACK}:*:*:{ADMIN}:{self.record.passwords[ADMIN]}\n")
            self.account.give(passwords)
            self.account.give(Path(secret))
            quoted = str(passwords).replace("'", r"\'")
            target = f"host={LOOPBACK} port={self.record.port} user={ADMIN} dbname={database} passfile='{quoted}'"
            done = self.account.run([self.bin_dir / program, "-d", target, *arguments], timeout=timeout)
        if done.returncode != 0:
            raise ServiceError(
                f"{program} failed on the database {database}: {_last_line(done.stderr)}.",
                next_step=f"Read {self.log}.",
            )
        return done.stdout

    def prepare_databases(self, progress: Callable[[str], None]) -> str:
        """Make roles, databases and the extension, as far as they are missing, and set the recorded passwords.

        Returns:
            the edition: PostgreSQL, TimescaleDB Apache or TimescaleDB Community.

        Raises:
            ServiceError: the server refuses a statement.
        """
        import psycopg

        progress("Preparing the databases nexus and dagster")
        try:
            with psycopg.connect(self.admin_url("postgres"), autocommit=True, connect_timeout=10) as admin:
                for name in (OWNER, DAGSTER):
                    _make_database(admin, name, self.record.passwords[name])
                # `nexus status` shows the size of both databases through the owner's connection.
                admin.execute(f"GRANT pg_read_all_stats TO {OWNER}")
            if self.record.timescaledb is None:
                return "PostgreSQL"
            with psycopg.connect(self.admin_url(OWNER), autocommit=True, connect_timeout=10) as admin:
                return _make_extension(admin)
        except psycopg.Error as error:
            raise ServiceError(
                f"PostgreSQL on port {self.record.port} refused to set up its databases: {str(error).strip()}.",
                next_step=f"Read {self.log} and run `nexus up` again.",
            ) from error

    def admin_url(self, database: str) -> str:
        """The address of a database for the superuser."""
        return postgres_url(self.record, ADMIN, database)

    def _clear_crashed(self) -> None:
        """Remove what a killed server left: children that hold its shared memory, and the pid file, whose number
        another process may have by now."""
        if not processes.wait_until(lambda: not self._leftovers(), seconds=1, every=0.1):
            for process in self._leftovers():
                processes.stop_process(process, signal.SIGQUIT, seconds=2)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _leftovers(self) -> list[psutil.Process]:
        return processes.leftovers(self.data, self.account.uid)

    def _said_since(self, position: int) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(position)
                return file.read(100_000).decode(errors="replace")
        except OSError:
            return ""

    def _write_configuration(self) -> None:
        owner = (self.account.uid, self.account.gid)
        access = f"# Written at every start.\nhost all all {LOOPBACK}/32 scram-sha-256\n"
        for name, text in (("pg_hba.conf", access), ("postgresql.conf", _configuration(self.record))):
            write_private(self.data / name, text, owner=owner, staging=self.folder)


def _make_database(admin: "psycopg.Connection", name: str, password: str) -> None:
    """A role and a database of the same name, which nobody else may enter."""
    from psycopg import sql

    identifier = sql.Identifier(name)
    if admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone() is None:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(identifier))
    admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(identifier, sql.Literal(password)))
    if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
        admin.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(identifier))
    admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(identifier))


def _make_extension(admin: "psycopg.Connection") -> str:
    # The update must be the first statement of its session; it does nothing when the version is right.
    if admin.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").fetchone():
        admin.execute("ALTER EXTENSION timescaledb UPDATE")
    else:
        admin.execute("CREATE EXTENSION timescaledb")
    row = admin.execute("SHOW timescaledb.license").fetchone()
    return "TimescaleDB Apache" if row and row[0] == "apache" else "TimescaleDB Community"


def running(data: Path, account: Account) -> psutil.Process | None:
    """The postmaster of a data folder, or None."""
    return processes.server_process(data / "postmaster.pid", data, account.uid)


def stop(data: Path, account: Account) -> None:
    """End all sessions of the server of a data folder and stop it; does nothing when it does not run."""
    process = running(data, account)
    if process is None:
        return
    children = process.children(recursive=True)
    # SIGINT is PostgreSQL's fast shutdown: transactions roll back, a checkpoint is written.
    if not processes.stop_process(process, signal.SIGINT, seconds=_STOP_SECONDS):
        for child in children:
            processes.stop_process(child, signal.SIGQUIT, seconds=5)


def _configuration(record: PostgresRecord) -> str:
    lines = [
        "# Written by `nexus up` at every start. Put settings of your own into custom.conf in this folder.",
        f"listen_addresses = '{LOOPBACK}'",
        f"port = {record.port}",
        "# No socket files: their path may not be longer than 107 bytes.",
        "unix_socket_directories = ''",
        "password_encryption = scram-sha-256",
        "max_connections = 200",
        "# One write locks every chunk of a hypertable that it touches.",
        "max_locks_per_transaction = 512",
        "max_worker_processes = 32",
        "shared_buffers = 256MB",
        "effective_cache_size = 1GB",
        "work_mem = 16MB",
        "maintenance_work_mem = 128MB",
        f"dynamic_shared_memory_type = {_dynamic_shared_memory()}",
        "# A commit waits for the disk: a delivery that was reported as stored survives a power failure.",
        "synchronous_commit = on",
        "max_wal_size = 2GB",
        "min_wal_size = 256MB",
        "checkpoint_timeout = 15min",
        "wal_compression = on",
        "random_page_cost = 1.1",
        "jit = off",
        "log_checkpoints = off",
        "timezone = 'UTC'",
        "log_timezone = 'UTC'",
        "datestyle = 'iso, ymd'",
        "default_text_search_config = 'pg_catalog.english'",
    ]
    if record.timescaledb is not None:
        lines += ["shared_preload_libraries = 'timescaledb'", "timescaledb.telemetry_level = off"]
    lines.append("include_if_exists = 'custom.conf'")
    return "\n".join(lines) + "\n"


def _dynamic_shared_memory() -> str:
    """Containers often have a /dev/shm of 64 MB, too little for parallel queries; files serve then."""
    try:
        return "posix" if shutil.disk_usage("/dev/shm").total >= _SMALL_SHM else "mmap"
    except OSError:
        return "posix"


def _last_line(text: str) -> str:
    """The line of a log that tells most, without its time stamp."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [match.group() for line in lines if (match := re.search(r"\b(FATAL|PANIC|error):.*", line))]
    return (telling or lines or [""])[-1]


def uptime(process: psutil.Process) -> float:
    """Seconds since a process started."""
    return max(0.0, time.time() - process.create_time())
