"""The life of the servers: started, found again, killed, moved to another port, stopped, removed."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from nexus_assets.errors import ServiceError, SettingsError
from nexus_assets.services import down, heal, read_env_block, status, write_env
from nexus_assets.services.processes import has_ended, wait_until
from nexus_assets_tests.services.conftest import Place, query

UP_IN_A_PROCESS = """
import sys
from pathlib import Path
from nexus_assets.services import ensure_up
state = ensure_up(Path(sys.argv[1]), Path(sys.argv[2]), database_url=None, redis_url=None, progress=lambda _: None)
print(state.database_url, state.redis_url)
"""


def running(place: Place) -> dict[str, int]:
    return {server.name: server.pid for server in status(place.home) if server.running and server.pid}


def test_data_and_passwords_survive_down_and_up(place: Place) -> None:
    first = place.up()
    query(first.database_url, "CREATE TABLE kept AS SELECT 7 AS number")
    with redis.Redis.from_url(first.redis_url) as client:
        client.set("kept", "yes")
    assert set(down(place.home)) == {"postgres", "redis"}
    assert running(place) == {}
    second = place.up()
    assert set(second.started) == {"postgres", "redis"}
    assert (second.database_url, second.redis_url) == (first.database_url, first.redis_url)
    assert query(second.database_url, "SELECT number FROM kept") == [(7,)]
    with redis.Redis.from_url(second.redis_url) as client:
        assert client.get("kept") == b"yes"


def test_up_on_running_servers_starts_nothing_and_takes_less_than_half_a_second(place: Place) -> None:
    place.up()
    before = running(place)
    begin = time.perf_counter()
    assert place.up().started == ()
    assert time.perf_counter() - begin < 0.5
    assert running(place) == before


def test_several_processes_that_call_up_at_once_get_one_server_that_outlives_them(
    make_place: Callable[..., Place],
) -> None:
    place = make_place()
    command = [sys.executable, "-c", UP_IN_A_PROCESS, str(place.home), str(place.root)]
    environment = {**os.environ, **place.environment}
    callers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [caller.communicate(timeout=120) for caller in callers]
    assert [caller.returncode for caller in callers] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert query(answers[0][0].split()[0], "SELECT 1") == [(1,)]
    assert set(running(place)) == {"postgres", "redis"}
    assert all(os.getsid(pid) != os.getsid(0) for pid in running(place).values())
    assert place.up().started == ()


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_a_killed_server_is_healed_with_its_data(place: Place, name: str) -> None:
    state = place.up()
    query(state.database_url, "CREATE TABLE IF NOT EXISTS committed AS SELECT 1 AS number")
    pid = running(place)[name]
    killed = psutil.Process(pid)
    killed.kill()
    assert wait_until(lambda: has_ended(killed), seconds=5)
    assert heal(place.home) == (name,)
    assert running(place)[name] != pid
    assert query(state.database_url, "SELECT number FROM committed") == [(1,)]
    assert heal(place.home) == ()


def test_nothing_is_healed_after_down(place: Place) -> None:
    place.up()
    down(place.home)
    assert heal(place.home) == ()
    assert running(place) == {}


def test_a_pid_file_that_names_a_stranger_is_not_believed(place: Place) -> None:
    state = place.up()
    down(place.home)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        data = place.home / "servers"
        # The lines of a real pid file, as it lies there after a power failure, with a number that was given anew.
        lines = [stranger.pid, data.resolve() / "postgres", 1, 1, "", "127.0.0.1", " 1 1", "ready   "]
        (data / "postgres/postmaster.pid").write_text("\n".join(map(str, lines)) + "\n")
        (data / "redis/redis.pid").write_text(f"{stranger.pid}\n")
        assert running(place) == {}
        assert set(place.up().started) == {"postgres", "redis"}
        assert query(state.database_url, "SELECT 1") == [(1,)]
        assert down(place.home)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_taken_port_is_left_for_another_one_and_env_follows(place: Place) -> None:
    before = place.up()
    write_env(place.root, before)
    ports = {server.name: int(server.address.split(":")[1]) for server in status(place.home)}
    down(place.home)
    with socket.create_server(("127.0.0.1", ports["postgres"])), socket.create_server(("127.0.0.1", ports["redis"])):
        after = place.up()
    assert len(after.notes) == 2
    assert after.database_url != before.database_url
    assert query(after.database_url, "SELECT 1") == [(1,)]
    written = (place.root / ".env").read_text()
    assert after.database_url in written
    assert after.dagster_url in written
    assert after.redis_url in written
    # A process that still has the old address in its environment does not mean another server by it.
    assert place.up(database_url=before.database_url, redis_url=before.redis_url) == place.up()


def test_only_the_right_password_opens_a_server(place: Place) -> None:
    state = place.up()
    password = state.database_url.split(":")[2].split("@")[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(state.database_url.replace(password, "wrong"), "SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        query(state.database_url.replace(f":{password}", ""), "SELECT 1")
    address = state.redis_url.split("@")[1]
    for url in (f"redis://{address}", f"redis://:wrong@{address}"):
        with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    rules = query(state.admin_url or "", "SELECT auth_method FROM pg_hba_file_rules")
    assert set(rules) == {("scram-sha-256",)}


def test_each_role_reaches_its_own_database_only(place: Place) -> None:
    state = place.up()
    dagster_url = state.dagster_url.replace("+psycopg2", "")
    assert query(state.database_url, "SELECT current_user::text, current_database()::text") == [("nexus", "nexus")]
    assert query(dagster_url, "SELECT current_user::text, current_database()::text") == [("dagster", "dagster")]
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        query(dagster_url.rpartition("/")[0] + "/nexus", "SELECT 1")


def test_the_servers_listen_on_loopback_without_socket_files(place: Place) -> None:
    state = place.up()
    assert query(state.admin_url or "", "SHOW listen_addresses") == [("127.0.0.1",)]
    assert query(state.admin_url or "", "SHOW unix_socket_directories") == [("",)]
    with redis.Redis.from_url(state.redis_url) as client:
        configured = client.config_get("*")
    expected = {"bind": "127.0.0.1", "unixsocket": "", "maxmemory-policy": "volatile-lru", "appendonly": "yes"}
    assert {name: configured[name] for name in expected} == expected


def test_a_users_own_settings_survive_a_restart(place: Place) -> None:
    state = place.up()
    (place.home / "servers/postgres/custom.conf").write_text("work_mem = '23MB'\n")
    down(place.home)
    place.up()
    assert query(state.database_url, "SHOW work_mem") == [("23MB",)]


def test_secrets_are_readable_by_their_owner_only(place: Place) -> None:
    place.up()
    folder = place.home / "servers"
    for path in (place.home / "state.json", folder / "redis/redis.conf", folder / "postgres/pg_hba.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in (folder / "postgres", folder / "redis"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_servers_of_the_users_own_win_and_ours_are_not_started(place: Place, make_place: Callable[..., Place]) -> None:
    theirs, ours = place.up(), make_place()
    state = ours.up(database_url=theirs.database_url, redis_url=theirs.redis_url)
    assert (state.postgres, state.redis) == ("external", "external")
    assert (state.database_url, state.redis_url) == (theirs.database_url, theirs.redis_url)
    assert state.dagster_url == theirs.database_url.replace("postgresql://", "postgresql+psycopg2://")
    assert state.admin_url is None
    shown = status(ours.home)
    assert [(server.name, server.kind, server.running) for server in shown] == [
        ("postgres", "external", True),
        ("redis", "external", True),
    ]
    assert not (ours.home / "servers/postgres").exists()
    write_env(ours.root, state)
    assert set(read_env_block(ours.root)) == {"NEXUS_DAGSTER_URL", "DAGSTER_HOME", "DAGSTER_EVENT_BATCH_SIZE"}


def test_a_url_that_is_not_postgresql_is_refused(make_place: Callable[..., Place]) -> None:
    with pytest.raises(ServiceError, match="does not begin with postgresql"):
        make_place().up(database_url="host=localhost dbname=x", redis_url="redis://localhost")


def test_status_shows_versions_sizes_and_addresses(place: Place) -> None:
    place.up()
    postgres, cache = status(place.home)
    assert (postgres.kind, postgres.edition, postgres.running) == ("embedded", "PostgreSQL", True)
    assert int(postgres.version.split(".")[0]) >= 18
    assert postgres.data_bytes is not None
    assert postgres.data_bytes > 20_000_000
    assert (cache.edition, cache.running) == ("Redis", True)
    assert cache.uptime is not None
    assert 0 <= cache.uptime < 300
    down(place.home)
    assert [(server.running, server.pid, server.uptime) for server in status(place.home)] == [(False, None, None)] * 2


def test_plain_postgresql_says_once_how_to_get_hypertables(place: Place) -> None:
    place.up()
    (note,) = [note for note in place.notes if "Hypertables are off" in note]
    assert "NEXUS_DATABASE_URL" in note


def test_the_first_choice_stays_and_a_later_wish_is_answered(place: Place) -> None:
    place.up()
    down(place.home)
    state = place.up(environment={"NEXUS_POSTGRES": "debian"})
    assert state.postgres == "embedded"
    assert "stays in use" in state.notes[0]


def test_an_unknown_choice_names_the_possible_ones(make_place: Callable[..., Place]) -> None:
    with pytest.raises(SettingsError, match="auto, installed, debian, embedded"):
        make_place("docker").up()


def test_purge_leaves_nothing_and_the_next_start_has_new_passwords(make_place: Callable[..., Place]) -> None:
    place = make_place()
    before = place.up()
    write_env(place.root, before)
    real = (place.home / "servers").resolve()
    down(place.home, purge=True)
    assert list(place.root.iterdir()) == []
    assert not real.exists()
    after = place.up()
    assert after.database_url.split("@")[0] != before.database_url.split("@")[0]


def test_a_vanished_data_folder_is_never_replaced_by_healing(make_place: Callable[..., Place]) -> None:
    place = make_place()
    place.up()
    down(place.home)
    state_file = place.home / "state.json"
    state_file.write_text(json.dumps({**json.loads(state_file.read_text()), "wanted": True}))
    data = (place.home / "servers/postgres").resolve()
    data.rename(data.with_name("elsewhere"))
    with pytest.raises(ServiceError, match="is gone"):
        heal(place.home)
    assert "the database is empty now" in " ".join(place.up().notes)


def test_data_without_their_passwords_are_neither_opened_nor_overwritten(make_place: Callable[..., Place]) -> None:
    place = make_place()
    place.up()
    (place.home / "state.json").unlink()
    with pytest.raises(ServiceError, match="passwords"):
        place.up()
    # The servers are found and stopped all the same.
    assert set(down(place.home)) == {"postgres", "redis"}


def test_a_project_made_anew_at_the_same_place_starts_beside_what_the_deleted_one_left(
    make_place: Callable[..., Place],
) -> None:
    place = make_place()
    before = place.up()
    query(before.database_url, "CREATE TABLE earlier ()")
    left = (place.home / "servers").resolve()
    if left.parent == place.home:
        pytest.skip("an ordinary user's data are deleted with the project")
    shutil.rmtree(place.home)
    after = place.up()
    assert query(after.database_url, "SELECT count(*) FROM pg_tables WHERE tablename = 'earlier'") == [(0,)]
    assert str(left) in " ".join(after.notes)
    with pytest.raises(psycopg.OperationalError, match="Connection refused"):
        query(before.database_url, "SELECT 1")
    assert (left / "postgres/PG_VERSION").exists()
    shutil.rmtree(left)


def test_a_moved_project_finds_its_data_again(make_place: Callable[..., Place]) -> None:
    place = make_place()
    state = place.up()
    query(state.database_url, "CREATE TABLE kept AS SELECT 7 AS number")
    down(place.home)
    moved = place.root.with_name("moved project")
    place.root.rename(moved)
    place.root = moved
    assert query(place.up().database_url, "SELECT number FROM kept") == [(7,)]


def test_a_damaged_or_newer_state_file_is_named(make_place: Callable[..., Place]) -> None:
    place = make_place()
    place.home.mkdir()
    for text, message in (("{", "is damaged"), ('{"format": 99}', "format 99")):
        (place.home / "state.json").write_text(text)
        with pytest.raises(ServiceError, match=message):
            place.up()
    (place.home / "state.json").unlink()


@pytest.mark.parametrize("character", [":", '"', "$", "\\"])
def test_a_path_that_postgresql_cannot_handle_is_refused(tmp_path: Path, character: str) -> None:
    home = tmp_path / f"a{character}b"
    with pytest.raises(ServiceError, match="Move the project"):
        Place(home, {}).up()
    assert not home.exists()
