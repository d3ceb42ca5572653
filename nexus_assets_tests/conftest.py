"""Real servers for the tests.

`services` is PostgreSQL as `nexus up` would choose it (TimescaleDB where it can be had), `plain_postgres` the embedded
one without TimescaleDB; both with Redis. They live in a temporary folder and are stopped and removed at the end of the
session. With NEXUS_TEST_HOME they live there, stay up, and are used again by the next session; stop them with
`nexus down`. What cannot be had is a skip with its reason, and a failure where CI=true.
"""

import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
from psycopg import sql

from nexus_assets import migrations
from nexus_assets.database import Database
from nexus_assets.errors import ServiceError
from nexus_assets.market_store import MarketStore
from nexus_assets.rehearsal.server import KEY_VARIABLES
from nexus_assets.services import ServiceState, down, ensure_up
from nexus_assets.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
REDIS_DATABASE = 9
KEPT_VARIABLES = {"NEXUS_REAL_DATA", "NEXUS_TEST_HOME", "NEXUS_CACHE", "NEXUS_POSTGRES"}

# The tests say themselves which servers and settings they use; a developer's own must not reach them.
for _name in [name for name in os.environ if name.startswith("NEXUS_") and name not in KEPT_VARIABLES]:
    del os.environ[_name]
for _name in ("OANDA_ACCOUNT_ID", *KEY_VARIABLES.values()):
    os.environ.pop(_name, None)


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where CI must have what is missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def _servers(suffix: str, environment: Mapping[str, str]) -> Iterator[ServiceState]:
    kept = os.environ.get("NEXUS_TEST_HOME")
    home = Path(f"{kept}{suffix}") if kept else Path(tempfile.mkdtemp(prefix="nexus-tests-")) / "home"
    # No .env of anybody is to be read or written.
    root = Path(tempfile.mkdtemp(prefix="nexus-tests-root-"))
    try:
        try:
            state = ensure_up(
                home,
                root,
                database_url=None,
                redis_url=None,
                progress=lambda _: None,
                environment={**os.environ, **environment},
            )
        except ServiceError as error:
            unavailable(str(error))
        _without_syncing(state)
        yield state
    finally:
        root.rmdir()
        if not kept:
            down(home, purge=True)
            home.parent.rmdir()


