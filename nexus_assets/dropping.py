"""Dropping rows that lie before their table's retention: what would go, what went, and what is noted of it.

Rows go from the oldest end, for all symbols alike: chunk by chunk where the table is a hypertable, by deletes of at
most a week each where it is plain. Each piece is one transaction under the lock under which sets are pinned, and the
pins are read in it. TimescaleDB's own retention policies are used on no edition: a policy's age moves with the clock
and knows neither pins nor the ledger of slices.

What was dropped is not missing: the ledger forgets the days, and nexus.retention holds the day from which each table is
made again. What is left of days whose input is gone stays as it is.

What belongs here: the SQL of dropping. What may go is decided in retention.py, when in retention_runs.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, LiteralString, cast

import psycopg

from nexus_assets.database import Database
from nexus_assets.instruments import INSTRUMENTS
from nexus_assets.pinned_sets import LOCK
from nexus_assets.planning import correlation_reach, warmup_days
from nexus_assets.retention import Expiry, expiries
from nexus_assets.schemas import (
    BARS,
    CORRELATION_MATRIX,
    DATASET_SPLITS,
    DISAGREEMENTS,
    GAPS,
    INDICATOR_ROWS,
    LABELS,
    PAIR_RANKINGS,
    RAW_OHLC,
    Table,
)
from nexus_assets.settings import Settings
from nexus_assets.timeframes import TIMEFRAMES
from nexus_assets.transforms.correlations import HISTORY_DAYS

GOING_WITH = {BARS.name: (GAPS, DISAGREEMENTS), LABELS.name: (DATASET_SPLITS,)}
"""Tables whose rows are about the rows of another one, and go with them."""

STEP = timedelta(days=7)
"""Days of one transaction on a plain table."""

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Going:
    """What goes, or went, of a table.

    Attributes:
        rows: Exact; those of GOING_WITH are not counted.
        bytes: Of whole chunks; on a plain table an estimate of what becomes free for new rows [bytes]
        before: Days before this one; None where nothing goes.
    """

    expiry: Expiry
    rows: int
    bytes: int
    before: date | None


def plan(database: Database, config: Settings, *, today: date | None = None) -> list[Going]:
    """What `drop` would drop of each table that has a retention; nothing is changed.

    Raises:
        SettingsError: a setting is refused.
        DatabaseError: the database cannot be read.
    """
    with database.session() as connection:
        return [_going(connection, expiry) for expiry in expiries(connection, config, today or _today())]


def _today() -> date:
    return datetime.now(UTC).date()


def _going(connection: psycopg.Connection, expiry: Expiry) -> Going:
    table, end = expiry.table, _cutoff(expiry)
    if _is_hypertable(connection, table):
        chunks = _chunks(connection, expiry)
        if not chunks:
            return Going(expiry, 0, 0, None)
        end = chunks[-1][0]
        return Going(expiry, _count(connection, table, end), sum(s for _, s in chunks), _whole_from(table, end))
    rows = _count(connection, table, end)
    return Going(expiry, rows, _share(connection, table, rows), _whole_from(table, end) if rows else None)


def drop(
    database: Database,
    config: Settings,
    *,
    today: date | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Going]:
    """Drop what lies before its retention and is read by no pinned set. What went, of each table with a retention.

    Raises:
        SettingsError: a setting is refused; nothing is dropped.
        DatabaseError: the server refused. What went before went as a whole.
    """
    today = today or _today()
    went = []
    with database.session() as connection:
        for expiry in expiries(connection, config, today):
            rows = size = 0
            before = None
            while piece := _drop_oldest(database, connection, config, expiry.table, today):
                rows, size, before, expiry = rows + piece.rows, size + piece.bytes, piece.before, piece.expiry
                progress(f"{expiry.table.qualified}: {rows:,} rows before {before}")
            went.append(Going(expiry, rows, size, before))
    return went


def _drop_oldest(
    database: Database, connection: psycopg.Connection, config: Settings, table: Table, today: date
) -> Going | None:
    """Drop the oldest chunk or week of a table in one transaction; None where nothing is to be dropped."""
    with connection.transaction():
        database.lock(connection, LOCK)
        # A chunk that somebody reads for long is left for the next time.
        connection.execute("SET LOCAL lock_timeout = '60s'")
        expiry = next(e for e in expiries(connection, config, today) if e.table is table)
        if _is_hypertable(connection, table):
            chunks = _chunks(connection, expiry)
            if not chunks:
                return None
            end, size = chunks[0]
            rows = _count(connection, table, end)
            connection.execute("SELECT drop_chunks(%s::regclass, older_than => %s)", (table.qualified, end))
        else:
            oldest = _oldest(connection, table)
            if oldest is None or oldest >= _cutoff(expiry):
                return None
            end = min(oldest + STEP, _cutoff(expiry))
            rows = _count(connection, table, end)
            size = _share(connection, table, rows)
            _delete(connection, table, end)
        for more in GOING_WITH.get(table.name, ()):
            _delete(connection, more, end)
        before = _whole_from(table, end)
        _note(connection, config, table, before)
        return Going(expiry, rows, size, before)


# Time. A table by day is cut at a day; one by ts a day before the first day that is kept, because a bar belongs to the
# day in which it ends and a bar of one day begins up to a day before that.


def _cutoff(expiry: Expiry) -> Any:
    if expiry.table.time_column == "day":
        return expiry.kept_from
    return datetime.combine(expiry.kept_from - _ONE_DAY, time(), UTC)


def _whole_from(table: Table, end: Any) -> date:
    """The first day of which every row begins at or after a cut."""
    if table.time_column == "day":
        return end
    return (end + _ONE_DAY - timedelta(microseconds=1)).date() + _ONE_DAY


def _chunks(connection: psycopg.Connection, expiry: Expiry) -> list[tuple[Any, int]]:
    """The end and the bytes of each chunk that lies wholly before the cut, the oldest first."""
    table = expiry.table
    found = connection.execute(
        """
        SELECT chunks.range_end, coalesce(size.total_bytes, 0)
        FROM timescaledb_information.chunks AS chunks
        LEFT JOIN chunks_detailed_size(%s::regclass) AS size USING (chunk_schema, chunk_name)
        WHERE hypertable_schema = %s AND hypertable_name = %s AND range_end <= %s
        ORDER BY range_end
        """,
        (table.qualified, table.schema, table.name, _cutoff(expiry)),
    ).fetchall()
    return [(end.date() if table.time_column == "day" else end, size) for end, size in found]


def _is_hypertable(connection: psycopg.Connection, table: Table) -> bool:
    if connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is None:
        return False
    found = connection.execute(
        "SELECT FROM timescaledb_information.hypertables WHERE hypertable_schema = %s AND hypertable_name = %s",
        (table.schema, table.name),
    ).fetchone()
    return found is not None


# Rows. Conditions name every symbol and timeframe there is: the keys begin with them, so the rows are found by index.

_SYMBOLS = [item.symbol for item in INSTRUMENTS]


def _where(table: Table, end: Any) -> tuple[str, Sequence[Any]]:
    if table.time_column == "day":
        return "day < %s", (end,)
    return "symbol = ANY(%s) AND timeframe = ANY(%s) AND ts < %s", (_SYMBOLS, list(TIMEFRAMES), end)


def _count(connection: psycopg.Connection, table: Table, end: Any) -> int:
    condition, values = _where(table, end)
    return _value(connection, f"SELECT count(*) FROM {table.qualified} WHERE {condition}", values)


def _delete(connection: psycopg.Connection, table: Table, end: Any) -> None:
    condition, values = _where(table, end)
    connection.execute(cast(LiteralString, f"DELETE FROM {table.qualified} WHERE {condition}"), values)


def _oldest(connection: psycopg.Connection, table: Table) -> Any:
    """The day or the 00:00 UTC before the oldest row; None without one."""
    if table.time_column == "day":
        return _value(connection, f"SELECT min(day) FROM {table.qualified}")
    return _value(
        connection,
        f"""
        SELECT date_trunc('day', min(oldest.ts), 'UTC')
        FROM unnest(%s::text[]) AS s (symbol) CROSS JOIN unnest(%s::text[]) AS t (timeframe) CROSS JOIN LATERAL (
            SELECT ts FROM {table.qualified} AS r
            WHERE r.symbol = s.symbol AND r.timeframe = t.timeframe ORDER BY r.ts LIMIT 1
        ) AS oldest
        """,
        (_SYMBOLS, list(TIMEFRAMES)),
    )


def _share(connection: psycopg.Connection, table: Table, rows: int) -> int:
    """The part of a plain table's size that falls to so many rows."""
    return _value(
        connection,
        "SELECT (pg_total_relation_size(oid) * (%s / greatest(reltuples, %s, 1)))::bigint "
        "FROM pg_class WHERE oid = %s::regclass",
        (float(rows), float(rows), table.qualified),
    )


