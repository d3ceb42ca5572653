"""Slices that a run leaves alone, because an earlier attempt wrote them and nothing that they read changed since.

A retry repeats its run's whole rectangle, and a plan's rectangle may cover slices between those that it is for. Both
are recorded as materialised all the same. A run that people start, or re-execute, does everything that it is asked for.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.storage.tags import RETRY_NUMBER_TAG

from nexus_assets.backfill import LEAVE_TAG
from nexus_assets.partitions import Slice
from nexus_assets.planning import LABEL_REACH_DAYS, Ledger, load_from, stale_cells
from nexus_assets.resources import open_market_store, open_sources
from nexus_assets.schemas import Table, table
from nexus_assets.settings import settings

Described = dict[date, Mapping[str, Any]]


def left_alone(context: dg.AssetExecutionContext, pieces: Sequence[Slice]) -> dict[Slice, Described]:
    """Those of a run's slices that need no work, with the metadata of each day: its rows, as the ledger has them.

    A slice is left alone as a whole: each of its days was written since the attempts began, and is neither incomplete
    nor stale. {} for a run that is neither of a plan nor a retry.
    """
    since = _attempts_began(context)
    if since is None or not pieces:
        return {}
    target = table(context.assets_def.metadata_by_key[context.asset_key]["dagster/table_name"])
    symbols = sorted({piece.symbol for piece in pieces})
    first_day, end_day = min(p.first_day for p in pieces), max(p.end_day for p in pieces)
    ledger = _ledger(symbols, first_day, end_day)
    stale = stale_cells(ledger, target, symbols, first_day, end_day, config=settings())
    found = {}
    for piece in pieces:
        rows = _rows(ledger, target, piece, since)
        if rows is not None and not any((piece.symbol, day) in stale for day in piece.days):
            found[piece] = {day: {"dagster/row_count": count} for day, count in rows.items()}
    return found


def _attempts_began(context: dg.AssetExecutionContext) -> datetime | None:
    """From when on written slices count; None where all are to be written."""
    run = context.run
    is_retry = RETRY_NUMBER_TAG in run.tags
    if run.parent_run_id and not is_retry:
        return None  # re-executed by hand: the tags are copied, the wish is another
    if LEAVE_TAG in run.tags:
        return datetime.fromisoformat(run.tags[LEAVE_TAG])
    if is_retry and run.root_run_id:
        first = context.instance.get_run_record_by_id(run.root_run_id)
        return datetime.fromtimestamp(first.start_time, UTC) if first and first.start_time else None
    return None


def _ledger(symbols: Sequence[str], first_day: date, end_day: date) -> Ledger:
    """What is stored of the slices of these days, and of all that they read."""
    config = settings()
    first = load_from(config, first_day) - timedelta(days=1)
    end = end_day + timedelta(days=LABEL_REACH_DAYS)
    store, sources = open_market_store(config), open_sources(config)
    return Ledger.read(store, symbols, first, end, config=config, sources=sources)


def _rows(ledger: Ledger, target: Table, piece: Slice, since: datetime) -> dict[date, int] | None:
    """Rows of each day; None where one was not written since."""
    rows = {}
    for day in piece.days:
        written = ledger.written(target.qualified, piece.symbol, day)
        if written is None or written < since:
            return None
        rows[day] = ledger.rows[target.qualified, piece.symbol, day][2]
    return rows
