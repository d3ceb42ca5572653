"""Pinned training sets: those that must stay possible to make again, and the rows that therefore stay.

A set that is made as of an instant reads raw prices alone: of its symbols, from its start less the warm-up of its
features on. One as it was served reads these and the stored labels; one of the newest corrections the stored features,
labels and correlations, and the prices that these were made from stay as well. `nexus export --pin NAME` pins, `nexus
pins remove NAME` lets go.

What belongs here: which days a request reads, and the table nexus.pinned_sets. Rows are dropped in dropping.py,
under the same lock: a set is pinned before or after rows are dropped, never in between.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import LiteralString, cast

import psycopg

from nexus_assets.errors import TrainingSetError
from nexus_assets.indicator_table import WARMUP_BARS
from nexus_assets.manifests import query_of
from nexus_assets.market_store import MarketStore
from nexus_assets.planning import correlation_reach, warmup_days
from nexus_assets.schemas import CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, PINNED_SETS, RAW_OHLC, Table
from nexus_assets.settings import Settings
from nexus_assets.training_request import TrainingRequest
from nexus_assets.transforms.training_sets import MAX_AGE

LOCK = "nexus.retention"
"""Held by whoever pins a set and by whoever drops rows."""

FEATURE_TABLES: tuple[Table, ...] = (INDICATOR_ROWS, LABELS, CORRELATION_MATRIX)
"""What a set of the newest corrections reads, besides the split that is made of the labels."""

JOINED = MAX_AGE + timedelta(days=2)
"""How far before a row values of other timeframes and correlations may lie: a bar of one day that ended within
MAX_AGE began two days before it at most."""

_SPARE_BARS = 10
"""More than the warm-up are counted: as of an earlier instant there may have been a bar less."""

_COLUMNS = ", ".join(PINNED_SETS.column_names)


@dataclass(frozen=True)
class PinnedSet:
    """A row of nexus.pinned_sets."""

    name: str
    symbols: str
    range_start: datetime
    range_end: datetime
    as_known: datetime | None
    prices_from: date
    features_from: date | None
    query: str
    content_hash: str | None
    pinned_at: datetime

    def reads_from(self, table: Table) -> date | None:
        """The first day of a table of which a row must stay; None where it reads none."""
        if table is RAW_OHLC:
            return self.prices_from
        return self.features_from if table in FEATURE_TABLES else None


def pinned_sets(connection: psycopg.Connection) -> list[PinnedSet]:
    """All of them, by name."""
    query = f"SELECT {_COLUMNS} FROM nexus.pinned_sets ORDER BY name"
    rows = connection.execute(cast(LiteralString, query)).fetchall()
    return [PinnedSet(*row) for row in rows]


def pin(store: MarketStore, asked: TrainingRequest, config: Settings, name: str) -> PinnedSet:
    """Pin a training set before it is made: from now on nothing that it reads is dropped.

    Raises:
        TrainingSetError: the name is taken, or something that the set reads was dropped already.
    """
    prices_from, features_from = reads_from(store, asked, config)

    def work(connection: psycopg.Connection) -> PinnedSet:
        store.database.lock(connection, LOCK)
        dropped = store.days_dropped_before()
        refuse_dropped(dropped, asked, prices_from, features_from)
        row = connection.execute(
            cast(
                LiteralString,
                f"INSERT INTO nexus.pinned_sets ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, NULL, "
                f"clock_timestamp()) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
            ),
            (
                name, " ".join(_symbols(asked)), asked.start, asked.end, asked.as_known,
                max(prices_from, dropped.get(RAW_OHLC.qualified, date.min)),
                None if asked.as_known else features_from, json.dumps(query_of(asked)),
            ),
        ).fetchone()  # fmt: skip
        if row is None:
            raise TrainingSetError(
                f"A training set is pinned as {name!r} already.",
                next_step=f"Take another name, or let it go with `nexus pins remove {name}`.",
            )
        return PinnedSet(*row)

    return store.database.run(work)


@contextmanager
def pinned(store: MarketStore, asked: TrainingRequest, config: Settings, name: str) -> Iterator[dict[str, str]]:
    """Pin a training set while it is exported, and for good if that succeeds.

    Yields:
        Where to put the export's `content_hash`.

    Raises:
        TrainingSetError: as for pin.
    """
    pin(store, asked, config, name)
    outcome: dict[str, str] = {}
    try:
        yield outcome
    except BaseException:
        unpin(store, name)
        raise
    store.database.run(
        lambda connection: connection.execute(
            "UPDATE nexus.pinned_sets SET content_hash = %s WHERE name = %s", (outcome.get("content_hash"), name)
        )
    )


def unpin(store: MarketStore, name: str) -> None:
    """Let a set go: its rows may be dropped from now on.

    Raises:
        TrainingSetError: no set is pinned under the name.
    """

    def work(connection: psycopg.Connection) -> int:
        store.database.lock(connection, LOCK)
        return connection.execute("DELETE FROM nexus.pinned_sets WHERE name = %s", (name,)).rowcount

    if not store.database.run(work):
        raise TrainingSetError(
            f"No training set is pinned as {name!r}.", next_step="`nexus pins list` shows those that are."
        )


def reads_from(store: MarketStore, asked: TrainingRequest, config: Settings) -> tuple[date, date]:
    """The first day of raw prices that a set is made from, and the first of stored features that it reads.

    The warm-up is looked for in the stored bars, further back than usual where days are missing.
    """
    oldest = min(filter(None, (store.oldest_raw(s, config.base_timeframe) for s in _symbols(asked))), default=None)
    joined = any(f.symbol is not None or f.timeframe != asked.timeframe for f in asked.features)
    features_from = (asked.start - JOINED if joined else asked.start).date()
    first_days = []
    for timeframe in {asked.timeframe, *(f.timeframe for f in asked.features if f.symbol is None)}:
        # One day more, as as_known.py reads it, and one for the evening before, which roll-ups begin with.
        before = (asked.start if timeframe == asked.timeframe else asked.start - JOINED).date() - timedelta(days=2)
        days = warmup_days(timeframe)
        while oldest is not None and before - timedelta(days=days) > oldest.date():
            if _fewest_bars(store, asked.symbols, timeframe, before - timedelta(days=days), before) >= WARMUP_BARS:
                break
            days *= 2
        first_days.append(before - timedelta(days=days))
    if any(f.symbol is not None for f in asked.features):
        first_days.append(features_from - timedelta(days=correlation_reach(config) + 2))
    return min(first_days), features_from


def _fewest_bars(store: MarketStore, symbols: Iterable[str], timeframe: str, start: date, end: date) -> int:
    """Bars of the symbol that has fewest, less those that may have come since."""
    names = list(symbols)
    rows = store.database.rows(
        """
        SELECT min(found.bars) AS bars FROM unnest(%s::text[]) AS wanted (symbol) CROSS JOIN LATERAL (
            SELECT count(*) AS bars FROM market.bars AS b
            WHERE b.symbol = wanted.symbol AND b.timeframe = %s AND b.ts >= %s AND b.ts < %s
        ) AS found
        """,
        (names, timeframe, start, end),
    )
    return rows[0]["bars"] - _SPARE_BARS


def refuse_dropped(dropped: Mapping[str, date], asked: TrainingRequest, prices_from: date, features_from: date) -> None:
    """Refuse a set that would lack rows which were dropped, instead of making another one.

    Args:
        dropped: The day before which each table was dropped.
        prices_from, features_from: As of reads_from.

    Raises:
        TrainingSetError: with the table and the days.
    """
    if asked.as_known is not None:
        reads = [(RAW_OHLC, prices_from)]
    elif asked.as_served is not None:
        reads = [(RAW_OHLC, prices_from), (LABELS, features_from)]
    else:
        joined = any(feature.symbol is not None for feature in asked.features)
        reads = [(table, features_from) for table in FEATURE_TABLES[: 3 if joined else 2]]
    for table, first_day in reads:
        kept_from = dropped.get(table.qualified, date.min)
        if first_day < kept_from:
            missing = (kept_from - first_day).days
            raise TrainingSetError(
                f"The training set reads {table.qualified} from {first_day} on, and days before {kept_from} were "
                "dropped by retention.",
                next_step=f"Ask for rows from {asked.start.date() + timedelta(days=missing)} on.",
            )


def refuse_if_dropped(store: MarketStore, asked: TrainingRequest, config: Settings) -> None:
    """The same, looked up; costs one query where nothing was ever dropped.

    Raises:
        TrainingSetError: as for refuse_dropped.
    """
    dropped = store.days_dropped_before()
    if dropped:
        refuse_dropped(dropped, asked, *reads_from(store, asked, config))


def _symbols(asked: TrainingRequest) -> list[str]:
    others = (feature.symbol for feature in asked.features if feature.symbol is not None)
    return list(dict.fromkeys((*asked.symbols, *others)))