def _value(connection: psycopg.Connection, query: str, values: Sequence[Any] = ()) -> Any:
    row = connection.execute(cast(LiteralString, query), values).fetchone()
    assert row is not None  # every query here is an aggregate or names one row
    return row[0]


# The ledger


def _note(connection: psycopg.Connection, config: Settings, table: Table, before: date) -> None:
    """Forget the slices of days that went, and note from which day on each table is made again."""
    connection.execute("DELETE FROM nexus.slices WHERE table_name = %s AND day < %s", (table.qualified, before))
    effects = {table: before, **_effects(connection, config, table, before)}
    for reached, made_from in effects.items():
        connection.execute(
            """
            INSERT INTO nexus.retention AS kept (table_name, dropped_before, made_from, changed_at)
            VALUES (%s, %s, %s, clock_timestamp())
            ON CONFLICT (table_name) DO UPDATE SET
                dropped_before = greatest(kept.dropped_before, excluded.dropped_before),
                made_from = greatest(kept.made_from, excluded.made_from), changed_at = excluded.changed_at
            """,
            (reached.qualified, before if reached is table else None, made_from),
        )


def _effects(connection: psycopg.Connection, config: Settings, table: Table, before: date) -> dict[Table, date]:
    """The first day of each table that is made of nothing but kept rows, where it is made of this one."""
    if table is RAW_OHLC:
        # Roll-ups of a day begin with prices of the evening before.
        return {BARS: before + _ONE_DAY}
    if table is CORRELATION_MATRIX:
        return {PAIR_RANKINGS: before + timedelta(days=HISTORY_DAYS)}
    if table is not BARS:
        return {}
    reach = timedelta(days=max(warmup_days(timeframe) for timeframe in config.feature_timeframes))
    # Where bars are missing a warm-up reaches further back than usual; its start stands in the rows.
    furthest = _value(
        connection,
        "SELECT max(market.bar_day(timeframe, ts)) FROM features.indicators "
        "WHERE symbol = ANY(%s) AND timeframe = ANY(%s) AND ts >= %s AND ts < %s AND slice_start < %s",
        (_SYMBOLS, list(config.feature_timeframes), before, before + 3 * reach, before),
    )
    features_from = max(before + reach, (furthest or date.min) + _ONE_DAY)
    return {
        INDICATOR_ROWS: features_from,
        LABELS: features_from,
        CORRELATION_MATRIX: before + timedelta(days=correlation_reach(config) + 1),
    }


def described(going: Going) -> dict[str, Any]:
    """As JSON can hold it, for the command line and for Dagster's metadata."""
    expiry = going.expiry
    return {
        "rows": going.rows,
        "bytes": going.bytes,
        "before": going.before.isoformat() if going.before else None,
        "days": expiry.days,
        "kept_from": expiry.kept_from.isoformat(),
        "held_by": f"{expiry.held_by.reason} from {expiry.held_by.first_day} on" if expiry.held_by else "",
    }
