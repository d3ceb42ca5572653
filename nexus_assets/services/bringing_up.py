"""Choosing servers, once, and starting those that are chosen and do not run. The caller holds the folder's lock."""

import copy
import itertools
import secrets
import shutil
from pathlib import Path

from nexus_assets.errors import ServiceError
from nexus_assets.services import (
    accounts,
    choice,
    dotenv_block,
    postgres,
    processes,
    redis_server,
    state,
    switching,
)
from nexus_assets.services.installation import Installation, Progress
from nexus_assets.services.postgres import PostgresServer
from nexus_assets.services.redis_server import RedisServer
from nexus_assets.services.state import ADMIN, DAGSTER, OWNER, PostgresRecord, RedisRecord, SavedState

_DATA = "postgres"
_PORT_ATTEMPTS = 5
_RECOVERY_SECONDS = 120


class BringingUp:
    """One holder of the lock, bringing the servers of one folder up.

    `notes` collects sentences that a user should read.
    """

    def __init__(self, home: Path, saved: SavedState, progress: Progress, options: choice.Options) -> None:
        self.home = home
        self.saved = saved
        self.progress = progress
        self.options = options
        self.notes: list[str] = []
        self.account = accounts.make_account(progress)
        self.folder = accounts.servers_folder(home, self.account)
        self.programs = self.folder / "programs"
        accounts.make_public_folder(self.programs)
        self._leave_abandoned()

    def choose(self, root: Path, external: dict[str, str], switch: bool) -> None:
        """Choose servers as far as that was not done before, and remember the choice.

        Args:
            external: host:port of the servers that the user named, by postgres and redis.
            switch: choose the PostgreSQL anew and move the data to it.
        """
        saved = self.saved
        saved.wanted, saved.root, saved.external = True, str(root.resolve()), external
        if "postgres" not in external:
            self._choose_postgres(switch)
        if "redis" not in external and saved.redis is None:
            saved.redis = self._choose_redis()
        state.save(self.home, saved)

    def start(self) -> tuple[str, ...]:
        """Start what is chosen and not running. Redis first: PostgreSQL may have to recover."""
        before = copy.deepcopy(self.saved)
        started = []
        if self.saved.redis is not None and "redis" not in self.saved.external:
            redis = RedisServer(self.saved.redis, self.folder, self.account)
            if not redis.is_ready():
                self._restore_redis(redis.record)
                self._start_server(redis)
                started.append("redis")
        if self.saved.postgres is not None and "postgres" not in self.saved.external:
            started += self.start_postgres(PostgresServer(self.saved.postgres, self.folder, self.account))
        if self.saved != before:
            state.save(self.home, self.saved)
        dotenv_block.update_env_block(Path(self.saved.root), state.own_urls(self.saved))
        return tuple(started)

    def start_postgres(self, server: PostgresServer) -> list[str]:
        """Start one PostgreSQL and make what is missing in it. Returns its name if it had not been running."""
        record, started = server.record, []
        if not server.is_ready():
            if server.data.is_dir():
                found = choice.programs_for(record, self.folder, self.options, self.account, self.progress)
                self._use(record, found)
            elif record.ready:
                raise ServiceError(
                    f"The data folder {server.data} is gone.",
                    next_step="Run `nexus up` to begin with an empty database.",
                )
            else:
                server.create(self.progress)
            self._start_server(server)
            started.append("postgres")
        if not record.ready:
            record.edition = server.prepare_databases(self.progress)
            record.ready = True
        return started

    def _choose_postgres(self, switch: bool) -> None:
        record = self.saved.postgres
        data = self.folder / (record.data if record else _DATA)
        if not data.is_dir():
            if record is not None and record.ready:
                self.notes.append(f"The data folder {data} was gone; the database is empty now.")
            self.saved.postgres = self._new_postgres(_DATA)
        elif record is None:
            raise ServiceError(
                f"{data} holds data, but its passwords ({self.home / 'state.json'}) are gone.",
                next_step="Restore that file from a copy, or remove the data with `nexus down --purge`.",
            )
        elif switch:
            self._switch(record)
        elif self.options.postgres not in ("auto", record.kind):
            self.notes.append(
                f"NEXUS_POSTGRES asks for `{self.options.postgres}`, but the data are in the PostgreSQL that was "
                f"chosen earlier (`{record.kind}`); it stays in use."
            )

    def _switch(self, old: PostgresRecord) -> None:
        """Move the data to the PostgreSQL that would be chosen today; the old folder is kept."""
        names = (f"{_DATA}-{number}" for number in itertools.count(2))
        new = self._new_postgres(next(name for name in names if not (self.folder / name).exists()))
        if (new.kind, new.version, new.timescaledb) == (old.kind, old.version, old.timescaledb):
            self.notes.append(
                f"PostgreSQL {old.version} ({old.kind}) is what would be chosen today; nothing was moved."
            )
            return
        switching.refuse_impossible(old, new)
        source = PostgresServer(old, self.folder, self.account)
        target = PostgresServer(new, self.folder, self.account)
        self.start_postgres(source)
        switching.refuse_sessions(source)
        try:
            self.start_postgres(target)
            switching.copy_databases(source, target, self.progress)
        except BaseException:
            postgres.stop(target.data, self.account)
            shutil.rmtree(target.data, ignore_errors=True)
            raise
        # From here on the new server is the one; the old one is only stopped.
        self.saved.postgres = new
        state.save(self.home, self.saved)
        postgres.stop(source.data, self.account)
        self.notes.append(
            f"The data are in PostgreSQL {new.version} ({new.kind}) now. The old ones are kept in {source.data}; "
            f"remove that folder when all is well."
        )

    def _leave_abandoned(self) -> None:
        """Stop the servers of a project that was deleted at this place with its state folder, and name its data."""
        for folder in accounts.abandoned_folders(self.home, self.folder):
            stop_all(folder, self.account, self.progress)
            self.notes.append(
                f"{folder} holds the data of an earlier project at this place. Unless that project was moved and is "
                f"still used, remove the folder."
            )

    def _new_postgres(self, data: str) -> PostgresRecord:
        for remains in self.programs.glob(".download-*"):
            shutil.rmtree(remains)
        chosen = choice.choose(self.options, self.programs, self.account, self.progress, self.notes)
        return PostgresRecord(
            kind=chosen.kind,
            data=data,
            bin_dir=self._relative(chosen.bin_dir),
            version=chosen.version,
            timescaledb=chosen.timescaledb,
            port=processes.free_port(),
            passwords={role: secrets.token_urlsafe(24) for role in (ADMIN, OWNER, DAGSTER)},
        )

    def _choose_redis(self) -> RedisRecord:
        program = redis_server.find_program(self.programs, self.options.cache, self.account, self.progress)
        return RedisRecord(
            kind=program.kind,
            program=self._relative(program.path),
            version=program.version,
            port=processes.free_port(),
            password=secrets.token_urlsafe(24),
        )

    def _restore_redis(self, record: RedisRecord) -> None:
        """Find the program again when it is gone, or when the project was moved."""
        if record.kind == "debian" or not (self.folder / record.program).is_file():
            found = self._choose_redis()
            record.kind, record.program, record.version = found.kind, found.program, found.version

    def _use(self, record: PostgresRecord, found: Installation) -> None:
        record.ready = record.ready and (record.version, record.timescaledb) == (found.version, found.timescaledb)
        record.bin_dir = self._relative(found.bin_dir)
        record.version, record.timescaledb = found.version, found.timescaledb

    def _start_server(self, server: PostgresServer | RedisServer) -> None:
        if server.process() is not None:
            self.progress(f"Waiting for {server.data.name}, which is running and not ready yet")
            settled = processes.wait_until(
                lambda: server.is_ready() or server.process() is None, seconds=_RECOVERY_SECONDS, every=0.05
            )
            if not settled:
                raise ServiceError(
                    f"{server.data.name} runs, but is not ready after {_RECOVERY_SECONDS} s.",
                    next_step=f"Read the logs in {server.data}, or run `nexus down` and `nexus up`.",
                )
            if server.process() is not None:
                return
        for _ in range(_PORT_ATTEMPTS):
            try:
                server.start(self.progress)
                return
            except processes.PortTaken:
                taken, server.record.port = server.record.port, processes.free_port()
                self.notes.append(f"Port {taken} is in use by another program; {server.data.name} moved.")
                state.save(self.home, self.saved)
        raise ServiceError(
            f"{_PORT_ATTEMPTS} ports in a row were taken while {server.data.name} was starting.",
            next_step="Run `nexus up` again.",
        )

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)


def stop_all(folder: Path, account: accounts.Account, progress: Progress) -> tuple[str, ...]:
    """Stop every server below a servers' folder, also when state.json is lost. Returns their names."""
    stopped = []
    for server, name, pid_file in ((postgres, "postgres", "postmaster.pid"), (redis_server, "redis", "redis.pid")):
        for data in [path.parent for path in folder.glob(f"*/{pid_file}")]:
            if server.running(data, account) is not None:
                progress(f"Stopping {name}")
                server.stop(data, account)
                stopped.append(name)
    return tuple(stopped)
