"""Bringing a database to the schema: once, in order, by one process at a time, and never over a changed file."""

import hashlib
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import psycopg
import pytest

from nexus_assets import instruments, migrations
from nexus_assets.database import Database
from nexus_assets.errors import MigrationError
from nexus_assets.migrations import Level
from nexus_assets.settings import Settings, load_settings
from nexus_assets_tests.conftest import ROOT, DatabaseMaker

FILES = sorted(path.name for path in (ROOT / "sql" / "migrations").glob("*.sql"))


@pytest.fixture
def settings() -> Settings:
    return load_settings()


@pytest.fixture
def empty(databases: DatabaseMaker) -> Database:
    return Database(databases.empty(), patience=5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of sql/ that a test may change; nothing in it is released."""
    shutil.copytree(ROOT / "sql", tmp_path / "sql")
    (tmp_path / "sql" / "migrations" / "frozen.txt").unlink()
    return tmp_path


def test_an_empty_database_is_brought_to_the_newest_version_on_every_level(
    any_level_databases: DatabaseMaker, settings: Settings
) -> None:
    database = Database(any_level_databases.empty(), patience=5)
    said: list[str] = []
    report = migrations.migrate(database, ROOT, settings, said.append)
    assert report.version == migrations.schema_version(database) == migrations.code_version(ROOT) == len(FILES)
    assert [name for name in report.applied if name in FILES] == FILES
    assert said[0] == f"Applying {FILES[0]}."
    timescale = any_level_databases.state.edition.startswith("TimescaleDB")
    assert report.level is (Level.APACHE if timescale else Level.PLAIN)
    assert "columnstore" in report.messages[0]


def test_a_second_migration_applies_no_migration_again(fresh_database: Database, settings: Settings) -> None:
    before = fresh_database.rows("SELECT * FROM nexus.schema_migrations ORDER BY version")
    report = migrations.migrate(fresh_database, ROOT, settings)
    assert not set(report.applied) & set(FILES)
    assert fresh_database.rows("SELECT * FROM nexus.schema_migrations ORDER BY version") == before


def test_the_plan_names_what_is_pending_and_changes_nothing(empty: Database, settings: Settings) -> None:
    steps = migrations.plan(empty, ROOT)
    assert [step.file for step in steps if step.kind == "migration" and step.pending] == FILES
    assert migrations.schema_version(empty) == 0
    migrations.migrate(empty, ROOT, settings)
    assert [step.file for step in migrations.plan(empty, ROOT) if step.kind == "migration" and step.pending] == []


def test_a_second_migration_does_not_wait_for_a_reader(fresh_database: Database, settings: Settings) -> None:
    with fresh_database.transaction() as reader:
        reader.execute("SELECT count(*) FROM market.raw_ohlc").fetchone()
        with psycopg.connect(reader.info.dsn, password=reader.info.password, autocommit=True) as other:
            other.execute("SET lock_timeout = '5s'")
            for path in (ROOT / "sql" / "timescale" / "apache").glob("*.sql"):
                if migrations.detect_level(other) is not Level.PLAIN:
                    other.execute(path.read_bytes())
        migrations.migrate(fresh_database, ROOT, settings)


def test_two_processes_that_migrate_at_once_apply_each_file_once(empty: Database, databases: DatabaseMaker) -> None:
    url = databases.url_of(empty)
    code = (
        "import sys; from pathlib import Path; from nexus_assets import migrations; "
        "from nexus_assets.database import Database; from nexus_assets.settings import load_settings; "
        "print(*migrations.migrate(Database(sys.argv[1]), Path(sys.argv[2]), load_settings()).applied)"
    )
    command = [sys.executable, "-c", code, url, str(ROOT)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    applied = [name for output in outputs for name in output if name in FILES]
    assert sorted(applied) == FILES
    assert migrations.schema_version(empty) == len(FILES)


def test_a_changed_file_that_was_applied_is_refused(empty: Database, root: Path, settings: Settings) -> None:
    migrations.migrate(empty, root, settings)
    path = root / "sql" / "migrations" / FILES[2]
    path.write_text(path.read_text() + "-- one more line\n")
    with pytest.raises(MigrationError, match=f"{FILES[2]} differs from what was applied"):
        migrations.plan(empty, root)
    with pytest.raises(MigrationError, match=f"{FILES[2]} differs from what was applied"):
        migrations.migrate(empty, root, settings)


def test_line_ends_of_another_system_are_no_change(empty: Database, root: Path, settings: Settings) -> None:
    migrations.migrate(empty, root, settings)
    path = root / "sql" / "migrations" / FILES[0]
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert not any(step.pending for step in migrations.plan(empty, root) if step.kind == "migration")


def test_a_changed_or_missing_released_file_is_refused_before_anything_is_applied(
    empty: Database, root: Path, settings: Settings
) -> None:
    frozen = root / "sql" / "migrations" / "frozen.txt"
    frozen.write_text(f"{'0' * 64}  {FILES[0]}\n")
    with pytest.raises(MigrationError, match=f"{FILES[0]} was released with checksum 000000000000"):
        migrations.migrate(empty, root, settings)
    frozen.write_text(f"{'0' * 64}  0099_gone.sql\n")
    with pytest.raises(MigrationError, match=r"released migration 0099_gone\.sql is missing"):
        migrations.migrate(empty, root, settings)
    assert migrations.schema_version(empty) == 0


def test_every_released_file_is_as_it_was_released() -> None:
    lines = (ROOT / "sql" / "migrations" / "frozen.txt").read_text().splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    released = {name: checksum for checksum, name in pairs}
    for name, checksum in released.items():
        assert hashlib.sha256((ROOT / "sql" / "migrations" / name).read_bytes()).hexdigest() == checksum, name
    assert sorted(released) == FILES


def test_a_database_newer_than_the_code_is_refused(empty: Database, root: Path, settings: Settings) -> None:
    migrations.migrate(empty, root, settings)
    (root / "sql" / "migrations" / FILES[-1]).unlink()
    with pytest.raises(MigrationError, match=rf"at migration 00{len(FILES)} .* knows up to 00{len(FILES) - 1:02d}"):
        migrations.migrate(empty, root, settings)


def test_a_file_that_fails_leaves_nothing_behind(empty: Database, root: Path, settings: Settings) -> None:
    name = f"{len(FILES) + 1:04d}_colours.sql"
    path = root / "sql" / "migrations" / name
    path.write_text("CREATE TABLE market.colours (name text); SELECT 1 / 0;")
    with pytest.raises(MigrationError, match=rf"{name} failed and was rolled back: division by zero"):
        migrations.migrate(empty, root, settings)
    assert empty.rows("SELECT to_regclass('market.colours') AS found") == [{"found": None}]
    assert migrations.schema_version(empty) == len(FILES)
    path.write_text("CREATE TABLE market.colours (name text);")
    assert name in migrations.migrate(empty, root, settings).applied


def test_a_new_constraint_of_a_stored_table_is_seen_because_a_columnstore_must_be_unpacked_for_it() -> None:
    text = """
    -- ALTER TABLE market.commented ADD CONSTRAINT x CHECK (a > 0);
    CREATE TABLE market.created (a integer, CONSTRAINT created_check CHECK (a > 0));
    ALTER TABLE market.bars ADD COLUMN a integer; -- not a constraint; nor is the next
    ALTER TABLE market.raw_ohlc
        ADD COLUMN a integer, -- one; two
        ADD CONSTRAINT raw_ohlc_a_check CHECK (a > 0);
    alter table features.labels drop constraint labels_check, add  constraint labels_check CHECK (true);
    """
    assert migrations.tables_with_new_constraints(text) == {("market", "raw_ohlc"), ("features", "labels")}
    barriers = (ROOT / "sql" / "migrations" / "0011_label_barriers.sql").read_text()
    assert migrations.tables_with_new_constraints(barriers) == {("features", "labels")}


@pytest.mark.parametrize("name", ["0011-dash.sql", "0099_gap.sql", "colours.sql"])
def test_a_misnamed_or_misnumbered_file_is_refused(empty: Database, root: Path, name: str) -> None:
    (root / "sql" / "migrations" / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match="is not the next migration"):
        migrations.plan(empty, root)


def test_the_first_day_moves_only_backwards(fresh_database: Database) -> None:
    def stored() -> str:
        return fresh_database.rows("SELECT value FROM nexus.meta WHERE key = 'first_day'")[0]["value"]

    assert stored() == "2024-01-01"
    migrations.migrate(fresh_database, ROOT, load_settings(start_day=date(2023, 6, 1)))
    assert stored() == "2023-06-01"
    with pytest.raises(MigrationError, match=r"NEXUS_START_DAY is 2024-01-01, but .* 2023-06-01"):
        migrations.migrate(fresh_database, ROOT, load_settings())
    assert stored() == "2023-06-01"


def test_symbols_are_appended_and_never_reordered(
    fresh_database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = instruments.INSTRUMENTS
    swapped = (catalogue[1], catalogue[0], *catalogue[2:])
    monkeypatch.setattr(migrations, "INSTRUMENTS", swapped)
    with pytest.raises(MigrationError, match="number 1 was EURUSD and is now GBPUSD"):
        migrations.migrate(fresh_database, ROOT, settings)
    monkeypatch.setattr(migrations, "INSTRUMENTS", (*catalogue, instruments.Instrument(
        "EURSEK", "fx", "spot", "EUR in SEK", 5, (5.0, 20.0)
    )))  # fmt: skip
    migrations.migrate(fresh_database, ROOT, settings)
    symbols = fresh_database.rows("SELECT value FROM nexus.meta WHERE key = 'symbols'")[0]["value"].split()
    assert symbols == [*(item.symbol for item in catalogue), "EURSEK"]


def test_a_plain_database_becomes_hypertables_with_its_rows_once_the_extension_is_there(
    databases: DatabaseMaker, settings: Settings
) -> None:
    if not databases.state.edition.startswith("TimescaleDB"):
        pytest.skip("needs TimescaleDB")
    database = Database(databases.empty(extension=False), patience=5)
    report = migrations.migrate(database, ROOT, settings)
    assert report.level is Level.PLAIN
    assert "let a superuser run CREATE EXTENSION timescaledb" in report.messages[0]
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO features.labels (symbol, timeframe, ts, entry_at, horizon_end, known_at, code_version) "
            "VALUES ('EURUSD', '1h', '2024-01-08Z', '2024-01-08 01:00Z', '2024-01-09 01:00Z', now(), 1)"
        )
    databases.create_extension(database)
    assert migrations.migrate(database, ROOT, settings).level is Level.APACHE
    found = database.rows(
        "SELECT hypertable_schema || '.' || hypertable_name AS name FROM timescaledb_information.hypertables"
    )
    assert "features.labels" in {row["name"] for row in found}
    assert database.rows("SELECT count(*) AS n FROM features.labels") == [{"n": 1}]
