"""The ledger nexus.slices: one row per table, symbol and day, written in the transaction that writes the slice.

Backfills and healing decide from it what is missing, what waits, and what is older than its input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import psycopg

from nexus_assets.schemas import Table

ALL_SYMBOLS = ""
"""The symbol of a table that is written by day only."""

WHOLE_TABLE = date(1970, 1, 1)
"""The day of a table that is written as a whole."""


@dataclass(frozen=True)
class LedgerRow:
    """A slice that was written or found unchanged. `complete` None: whether the day is over by the server's clock."""

    day: date
    rows: int
    changed: bool
    complete: bool | None = None


_RECORD = """
INSERT INTO nexus.slices AS slices (
    table_name, symbol, day, written_at, changed_at, rows, complete, code_version, inputs
)
SELECT
    %(table)s, %(symbol)s, day, coalesce(%(read_at)s::timestamptz, moment.at), moment.at, written.rows,
    coalesce(complete, (day + 1)::timestamp AT TIME ZONE 'UTC' <= moment.at), %(code_version)s, %(inputs)s
FROM unnest(%(days)s::date[], %(rows)s::bigint[], %(complete)s::boolean[]) AS written (day, rows, complete)
CROSS JOIN (SELECT coalesce(%(at)s::timestamptz, clock_timestamp()) AS at) AS moment
ON CONFLICT (table_name, symbol, day) DO UPDATE SET
    written_at = excluded.written_at,
    changed_at = CASE WHEN excluded.day = ANY (%(changed)s::date[]) THEN excluded.changed_at ELSE slices.changed_at END,
    rows = excluded.rows,
    complete = excluded.complete,
    code_version = excluded.code_version,
    inputs = excluded.inputs
"""


def record(
    connection: psycopg.Connection,
    table: Table,
    symbol: str,
    rows: Sequence[LedgerRow],
    *,
    code_version: int,
    at: datetime | None = None,
    read_at: datetime | None = None,
    inputs: str = "",
) -> None:
    """Note that these slices were written now; changed_at moves only where the content changed.

    Args:
        connection: In the transaction that writes the slices, under their lock.
        symbol: ALL_SYMBOLS for a table by day only.
        at: The moment, where the slices carry one already; else the server's clock.
        inputs: Fingerprint of what the rows follow from besides other tables; see planning.inputs_of.
        read_at: When the input was read, for written_at: what changed in it since makes the slice stale.
    """
    connection.execute(
        _RECORD,
        {
            "table": table.qualified,
            "symbol": symbol,
            "code_version": code_version,
            "at": at,
            "read_at": read_at,
            "inputs": inputs,
            "days": [row.day for row in rows],
            "rows": [row.rows for row in rows],
            "complete": [row.complete for row in rows],
            "changed": [row.day for row in rows if row.changed],
        },
    )


def days_of(start: datetime, end: datetime) -> list[date]:
    """The UTC days that the half-open range of instants touches."""
    if end <= start:
        return []
    last = (end - timedelta(microseconds=1)).date()
    return [start.date() + timedelta(days=n) for n in range((last - start.date()).days + 1)]
