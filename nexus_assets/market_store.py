"""The stored market: what assets, checks, sensors and people read from it and write to it.

What belongs here: every query over market, features and analytics. Writing is in deliveries.py and slice_writer.py.
All instants are tz-aware UTC, ts is the open of a bar, ranges are half-open; frames come back in the types of
schemas.Table, ascending by key.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow

from nexus_assets import request_log, trading_calendar
from nexus_assets.database import lock_key
from nexus_assets.deliveries import DeliveryCounts, append_delivery, unaccounted, withdraw
from nexus_assets.errors import ProviderError
from nexus_assets.market_counts import MarketCounts, known_column
from nexus_assets.providers.interface import Delivery, Request
from nexus_assets.schemas import (
    BARS,
    CORRELATION_MATRIX,
    DISAGREEMENTS,
    GAPS,
    INDICATOR_ROWS,
    LABELS,
    RAW_OHLC,
    SLICES,
    Table,
)
from nexus_assets.slice_writer import (
    VALIDATED_QUARANTINE,
    SliceRange,
    Target,
    WriteCounts,
    replace_slices,
    replace_table,
    slice_lock,
)
from nexus_assets.timeframes import TIMEFRAMES, length

__all__ = ["DeliveryCounts", "MarketStore", "WriteCounts"]


class BarReader(Protocol):
    """What features and correlations are computed from: the stored market, or a proposed one."""

    def read_bars_with_warmup(
        self, symbol: str, timeframe: str, first_day: date, end_day: date, warmup: int
    ) -> pd.DataFrame:
        """The bars of these days, after the last `warmup` bars that end before them."""
        ...

    def read_closes(self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """symbol, ts, close and known_at of the bars with ts in [start, end), by symbol and ts."""
        ...

    def read_correlations(self, first_day: date, end_day: date) -> pd.DataFrame:
        """The pairs of the days [first_day, end_day)."""
        ...


class MarketStore(MarketCounts):
    """The tables of one database. Every method raises DatabaseError where the server cannot be reached or refuses."""

    # Writing

    def append_delivery(self, delivery: Delivery, *, run_id: str | None) -> DeliveryCounts:
        """Append what a delivery changes to market.raw_ohlc; see deliveries.append_delivery."""
        return append_delivery(self.database, delivery, run_id=run_id)

    def withdraw(
        self, symbol: str, timeframe: str, provider: str, ts: Sequence[datetime], *, run_id: str | None
    ) -> DeliveryCounts:
        """Take bars of a provider back; see deliveries.withdraw."""
        return withdraw(self.database, symbol, timeframe, provider, ts, run_id=run_id)

    def record_failure(self, provider: str, request: Request, error: ProviderError, *, run_id: str | None) -> None:
        """Note that a provider did not answer."""
        request_log.record_failure(self.database, provider, request, error, run_id=run_id)

    def replace(
        self,
        table: Table,
        frame: pd.DataFrame,
        *,
        symbol: str | None,
        timeframes: Iterable[str] = (),
        first_day: date,
        end_day: date,
        complete: Mapping[date, bool] | None = None,
        code_version: int | None = None,
        read_at: datetime | None = None,
        inputs: str = "",
    ) -> WriteCounts:
        """Replace exactly the rows of these days in one transaction; see slice_writer.replace_slices.

        Args:
            symbol: None for a table by day.
            timeframes: Those that are replaced; rows of other timeframes stay. Of no meaning for a table by day.
        """
        where = SliceRange(symbol, tuple(timeframes), first_day, end_day)
        frames = [(Target(table), frame)]
        return replace_slices(
            self.database, frames, where, complete=complete, code_version=code_version, read_at=read_at, inputs=inputs
        )[0]

    def replace_bars(
        self,
        bars: pd.DataFrame,
        quarantined: pd.DataFrame,
        *,
        gaps: pd.DataFrame | None = None,
        disagreements: pd.DataFrame | None = None,
        symbol: str,
        timeframes: Iterable[str],
        first_day: date,
        end_day: date,
        complete: Mapping[date, bool] | None = None,
        code_version: int | None = None,
        read_at: datetime | None = None,
        inputs: str = "",
    ) -> WriteCounts:
        """Replace the bars of these days, the rows that validation kept out of them, the gaps between them and what
        other providers say of them, in one transaction. No frame, no such rows."""
        where = SliceRange(symbol, tuple(timeframes), first_day, end_day)
        frames = [
            (Target(BARS), bars),
            (VALIDATED_QUARANTINE, quarantined),
            (Target(GAPS), GAPS.empty() if gaps is None else gaps),
            (Target(DISAGREEMENTS), DISAGREEMENTS.empty() if disagreements is None else disagreements),
        ]
        return replace_slices(
            self.database, frames, where, complete=complete, code_version=code_version, read_at=read_at, inputs=inputs
        )[0]

    def replace_all(
        self, table: Table, frame: pd.DataFrame, *, code_version: int | None = None, read_at: datetime | None = None
    ) -> WriteCounts:
        """Replace all rows of an unpartitioned table; see slice_writer.replace_table."""
        return replace_table(self.database, table, frame, code_version=code_version, read_at=read_at)

    def confirm(self, table: str, symbol: str, days: Sequence[date], at: datetime) -> None:
        """Note that slices are up to date with everything that changed until `at`, without writing them."""
        if days:
            self.database.run(
                lambda connection: connection.execute(
                    "UPDATE nexus.slices SET written_at = %s "
                    "WHERE table_name = %s AND symbol = %s AND day = ANY(%s) AND written_at < %s",
                    (at, table, symbol, list(days), at),
                )
            )

    # Reading rows

    def read_all(self, table: Table) -> pd.DataFrame:
        """All rows of a table."""
        return self.database.frame(f"SELECT {_columns(table)} FROM {table.qualified} ORDER BY {', '.join(table.key)}")

    def read_slice(self, table: Table, *, symbol: str | None, first_day: date, end_day: date) -> pd.DataFrame:
        """The rows of these days, at every timeframe; of one symbol, or of all for a table by day."""
        order = ", ".join(table.key)
        if symbol is None:
            return self.database.frame(
                f"SELECT {_columns(table)} FROM {table.qualified} WHERE day >= %s AND day < %s ORDER BY {order}",
                (first_day, end_day),
            )
        bounds = [trading_calendar.slice_bounds(timeframe, first_day, end_day) for timeframe in TIMEFRAMES]
        parts = " OR ".join(["timeframe = %s AND ts >= %s AND ts < %s"] * len(TIMEFRAMES))
        values = [value for timeframe, pair in zip(TIMEFRAMES, bounds, strict=True) for value in (timeframe, *pair)]
        # The outer bounds say nothing new; chunks are excluded by them, and not by alternatives.
        outer = (min(start for start, _ in bounds), max(end for _, end in bounds))
        return self.database.frame(
            f"SELECT {_columns(table)} FROM {table.qualified} "
            f"WHERE symbol = %s AND ts >= %s AND ts < %s AND ({parts}) ORDER BY {order}",
            (symbol, *outer, *values),
        )

    def read_raw(
        self,
        symbol: str,
        timeframe: str,
        start: datetime,
        end: datetime,
        *,
        as_known: datetime | None = None,
        assume_published: timedelta | None = None,
    ) -> pd.DataFrame:
        """The newest revision of each (ts, provider) with ts in [start, end), by ts and provider; withdrawn ones are
        left out. With `as_known` the newest that had been learned by then; `assume_published` counts bars that were
        first delivered long after their end as learned so long after it."""
        source = "market.raw_ohlc_as_corrected" if as_known is None else "market.raw_ohlc_as_known(%s, %s)"
        return self.database.frame(
            f"SELECT {_columns(RAW_OHLC)} FROM {source} "
            "WHERE symbol = %s AND timeframe = %s AND ts >= %s AND ts < %s ORDER BY ts, provider",
            (*([] if as_known is None else [as_known, assume_published]), symbol, timeframe, start, end),
        )

    def read_revisions(self, symbol: str, timeframe: str, ts: Sequence[pd.Timestamp]) -> pd.DataFrame:
        """Every revision of every provider of these bars, by ts and delivery."""
        return self.database.frame(
            f"SELECT {_columns(RAW_OHLC)} FROM market.raw_ohlc "
            "WHERE symbol = %s AND timeframe = %s AND ts = ANY(%s) ORDER BY ts, delivery_id",
            (symbol, timeframe, [instant.to_pydatetime() for instant in ts]),
        )

    def read_kept_out(self, symbol: str, timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """ts, provider, rule and known_at of the rows with ts in [start, end) that were stopped at delivery and whose
        time can be trusted, by ts."""
        return self.database.frame(
            "SELECT ts, provider, rule, known_at FROM market.quarantined_bars "
            "WHERE symbol = %s AND timeframe = %s AND ts >= %s AND ts < %s AND stage = 'delivery' "
            "AND rule IN ('granularity', 'conflicting_repeat') ORDER BY ts, delivery_id",
            (symbol, timeframe, start, end),
        )

    def requests_about(self, symbol: str, timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """Who was asked for bars of [start, end), and when; see request_log.requests_about."""
        return request_log.requests_about(self.database, symbol, timeframe, start, end)

    def days_worth_asking(
        self, providers: Mapping[str, Sequence[str]], timeframe: str, first_day: date, end_day: date
    ) -> set[tuple[str, date]]:
        """(symbol, day) with a gap that a provider may still fill; see request_log.days_worth_asking."""
        return request_log.days_worth_asking(self.database, providers, timeframe, first_day, end_day)

    def read_revision_times(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, assume_published: timedelta | None
    ) -> pd.DataFrame:
        """ts, provider and known_at of every revision with ts in [start, end), withdrawals included; history that was
        loaded later counts as known `assume_published` after its end."""
        return self.database.frame(
            """
            SELECT ts, provider, CASE
                WHEN backfilled THEN least(known_at, ts + %s::interval + %s::interval) ELSE known_at
            END AS known_at
            FROM market.raw_ohlc WHERE symbol = %s AND timeframe = %s AND ts >= %s AND ts < %s
            """,
            (length(timeframe), assume_published, symbol, timeframe, start, end),
        )

    def kinds_of(self, symbol: str, timeframe: str, provider: str) -> tuple[str, str, str] | None:
        """price_kind, volume_kind and instrument_kind of the newest raw row of a provider; None without one."""
        rows = self.database.rows(
            "SELECT price_kind, volume_kind, instrument_kind FROM market.raw_ohlc "
            "WHERE symbol = %s AND timeframe = %s AND provider = %s ORDER BY ts DESC, delivery_id DESC LIMIT 1",
            (symbol, timeframe, provider),
        )
        return tuple(rows[0].values()) if rows else None  # pyright: ignore[reportReturnType]

    def newest_raw_change(self, symbols: Sequence[str]) -> datetime | None:
        """When the prices of any of these symbols last changed."""
        return self.database.rows(
            "SELECT max(changed_at) AS instant FROM nexus.slices WHERE table_name = %s AND symbol = ANY(%s)",
            (RAW_OHLC.qualified, list(symbols)),
        )[0]["instant"]

    def oldest_raw(self, symbol: str, timeframe: str) -> datetime | None:
        """ts of the oldest delivered bar."""
        return self.database.rows(
            "SELECT min(ts) AS ts FROM market.raw_ohlc WHERE symbol = %s AND timeframe = %s", (symbol, timeframe)
        )[0]["ts"]

    def settled_until(self, table: Table | None = None, symbol: str | None = None) -> datetime:
        """The instant before which nothing more will be written: the database's clock, or the start of the oldest
        transaction that holds one of our locks and so may have taken its known_at already. With a table, by writers
        of it (of its slices of a symbol) only."""
        key = None if table is None else lock_key(slice_lock(table, symbol))
        return self.database.rows(
            """
            SELECT coalesce(min(a.xact_start), clock_timestamp()) AS instant
            FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
            WHERE l.locktype = 'advisory' AND l.granted AND a.xact_start IS NOT NULL
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND (%s::bigint IS NULL OR ((l.classid::bigint << 32) | l.objid::bigint) = %s)
            """,
            (key, key),
        )[0]["instant"]

    def read_bars(self, symbol: str, timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """Bars with ts in [start, end)."""
        return self.database.frame(
            f"SELECT {_columns(BARS)} FROM market.bars "
            "WHERE symbol = %s AND timeframe = %s AND ts >= %s AND ts < %s ORDER BY ts",
            (symbol, timeframe, start, end),
        )

    def read_opens(
        self, symbol: str, timeframe: str, start: datetime, last: datetime, following: int
    ) -> pd.DatetimeIndex:
        """Opens of the stored bars with ts in [start, last], and of the next `following` ones, ascending."""
        rows = self.database.frame(
            """
            (SELECT ts FROM market.bars WHERE symbol = %s AND timeframe = %s AND ts >= %s AND ts <= %s)
            UNION ALL
            (SELECT ts FROM market.bars WHERE symbol = %s AND timeframe = %s AND ts > %s ORDER BY ts LIMIT %s)
            ORDER BY ts
            """,
            (symbol, timeframe, start, last, symbol, timeframe, last, following),
        )
        return pd.DatetimeIndex(rows["ts"]).as_unit("us")

    def read_bars_with_warmup(
        self, symbol: str, timeframe: str, first_day: date, end_day: date, warmup: int
    ) -> pd.DataFrame:
        """The bars of these days, after the last `warmup` bars that end at or before first_day 00:00 UTC, however long
        ago; fewer where the history is short."""
        start, end = trading_calendar.slice_bounds(timeframe, first_day, end_day)
        return self.database.frame(
            f"""
            (SELECT {_columns(BARS)} FROM market.bars
             WHERE symbol = %s AND timeframe = %s AND ts < %s ORDER BY ts DESC LIMIT %s)
            UNION ALL
            (SELECT {_columns(BARS)} FROM market.bars
             WHERE symbol = %s AND timeframe = %s AND ts >= %s AND ts < %s)
            ORDER BY ts
            """,
            (symbol, timeframe, start, warmup, symbol, timeframe, start, end),
        )

    def read_closes(self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """symbol, ts, close and known_at of the bars with ts in [start, end), by symbol and ts."""
        return self.database.frame(
            "SELECT symbol, ts, close, known_at FROM market.bars "
            "WHERE symbol = ANY(%s) AND timeframe = %s AND ts >= %s AND ts < %s ORDER BY symbol, ts",
            (list(symbols), timeframe, start, end),
        )

    def read_labels(self, symbols: Sequence[str], timeframe: str) -> pd.DataFrame:
        """All labels of these symbols at one timeframe, by symbol and ts."""
        return self.database.frame(
            f"SELECT {_columns(LABELS)} FROM features.labels WHERE symbol = ANY(%s) AND timeframe = %s "
            "ORDER BY symbol, ts",
            (list(symbols), timeframe),
        )

    def read_columns(
        self, table: Table, columns: Sequence[str], symbol: str, timeframe: str, start: datetime, end: datetime
    ) -> pyarrow.Table:
        """ts and these columns of one symbol and timeframe with ts in [start, end), by ts, as an Arrow table: the way
        to read many rows of a few columns."""
        names = ", ".join(f'"{known_column(table, name)}"' for name in ("ts", *columns))
        rows = self.database.arrow(
            f"SELECT {names} FROM {table.qualified} WHERE symbol = %s AND timeframe = %s AND ts >= %s AND ts < %s",
            (symbol, timeframe, start, end),
        )
        # Sorted here: on a hypertable without an order the chunks are read one after the other at full speed.
        ts = rows["ts"].to_numpy()
        return rows if (ts[1:] > ts[:-1]).all() else rows.take(np.argsort(ts))

    def read_pair(self, symbol_a: str, symbol_b: str, timeframe: str, first_day: date, end_day: date) -> pyarrow.Table:
        """day, correlation and known_at of one pair (in either order) on the days [first_day, end_day), by day."""
        return self.database.arrow(
            "SELECT day, correlation, known_at FROM analytics.correlation_matrix "
            "WHERE symbol_a = %s AND symbol_b = %s AND timeframe = %s AND day >= %s AND day < %s ORDER BY day",
            (*sorted((symbol_a, symbol_b)), timeframe, first_day, end_day),
        )

    def read_correlations(self, first_day: date, end_day: date) -> pd.DataFrame:
        """The pairs of the days [first_day, end_day)."""
        return self.read_slice(CORRELATION_MATRIX, symbol=None, first_day=first_day, end_day=end_day)

    def correlation_windows(self, symbol: str, timeframe: str, first_day: date, end_day: date) -> pd.DataFrame:
        """day and window_start of the days [first_day, end_day): the earliest of the pairs that a symbol is in, missing
        where one of them has none or its window is not full."""
        return self.database.frame(
            """
            SELECT day, CASE WHEN bool_and(n >= window_bars) THEN min(window_start) END AS window_start
            FROM analytics.correlation_matrix
            WHERE timeframe = %s AND day >= %s AND day < %s AND (symbol_a = %s OR symbol_b = %s)
            GROUP BY day ORDER BY day
            """,
            (timeframe, first_day, end_day, symbol, symbol),
        )

    def read_square(self, first_day: date, end_day: date) -> pd.DataFrame:
        """day, timeframe, symbol_a, symbol_b, correlation, n, window_start, window_end of the full matrices."""
        return self.database.frame(
            "SELECT day, timeframe, symbol_a, symbol_b, correlation, n, window_start, window_end "
            "FROM analytics.correlation_square WHERE day >= %s AND day < %s "
            "ORDER BY day, timeframe, symbol_a, symbol_b",
            (first_day, end_day),
        )

    def newest_features(self, symbols: Sequence[str], timeframe: str) -> pd.DataFrame:
        """The newest row of features.indicators of each of these symbols that has one, in their order."""
        return self._newest(INDICATOR_ROWS, symbols, timeframe)

    def newest_bars(self, symbols: Sequence[str], timeframe: str) -> pd.DataFrame:
        """The newest bar of each of these symbols that has one, in their order."""
        return self._newest(BARS, symbols, timeframe)

    def newest_days(self, table: Table, timeframe: str, days: int = 1) -> pd.DataFrame:
        """The rows of a timeframe on the newest `days` days that have any, of a table by day."""
        name = table.qualified
        return self.database.frame(
            f"""
            WITH RECURSIVE newest (day, position) AS (
                SELECT max(day), 1 FROM {name} WHERE timeframe = %s
                UNION ALL
                SELECT (SELECT max(day) FROM {name} WHERE timeframe = %s AND day < newest.day), position + 1
                FROM newest WHERE position < %s AND day IS NOT NULL
            )
            SELECT {_columns(table)} FROM {name}
            WHERE timeframe = %s AND day IN (SELECT day FROM newest) ORDER BY {", ".join(table.key)}
            """,
            (timeframe, timeframe, days, timeframe),
        )

    def _newest(self, table: Table, symbols: Sequence[str], timeframe: str) -> pd.DataFrame:
        return self.database.frame(
            f"""
            SELECT newest.* FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (symbol, position)
            CROSS JOIN LATERAL (
                SELECT {_columns(table)} FROM {table.qualified} AS stored
                WHERE stored.symbol = wanted.symbol AND timeframe = %s ORDER BY ts DESC LIMIT 1
            ) AS newest
            ORDER BY position
            """,
            (list(symbols), timeframe),
        )

    # Counting and judging

    def newest_change(self, table: Table, symbol: str) -> datetime | None:
        """When a slice of a symbol last changed."""
        return self.database.rows(
            "SELECT max(changed_at) AS instant FROM nexus.slices WHERE table_name = %s AND symbol = %s",
            (table.qualified, symbol),
        )[0]["instant"]

    def unaccounted(self, delivery_ids: Sequence[int]) -> list[str]:
        """A sentence for each of these deliveries whose counts or stored rows do not add up."""
        return unaccounted(self.database, delivery_ids)

    def ledger(self, table: Table, symbols: Sequence[str], first_day: date, end_day: date) -> pd.DataFrame:
        """What was written when: the rows of nexus.slices of these symbols and days, in the columns of SLICES.
        The symbol of a table by day is the empty text."""
        return self.database.frame(
            f"SELECT {_columns(SLICES)} FROM nexus.slices "
            "WHERE table_name = %s AND symbol = ANY(%s) AND day >= %s AND day < %s ORDER BY symbol, day",
            (table.qualified, list(symbols), first_day, end_day),
        )

    def read_split_intervals(self, timeframe: str) -> pd.DataFrame:
        """symbol, timeframe, ts, entry_at, t1 and split of the rows that are trained, validated or tested on."""
        return self.database.frame(
            "SELECT symbol, timeframe, ts, entry_at, t1, split FROM features.dataset_splits "
            "WHERE timeframe = %s AND split IN ('train', 'validation', 'test')",
            (timeframe,),
        )


def _columns(table: Table) -> str:
    return ", ".join(table.column_names)
