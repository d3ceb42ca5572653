"""Overwriting exact slices: delete and COPY in one transaction under one lock, leaving alone what did not change.

What belongs here: which rows a slice of a table holds, and how they are replaced. A slice is one symbol and its days,
or the days alone for tables by day; a row belongs to the UTC day in which its bar ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import pandera.errors
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from nexus_assets import trading_calendar
from nexus_assets.database import Database, to_arrow
from nexus_assets.errors import DatabaseError, PartitionError
from nexus_assets.schemas import QUARANTINED_BARS, Table
from nexus_assets.slice_ledger import ALL_SYMBOLS, WHOLE_TABLE, LedgerRow, record

MAX_ROWS_SHOWN = 5


@dataclass(frozen=True)
class WriteCounts:
    """Rows that were copied, and day slices whose stored rows equal the new ones bit by bit and were left alone."""

    written: int
    unchanged_slices: int


@dataclass(frozen=True)
class SliceRange:
    """The days [first_day, end_day) of one symbol at these timeframes; or of a table by day (symbol None).

    Raises:
        PartitionError: no day, or a symbol without a timeframe.
    """

    symbol: str | None
    timeframes: tuple[str, ...]
    first_day: date
    end_day: date

    def __post_init__(self) -> None:
        if self.first_day >= self.end_day:
            raise PartitionError(
                f"The slice [{self.first_day}, {self.end_day}) has no day.", next_step="Days are half-open ranges."
            )
        if self.symbol is not None and not self.timeframes:
            raise PartitionError(f"The slice of {self.symbol} names no timeframe.")

    @property
    def days(self) -> list[date]:
        """The days, ascending."""
        return [self.first_day + timedelta(days=n) for n in range((self.end_day - self.first_day).days)]

    def opens(self, timeframe: str) -> pd.DatetimeIndex:
        """The first open of each day's bars, and of the day after the last: day n holds [opens[n], opens[n + 1])."""
        starts = pd.date_range(self.first_day, self.end_day, freq="D", tz="UTC", unit="us")
        return trading_calendar.bar_open_of(starts, timeframe)

    def __str__(self) -> str:
        days = f"[{self.first_day}, {self.end_day})"
        return f"{self.symbol} {days} at {', '.join(self.timeframes)}" if self.symbol else days


@dataclass(frozen=True)
class Target:
    """Rows of a table that a slice owns; `condition` leaves out rows that somebody else writes."""

    table: Table
    condition: str = "true"

    @property
    def by_day(self) -> bool:
        """Whether the rows carry their day, for all symbols."""
        return self.table.time_column == "day"


VALIDATED_QUARANTINE = Target(QUARANTINED_BARS, "stage = 'validation'")
"""Rows that validation stopped; those stopped at delivery belong to their delivery."""


def slice_lock(table: Table, symbol: str | None) -> str:
    """The name of the lock that writers of a symbol's slices hold; of a table by day without a symbol."""
    return f"{table.qualified} {symbol or ALL_SYMBOLS}".strip()


