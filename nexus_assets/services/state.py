"""What is remembered in `<home>/state.json` (mode 0600): which servers were chosen, their ports and passwords.

The choice is made once, when the data folder is made, and kept until `nexus down --purge`.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from nexus_assets.errors import ServiceError

FORMAT = 1
LOOPBACK = "127.0.0.1"
ADMIN, OWNER, DAGSTER = "nexus_admin", "nexus", "dagster"
"""Roles: the superuser (only we use it), the owner of the database `nexus`, the owner of the database `dagster`."""

_LOCK_SECONDS = 900


@dataclass
class PostgresRecord:
    """Our PostgreSQL. `data` is the data folder's name in the servers' folder, `bin_dir` is relative to that folder, or
    absolute for an installed one. `ready` is False until roles, databases and the extension are as this version of the
    programs needs them."""

    kind: str
    data: str
    bin_dir: str
    version: str
    timescaledb: str | None
    port: int
    passwords: dict[str, str]
    edition: str = "PostgreSQL"
    ready: bool = False


@dataclass
class RedisRecord:
    """Our Redis. `program` is relative or absolute as in PostgresRecord."""

    kind: str
    program: str
    version: str
    port: int
    password: str


@dataclass
class SavedState:
    """The contents of state.json. `wanted` is False after `nexus down`; `external` holds host:port of the user's own
    servers, by postgres and redis."""

    root: str
    wanted: bool = True
    postgres: PostgresRecord | None = None
    redis: RedisRecord | None = None
    external: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceState:
    """What `ensure_up` hands out.

    `dagster_url` is in the form SQLAlchemy needs for psycopg2, `database_url` in libpq's. `admin_url` reaches our own
    server as superuser (database `postgres`); it is None for a server of the user's. `users_own` holds the names of the
    variables whose server the user named. `postgres` and `redis` are the kinds (installed, debian, embedded, wheel,
    path or external). `started` names what this call started, `notes` are sentences that a user should read.
    """

    home: Path
    database_url: str
    dagster_url: str
    redis_url: str
    admin_url: str | None
    postgres: str
    redis: str
    edition: str
    users_own: frozenset[str] = frozenset()
    started: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load(home: Path) -> SavedState | None:
    """Read state.json, or None where there is none.

    Raises:
        ServiceError: it cannot be read, or was written by a newer release.
    """
    path = home / "state.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise ServiceError(
            f"{path} belongs to another user (id {path.stat().st_uid}).",
            next_step="Run as that user, or set NEXUS_HOME to another folder.",
        ) from error
    try:
        stored = json.loads(text)
        version = stored.pop("format")
        if version != FORMAT:
            raise ServiceError(
                f"{path} has format {version}; this release reads format {FORMAT}.",
                next_step="Use the release that wrote it, or run `nexus down --purge` with that release.",
            )
        return _from_json(stored)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ServiceError(
            f"{path} is damaged ({error}).",
            next_step="Restore it from a copy; without its passwords the data beside it cannot be opened.",
        ) from error


def save(home: Path, state: SavedState) -> None:
    """Replace state.json in one step."""
    write_private(home / "state.json", json.dumps({"format": FORMAT, **asdict(state)}, indent=2) + "\n")


def write_private(path: Path, text: str, *, owner: tuple[int, int] | None = None, staging: Path | None = None) -> None:
    """Replace a file in one step, mode 0600. The new file is made in `staging` (default: the same folder), so that a
    link that the servers' user may have put at `path` is replaced and never followed.

    Args:
        owner: user and group id to hand the file to.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=staging or path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if owner is not None:
            os.chown(name, *owner)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def locked(home: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the state folder's lock: one process at a time starts, stops or records servers.

    Raises:
        ServiceError: another process held it for longer than 15 minutes.
    """
    lock = FileLock(home / "services.lock", mode=0o600)
    try:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            progress("Waiting for another process that is starting or stopping the servers")
            lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise ServiceError(
            f"Another process has been starting or stopping the servers of {home} for {_LOCK_SECONDS // 60} minutes.",
            next_step="End that process and run `nexus up` again.",
        ) from error
    except PermissionError as error:
        raise ServiceError(
            f"{home} belongs to another user.", next_step="Run as that user, or set NEXUS_HOME to another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def postgres_url(record: PostgresRecord, role: str, database: str, scheme: str = "postgresql") -> str:
    """The address of a database of our server."""
    return f"{scheme}://{role}:{record.passwords[role]}@{LOOPBACK}:{record.port}/{database}"


def redis_url(record: RedisRecord) -> str:
    """The address of our Redis, database 0."""
    return f"redis://:{record.password}@{LOOPBACK}:{record.port}/0"


def own_urls(state: SavedState) -> dict[str, str]:
    """The addresses of the servers of ours that are in use, by variable."""
    urls = {}
    if state.postgres is not None and "postgres" not in state.external:
        urls["NEXUS_DATABASE_URL"] = postgres_url(state.postgres, OWNER, OWNER)
        urls["NEXUS_DAGSTER_URL"] = postgres_url(state.postgres, DAGSTER, DAGSTER, "postgresql+psycopg2")
    if state.redis is not None and "redis" not in state.external:
        urls["NEXUS_REDIS_URL"] = redis_url(state.redis)
    return urls


def belongs_to(state: SavedState | None, url: str) -> bool:
    """Whether a URL carries one of our random passwords, whatever port it names."""
    if state is None:
        return False
    secrets = set(state.postgres.passwords.values()) if state.postgres else set()
    if state.redis:
        secrets.add(state.redis.password)
    return urlsplit(url).password in secrets


def _from_json(stored: dict[str, Any]) -> SavedState:
    postgres, redis = stored.pop("postgres"), stored.pop("redis")
    return SavedState(
        postgres=PostgresRecord(**postgres) if postgres else None,
        redis=RedisRecord(**redis) if redis else None,
        **stored,
    )
