"""Storing what a provider delivered: append what differs, keep the rest in quarantine, account for every row.

What belongs here: the write of market.raw_ohlc, market.deliveries and the delivery stage of market.quarantined_bars.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
from psycopg import sql

from nexus_assets.database import Database
from nexus_assets.errors import DatabaseError, PartitionError
from nexus_assets.providers.interface import BAR_COLUMNS, Delivery, Request
from nexus_assets.schemas import QUARANTINED_BARS, RAW_OHLC, Table
from nexus_assets.slice_ledger import LedgerRow, days_of, record
from nexus_assets.slice_writer import slice_lock
from nexus_assets.timeframes import length

BACKFILLED_AFTER = timedelta(days=3)
"""A bar that arrives for the first time this long after its end says nothing of when the market knew it. Longer than
a weekend, so that an hourly update after a quiet weekend is not one."""

COUNTS = ("new", "changed", "unchanged", "quarantined")


@dataclass(frozen=True)
class DeliveryCounts:
    """What became of a delivery: delivered = new + changed + unchanged + quarantined.

    `per_day` has the columns day, new, changed, unchanged, quarantined, one row for each UTC day of the request, and
    of any other day that holds a row; a row belongs to the day in which its bar ends. Equal repeats have no row of
    their own: they are in `unchanged` and not in `per_day`.
    """

    delivery_id: int
    known_at: datetime
    delivered: int
    new: int
    changed: int
    unchanged: int
    quarantined: int
    per_day: pd.DataFrame


_STAGED = Table("pg_temp", "staged_bars", "", tuple(c for c in RAW_OHLC.columns if c.name in BAR_COLUMNS), (), None)
_STAGED_REJECTED = Table("pg_temp", "staged_rejected", "", QUARANTINED_BARS.columns, (), None)

_VALUES = ", ".join(["open", "high", "low", "close", "volume", "spread"])
_APPEND = f"""
WITH newest AS (
    SELECT DISTINCT ON (ts) ts, withdrawn, {_VALUES}, price_kind, volume_kind, instrument_kind
    FROM market.raw_ohlc
    WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND provider = %(provider)s
        AND ts >= %(start)s AND ts < %(end)s
    ORDER BY ts DESC, delivery_id DESC
),
judged AS MATERIALIZED (
    SELECT s.*, CASE
        WHEN n.ts IS NULL THEN 'new'
        WHEN n.withdrawn
            OR (n.open, n.high, n.low, n.close, n.volume, n.spread)
                IS DISTINCT FROM (s.open, s.high, s.low, s.close, s.volume, s.spread)
            OR (n.price_kind, n.volume_kind, n.instrument_kind)
                IS DISTINCT FROM (%(price_kind)s, %(volume_kind)s, %(instrument_kind)s) THEN 'changed'
        ELSE 'unchanged'
    END AS verdict
    FROM pg_temp.staged_bars AS s LEFT JOIN newest AS n USING (ts)
),
appended AS (
    INSERT INTO market.raw_ohlc (
        symbol, timeframe, ts, provider, delivery_id, known_at, {_VALUES},
        price_kind, volume_kind, instrument_kind, backfilled, withdrawn
    )
    SELECT
        %(symbol)s, %(timeframe)s, ts, %(provider)s, %(delivery_id)s, %(known_at)s, {_VALUES},
        %(price_kind)s, %(volume_kind)s, %(instrument_kind)s,
        verdict = 'new' AND ts + %(length)s + %(backfilled_after)s < %(known_at)s, false
    FROM judged
    WHERE verdict <> 'unchanged'
)
SELECT
    market.bar_day(%(timeframe)s, ts) AS day,
    count(*) FILTER (WHERE verdict = 'new') AS new,
    count(*) FILTER (WHERE verdict = 'changed') AS changed,
    count(*) FILTER (WHERE verdict = 'unchanged') AS unchanged
