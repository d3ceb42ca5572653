"""How much room each table takes, and what the columnstore saved.

Works on every level: a plain table is one piece, a hypertable many chunks, and only TimescaleDB's Community edition
has chunks in the columnstore.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString, cast

import psycopg
from psycopg.rows import dict_row

from nexus_assets.migrations import Level, detect_level
from nexus_assets.schemas import TABLES


@dataclass(frozen=True)
class TableStorage:
    """What one table takes.

    Attributes:
        schema: As in `market`.
        table: As in `bars`.
        rows: Estimate of the server's statistics; 0 until the server has analysed the table, and too many for a while
            after large corrections of a columnstore.
        bytes: All of it as it is now, with indexes [bytes]
        bytes_before_compression: What the chunks that are in the columnstore took before they went there, with
            indexes [bytes]; None where none is.
        ratio: bytes_before_compression to what the same chunks take now, corrections since included; None where none
            is in the columnstore.
        chunks: Number of chunks; 0 for a plain table.
        compressed_chunks: Number of chunks in the columnstore.
        edition: What the server can do; a columnstore needs `community`.
    """

    schema: str
    table: str
    rows: int
    bytes: int
    bytes_before_compression: int | None
    ratio: float | None
    chunks: int
    compressed_chunks: int
    edition: Level

    @property
    def packing(self) -> str:
        """A few words about the columnstore; empty where nothing of the table is in it."""
        if not self.compressed_chunks or self.ratio is None:
            return ""
        return f"{self.compressed_chunks} of {self.chunks} chunks, {self.ratio:.1f} times smaller"


@dataclass(frozen=True)
class DagsterTable:
    """What one table of Dagster's own takes.

    Attributes:
        table: As in `event_logs`.
        rows: Estimate of the server's statistics; 0 until the server has analysed the table.
        bytes: With indexes [bytes]
    """

    table: str
    rows: int
    bytes: int


_PLAIN = """
SELECT
    named.schema, named.name AS table, greatest(class.reltuples, 0)::bigint AS rows,
    pg_total_relation_size(class.oid) AS bytes, NULL::bigint AS bytes_before_compression, NULL::float8 AS ratio,
    0 AS chunks, 0 AS compressed_chunks
FROM unnest(%(schemas)s::text[], %(names)s::text[]) WITH ORDINALITY AS named (schema, name, position)
JOIN pg_class AS class ON class.oid = format('%%I.%%I', named.schema, named.name)::regclass
ORDER BY named.position
"""
# The sizes of chunks are those of now; only what they took before packing is remembered by TimescaleDB.
_TIMESCALEDB = """
SELECT
    named.schema, named.name AS table,
    approximate_row_count(class.oid) AS rows,
    pg_total_relation_size(class.oid) + coalesce(held.bytes, 0) AS bytes,
    held.before AS bytes_before_compression, held.before::float8 / nullif(held.packed, 0) AS ratio,
    coalesce(held.chunks, 0) AS chunks, coalesce(held.compressed_chunks, 0) AS compressed_chunks
FROM unnest(%(schemas)s::text[], %(names)s::text[]) WITH ORDINALITY AS named (schema, name, position)
JOIN pg_class AS class ON class.oid = format('%%I.%%I', named.schema, named.name)::regclass
LEFT JOIN LATERAL (
    SELECT h.hypertable_name AS name FROM timescaledb_information.hypertables AS h
    WHERE h.hypertable_schema = named.schema AND h.hypertable_name = named.name
) AS hyper ON true
LEFT JOIN LATERAL (
    SELECT
        sum(size.total_bytes)::bigint AS bytes,
        sum(size.total_bytes) FILTER (WHERE packed.before_compression_total_bytes IS NOT NULL) AS packed,
        sum(packed.before_compression_total_bytes)::bigint AS before,
        count(*) AS chunks,
        count(packed.before_compression_total_bytes) AS compressed_chunks
    FROM chunks_detailed_size(class.oid) AS size
    LEFT JOIN chunk_columnstore_stats(class.oid) AS packed USING (chunk_schema, chunk_name)
) AS held ON hyper.name IS NOT NULL
ORDER BY named.position
"""


def storage_by_table(connection: psycopg.Connection) -> list[TableStorage]:
    """What each table of schemas.TABLES takes, in their order. Reads statistics and file sizes, no rows.

    Args:
        connection: Of the role that owns the tables, at the newest migration.

    Raises:
        psycopg.Error: the server refused, or the database was not migrated (undefined schema or table).
    """
    level = detect_level(connection)
    query = _PLAIN if level is Level.PLAIN else _TIMESCALEDB
    parameters = {"schemas": [table.schema for table in TABLES], "names": [table.name for table in TABLES]}
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(cast(LiteralString, query), parameters).fetchall()
    return [TableStorage(**row, edition=level) for row in found]


def dagster_tables(connection: psycopg.Connection) -> list[DagsterTable]:
    """What each table of Dagster's database takes, the largest first. Reads statistics and file sizes, no rows.

    Args:
        connection: To Dagster's database, in the schema that its tables are in.

    Raises:
        psycopg.Error: the server refused.
    """
    query = """
    SELECT relname AS table, greatest(reltuples, 0)::bigint AS rows, pg_total_relation_size(oid) AS bytes
    FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY bytes DESC, relname
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return [DagsterTable(**row) for row in cursor.execute(query).fetchall()]


def columnstore_sentence(tables: Sequence[TableStorage]) -> str:
    """What the columnstore does for these tables, or why it does nothing."""
    if not tables:
        return ""
    if (edition := tables[0].edition) is not Level.COMMUNITY:
        server = "PostgreSQL without TimescaleDB" if edition is Level.PLAIN else "TimescaleDB's Apache edition"
        return f"No columnstore: the server is {server}, and only the Community edition has one."
    packed = [table for table in tables if table.ratio]
    if not packed:
        return "Nothing is in the columnstore yet."
    before = sum(table.bytes_before_compression or 0 for table in packed)
    now = sum((table.bytes_before_compression or 0) / (table.ratio or 1) for table in packed)
    return f"In the columnstore: {before / 1e6:,.0f} MB take {now / 1e6:,.0f} MB, {before / now:.1f} times less."