def replace_slices(
    database: Database,
    frames: Sequence[tuple[Target, pd.DataFrame]],
    where: SliceRange,
    *,
    complete: Mapping[date, bool] | None = None,
    code_version: int | None = None,
    read_at: datetime | None = None,
    inputs: str = "",
) -> list[WriteCounts]:
    """Replace the slice in each table, in one transaction; the first table is the asset that the ledger is kept for.

    Days before the one in nexus.retention from which the first table is made are left alone: what they were made from
    was dropped, so the new rows would only seem to be right.

    Args:
        frames: Target and its new rows, in any order of rows. No rows for a day empties it.
        complete: By day, what the ledger says of it; default: whether the day is over.
        code_version: For the ledger; default: the rows' own code_version, 1 where there is none.
        read_at: For the ledger: when the input was read; default: now.
        inputs: For the ledger: fingerprint of what the rows follow from besides other tables.

    Raises:
        PartitionError: a row lies outside the slice, or the slice does not fit the table. Nothing is written.
        DatabaseError: a frame breaks its table's schema, or the server refused. Nothing is written.
    """
    checked = [(target, _checked(target, frame, where)) for target, frame in frames]
    first = checked[0][0].table
    version = code_version or _code_version(checked[0][1])

    def work(connection: psycopg.Connection) -> list[WriteCounts]:
        database.lock(connection, slice_lock(first, where.symbol))
        kept = _from_day(where, _made_from(connection, first))
        if kept is None:
            return [WriteCounts(0, len(where.days)) for _ in checked]
        inside = [(t, rows if kept is where else _inside(t, rows, kept)) for t, rows in checked]
        written = [_replace(database, connection, target, rows, kept) for target, rows in inside]
        counts, changed = written[0][0], written[0][1]
        per_day = np.bincount(_positions(inside[0][0], inside[0][1], kept), minlength=len(kept.days))
        record(
            connection,
            first,
            where.symbol or ALL_SYMBOLS,
            [
                LedgerRow(day, int(count), bool(differs), (complete or {}).get(day))
                for day, count, differs in zip(kept.days, per_day, changed, strict=True)
            ],
            code_version=version,
            read_at=read_at,
            inputs=inputs,
        )
        return [counts, *(more for more, _ in written[1:])]

    return database.run(work)


def _made_from(connection: psycopg.Connection, table: Table) -> date:
    row = connection.execute(
        "SELECT made_from FROM nexus.retention WHERE table_name = %s AND made_from IS NOT NULL", (table.qualified,)
    ).fetchone()
    return row[0] if row else date.min


def _from_day(where: SliceRange, first_day: date) -> SliceRange | None:
    """The part of a slice from a day on; None where nothing is left of it."""
    if where.first_day >= first_day:
        return where
    return None if where.end_day <= first_day else replace(where, first_day=first_day)


def _inside(target: Target, rows: pa.Table, where: SliceRange) -> pa.Table:
    return rows.filter(pa.array(_positions(target, rows, where) >= 0)).combine_chunks()


def replace_table(
    database: Database,
    table: Table,
    frame: pd.DataFrame,
    *,
    code_version: int | None = None,
    read_at: datetime | None = None,
) -> WriteCounts:
    """Replace all rows of a table in one transaction, or leave them alone where they are equal; for the arguments see
    replace_slices.

    Raises:
        DatabaseError: the frame breaks the table's schema, or the server refused. Nothing is written.
    """
    rows = validated(table, frame)
    version = code_version or _code_version(rows)

    def work(connection: psycopg.Connection) -> WriteCounts:
        database.lock(connection, table.qualified)
        stored = _sorted(table, database.arrow(f"SELECT * FROM {table.qualified}"))
        equal = stored.num_rows == rows.num_rows and bool(_rows_equal(stored, rows).all())
        if not equal:
            connection.execute(sql.SQL("DELETE FROM {}").format(_name(table)))
            database.copy_arrow(connection, table.qualified, rows)
        entry = LedgerRow(WHOLE_TABLE, rows.num_rows, not equal)
        record(connection, table, ALL_SYMBOLS, [entry], code_version=version, read_at=read_at)
        return WriteCounts(0 if equal else rows.num_rows, int(equal))

    return database.run(work)


def validated(table: Table, frame: pd.DataFrame) -> pa.Table:
    """The frame as an Arrow table in the table's exact types, in the order of its key.

    Raises:
        DatabaseError: a column too many or missing, a value of another type, or one that breaks a check of the
            schema; the first failing rows are named.
    """
    surplus = [name for name in frame.columns if name not in table.column_names]
    if surplus:
        raise DatabaseError(f"Rows for {table.qualified} have the unknown columns {', '.join(map(str, surplus))}.")
    rows = to_arrow(table.arrow, frame, table.qualified)
    if rows.num_rows == 0:
        return rows  # its columns and types are right by now, and there is no value that pandera could judge
    try:
        table.pandera.validate(table.to_pandas(rows), lazy=True)
    except pandera.errors.SchemaErrors as error:
        raise DatabaseError(
            f"{frame.shape[0]} rows for {table.qualified} break its schema: {_failures(table, rows, error)}",
            next_step="Nothing was written. Correct the transform, or the bounds in nexus_assets/schemas.py.",
        ) from error
    return _sorted(table, rows)


