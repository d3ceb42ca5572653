"""Bring the database to the schema of this code.

`sql/migrations/NNNN_name.sql` run once, in order, each in one transaction; a file listed in frozen.txt, or applied
anywhere, never changes. `sql/timescale/<level>/*.sql` are applied where the server can, `sql/views/*.sql` always;
both can be applied again at any time. One advisory lock lets several processes start at once.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal, LiteralString, cast

import psycopg

from nexus_assets.database import Database
from nexus_assets.errors import MigrationError
from nexus_assets.instruments import INSTRUMENTS
from nexus_assets.settings import Settings

_LOCK_KEY = 0x6E657875735F6D67
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_NEW_CONSTRAINT = re.compile(r"\bALTER\s+TABLE\s+([a-z_]+)\.([a-z_]+)\b[^;]*\bADD\s+CONSTRAINT\b", re.IGNORECASE)


class Level(StrEnum):
    """What the server can do."""

    PLAIN = "plain"
    APACHE = "apache"
    COMMUNITY = "community"


@dataclass(frozen=True)
class Step:
    """One file. `version` is 0 for files that are applied every time."""

    kind: Literal["migration", "timescale", "view"]
    file: str
    checksum: str
    version: int
    pending: bool
    path: Path


@dataclass
class Report:
    """What a migration did. `messages` are sentences for people: what this server lacks, what was waited for."""

    level: Level
    version: int
    applied: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def detect_level(connection: psycopg.Connection) -> Level:
    """What the server of this connection can do, by the extension and its licence."""
    if connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is None:
        return Level.PLAIN
    licence = connection.execute("SELECT current_setting('timescaledb.license', true)").fetchone()
    return Level.COMMUNITY if licence and licence[0] == "timescale" else Level.APACHE


def schema_version(database: Database) -> int:
    """The number of the newest migration that was applied; 0 for an empty database.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    with database.session() as connection:
        return max(_applied(connection), default=0)


def code_version(root: Path) -> int:
    """The number of the newest migration of this code.

    Raises:
        MigrationError: a file is misnamed, misnumbered or differs from its frozen checksum.
    """
    return max((step.version for step in _migration_files(root)), default=0)


def plan(database: Database, root: Path) -> list[Step]:
    """What migrate would do, in order; nothing is changed.

    Raises:
        MigrationError: migrate would refuse: a changed file, or a database newer than the code.
        DatabaseError: the database cannot be reached.
    """
    with database.session() as connection:
        return _plan(connection, root)


def migrate(
    database: Database, root: Path, settings: Settings, progress: Callable[[str], None] = lambda _: None
) -> Report:
    """Apply what is pending, then re-apply the files for this server's level and the views.

    Args:
        database: Its role must be allowed to create schemas.
        root: The folder that holds sql/.
        settings: Their first day is compared with the stored one.
        progress: Called with a sentence before each file and when another process is waited for.

    Raises:
        MigrationError: a released file changed, the database is newer than the code, a file failed (everything of
            that file is rolled back), the start day moved forward, the catalogue of symbols was reordered, or a
            retention is too short for a pinned training set.
        DatabaseError: the database cannot be reached.
    """
    with database.session() as connection, _one_at_a_time(connection, progress):
        report = Report(_extension(connection), 0)
        _say_level(connection, report)
        for step in _plan(connection, root):
            if step.pending:
                if step.kind == "migration":
                    progress(f"Applying {step.file}.")
                _apply(connection, step)
                report.applied.append(step.file)
        with connection.transaction():
            _keep_first_day(connection, settings)
            _keep_symbol_order(connection, tuple(i.symbol for i in INSTRUMENTS))
            report.messages += _keep_retention(connection, settings)
        report.version = max(_applied(connection), default=0)
    return report


@contextmanager
def _one_at_a_time(connection: psycopg.Connection, progress: Callable[[str], None]) -> Iterator[None]:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK_KEY,)).fetchone()
    if row is None or not row[0]:
        progress("Another process is migrating this database; waiting for it.")
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK_KEY,))


def _extension(connection: psycopg.Connection) -> Level:
    """Make the extension where we are allowed to and the server has it loaded, and say the level.

    Asking for it where it is not loaded would end the session.
    """
    loadable = connection.execute(
        "SELECT FROM pg_available_extensions WHERE name = 'timescaledb' AND installed_version IS NULL "
        "AND CASE WHEN current_setting('is_superuser') = 'on' "
        "THEN current_setting('shared_preload_libraries') LIKE '%timescaledb%' END"
    ).fetchone()
    if loadable is not None:
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    return detect_level(connection)