def _without_syncing(state: ServiceState) -> None:
    # Nothing here must outlive a power cut, and making and dropping databases waits for the disk.
    assert state.admin_url
    with psycopg.connect(state.admin_url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def services() -> Iterator[ServiceState]:
    """PostgreSQL with TimescaleDB where it can be had, and Redis."""
    with _servers("", {}) as state:
        yield state


@pytest.fixture(scope="session")
def plain_postgres() -> Iterator[ServiceState]:
    """PostgreSQL without TimescaleDB, and Redis."""
    with _servers("-plain", {"NEXUS_POSTGRES": "embedded"}) as state:
        yield state


@dataclass
class DatabaseMaker:
    """Makes databases in one server: empty ones, and copies of a migrated one."""

    state: ServiceState
    numbers: Iterator[int]
    made: list[str]

    def empty(self, *, extension: bool = True) -> str:
        """URL of a new database without a schema; TimescaleDB is created in it where the server has it."""
        return self._make(self._next_name(), extension=extension)

    def migrated(self) -> str:
        """URL of a new database at the newest migration."""
        name = self._next_name()
        self._admin("CREATE DATABASE {} OWNER nexus TEMPLATE {}", name, self._template())
        self.made.append(name)
        return self._url(self.state.database_url, name)

    def drop_all(self) -> None:
        """Drop what was made, whoever is still connected; needless where the whole server is removed."""
        for name in self.made:
            self._admin("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        self.made.clear()

    def _template(self) -> str:
        digest = hashlib.sha256()
        for path in sorted((ROOT / "sql").rglob("*.*")):
            digest.update(path.read_bytes())
        # Others may be testing another state of the files on the same server.
        name = f"template_{os.getpid()}_{digest.hexdigest()[:12]}"
        if not self._admin("SELECT FROM pg_database WHERE datname = %s", parameters=(name,)):
            url = self._make(name)
            migrations.migrate(Database(url, patience=5), ROOT, load_settings())
            # TimescaleDB's own worker connects to every database; a template must have no connection.
            self._admin("ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
            self._admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", parameters=(name,))
        return name

    def url_of(self, database: Database) -> str:
        """URL of a database that was made here."""
        return self._url(self.state.database_url, database.address.rsplit("/", 1)[1])

    def create_extension(self, database: Database) -> None:
        """Create TimescaleDB in a database, as a superuser."""
        assert self.state.admin_url
        name = database.address.rsplit("/", 1)[1]
        with psycopg.connect(self._url(self.state.admin_url, name), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")

    def _next_name(self) -> str:
        return f"test_{os.getpid()}_{next(self.numbers)}"

    def _make(self, name: str, *, extension: bool = True) -> str:
        self._admin("CREATE DATABASE {} OWNER nexus", name)
        self.made.append(name)
        url = self._url(self.state.database_url, name)
        if extension and self.state.edition.startswith("TimescaleDB"):
            self.create_extension(Database(url))
        return url

    def _admin(self, statement: str, *names: str, parameters: tuple[object, ...] = ()) -> int:
        assert self.state.admin_url
        composed = sql.SQL(statement).format(*map(sql.Identifier, names))  # pyright: ignore[reportArgumentType]
        with psycopg.connect(self.state.admin_url, autocommit=True) as connection:
            return connection.execute(composed, parameters or None).rowcount

    @staticmethod
    def _url(url: str, name: str) -> str:
        return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


_numbers = itertools.count(1)


@contextmanager
def _database_maker(state: ServiceState) -> Iterator[DatabaseMaker]:
    maker = DatabaseMaker(state, _numbers, [])
    try:
        yield maker
    finally:
        if os.environ.get("NEXUS_TEST_HOME"):
            maker.drop_all()


@pytest.fixture(scope="session")
def databases(services: ServiceState) -> Iterator[DatabaseMaker]:
    """Makes databases in the session's server."""
    with _database_maker(services) as maker:
        yield maker


@pytest.fixture(scope="session")
def plain_databases(plain_postgres: ServiceState) -> Iterator[DatabaseMaker]:
    """Makes databases on PostgreSQL without TimescaleDB."""
    with _database_maker(plain_postgres) as maker:
        yield maker


@pytest.fixture(scope="module")
def database_url(databases: DatabaseMaker) -> str:
    """A migrated database of this test file's own."""
    return databases.migrated()


@pytest.fixture(scope="module")
def database(database_url: str) -> Database:
    """The database of this test file."""
    return Database(database_url, patience=5)


@pytest.fixture(scope="module")
def store(database: Database) -> MarketStore:
    """The market store of this test file."""
    return MarketStore(database)


@pytest.fixture
def fresh_database(databases: DatabaseMaker) -> Database:
    """A migrated database of this test's own."""
    return Database(databases.migrated(), patience=5)


@pytest.fixture
def fresh_store(fresh_database: Database) -> MarketStore:
    """A market store of this test's own."""
    return MarketStore(fresh_database)


@pytest.fixture(scope="session", params=["plain", "apache"])
def any_level_databases(request: pytest.FixtureRequest) -> Iterator[DatabaseMaker]:
    """Makes databases on plain PostgreSQL and on TimescaleDB's Apache edition, one after the other."""
    state: ServiceState = request.getfixturevalue("plain_postgres" if request.param == "plain" else "services")
    if request.param == "apache" and not state.edition.startswith("TimescaleDB"):
        unavailable(f"TimescaleDB is not to be had here: {' '.join(state.notes) or state.edition}")
    with _database_maker(state) as maker:
        yield maker


@pytest.fixture
def any_level_database(any_level_databases: DatabaseMaker) -> Database:
    """A migrated database of this test's own, on each level."""
    return Database(any_level_databases.migrated(), patience=5)


@pytest.fixture
def redis_url(services: ServiceState) -> str:
    """An empty Redis database."""
    url = f"{services.redis_url.rsplit('/', 1)[0]}/{REDIS_DATABASE}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real market data, never part of the project."""
    path = os.environ.get("NEXUS_REAL_DATA")
    if not path:
        pytest.skip("NEXUS_REAL_DATA is not set: no real market data here")
    return Path(path)
