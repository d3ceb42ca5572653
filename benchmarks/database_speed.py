"""Rows a second into and out of each table: ours beside a bare `COPY ... BINARY` of the same rows, and ADBC alone.

On plain PostgreSQL and on hypertables. Ours writes slices of a month as a run does: checks every value, takes the lock,
compares with what is stored, keeps the ledger, and can be repeated after any interruption. Bare COPY does none of it.
"""

import os
import time
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import adbc_driver_postgresql.dbapi as adbc
import pgpq
import psycopg
import pyarrow as pa
from hours import timed_processes
from installation import Installation, installation

from nexus_assets import trading_calendar
from nexus_assets.database import Database
from nexus_assets.deliveries import append_delivery
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import Slice, consecutive, days_between
from nexus_assets.providers.interface import Request
from nexus_assets.providers.synthetic import SyntheticProvider
from nexus_assets.schemas import BARS, INDICATOR_ROWS, LABELS, RAW_OHLC, Table
from nexus_assets.settings import settings

if TYPE_CHECKING:
    from backfill import Chosen

SYMBOL, FIRST_DAY, DAYS = "EURUSD", date(2024, 1, 1), 182
EDITIONS = {"plain": "embedded", "hypertables": "auto"}
REPEATS = 3
COPY_ROWS = 65_536


def measure(chosen: "Chosen") -> dict[str, Any]:
    """Shares of the bare speed: the median of three, each beside its own bare one."""
    found: dict[str, Any] = {}
    for name, server in EDITIONS.items():
        os.environ["NEXUS_POSTGRES"] = server
        with installation(dagster=False, symbols=SYMBOL, start_day=f"{FIRST_DAY}", **MINUTES) as house:
            found[f"{name}_edition"] = house.servers.edition
            for what, value in compare(house).items():
                found[f"{name}_{what}"] = value
    del os.environ["NEXUS_POSTGRES"]
    return found


MINUTES = {
    "base_timeframe": "1m",
    "rolled_up_timeframes": "1h,4h,1d",
    "feature_timeframes": "1m,1h",
    "serving_timeframe": "1m",
    "correlation_timeframe": "1h",
}


def compare(house: Installation) -> dict[str, float]:
    """Half a year of minutes of one symbol: its rows are made once, and then written and read in every way."""
    timed_processes([[SYMBOL]], FIRST_DAY, FIRST_DAY + timedelta(DAYS))
    store = MarketStore(Database(house.servers.database_url))
    pieces = [Slice(SYMBOL, *piece) for piece in consecutive(days_between(FIRST_DAY, FIRST_DAY + timedelta(DAYS)))]
    found: dict[str, float] = {}
    stored = {
        table: store.database.arrow(f"SELECT * FROM {table.qualified}").select(table.column_names).cast(table.arrow)
        for table in (RAW_OHLC, BARS, INDICATOR_ROWS, LABELS)
    }
    for table, rows in stored.items():
        found[f"{table.name}_rows"] = rows.num_rows
        found[f"{table.name}_read_share"] = share(reading(store, table, pieces), partial(bare_read, house, table))
    ours = {t: delivering(store, pieces) if t is RAW_OHLC else writing(store, t, pieces) for t in stored}
    for table, rows in stored.items():
        bare = partial(bare_write, house, table, rows)
        found[f"{table.name}_write_share"] = share(ours[table], bare, before=house.empty)
    return found


def share(ours: Callable[[], object], bare: Callable[[], object], before: Callable[[], None] = lambda: None) -> float:
    """Seconds of bare over seconds of ours."""
    found = []
    for _ in range(REPEATS):
        before()
        bare_seconds = timed(bare)
        before()
        found.append(bare_seconds / timed(ours))
    return sorted(found)[REPEATS // 2]


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def bare_write(house: Installation, table: Table, rows: pa.Table) -> None:
    """One COPY of all rows in one transaction."""
    encoder = pgpq.ArrowToPostgresBinaryEncoder(rows.schema)
    statement = f"COPY {table.qualified} ({', '.join(rows.column_names)}) FROM STDIN (FORMAT BINARY)"
    with (
        psycopg.connect(house.servers.database_url) as connection,
        connection.cursor().copy(statement.encode()) as copy,
    ):
        copy.write(encoder.write_header())
        for batch in rows.combine_chunks().to_batches(max_chunksize=COPY_ROWS):
            copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())


def writing(store: MarketStore, table: Table, pieces: list[Slice]) -> Callable[[], None]:
    """Replace the slices, which are empty, from frames that were read before."""
    timeframes = settings().timeframes if table is BARS else settings().feature_timeframes
    frames = {p: store.read_slice(table, symbol=SYMBOL, first_day=p.first_day, end_day=p.end_day) for p in pieces}

    def work() -> None:
        for piece, frame in frames.items():
            store.replace(
                table, frame, symbol=SYMBOL, timeframes=timeframes, first_day=piece.first_day, end_day=piece.end_day
            )

    return work


def delivering(store: MarketStore, pieces: list[Slice]) -> Callable[[], None]:
    """Append deliveries of a month each, which were fetched before."""
    ranges = [trading_calendar.day_range(piece.first_day, piece.end_day) for piece in pieces]
    deliveries = [SyntheticProvider().fetch(Request(SYMBOL, "1m", *where)) for where in ranges]

    def work() -> None:
        for delivery in deliveries:
            append_delivery(store.database, delivery, run_id=None)

    return work


def reading(store: MarketStore, table: Table, pieces: list[Slice]) -> Callable[[], object]:
    """The whole range as a frame, as transforms and users read it."""
    end = pieces[-1].end_day
    start_at, end_at = trading_calendar.day_range(FIRST_DAY, end)
    if table is RAW_OHLC:
        return lambda: store.read_raw(SYMBOL, "1m", start_at, end_at)
    return lambda: store.read_slice(table, symbol=SYMBOL, first_day=FIRST_DAY, end_day=end)


def bare_read(house: Installation, table: Table) -> None:
    """ADBC alone, to an Arrow table."""
    with adbc.connect(house.servers.database_url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table.qualified} WHERE symbol = '{SYMBOL}'")
        cursor.fetch_arrow_table()
