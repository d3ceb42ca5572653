"""Starting, healing and stopping the servers of one state folder.

Whoever changes anything holds the folder's lock; looking needs none.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from nexus_assets.errors import ServiceError
from nexus_assets.services import accounts, choice, dotenv_block, state
from nexus_assets.services.bringing_up import BringingUp, stop_all
from nexus_assets.services.installation import Progress
from nexus_assets.services.postgres import PostgresServer
from nexus_assets.services.redis_server import RedisServer
from nexus_assets.services.state import ADMIN, SavedState, ServiceState

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
        switch: choose the PostgreSQL anew although there is a data folder, and move the data to it with pg_dump.
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
    external = {name: _address(name, users[name]) for name in _DEFAULT_PORTS if name in users}
    if "postgres" in users and "dagster" not in users:
        _for_psycopg2(users["postgres"])
    if saved and saved.wanted and not switch and saved.external == external and _all_ready(home, saved):
        return _service_state(home, saved, users)
    home.mkdir(parents=True, exist_ok=True)
    with state.locked(home, progress):
        saved = state.load(home) or SavedState(str(root.resolve()))
        work = BringingUp(home, saved, progress, options)
        work.choose(root, external, switch)
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
    if saved is None or not saved.wanted or _all_ready(home, saved):
        return ()
    with state.locked(home, progress):
        saved = state.load(home)
        if saved is None or not saved.wanted:
            return ()
        return BringingUp(home, saved, progress, choice.Options()).start()


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
        account, folder = accounts.find_account(), (home / "servers").resolve()
        stopped = stop_all(folder, account, progress) if account and folder.is_dir() else ()
        if purge:
            progress("Removing data and programs")
            _purge(home, saved)
    return stopped


def _all_ready(home: Path, saved: SavedState) -> bool:
    """Whether every server that is ours to run is ready."""
    account = accounts.find_account()
    folder = (home / "servers").resolve()
    if account is None:
        return False
    if "postgres" not in saved.external and not (
        saved.postgres and saved.postgres.ready and PostgresServer(saved.postgres, folder, account).is_ready()
    ):
        return False
    return "redis" in saved.external or bool(saved.redis and RedisServer(saved.redis, folder, account).is_ready())


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


def _purge(home: Path, saved: SavedState | None) -> None:
    if saved is not None:
        dotenv_block.remove_env_block(Path(saved.root))
    servers = home / "servers"
    if servers.is_symlink():
        target = servers.readlink()
        if target.parent == accounts.ROOTS_FOLDER and target.is_dir():
            shutil.rmtree(target)
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
