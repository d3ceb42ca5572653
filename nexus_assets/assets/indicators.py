"""features/indicators: 32 indicators per bar.

From: market/bars. Each day is computed on exactly the last 250 accepted bars before it plus its own, whichever
partitions are asked for together, so the same bits come out of a backfill, a single day and a live update. With fewer
than 250 bars before the day every column is NULL.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from nexus_assets.assets.specification import partitioned_asset
from nexus_assets.indicator_table import INDICATOR_NAMES, INDICATORS, INDICATORS_VERSION, WARMUP_BARS
from nexus_assets.instruments import instrument
from nexus_assets.market_store import BarReader, MarketStore
from nexus_assets.partitions import Slice
from nexus_assets.planning import switched_off, untouched_version
from nexus_assets.schemas import BARS, INDICATOR_ROWS
from nexus_assets.settings import settings
from nexus_assets.slices import finish, materialise, rows_by_day
from nexus_assets.transforms import indicators as transform

BOUNDS = dg.AssetCheckSpec(
    "within_mathematical_bounds",
    asset=INDICATOR_ROWS.asset_key,
    description="Every value is finite and within the bounds of its formula, or NULL.",
    blocking=True,
)


@partitioned_asset(
    INDICATOR_ROWS,
    version=INDICATORS_VERSION,
    description=__doc__,
    reads=[BARS],
    checks=[BOUNDS],
    kinds={"pandas", "numpy"},
)
def indicators(
    context: dg.AssetExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Compute and overwrite each slice, leaving alone what did not change."""
    outside: dict[str, int] = {}

    def work(piece: Slice) -> Mapping[date, Mapping[str, Any]]:
        read_at = market_store.settled_until(BARS, piece.symbol)
        frame, computed = bring_up_to_date(market_store, piece)
        for column, count in out_of_bounds(frame).items():
            outside[column] = outside.get(column, 0) + count
        write(market_store, piece, frame, read_at)
        described = describe(frame, piece)
        for values in described.values():
            values["columns_computed"] = computed
        return described

    report = materialise(context, work, made_from=market_store.made_from(INDICATOR_ROWS))
    yield dg.AssetCheckResult(
        check_name=BOUNDS.name,
        passed=not outside,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"partitions": len(report.written), "columns_outside": outside},
    )
    yield finish(context, report)


def write(store: MarketStore, piece: Slice, frame: pd.DataFrame, read_at: datetime) -> None:
    """Overwrite a slice with what was computed from the bars of `read_at`."""
    store.replace(
        INDICATOR_ROWS,
        frame,
        symbol=piece.symbol,
        timeframes=settings().feature_timeframes,
        first_day=piece.first_day,
        end_day=piece.end_day,
        code_version=INDICATORS_VERSION,
        read_at=read_at,
    )


def compute(store: BarReader, piece: Slice, names: Collection[str] | None = None) -> pd.DataFrame:
    """The rows of a slice, over every feature timeframe whose warm-up fits the loaded history."""
    off = switched_off(settings(), settings().first_day, datetime.now(UTC).date())
    frames = [
        transform.compute(
            store.read_bars_with_warmup(piece.symbol, timeframe, piece.first_day, piece.end_day, WARMUP_BARS),
            instrument=instrument(piece.symbol),
            timeframe=timeframe,
            first_day=piece.first_day,
            end_day=piece.end_day,
            names=names,
        )
        for timeframe in settings().feature_timeframes
        if timeframe not in off
    ]
    return pd.concat(frames, ignore_index=True) if frames else INDICATOR_ROWS.empty()


def bring_up_to_date(store: MarketStore, piece: Slice) -> tuple[pd.DataFrame, int]:
    """The rows of a slice and the number of columns that were computed for it.

    Where the slice was written by an older version and its bars have not changed since, only the columns that are
    newer than it are computed; the others are the stored ones, bit for bit.
    """
    version = untouched_version(store, piece, settings())
    newer = [i.name for i in INDICATORS if i.version > version]
    if 0 < version < INDICATORS_VERSION:
        rows = compute(store, piece, newer)
        stored = store.read_slice(INDICATOR_ROWS, symbol=piece.symbol, first_day=piece.first_day, end_day=piece.end_day)
        keys = ["timeframe", "ts"]
        stored = stored.set_index(keys).reindex(pd.MultiIndex.from_frame(rows[keys]))
        if len(stored) == len(rows) and stored["symbol"].notna().all():
            kept = [name for name in INDICATOR_NAMES if name not in newer]
            rows[kept] = stored[kept].to_numpy()
            return rows, len(newer)
    return compute(store, piece), len(INDICATOR_NAMES)


def out_of_bounds(frame: pd.DataFrame) -> dict[str, int]:
    """Number of values that are infinite or beyond the bounds of their formula, by column, where there are any."""
    counts = {}
    for column in INDICATOR_ROWS.columns:
        if column.name in INDICATOR_NAMES:
            values = frame[column.name]
            low, high = column.tolerated_bounds
            count = int((np.isinf(values) | (values < low) | (values > high)).sum())
            if count:
                counts[column.name] = count
    return counts


def describe(frame: pd.DataFrame, piece: Slice) -> dict[date, dict[str, Any]]:
    """Metadata of each day: rows, time range, rows that wait for their warm-up."""
    described = rows_by_day(frame, piece.days)
    waiting = frame[frame[list(INDICATOR_NAMES)].isna().all(axis=1)]
    counts = rows_by_day(waiting, piece.days)
    for day, values in described.items():
        values["rows_without_warm_up"] = counts[day]["dagster/row_count"]
    return described
