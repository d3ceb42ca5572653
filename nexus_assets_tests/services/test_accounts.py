"""Which user the servers run as, whoever starts them and wherever the project lies."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nexus_assets.services import status
from nexus_assets_tests.services.conftest import Place, query

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: the servers run as the user who starts them")

# Imports come first: the interpreter itself may lie where the user cannot read.
UP_AS_ANOTHER_USER = """
import encodings.idna, importlib.metadata, json, logging, os, pwd, shutil, sys, tempfile
from pathlib import Path
import psutil, psycopg
from psycopg import sql
from nexus_assets.services import ensure_up, status, down
user = pwd.getpwnam("nobody")
os.setgroups([]); os.setgid(user.pw_gid); os.setuid(user.pw_uid)
home, root = Path(sys.argv[1]), Path(sys.argv[2])
try:
    state = ensure_up(home, root, database_url=None, redis_url=None, progress=lambda _: None)
    shown = [server for server in status(home) if server.running]
    users = [psutil.Process(server.pid).username() for server in shown]
    servers = str((home / "servers").resolve())
    print(json.dumps({"running": [server.name for server in shown], "users": users, "servers": servers}))
finally:
    down(home, purge=True)
"""


@pytest.fixture(scope="module")
def closed(make_place: Callable[..., Place]) -> Place:
    """A project that only root can enter, started under a umask that gives others nothing."""
    place = make_place()
    place.root.chmod(0o700)
    before = os.umask(0o077)
    try:
        place.up()
    finally:
        os.umask(before)
    return place


@as_root
def test_no_server_runs_as_root(closed: Place) -> None:
    for server in status(closed.home):
        assert server.pid
        process = psutil.Process(server.pid)
        for one in (process, *process.children(recursive=True)):
            assert 0 not in (*one.uids(), *one.gids()), one.name()
        groups = Path(f"/proc/{server.pid}/status").read_text().partition("Groups:")[2].split("\n")[0].split()
        assert groups == []


@as_root
def test_a_project_that_only_root_can_enter_works_and_keeps_its_permissions(closed: Place) -> None:
    assert query(closed.up().database_url, "SELECT 1") == [(1,)]
    assert closed.root.stat().st_mode & 0o777 == 0o700
    # pytest makes its own folders like this.
    assert closed.root.parent.stat().st_mode & 0o777 == 0o700


@as_root
def test_the_servers_user_cannot_write_programs_or_read_the_state(closed: Place) -> None:
    folder = (closed.home / "servers").resolve()
    for path in (folder, folder / "programs", *(folder / "programs").rglob("*")):
        facts = path.lstat()
        assert facts.st_uid == 0, path
        assert path.is_symlink() or not facts.st_mode & 0o022, path
    state = (closed.home / "state.json").stat()
    assert (state.st_uid, state.st_mode & 0o777) == (0, 0o600)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter and write, in the system's temporary folder (pytest's own are private)."""
    with tempfile.TemporaryDirectory(prefix="nexus with space ") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@as_root
def test_an_ordinary_users_servers_run_from_the_state_folder(open_folder: Path) -> None:
    packages = Path(psutil.__file__).parent.parent
    closed = [str(folder) for folder in (packages, *packages.parents) if folder.stat().st_mode & 0o005 != 0o005]
    if closed:
        pytest.skip(f"an ordinary user cannot read the installed packages in {closed[-1]}")
    home = open_folder / ".nexus"
    done = subprocess.run(
        [sys.executable, "-c", UP_AS_ANOTHER_USER, str(home), str(open_folder)],
        env={**os.environ, "NEXUS_POSTGRES": "embedded"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["running"] == ["postgres", "redis"]
    assert answer["users"] == ["nobody", "nobody"]
    assert answer["servers"] == str(home / "servers")
    assert list(open_folder.iterdir()) == []