FROM judged
GROUP BY day
ORDER BY day
"""
_STORED_BY_DAY = """
SELECT market.bar_day(timeframe, ts) AS day, count(*), count(*) FILTER (WHERE delivery_id = %(delivery_id)s)
FROM market.raw_ohlc
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND ts >= %(start)s AND ts < %(end)s
GROUP BY day
"""


_WITHDRAW = f"""
INSERT INTO market.raw_ohlc (
    symbol, timeframe, ts, provider, delivery_id, known_at, {_VALUES},
    price_kind, volume_kind, instrument_kind, backfilled, withdrawn
)
SELECT
    symbol, timeframe, ts, provider, %(delivery_id)s, %(known_at)s, {_VALUES},
    price_kind, volume_kind, instrument_kind, false, true
FROM (
    SELECT DISTINCT ON (ts) *
    FROM market.raw_ohlc
    WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND provider = %(provider)s AND ts = ANY(%(ts)s)
    ORDER BY ts DESC, delivery_id DESC
) AS newest
WHERE NOT withdrawn
RETURNING ts, market.bar_day(timeframe, ts)
"""


def append_delivery(database: Database, delivery: Delivery, *, run_id: str | None) -> DeliveryCounts:
    """Store a delivery in one transaction under the lock of its symbol.

    A bar is compared with the newest stored revision of its (symbol, timeframe, ts, provider): values, NULL equal to
    NULL, and the three kinds. What is equal is only counted. Rejected rows go to quarantine, each once however often
    it is delivered.

    Args:
        delivery: As a provider returned it. An empty one is stored as a delivery of no rows.
        run_id: The Dagster run that asked, None by hand.

    Raises:
        PartitionError: a bar lies outside the requested range, or two bars have one ts.
        DatabaseError: the accounting does not add up (nothing is stored), or the server refused.
    """
    _check_bars(delivery)
    return database.run(lambda connection: _append(database, connection, delivery, run_id))


def withdraw(
    database: Database, symbol: str, timeframe: str, provider: str, ts: Sequence[datetime], *, run_id: str | None
) -> DeliveryCounts:
    """Append a tombstone for each of these bars of a provider: a delivery whose rows all changed.

    The tombstone carries the values that are taken back. A withdrawn bar that is delivered again stands again.

    Raises:
        DatabaseError: one of the bars is not stored, or was withdrawn already. Nothing is stored.
    """
    wanted = sorted(set(ts))
    request = Request(symbol, timeframe, wanted[0], wanted[-1] + length(timeframe))

    def work(connection: psycopg.Connection) -> DeliveryCounts:
        database.lock(connection, slice_lock(RAW_OHLC, symbol))
        known_at, delivery_id = _next_delivery(connection, symbol)
        parameters = {
            "symbol": symbol, "timeframe": timeframe, "provider": provider, "ts": wanted, "start": request.start,
            "end": request.end, "delivery_id": delivery_id, "known_at": known_at,
        }  # fmt: skip
        found = connection.execute(_WITHDRAW, parameters).fetchall()
        unknown = sorted(set(wanted) - {row[0] for row in found})
        if unknown:
            raise DatabaseError(
                f"{len(unknown)} of {len(wanted)} bars of {symbol} {timeframe} by {provider} are not stored or were "
                f"withdrawn before, the first {unknown[0].isoformat()}. Nothing was withdrawn.",
                next_step="Look them up in market.raw_ohlc_as_corrected.",
            )
        days = pd.Series([row[1] for row in found]).value_counts()
        per_day = pd.DataFrame({"day": days.index, "new": 0, "changed": days.array, "unchanged": 0, "quarantined": 0})
        counts = DeliveryCounts(delivery_id, known_at, len(found), 0, len(found), 0, 0, per_day)
        _insert_delivery(connection, request, provider, counts, run_id)
        stored = connection.execute(_STORED_BY_DAY, parameters).fetchall()
        _record_days(connection, request, counts, {row[0]: row[1] for row in stored}, only=set(days.index))
        return counts

    return database.run(work)


def unaccounted(database: Database, delivery_ids: Sequence[int]) -> list[str]:
    """A sentence for each delivery that is missing, or whose stored raw rows are not its new + changed ones."""
    found = database.rows(
        """
        SELECT d.delivery_id, d.symbol, d.timeframe, d.new + d.changed AS counted, (
            SELECT count(*) FROM market.raw_ohlc AS r
            WHERE r.symbol = d.symbol AND r.timeframe = d.timeframe AND r.ts >= d.range_start AND r.ts < d.range_end
                AND r.delivery_id = d.delivery_id
        ) AS stored, d.delivered - d.new - d.changed - d.unchanged - d.quarantined AS lost
        FROM market.deliveries AS d WHERE d.delivery_id = ANY(%s) ORDER BY d.delivery_id
        """,
        (list(delivery_ids),),
    )
    wrong = [
        f"Delivery {row['delivery_id']} of {row['symbol']} {row['timeframe']} counted {row['counted']} new and changed "
        f"rows, {row['stored']} are stored, {row['lost']} are not accounted for."
        for row in found
        if row["counted"] != row["stored"] or row["lost"]
    ]
    missing = sorted(set(delivery_ids) - {row["delivery_id"] for row in found})
    return wrong + [f"Delivery {number} is not in market.deliveries." for number in missing]


def _check_bars(delivery: Delivery) -> None:
    ts, request = delivery.bars["ts"], delivery.request
    outside = delivery.bars[(ts < pd.Timestamp(request.start)) | (ts >= pd.Timestamp(request.end))]
    if len(outside):
        raise PartitionError(
            f"The provider {delivery.provider} delivered {len(outside)} bars outside of {request}, "
            f"the first at {outside['ts'].iloc[0]}."
        )
    if not ts.is_unique:
        raise PartitionError(
            f"The provider {delivery.provider} delivered {ts[ts.duplicated()].iloc[0]} twice for {request}.",
            next_step="Let the provider settle repeats before it hands bars over.",
        )


def _append(
    database: Database, connection: psycopg.Connection, delivery: Delivery, run_id: str | None
) -> DeliveryCounts:
    request = delivery.request
    database.lock(connection, slice_lock(RAW_OHLC, request.symbol))
    known_at, delivery_id = _next_delivery(connection, request.symbol)
    parameters = {
        "symbol": request.symbol, "timeframe": request.timeframe, "provider": delivery.provider,
        "start": request.start, "end": request.end, "delivery_id": delivery_id, "known_at": known_at,
        "price_kind": delivery.price_kind, "volume_kind": delivery.volume_kind,
        "instrument_kind": delivery.instrument_kind, "length": length(request.timeframe),
        "backfilled_after": BACKFILLED_AFTER,
    }  # fmt: skip
    _stage(database, connection, _STAGED, delivery.bars)
    judged = connection.execute(_APPEND, parameters).fetchall()
    _quarantine(database, connection, delivery, delivery_id, known_at)
    counts = _count(delivery, delivery_id, known_at, judged)
    _insert_delivery(connection, request, delivery.provider, counts, run_id)
    stored = connection.execute(_STORED_BY_DAY, parameters).fetchall()
    _prove(delivery, counts, sum(row[2] for row in stored))
    _record_days(connection, request, counts, {row[0]: row[1] for row in stored})
    return counts


def _next_delivery(connection: psycopg.Connection, symbol: str) -> tuple[datetime, int]:
    """known_at and number of a delivery, both later than any before of the symbol; called under the symbol's lock."""
    row = connection.execute(
        "SELECT greatest(clock_timestamp(), max(known_at) + INTERVAL '1 microsecond'), "
        "nextval('market.delivery_number') FROM market.deliveries WHERE symbol = %s",
        (symbol,),
    ).fetchone()
    assert row is not None  # an aggregate always has a row
    return row


