"""TimescaleDB from Debian packages, TimescaleDB found on the machine, and what happens where neither can be had."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from nexus_assets.errors import ServiceError
from nexus_assets.services import ServiceState, accounts, down, read_env_block, status, write_env
from nexus_assets.services.installation import find_installed
from nexus_assets.services.timescale_debian import timescaledb_in, unpack_timescaledb
from nexus_assets_tests.services.conftest import Place, query

pytestmark = pytest.mark.timescaledb


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return os.environ.get("NEXUS_CACHE") or str(tmp_path_factory.mktemp("cache of packages"))


@pytest.fixture(scope="module")
def debian(make_place: Callable[..., Place], cache: str) -> tuple[Place, ServiceState]:
    place = make_place("debian", NEXUS_CACHE=cache)
    try:
        return place, place.up()
    except ServiceError as error:
        if os.environ.get("CI") == "true" and Path("/etc/debian_version").exists() and "ubuntu" not in os_release():
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def os_release() -> str:
    return Path("/etc/os-release").read_text().lower()


@pytest.fixture(scope="module")
def tree(debian: tuple[Place, ServiceState]) -> Path:
    (found,) = (debian[0].home / "servers/programs").glob("timescaledb-*")
    return found.resolve()


def test_hypertables_work_and_nothing_is_reported_home(debian: tuple[Place, ServiceState]) -> None:
    _, state = debian
    assert (state.postgres, state.edition, state.notes) == ("debian", "TimescaleDB Apache", ())
    query(state.database_url, "CREATE TABLE IF NOT EXISTS bars (ts timestamptz NOT NULL, close double precision)")
    query(state.database_url, "SELECT create_hypertable('bars', by_range('ts'), if_not_exists => true)")
    query(state.database_url, "INSERT INTO bars SELECT now() - g * interval '1 day', g FROM generate_series(1, 50) g")
    assert query(state.database_url, "SELECT count(*) > 5 FROM show_chunks('bars')") == [(True,)]
    assert query(state.database_url, "SHOW timescaledb.telemetry_level") == [("off",)]
    assert query(state.database_url, "SHOW jit") == [("off",)]


def test_the_owner_of_the_database_can_make_schemas_and_read_new_york_time(debian: tuple[Place, ServiceState]) -> None:
    _, state = debian
    query(state.database_url, "CREATE SCHEMA IF NOT EXISTS market")
    at = "SELECT (timestamptz '2024-07-05 21:00+00' AT TIME ZONE 'America/New_York')::text"
    assert query(state.database_url, at) == [("2024-07-05 17:00:00",)]
    assert query(state.database_url, "SHOW timezone") == [("UTC",)]


def test_status_names_the_edition_and_both_versions(debian: tuple[Place, ServiceState]) -> None:
    postgres = status(debian[0].home)[0]
    assert postgres.edition == "TimescaleDB Apache"
    assert postgres.version.startswith("17.")
    assert "TimescaleDB 2." in postgres.version


def test_programs_and_libraries_come_from_the_tree_alone(debian: tuple[Place, ServiceState], tree: Path) -> None:
    postgres = status(debian[0].home)[0]
    maps = Path(f"/proc/{postgres.pid}/maps").read_text().splitlines()
    mapped = {line.split(maxsplit=5)[5] for line in maps if ".so" in line}
    assert mapped
    assert all(path.startswith(str(tree)) for path in mapped), mapped


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """apt asks a proxy that nothing answers."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.mark.usefixtures("debian", "no_network")
def test_a_second_folder_takes_the_packages_from_the_cache(tree: Path, cache: str) -> None:
    second = tree.parent / "second folder"
    accounts.make_public_folder(second)
    try:
        said: list[str] = []
        found = unpack_timescaledb(second, Path(cache), accounts.make_account(print), said.append)
        assert found.bin_dir.is_relative_to(second)
        assert said == ["Unpacking TimescaleDB"]
    finally:
        shutil.rmtree(second)


@pytest.mark.usefixtures("debian", "no_network")
def test_a_damaged_package_is_never_unpacked_and_without_a_network_the_embedded_postgresql_serves(
    make_place: Callable[..., Place], cache: str, tmp_path: Path
) -> None:
    if find_installed(accounts.make_account(print)):
        pytest.skip("TimescaleDB is installed on this machine, so nothing else is tried")
    damaged = tmp_path / "cache"
    shutil.copytree(cache, damaged)
    package = next(damaged.glob("timescaledb-*/libpq5_*.deb"))
    package.write_bytes(package.read_bytes()[:-1] + b"x")
    place = make_place("auto", NEXUS_CACHE=str(damaged))
    state = place.up()
    assert state.postgres == "embedded"
    assert "Hypertables are off" in state.notes[0]
    assert "apt-get failed" in state.notes[0]
    assert not package.exists()
    down(place.home)


