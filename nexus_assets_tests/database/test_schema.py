"""The migrated database against schemas.py, the single list of tables and columns."""

from collections.abc import Iterator

import psycopg
import pytest

from nexus_assets import trading_calendar
from nexus_assets.database import Database
from nexus_assets.errors import DatabaseError
from nexus_assets.schemas import TABLES, Table
from nexus_assets_tests.conftest import DatabaseMaker


@pytest.fixture(scope="module")
def migrated(any_level_databases: DatabaseMaker) -> Iterator[Database]:
    """A migrated database on each level."""
    database = Database(any_level_databases.migrated(), patience=5)
    yield database
    database.close()


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.qualified)
def test_columns_types_nullability_and_comments_are_those_of_the_schema(migrated: Database, table: Table) -> None:
    stored = migrated.rows(
        """
        SELECT column_name, data_type, is_nullable,
            col_description((table_schema || '.' || table_name)::regclass, ordinal_position) AS comment
        FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position
        """,
        (table.schema, table.name),
    )
    # By name: a migration can append a column only, while the schema keeps it among its like.
    assert sorted(tuple(row.values()) for row in stored) == sorted(
        (c.name, c.sql_type, "YES" if c.nullable else "NO", c.comment) for c in table.columns
    )
    assert migrated.rows("SELECT obj_description(%s::regclass) AS comment", (table.qualified,)) == [
        {"comment": table.description}
    ]


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.qualified)
def test_the_primary_key_is_that_of_the_schema(migrated: Database, table: Table) -> None:
    key = migrated.rows(
        """
        SELECT a.attname FROM pg_index AS i
        CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS part (number, position)
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = part.number
        WHERE i.indrelid = %s::regclass AND i.indisprimary ORDER BY part.position
        """,
        (table.qualified,),
    )
    assert tuple(row["attname"] for row in key) == table.key


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.qualified)
def test_what_a_column_may_hold_is_checked_by_the_database_as_well(migrated: Database, table: Table) -> None:
    checks = migrated.rows(
        "SELECT conname, pg_get_constraintdef(oid) AS text FROM pg_constraint "
        "WHERE conrelid = %s::regclass AND contype = 'c'",
        (table.qualified,),
    )
    by_name = {row["conname"]: row["text"] for row in checks}
    for column in table.columns:
        if column.values:
            text = by_name[f"{table.name}_{column.name}_check"]
            assert [value for value in column.values if f"'{value}'" in text] == list(column.values)
            assert text.count("'") == 2 * len(column.values)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.qualified)
def test_an_empty_table_is_read_in_the_types_of_the_schema(migrated: Database, table: Table) -> None:
    frame = migrated.frame(f"SELECT * FROM {table.qualified} LIMIT 0")
    assert frame.dtypes.to_dict() == table.empty().dtypes.to_dict()


def test_every_table_view_and_column_has_a_comment(migrated: Database) -> None:
    bare = migrated.rows(
        """
        SELECT c.oid::regclass::text AS relation, a.attname AS column
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace::regnamespace::text IN ('market', 'features', 'analytics', 'nexus')
            AND (c.relkind IN ('r', 'p') AND col_description(c.oid, a.attnum) IS NULL
                OR c.relkind IN ('r', 'p', 'v') AND obj_description(c.oid, 'pg_class') IS NULL)
        """
    )
    assert bare == []


def test_tables_over_time_are_hypertables_where_timescaledb_is(any_level_databases: DatabaseMaker) -> None:
    if not any_level_databases.state.edition.startswith("TimescaleDB"):
        pytest.skip("plain PostgreSQL has no hypertables")
    database = Database(any_level_databases.migrated(), patience=5)
    found = database.rows(
        "SELECT hypertable_schema || '.' || hypertable_name AS name, column_name "
        "FROM timescaledb_information.dimensions"
    )
    assert {row["name"]: row["column_name"] for row in found} == {
        t.qualified: t.time_column for t in TABLES if t.time_column
    }


def test_the_sessions_are_those_of_the_calendar(migrated: Database) -> None:
    stored = migrated.rows("SELECT session, time_zone, opens, closes FROM market.market_sessions")
    assert {row["session"]: (row["time_zone"], row["opens"], row["closes"]) for row in stored} == {
        session.session: (session.time_zone, session.opens, session.closes) for session in trading_calendar.SESSIONS
    }


def test_a_bar_whose_high_does_not_bound_it_is_refused_by_the_database(migrated: Database) -> None:
    with pytest.raises(DatabaseError, match="bars_prices_check") as caught, migrated.transaction() as connection:
        connection.execute(
            "INSERT INTO market.bars VALUES ('EURUSD', '1h', '2024-01-08Z', 1.1, 1.0, 1.0, 1.1, 0, 0, "
            "'files', 'mid', 'ticks', 'spot', now(), 1, 1, NULL)"
        )
    assert isinstance(caught.value.__cause__, psycopg.errors.CheckViolation)