def _say_level(connection: psycopg.Connection, report: Report) -> None:
    if report.level is Level.COMMUNITY:
        return
    if report.level is Level.APACHE:
        report.messages.append(
            "TimescaleDB is the Apache edition: hypertables are on; columnstore, continuous aggregates and retention "
            "policies need the Community edition."
        )
        return
    available = connection.execute("SELECT FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone()
    report.messages.append(
        "This database has no TimescaleDB: tables are plain PostgreSQL tables, everything works, and there are no "
        "hypertables, columnstore, continuous aggregates or retention policies. "
        + (
            "The server has the extension: let a superuser run CREATE EXTENSION timescaledb, then `nexus migrate`."
            if available is not None
            else "Install TimescaleDB on the server, create the extension, then run `nexus migrate`."
        )
    )


def _plan(connection: psycopg.Connection, root: Path) -> list[Step]:
    steps = _migration_files(root)
    applied = _applied(connection)
    _refuse_newer(applied, steps)
    for step in steps:
        if step.version in applied and applied[step.version] != (step.file, step.checksum):
            raise MigrationError(
                f"Migration {step.file} differs from what was applied to this database as "
                f"{applied[step.version][0]} (checksum {applied[step.version][1][:12]}, now {step.checksum[:12]}).",
                next_step="Restore the file from version control and put the change into a new migration.",
            )
    done = [step.version for step in steps if step.version in applied]
    late = [step.file for step in steps if step.version not in applied and step.version < max(done, default=0)]
    if late:
        raise MigrationError(
            f"Migration {late[0]} has a lower number than one that was applied already ({max(done):04d}).",
            next_step="Give it the next free number.",
        )
    marked = [Step(s.kind, s.file, s.checksum, s.version, s.version not in applied, s.path) for s in steps]
    return [*marked, *_repeated_files(root, detect_level(connection))]


def _refuse_newer(applied: dict[int, tuple[str, str]], steps: list[Step]) -> None:
    newest = max(applied, default=0)
    known = max((step.version for step in steps), default=0)
    if newest > known:
        raise MigrationError(
            f"The database is at migration {newest:04d} ({applied[newest][0]}); this code knows up to {known:04d}.",
            next_step="Update the code to the version that migrated this database, or point it at another one.",
        )


def _migration_files(root: Path) -> list[Step]:
    folder = root / "sql" / "migrations"
    frozen = _frozen(folder)
    steps = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or int(match[1]) != len(steps) + 1:
            raise MigrationError(
                f"sql/migrations/{path.name} is not the next migration.",
                next_step=f"Name it {len(steps) + 1:04d}_noun.sql; numbers start at 0001 and leave no gap.",
            )
        checksum = checksum_of(path)
        if frozen.get(path.name, checksum) != checksum:
            raise MigrationError(
                f"Migration {path.name} was released with checksum {frozen[path.name][:12]} and is now "
                f"{checksum[:12]}.",
                next_step="Restore the file from version control and put the change into a new migration.",
            )
        steps.append(Step("migration", path.name, checksum, len(steps) + 1, True, path))
    missing = sorted(set(frozen) - {step.file for step in steps})
    if missing:
        raise MigrationError(
            f"The released migration {missing[0]} is missing from sql/migrations.",
            next_step="Restore it from version control.",
        )
    return steps


def _repeated_files(root: Path, level: Level) -> list[Step]:
    levels = {Level.PLAIN: (), Level.APACHE: ("apache",), Level.COMMUNITY: ("apache", "community")}[level]
    timescale = [path for name in levels for path in sorted((root / "sql" / "timescale" / name).glob("*.sql"))]
    views = sorted((root / "sql" / "views").glob("*.sql"))
    return [
        *(Step("timescale", f"timescale/{p.parent.name}/{p.name}", checksum_of(p), 0, True, p) for p in timescale),
        *(Step("view", f"views/{p.name}", checksum_of(p), 0, True, p) for p in views),
    ]


def checksum_of(path: Path) -> str:
    """SHA-256 of a file with line ends as LF, whatever the checkout made of them."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _frozen(folder: Path) -> dict[str, str]:
    path = folder / "frozen.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    pairs = (line.split() for line in lines if line.strip() and not line.startswith("#"))
    return {name: checksum for checksum, name in pairs}


def _applied(connection: psycopg.Connection) -> dict[int, tuple[str, str]]:
    exists = connection.execute("SELECT to_regclass('nexus.schema_migrations')").fetchone()
    if exists is None or exists[0] is None:
        return {}
    rows = connection.execute("SELECT version, file, checksum FROM nexus.schema_migrations ORDER BY version")
    return {version: (file, checksum) for version, file, checksum in rows}


def _apply(connection: psycopg.Connection, step: Step) -> None:
    text = step.path.read_text()
    try:
        with connection.transaction():
            if step.kind == "migration":
                _unpack(connection, tables_with_new_constraints(text))
            connection.execute(cast(LiteralString, text))
            if step.kind == "migration":
                connection.execute(
                    "INSERT INTO nexus.schema_migrations (version, file, checksum) VALUES (%s, %s, %s)",
                    (step.version, step.file, step.checksum),
                )
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise MigrationError(
            f"{step.kind.capitalize()} {step.file} failed and was rolled back: {error.diag.message_primary or error}",
            next_step="Correct the cause and run `nexus migrate` again.",
        ) from error


def tables_with_new_constraints(text: str) -> set[tuple[str, str]]:
    """(schema, table) of each table that already exists and to which these statements add a named constraint."""
    return set(_NEW_CONSTRAINT.findall(re.sub(r"--[^\n]*", "", text)))


def _unpack(connection: psycopg.Connection, tables: set[tuple[str, str]]) -> None:
    """Take these tables out of the columnstore, in which TimescaleDB refuses a new constraint. Its policy packs them
    again."""
    if not tables or detect_level(connection) is not Level.COMMUNITY:
        return
    for schema, name in sorted(tables):
        packed = connection.execute(
            "SELECT format('%%I.%%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks "
            "WHERE hypertable_schema = %s AND hypertable_name = %s AND is_compressed ORDER BY range_start",
            (schema, name),
        ).fetchall()
        for (chunk,) in packed:
            connection.execute("CALL convert_to_rowstore(%s::text::regclass)", (chunk,))


def _meta(connection: psycopg.Connection, key: str) -> str | None:
    row = connection.execute("SELECT value FROM nexus.meta WHERE key = %s", (key,)).fetchone()
    return row[0] if row else None


def _set_meta(connection: psycopg.Connection, key: str, value: str) -> None:
    connection.execute(
        "INSERT INTO nexus.meta (key, value) VALUES (%s, %s) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value, changed_at = clock_timestamp()",
        (key, value),
    )


def _keep_first_day(connection: psycopg.Connection, settings: Settings) -> None:
    """Every day that may be stored has a partition, by day or by month: the first of all moves only backwards."""
    stored, first_day = _meta(connection, "first_day"), settings.first_day
    if stored is not None and first_day > date.fromisoformat(stored):
        setting = "NEXUS_HISTORY_START" if settings.has_history else "NEXUS_START_DAY"
        raise MigrationError(
            f"{setting} is {first_day}, but this database was started with {stored}; it moves only backwards.",
            next_step=f"Set NEXUS_HISTORY_START={stored} to have partitions by month up to NEXUS_START_DAY, or set "
            f"NEXUS_START_DAY to {stored} or earlier.",
        )
    if stored != first_day.isoformat():
        _set_meta(connection, "first_day", first_day.isoformat())


def _keep_retention(connection: psycopg.Connection, settings: Settings) -> list[str]:
    """Take over how long rows are kept, or refuse it."""
    # Imported here: decisions about retention need most of the package, a migration otherwise nothing of it.
    from nexus_assets import retention

    return retention.accept(connection, settings, datetime.now(UTC).date())


def _keep_symbol_order(connection: psycopg.Connection, symbols: tuple[str, ...]) -> None:
    """Ranges of partitions follow the order of the symbols: it is only appended to."""
    stored = tuple((_meta(connection, "symbols") or "").split())
    for position, (was, now) in enumerate(zip(stored, symbols, strict=False), start=1):
        if was != now:
            raise MigrationError(
                f"The catalogue of symbols was reordered: number {position} was {was} and is now {now}.",
                next_step="Restore the order of INSTRUMENTS in nexus_assets/instruments.py; append new symbols.",
            )
    if len(symbols) > len(stored):
        _set_meta(connection, "symbols", " ".join(symbols))
