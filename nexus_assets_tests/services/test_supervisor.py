"""While we serve, a killed server is back within two seconds."""

import os
import signal
import time

import psutil
import psycopg
import redis

from nexus_assets.services import Supervisor, down, status
from nexus_assets.services.processes import wait_until
from nexus_assets_tests.services.conftest import Place, query


def both_answer(database_url: str, redis_url: str) -> bool:
    try:
        with redis.Redis.from_url(redis_url) as client:
            return query(database_url, "SELECT 1") == [(1,)] and bool(client.ping())
    except (psycopg.OperationalError, redis.ConnectionError):
        return False


def test_killed_servers_are_started_within_two_seconds_and_answer_again(place: Place) -> None:
    state, reports = place.up(), []
    pids = [server.pid for server in status(place.home) if server.pid]
    assert len(pids) == 2
    with Supervisor(place.home, report=reports.append):
        killed = time.time()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        # The report comes after a server accepts connections; reading its data after the crash may take longer.
        assert wait_until(lambda: len(reports) == 2, seconds=30)
        assert both_answer(state.database_url, state.redis_url)
    assert sorted(report.split()[0] for report in reports) == ["postgres", "redis"]
    for server in status(place.home):
        assert server.pid not in pids
        assert psutil.Process(server.pid).create_time() - killed < 2


def test_the_supervisor_leaves_stopped_servers_alone(place: Place) -> None:
    place.up()
    reports: list[str] = []
    with Supervisor(place.home, report=reports.append, interval=0.05):
        down(place.home)
        time.sleep(0.5)
        assert not any(server.running for server in status(place.home))
    assert reports == []


def test_a_server_that_cannot_be_started_is_reported_once_and_tried_again(place: Place) -> None:
    place.up()
    data = (place.home / "servers/postgres").resolve()
    version = data / "PG_VERSION"
    kept = version.read_text()
    reports: list[str] = []
    (pid,) = [server.pid for server in status(place.home) if server.name == "postgres"]
    assert pid
    version.write_text("9.6\n")
    try:
        with Supervisor(place.home, report=reports.append, interval=0.05):
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while not reports and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.5)
            assert len(reports) == 1
            assert "could not be restarted" in reports[0]
            version.write_text(kept)
            while len(reports) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
    finally:
        version.write_text(kept)
    assert reports[1:] == ["postgres had stopped and was started again"]