def _stage(database: Database, connection: psycopg.Connection, staged: Table, frame: pd.DataFrame) -> None:
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(c.sql_type))  # pyright: ignore[reportArgumentType]
        for c in staged.columns
    )
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(sql.Identifier(staged.name), columns)
    )
    database.copy(connection, staged, frame)


def _quarantine(
    database: Database, connection: psycopg.Connection, delivery: Delivery, delivery_id: int, known_at: datetime
) -> None:
    if delivery.rejected.empty:
        return
    rows = delivery.rejected.assign(
        ts=_rejected_ts(delivery),
        symbol=delivery.request.symbol,
        timeframe=delivery.request.timeframe,
        provider=delivery.provider,
        stage="delivery",
        row_hash=_row_hashes(delivery.rejected),
        **{name: delivery.rejected[name].map(_storable) for name in ("origin", "content", "detail")},
        delivery_id=delivery_id,
        known_at=pd.Timestamp(known_at),
    )
    _stage(database, connection, _STAGED_REJECTED, rows)
    connection.execute(
        "INSERT INTO market.quarantined_bars SELECT * FROM pg_temp.staged_rejected ON CONFLICT DO NOTHING"
    )


def _storable(text: str) -> str:
    """The text with NUL, which PostgreSQL cannot store, written out."""
    return text.replace("\0", "\\x00")