def test_a_moved_tree_runs_again_from_its_new_place(tree: Path) -> None:
    copy = tree.parent / "moved with space"
    shutil.copytree(tree, copy, symlinks=True)
    try:
        assert str(tree).encode() in (copy / "usr/lib/postgresql/17/bin/postgres").read_bytes()
        found = timescaledb_in(copy, accounts.make_account(print))
        assert found.bin_dir.is_relative_to(copy)
        assert found.version.startswith("17.")
        assert str(copy).encode() in (found.bin_dir / "postgres").read_bytes()
        assert str(tree).encode() not in (found.bin_dir / "postgres").read_bytes()
    finally:
        shutil.rmtree(copy)


@pytest.fixture
def installed_on_path(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The unpacked programs as if somebody had installed them: `pg_config` on PATH names them."""
    bin_dir = tree / "usr/lib/postgresql/17/bin"
    script = bin_dir / "pg_config"
    existed = script.exists()
    if not existed:
        answers = f'case "$1" in --bindir) echo "{bin_dir}";; --sharedir) echo "{tree}/usr/share/postgresql/17";; esac'
        script.write_text(f"#!/bin/sh\n{answers}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    yield
    if not existed:
        script.unlink()


@pytest.mark.usefixtures("installed_on_path")
def test_a_timescaledb_on_the_machine_comes_first_with_a_data_folder_of_our_own(
    make_place: Callable[..., Place], tree: Path
) -> None:
    found = find_installed(accounts.make_account(print))
    assert found is not None
    assert (found.kind, found.bin_dir) == ("installed", tree / "usr/lib/postgresql/17/bin")
    place = make_place("auto")
    state = place.up()
    assert (state.postgres, state.edition) == ("installed", "TimescaleDB Apache")
    assert query(state.admin_url or "", "SHOW data_directory") == [(str((place.home / "servers/postgres").resolve()),)]
    assert not any((place.home / "servers/programs").glob("timescaledb-*"))
    down(place.home)


def test_without_apt_the_embedded_postgresql_serves_and_the_reason_is_said(
    make_place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if find_installed(accounts.make_account(print)):
        pytest.skip("TimescaleDB is installed on this machine, so nothing else is tried")
    monkeypatch.setenv("PATH", str(tmp_path))
    place = make_place("auto")
    state = place.up()
    assert state.postgres == "embedded"
    assert "Hypertables are off" in state.notes[0]
    assert "no apt-get" in state.notes[0]
    down(place.home)


def test_switching_moves_both_databases_to_timescaledb_and_keeps_the_old_folder(
    debian: tuple[Place, ServiceState], make_place: Callable[..., Place], cache: str
) -> None:
    place = make_place("embedded")
    before = place.up()
    write_env(place.root, before)
    query(
        before.database_url, "CREATE SCHEMA market; CREATE TABLE market.bars (ts timestamptz PRIMARY KEY, close float8)"
    )
    query(
        before.database_url,
        "INSERT INTO market.bars SELECT now() - g * interval '1 h', g FROM generate_series(1, 500) g",
    )
    query(before.dagster_url.replace("+psycopg2", ""), "CREATE TABLE runs AS SELECT 'a run' AS id")
    environment = {"NEXUS_POSTGRES": "debian", "NEXUS_CACHE": cache}
    with psycopg.connect(before.database_url), pytest.raises(ServiceError, match="in use by"):
        place.up(switch=True, environment=environment)
    after = place.up(switch=True, environment=environment)
    assert (after.postgres, after.edition) == ("debian", "TimescaleDB Apache")
    assert query(after.database_url, "SELECT count(*), sum(close) FROM market.bars") == [(500, 125250.0)]
    owner = "SELECT tableowner::text FROM pg_tables WHERE tablename IN ('bars', 'runs')"
    assert query(after.database_url, owner) == [("nexus",)]
    assert query(after.dagster_url.replace("+psycopg2", ""), owner) == [("dagster",)]
    assert read_env_block(place.root)["NEXUS_DATABASE_URL"] == after.database_url
    assert (place.home / "servers/postgres/PG_VERSION").exists()
    with pytest.raises(psycopg.OperationalError):
        query(before.database_url, "SELECT 1")
    again = place.up(switch=True, environment=environment)
    assert "nothing was moved" in again.notes[-1]
    with pytest.raises(ServiceError, match="cannot be moved to plain PostgreSQL"):
        place.up(switch=True, environment={"NEXUS_POSTGRES": "embedded"})
    down(place.home)


def test_redis_from_packages_serves_where_there_is_no_wheel(
    debian: tuple[Place, ServiceState], make_place: Callable[..., Place], cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("redis-server"):
        pytest.skip("a redis-server on PATH comes first")
    monkeypatch.setattr("nexus_assets.services.redis_server._copy_wheel", lambda programs: None)
    place = make_place("embedded", NEXUS_CACHE=cache)
    state = place.up()
    assert state.redis == "debian"
    with redis.Redis.from_url(state.redis_url) as client:
        assert client.ping()
    down(place.home)