def _failures(table: Table, rows: pa.Table, error: pandera.errors.SchemaErrors) -> str:
    cases = error.failure_cases
    sentences = []
    for (column, check), failed in cases.groupby(["column", "check"], dropna=False, sort=False):
        where = [n for n in failed["index"].dropna().unique() if isinstance(n, int | float | np.integer)]
        shown = [rows.slice(int(n), 1).select(list(table.key)).to_pylist()[0] for n in where[:MAX_ROWS_SHOWN]]
        named = "; ".join(", ".join(str(value) for value in row.values()) for row in shown)
        values = ", ".join(str(value) for value in failed["failure_case"].iloc[:MAX_ROWS_SHOWN])
        sentences.append(f"{column} fails {check} in {len(failed)} rows ({values}) at {named or 'the frame'}")
    return ". ".join(sentences[:MAX_ROWS_SHOWN])


def _checked(target: Target, frame: pd.DataFrame, where: SliceRange) -> pa.Table:
    table = target.table
    if target.by_day != (where.symbol is None):
        grain = "by day for all symbols" if target.by_day else "by symbol and day"
        raise PartitionError(f"{table.qualified} is written {grain}, but the slice is {where}.")
    rows = validated(table, frame)
    outside = _positions(target, rows, where) < 0
    if not target.by_day:
        outside |= ~_equal(rows["symbol"], where.symbol)
    if outside.any():
        shown = rows.select(list(table.key)).take(np.flatnonzero(outside)[:MAX_ROWS_SHOWN]).to_pylist()
        named = "; ".join(", ".join(str(value) for value in row.values()) for row in shown)
        raise PartitionError(
            f"{int(outside.sum())} of {rows.num_rows} rows for {table.qualified} lie outside of {where}: {named}.",
            next_step="Nothing was written. Write only rows of the slice's symbol, timeframes and days.",
        )
    return rows


def _positions(target: Target, rows: pa.Table, where: SliceRange) -> np.ndarray:
    """The number of each row's day in the slice; -1 outside."""
    if target.by_day:
        days = rows["day"].to_numpy().astype("datetime64[D]")
        positions = (days - np.datetime64(where.first_day)).astype("int64")
        return np.where((positions >= 0) & (positions < len(where.days)), positions, -1)
    positions = np.full(rows.num_rows, -1)
    ts = rows["ts"].cast(pa.int64()).to_numpy()
    for timeframe in where.timeframes:
        mine = _equal(rows["timeframe"], timeframe)
        found = np.searchsorted(where.opens(timeframe).as_unit("us").asi8, ts[mine], side="right") - 1
        positions[mine] = np.where(found < len(where.days), found, -1)
    return positions


def _replace(
    database: Database, connection: psycopg.Connection, target: Target, rows: pa.Table, where: SliceRange
) -> tuple[WriteCounts, np.ndarray]:
    """Replace the days that differ; which those are, by position."""
    # Read beside the transaction: the lock keeps other writers out, so this is what the transaction would see.
    stored = _sorted(target.table, database.arrow(_select(target, where)))
    new_days, old_days = _positions(target, rows, where), _positions(target, stored, where)
    changed = _changed_days(rows, new_days, stored, old_days, len(where.days))
    occupied = changed & (np.bincount(old_days, minlength=len(changed)) > 0)
    for first, end in _runs(occupied):
        _delete(connection, target, where, first, end)
    fresh = rows.filter(pa.array(changed[new_days])) if len(new_days) else rows
    written = database.copy_arrow(connection, target.table.qualified, fresh)
    return WriteCounts(written, int((~changed).sum())), changed