def _row_hashes(rejected: pd.DataFrame) -> list[str]:
    """A hash of each row's origin and content, and of how often both came before: so equal rows of one delivery stay
    apart, and the same delivery hashes the same every time."""
    repeats = rejected.groupby(["ts", "rule", "origin", "content"], dropna=False).cumcount()
    texts = zip(rejected["origin"], rejected["content"], repeats, strict=True)
    return [hashlib.sha256(f"{origin}\0{content}\0{n}".encode()).hexdigest()[:32] for origin, content, n in texts]


def _rejected_ts(delivery: Delivery) -> pd.Series:
    return delivery.rejected["ts"].fillna(pd.Timestamp(delivery.request.start))


def _count(delivery: Delivery, delivery_id: int, known_at: datetime, judged: list[tuple[Any, ...]]) -> DeliveryCounts:
    request = delivery.request
    per_day = pd.DataFrame(judged, columns=["day", "new", "changed", "unchanged"]).set_index("day")
    ends = _rejected_ts(delivery) + length(request.timeframe) - pd.Timedelta(microseconds=1)
    per_day = per_day.join(ends.dt.date.value_counts().rename("quarantined"), how="outer")
    days = sorted({*per_day.index, *days_of(request.start, request.end)})
    per_day = per_day.reindex(days).fillna(0).astype("int64")
    totals = {name: int(per_day[name].sum()) for name in COUNTS}
    totals["unchanged"] += delivery.equal_repeats
    return DeliveryCounts(
        delivery_id, known_at, delivery.delivered, per_day=per_day.rename_axis("day").reset_index(), **totals
    )


def _insert_delivery(
    connection: psycopg.Connection, request: Request, provider: str, counts: DeliveryCounts, run_id: str | None
) -> None:
    connection.execute(
        """
        INSERT INTO market.deliveries (
            delivery_id, symbol, timeframe, provider, range_start, range_end, known_at,
            delivered, new, changed, unchanged, quarantined, backfilled, run_id
        ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            counts.delivery_id, request.symbol, request.timeframe, provider, request.start, request.end,
            counts.known_at, counts.delivered, counts.new, counts.changed, counts.unchanged, counts.quarantined,
            request.end + BACKFILLED_AFTER < counts.known_at, run_id,
        ),
    )  # fmt: skip


def _prove(delivery: Delivery, counts: DeliveryCounts, appended: int) -> None:
    told = counts.new + counts.changed + counts.unchanged + counts.quarantined
    if told != counts.delivered or appended != counts.new + counts.changed:
        raise DatabaseError(
            f"Delivery {counts.delivery_id} of {delivery.provider} for {delivery.request} does not add up: "
            f"{counts.delivered} delivered, {counts.new} new, {counts.changed} changed, {counts.unchanged} unchanged, "
            f"{counts.quarantined} quarantined, {appended} appended. Nothing of it is stored.",
            next_step="This is a fault of nexus_assets; report it with these numbers.",
        )


def _record_days(
    connection: psycopg.Connection,
    request: Request,
    counts: DeliveryCounts,
    stored: dict[date, int],
    only: set[date] | None = None,
) -> None:
    touched = counts.per_day.set_index("day")
    differs = touched["new"] + touched["changed"] > 0
    record(
        connection,
        RAW_OHLC,
        request.symbol,
        [
            LedgerRow(day, rows=stored.get(day, 0), changed=bool(differs.get(day, False)))
            for day in days_of(request.start, request.end)
            if only is None or day in only
        ],
        code_version=1,
        at=counts.known_at,
    )
