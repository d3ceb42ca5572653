"""What tables take, on plain PostgreSQL and on TimescaleDB's Apache edition."""

from datetime import date, timedelta

import psycopg
import pytest

from nexus_assets.database import Database
from nexus_assets.migrations import Level, detect_level
from nexus_assets.schemas import BARS, INDICATOR_ROWS, TABLES
from nexus_assets.slice_writer import SliceRange, Target, replace_slices
from nexus_assets.storage_report import TableStorage, columnstore_sentence, dagster_tables, storage_by_table
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.database.rows import MONDAY, bar_rows, indicator_rows

YEAR = MONDAY + timedelta(days=365)


def report(database: Database) -> dict[str, TableStorage]:
    """The report by schema.table."""
    with database.session() as connection:
        return {f"{item.schema}.{item.table}": item for item in storage_by_table(connection)}


def write_bars(database: Database, first_day: date, end_day: date) -> None:
    """Hourly bars of EURUSD."""
    rows = bar_rows(first_day, end_day)
    replace_slices(database, [(Target(BARS), rows)], SliceRange("EURUSD", ("1h",), first_day, end_day))


def test_every_table_is_told_in_the_order_of_the_schema(any_level_database: Database) -> None:
    assert list(report(any_level_database)) == [table.qualified for table in TABLES]


def test_a_server_without_a_columnstore_says_so(any_level_database: Database) -> None:
    write_bars(any_level_database, MONDAY, YEAR)
    with any_level_database.session() as connection:
        level = detect_level(connection)
    told = report(any_level_database)
    assert level is not Level.COMMUNITY
    assert {item.edition for item in told.values()} == {level}
    assert {(item.bytes_before_compression, item.ratio, item.compressed_chunks) for item in told.values()} == {
        (None, None, 0)
    }


def test_bytes_are_those_of_the_files_of_the_table_its_indexes_and_its_chunks(any_level_database: Database) -> None:
    empty = report(any_level_database)["market.bars"]
    write_bars(any_level_database, MONDAY, YEAR)
    filled = report(any_level_database)["market.bars"]
    # Chunks are tables that inherit; that is what PostgreSQL itself knows of them.
    [counted] = any_level_database.rows(
        """
        SELECT pg_total_relation_size('market.bars')
            + coalesce((SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits
                        WHERE inhparent = 'market.bars'::regclass), 0)::bigint AS bytes
        """
    )
    assert filled.bytes == counted["bytes"] > empty.bytes
    # 8,760 rows of at least 150 bytes.
    assert filled.bytes > 1_300_000


def test_chunks_are_counted_where_there_are_any(any_level_database: Database) -> None:
    write_bars(any_level_database, MONDAY, YEAR)
    told = report(any_level_database)
    plain = told["market.bars"].edition is Level.PLAIN
    # 366 days are five or six chunks of 90 days, depending on where their edges lie.
    assert told["market.bars"].chunks in ({0} if plain else {5, 6})
    assert told["features.indicators"].chunks == 0


def test_rows_are_estimated_from_the_servers_statistics(any_level_database: Database) -> None:
    write_bars(any_level_database, MONDAY, YEAR)
    end = MONDAY + timedelta(days=10)
    where = SliceRange("EURUSD", ("1h",), MONDAY, end)
    replace_slices(any_level_database, [(Target(INDICATOR_ROWS), indicator_rows(MONDAY, end))], where)
    with any_level_database.session() as connection:
        connection.execute("ANALYZE market.bars, features.indicators, features.labels")
    told = report(any_level_database)
    assert (told["market.bars"].rows, told["features.indicators"].rows) == (24 * 365, 240)
    assert told["features.labels"].rows == 0


def test_a_database_that_was_not_migrated_is_an_error(any_level_databases: DatabaseMaker) -> None:
    with (
        psycopg.connect(any_level_databases.empty()) as connection,
        pytest.raises(psycopg.errors.InvalidSchemaName, match="market"),
    ):
        storage_by_table(connection)


def test_dagsters_tables_are_told_by_size_with_their_indexes(plain_databases: DatabaseMaker) -> None:
    with psycopg.connect(plain_databases.empty(), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA market")
        connection.execute("CREATE TABLE market.bars AS SELECT generate_series(1, 50000) AS id")
        connection.execute("CREATE TABLE runs (id bigint PRIMARY KEY)")
        connection.execute("CREATE TABLE event_logs AS SELECT generate_series(1, 10000) AS id")
        connection.execute("CREATE INDEX ON event_logs (id)")
        connection.execute("ANALYZE event_logs")
        told = dagster_tables(connection)
        [(whole, alone)] = connection.execute(
            "SELECT pg_total_relation_size('event_logs'), pg_relation_size('event_logs')"
        )
    assert [(item.table, item.rows) for item in told] == [("event_logs", 10_000), ("runs", 0)]
    assert told[0].bytes == whole > alone


def storage(edition: Level, before: int | None = None, ratio: float | None = None, packed: int = 0) -> TableStorage:
    return TableStorage("market", "bars", 1, 10**9, before, ratio, 12, packed, edition)


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ([], ""),
        ([storage(Level.PLAIN)], "No columnstore: the server is PostgreSQL without TimescaleDB, and only"),
        ([storage(Level.APACHE)], "No columnstore: the server is TimescaleDB's Apache edition, and only"),
        ([storage(Level.COMMUNITY)], "Nothing is in the columnstore yet."),
        (
            [storage(Level.COMMUNITY, 800_000_000, 8.0, 3), storage(Level.COMMUNITY, 200_000_000, 2.0, 1)],
            "In the columnstore: 1,000 MB take 200 MB, 5.0 times less.",
        ),
    ],
)
def test_the_columnstore_is_told_in_one_sentence(tables: list[TableStorage], sentence: str) -> None:
    assert columnstore_sentence(tables).startswith(sentence)
    assert bool(columnstore_sentence(tables)) is bool(sentence)


def test_a_table_tells_how_much_of_it_is_packed() -> None:
    assert storage(Level.COMMUNITY, 800_000_000, 8.04, 3).packing == "3 of 12 chunks, 8.0 times smaller"
    assert storage(Level.APACHE).packing == ""
