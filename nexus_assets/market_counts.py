"""Counting what is stored: the queries behind checks and summaries.

All instants are tz-aware UTC, ts is the open of a bar, ranges are half-open.
"""

from collections.abc import Sequence
from datetime import date, datetime

import pandas as pd

from nexus_assets.database import Database
from nexus_assets.schemas import INDICATOR_ROWS, TABLES, Table


class MarketCounts:
    """Counts over the tables of one database; MarketStore adds the rows. Every method raises DatabaseError where the
    server cannot be reached or refuses."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def days_made_from(self) -> dict[str, date]:
        """By table, the day before which nothing is made again, because it, or what it is made from, was dropped."""
        rows = self.database.rows("SELECT table_name, made_from FROM nexus.retention WHERE made_from IS NOT NULL")
        return {row["table_name"]: row["made_from"] for row in rows}

    def made_from(self, table: Table) -> date:
        """The day before which nothing of a table is made again."""
        return self.days_made_from().get(table.qualified, date.min)

    def days_dropped_before(self) -> dict[str, date]:
        """By table, the day before which rows were dropped by retention."""
        rows = self.database.rows(
            "SELECT table_name, dropped_before FROM nexus.retention WHERE dropped_before IS NOT NULL"
        )
        return {row["table_name"]: row["dropped_before"] for row in rows}

    def slices_written(
        self, tables: Sequence[str], symbols: Sequence[str], first_day: date, end_day: date, since: datetime
    ) -> dict[str, tuple[int, int]]:
        """By table (schema.table), how many slices of these symbols and days were written at or after an instant, and
        their rows. The symbol of a table by day is the empty text."""
        found = self.database.rows(
            "SELECT table_name, count(*) AS slices, sum(rows)::bigint AS rows FROM nexus.slices "
            "WHERE table_name = ANY(%s) AND symbol = ANY(%s) AND day >= %s AND day < %s AND written_at >= %s "
            "GROUP BY table_name",
            (list(tables), list(symbols), first_day, end_day, since),
        )
        return {row["table_name"]: (row["slices"], row["rows"]) for row in found}

    def rows_recorded(self, table: Table) -> int:
        """Rows of a table, by the ledger of its slices."""
        query = "SELECT coalesce(sum(rows), 0)::bigint AS rows FROM nexus.slices WHERE table_name = %s"
        return self.database.rows(query, (table.qualified,))[0]["rows"]

    def table_counts(self) -> dict[str, int]:
        """The exact number of rows of each table, by schema.table."""
        query = " UNION ALL ".join(
            f"SELECT '{t.qualified}' AS name, count(*) AS rows FROM {t.qualified}" for t in TABLES
        )
        found = {row["name"]: row["rows"] for row in self.database.rows(query)}
        return {t.qualified: found[t.qualified] for t in TABLES}

    def bar_counts(self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime) -> dict[str, int]:
        """Number of bars with ts in [start, end) by symbol; every symbol is named."""
        found = self.database.rows(
            "SELECT symbol, count(*) AS rows FROM market.bars "
            "WHERE symbol = ANY(%s) AND timeframe = %s AND ts >= %s AND ts < %s GROUP BY symbol",
            (list(symbols), timeframe, start, end),
        )
        return {**dict.fromkeys(symbols, 0), **{row["symbol"]: row["rows"] for row in found}}

    def quarantine_counts(self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """symbol, rule and rows: rows in quarantine with ts in [start, end), of both stages."""
        return self.database.frame(
            "SELECT symbol, rule, count(*) AS rows FROM market.quarantined_bars "
            "WHERE symbol = ANY(%s) AND timeframe = %s AND ts >= %s AND ts < %s "
            "GROUP BY symbol, rule ORDER BY symbol, rule",
            (list(symbols), timeframe, start, end),
        )

    def gap_counts(self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """symbol, state, reason and bars: gaps with ts in [start, end)."""
        return self.database.frame(
            "SELECT symbol, state, reason, sum(bars)::bigint AS bars FROM market.gaps "
            "WHERE symbol = ANY(%s) AND timeframe = %s AND ts >= %s AND ts < %s "
            "GROUP BY symbol, state, reason ORDER BY symbol, state, reason",
            (list(symbols), timeframe, start, end),
        )

    def disagreement_counts(
        self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime
    ) -> pd.DataFrame:
        """symbol, provider, other_provider, bars and largest (multiple of the tolerance) with ts in [start, end)."""
        return self.database.frame(
            "SELECT symbol, provider, other_provider, count(*) AS bars, "
            "max(abs(other_close - close) / nullif(tolerance, 0)) AS largest FROM market.disagreements "
            "WHERE symbol = ANY(%s) AND timeframe = %s AND ts >= %s AND ts < %s "
            "GROUP BY symbol, provider, other_provider ORDER BY symbol, provider, other_provider",
            (list(symbols), timeframe, start, end),
        )

    def suspect_counts(self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
        """symbol, suspect and rows: flagged bars with ts in [start, end) by their flags."""
        return self.database.frame(
            "SELECT symbol, suspect, count(*) AS rows FROM market.bars "
            "WHERE symbol = ANY(%s) AND timeframe = %s AND ts >= %s AND ts < %s AND suspect IS NOT NULL "
            "GROUP BY symbol, suspect ORDER BY symbol, suspect",
            (list(symbols), timeframe, start, end),
        )

    def null_indicators(
        self, symbols: Sequence[str], start: datetime, end: datetime, names: Sequence[str]
    ) -> dict[str, int]:
        """Number of NULLs of each of these columns among the rows that have their warm-up, over all timeframes; and
        under `rows` the number of such rows."""
        counts = ", ".join(f'count(*) - count("{known_column(INDICATOR_ROWS, name)}") AS "{name}"' for name in names)
        return self.database.rows(
            f"SELECT count(*) AS rows, {counts} FROM features.indicators "
            "WHERE symbol = ANY(%s) AND ts >= %s AND ts < %s AND slice_start IS NOT NULL",
            (list(symbols), start, end),
        )[0]

    def misranked_days(self, first_day: date, end_day: date) -> list[date]:
        """Days whose ranks are not 1 to the number of their correlations."""
        found = self.database.rows(
            """
            SELECT day FROM (
                SELECT day, timeframe, count(correlation) AS pairs, 0 AS ranked, 0 AS lowest, 0 AS highest
                FROM analytics.correlation_matrix WHERE day >= %s AND day < %s GROUP BY day, timeframe
                UNION ALL
                SELECT day, timeframe, 0, count(DISTINCT rank), min(rank), max(rank)
                FROM analytics.pair_rankings WHERE day >= %s AND day < %s GROUP BY day, timeframe
            ) AS both_tables
            GROUP BY day, timeframe
            HAVING sum(pairs) <> sum(ranked) OR sum(highest) <> sum(ranked) OR sum(lowest) <> least(sum(ranked), 1)
            ORDER BY day
            """,
            (first_day, end_day, first_day, end_day),
        )
        return sorted({row["day"] for row in found})


def known_column(table: Table, name: str) -> str:
    """The name, if the table has such a column. Raises KeyError else: names go into SQL."""
    if name not in table.column_names:
        raise KeyError(f"{table.qualified} has no column {name}")
    return name