def _changed_days(
    rows: pa.Table, new_days: np.ndarray, stored: pa.Table, old_days: np.ndarray, count: int
) -> np.ndarray:
    changed = np.bincount(new_days, minlength=count) != np.bincount(old_days, minlength=count)
    # Both are in the order of the key; sorted by day, rows of days of equal count face each other.
    new_order = np.argsort(new_days, kind="stable")
    old_order = np.argsort(old_days, kind="stable")
    new_order = new_order[~changed[new_days[new_order]]]
    old_order = old_order[~changed[old_days[old_order]]]
    if len(new_order):
        unequal = ~_rows_equal(stored.take(old_order), rows.take(new_order))
        changed[new_days[new_order[unequal]]] = True
    return changed


def _rows_equal(left: pa.Table, right: pa.Table) -> np.ndarray:
    """Whether the rows are equal, bit by bit: 0.0 is not -0.0, NULL equals NULL."""
    equal = np.ones(left.num_rows, dtype=bool)
    for name in right.column_names:
        a, b = left[name], right[name]
        a_null, b_null = a.is_null().to_numpy(), b.is_null().to_numpy()
        if pa.types.is_floating(b.type):
            same = a.fill_null(0.0).to_numpy().view("int64") == b.fill_null(0.0).to_numpy().view("int64")
        else:
            same = _equal(a, b)
        equal &= np.where(a_null | b_null, a_null & b_null, same)
    return equal


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray | str | None) -> np.ndarray:
    return pc.call_function("equal", [left, right]).fill_null(False).to_numpy()


def _sorted(table: Table, rows: pa.Table) -> pa.Table:
    rows = rows.select(table.column_names).cast(table.arrow)
    return rows.sort_by([(name, "ascending") for name in table.key]).combine_chunks()


def _select(target: Target, where: SliceRange) -> str:
    return f"SELECT * FROM {target.table.qualified} WHERE {_condition(target, where, 0, len(where.days))}"


def _delete(connection: psycopg.Connection, target: Target, where: SliceRange, first: int, end: int) -> None:
    condition = sql.SQL(_condition(target, where, first, end))  # pyright: ignore[reportArgumentType]
    connection.execute(sql.SQL("DELETE FROM {} WHERE {}").format(_name(target.table), condition))


def _condition(target: Target, where: SliceRange, first: int, end: int) -> str:
    """The rows of the days number first to end, end excluded, as SQL with literals, so that chunks are excluded."""
    if target.by_day:
        days = (where.first_day + timedelta(days=first), where.first_day + timedelta(days=end))
        return "day >= {} AND day < {}".format(*map(_literal, days))
    starts, stops, bounds = "", "", []
    for timeframe in where.timeframes:
        opens = where.opens(timeframe)
        start, stop = opens[first].to_pydatetime(), opens[end].to_pydatetime()
        starts += f" WHEN {_literal(timeframe)} THEN {_literal(start)}"
        stops += f" WHEN {_literal(timeframe)} THEN {_literal(stop)}"
        bounds += [start, stop]
    # Without alternatives (OR): chunks are excluded by the outer bounds alone, and with alternatives the planner may
    # leave a DELETE from a columnstore no condition of its own, so that it unpacks whole chunks.
    return (
        f"{target.condition} AND symbol = {_literal(where.symbol)} "
        f"AND timeframe IN ({', '.join(map(_literal, where.timeframes))}) "
        f"AND ts >= {_literal(min(bounds))} AND ts < {_literal(max(bounds))} "
        f"AND ts >= CASE timeframe{starts} END AND ts < CASE timeframe{stops} END"
    )


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Half-open ranges of consecutive True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype("int8"), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _code_version(rows: pa.Table) -> int:
    if "code_version" in rows.column_names and rows.num_rows:
        return int(rows["code_version"].to_numpy().max())
    return 1


def _literal(value: object) -> str:
    return sql.Literal(value).as_string(None)


def _name(table: Table) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)
