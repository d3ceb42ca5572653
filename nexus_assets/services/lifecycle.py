"""Starting, healing and stopping the servers of one state folder.

Whoever changes anything holds the folder's lock; looking needs none.
"""

import copy
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from nexus_assets.errors import ServiceError
from nexus_assets.services import accounts, choice, dotenv_block, postgres, processes, redis_server, state
from nexus_assets.services.installation import Installation, Progress
from nexus_assets.services.postgres import PostgresServer
from nexus_assets.services.redis_server import RedisServer
from nexus_assets.services.state import ADMIN, DAGSTER, OWNER, PostgresRecord, RedisRecord, SavedState, ServiceState

_DATA = "postgres"
_PORT_ATTEMPTS = 5
_RECOVERY_SECONDS = 120
_UNUSABLE_IN_PATH = ':"\\$`\n\r'
_DEFAULT_PORTS = {"postgres": 5432, "redis": 6379}
_VARIABLES = {"postgres": "NEXUS_DATABASE_URL", "dagster": "NEXUS_DAGSTER_URL", "redis": "NEXUS_REDIS_URL"}

Users = dict[str, str]
"""URLs of servers that the user named, by postgres, dagster and redis."""


def _silent(_: str) -> None:
    pass


def ensure_up(
    home: Path,
    root: Path,
    *,
    database_url: str | None,
    redis_url: str | None,
    progress: Progress,
    dagster_url: str | None = None,
    switch: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> ServiceState:
    """Start what is not running and return every address. Safe to call at any time, from several processes at once.

    Args:
        home: the state folder (NEXUS_HOME); made when missing.
        root: the project's root; a block of ours in its `.env` is kept up to date (see write_env, which makes it).
        database_url, redis_url: a server of the user's own; then none of ours is started for it. A URL that carries
            one of our own passwords, or that stands only in our block of `.env`, counts as not given.
        dagster_url: a database of the user's own for Dagster; without it Dagster uses our server's database `dagster`,
            or the database of database_url.
        progress: called with a sentence before everything that takes longer than a second.
        switch: choose the PostgreSQL anew, although there is a data folder.
        environment: where NEXUS_POSTGRES (auto, installed, debian or embedded) and NEXUS_CACHE (a folder that keeps
            downloaded packages) are looked up.

    Raises:
        ServiceError: a server cannot be found or started, or the state folder cannot be used.
        SettingsError: NEXUS_POSTGRES is none of its values.
    """
    options = choice.Options.read(environment)
    home = home.resolve()
    _check_path(home)
    block = dotenv_block.read_env_block(root)
    saved = state.load(home)
    given = {"postgres": database_url, "dagster": dagster_url, "redis": redis_url}
    users = {
        name: url
        for name, url in given.items()
        if url and url != block.get(_VARIABLES[name]) and not state.belongs_to(saved, url)
    }
    if saved and saved.wanted and not switch and _all_ready(home, saved, users):
        return _service_state(home, saved, users)
    home.mkdir(parents=True, exist_ok=True)
    with state.locked(home, progress):
        saved = state.load(home) or SavedState(str(root.resolve()))
        work = _Work(home, saved, progress, options)
        work.choose(root, users, switch)
        started = work.start()
        return _service_state(home, saved, users, started, tuple(work.notes))


def heal(home: Path, *, progress: Progress = _silent) -> tuple[str, ...]:
    """Start again what has died since `ensure_up`. Does nothing after `down`.

    Returns:
        the names of what was started (postgres, redis).

    Raises:
        ServiceError: a server does not start.
    """
    home = home.resolve()
    saved = state.load(home)
    if saved is None or not saved.wanted or _all_ready(home, saved, saved.external):
        return ()
    with state.locked(home, progress):
        saved = state.load(home)
        if saved is None or not saved.wanted:
            return ()
        return _Work(home, saved, progress, choice.Options()).start()


def down(home: Path, *, purge: bool = False, progress: Progress = _silent) -> tuple[str, ...]:
    """Stop both servers; with `purge` also remove their data, programs, passwords and our block of `.env`.

    Returns:
        the names of the servers that were running.

    Raises:
        ServiceError: the state folder belongs to another user.
    """
    home = home.resolve()
    if not home.is_dir():
        return ()
    with state.locked(home, progress):
        saved = state.load(home)
        if saved is not None and saved.wanted:
            saved.wanted = False
            state.save(home, saved)
        stopped = _stop(home, progress)
        if purge:
            progress("Removing data and programs")
            _purge(home, saved)
    return stopped


class _Work:
    """One holder of the lock, bringing the servers of one folder up."""

    def __init__(self, home: Path, saved: SavedState, progress: Progress, options: choice.Options) -> None:
        self.home = home
        self.saved = saved
        self.progress = progress
        self.options = options
        self.notes: list[str] = []
        self.account = accounts.make_account(progress)
        self.folder = accounts.servers_folder(home, self.account)
        self.programs = self.folder / "programs"
        self.programs.mkdir(mode=0o755, exist_ok=True)

    def choose(self, root: Path, users: Users, switch: bool) -> None:
        """Choose servers as far as that was not done before, and remember the choice."""
        saved = self.saved
        saved.wanted, saved.root = True, str(root.resolve())
        saved.external = {name: _address(name, users[name]) for name in _DEFAULT_PORTS if name in users}
        if "postgres" not in users:
            self._choose_postgres(switch)
        if "redis" not in users and saved.redis is None:
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
            raise ServiceError(
                f"The data are in PostgreSQL {record.version} ({record.kind}) and are not moved by themselves.",
                next_step="Dump what you need with pg_dump, run `nexus down --purge`, then `nexus up`.",
            )
        elif self.options.postgres not in ("auto", record.kind):
            self.notes.append(
                f"NEXUS_POSTGRES asks for `{self.options.postgres}`, but the data are in the PostgreSQL that was "
                f"chosen earlier (`{record.kind}`); it stays in use."
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
            self.progress("Waiting for a server that is reading its data after a crash")
            if not processes.wait_until(server.is_ready, seconds=_RECOVERY_SECONDS, every=0.1):
                raise ServiceError(
                    f"{server.data.name} runs, but is not ready after {_RECOVERY_SECONDS} s.",
                    next_step=f"Read the logs in {server.data}, or run `nexus down` and `nexus up`.",
                )
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


def _all_ready(home: Path, saved: SavedState, users: Mapping[str, str]) -> bool:
    account = accounts.find_account()
    folder = (home / "servers").resolve()
    if account is None or set(saved.external) != set(users) - {"dagster"}:
        return False
    if "postgres" not in users and not (
        saved.postgres and saved.postgres.ready and PostgresServer(saved.postgres, folder, account).is_ready()
    ):
        return False
    return "redis" in users or bool(saved.redis and RedisServer(saved.redis, folder, account).is_ready())


def _service_state(
    home: Path, saved: SavedState, users: Users, started: tuple[str, ...] = (), notes: tuple[str, ...] = ()
) -> ServiceState:
    own = state.own_urls(saved)
    ours = "postgres" not in users
    record = saved.postgres if ours else None
    dagster_url = users.get("dagster") or own.get("NEXUS_DAGSTER_URL") or _for_psycopg2(users["postgres"])
    return ServiceState(
        home=home,
        database_url=users.get("postgres") or own["NEXUS_DATABASE_URL"],
        dagster_url=dagster_url,
        redis_url=users.get("redis") or own["NEXUS_REDIS_URL"],
        admin_url=state.postgres_url(record, ADMIN, "postgres") if record else None,
        postgres=record.kind if record else "external",
        redis=saved.redis.kind if saved.redis and "redis" not in users else "external",
        edition=record.edition if record else "unknown",
        users_own=frozenset(_VARIABLES[name] for name in users),
        started=started,
        notes=notes,
    )


def _for_psycopg2(url: str) -> str:
    """A bare postgresql:// means psycopg 3 to SQLAlchemy 2.1, with which Dagster's storage does not work."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in ("postgres", "postgresql"):
        raise ServiceError(
            "NEXUS_DATABASE_URL does not begin with postgresql://.",
            next_step="Write it as postgresql://user:password@host:port/database.",
        )
    return f"postgresql+psycopg2://{rest}"


def _address(name: str, url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or _DEFAULT_PORTS[name]}"


def _check_path(home: Path) -> None:
    bad = sorted(set(str(home)) & set(_UNUSABLE_IN_PATH))
    if bad:
        raise ServiceError(
            f"PostgreSQL's programs cannot handle {' and '.join(map(repr, bad))} in the path of a folder: {home}.",
            next_step="Move the project, or set NEXUS_HOME to a folder without it.",
        )


def _stop(home: Path, progress: Progress) -> tuple[str, ...]:
    """Stop every server below the servers' folder, also when state.json is lost."""
    account = accounts.find_account()
    folder = (home / "servers").resolve()
    if account is None or not folder.is_dir():
        return ()
    stopped = []
    for server, name, pid_file in ((postgres, "postgres", "postmaster.pid"), (redis_server, "redis", "redis.pid")):
        for data in [path.parent for path in folder.glob(f"*/{pid_file}")]:
            if server.running(data, account) is not None:
                progress(f"Stopping {name}")
                server.stop(data, account)
                stopped.append(name)
    return tuple(stopped)


def _purge(home: Path, saved: SavedState | None) -> None:
    if saved is not None:
        dotenv_block.remove_env_block(Path(saved.root))
    servers = home / "servers"
    if servers.is_symlink():
        target = servers.readlink()
        if target.parent == accounts.ROOTS_FOLDER:
            shutil.rmtree(target, ignore_errors=not target.exists())
        servers.unlink()
        with suppress(OSError):
            accounts.ROOTS_FOLDER.rmdir()
    elif servers.is_dir():
        shutil.rmtree(servers)
    if (home / "dagster").is_dir():
        shutil.rmtree(home / "dagster")
    for name in ("state.json", "services.lock"):
        (home / name).unlink(missing_ok=True)
    with suppress(OSError):
        home.rmdir()
