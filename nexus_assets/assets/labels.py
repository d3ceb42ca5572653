"""features/labels: what happened in the 24 open market hours after each bar.

From: market/bars, 50 bars back for the volatility and up to six days ahead. Forward return, its direction, and which
of three barriers (profit, loss, time) the price met first. A label exists only once its whole horizon has passed and
was collected; a day that is not mature yet is materialised with the counts matured and expected, and the healing run
returns to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.assets.specification import partitioned_asset
from nexus_assets.instruments import instrument
from nexus_assets.market_store import BarReader, MarketStore
from nexus_assets.partitions import Slice
from nexus_assets.planning import inputs_of
from nexus_assets.schemas import BARS, LABELS
from nexus_assets.settings import settings
from nexus_assets.slices import finish, materialise, rows_by_day
from nexus_assets.transforms import labels as transform

LOOK_AHEAD_DAYS = 8
"""24 open hours span at most 98 hours on real calendars; two days more for an unusually long closure."""

Computed = tuple[transform.LabelResult, pd.Timestamp]
"""Labels at one timeframe, and the end of the newest bar that was collected."""

HORIZON = dg.AssetCheckSpec(
    "only_where_the_horizon_exists",
    asset=LABELS.asset_key,
    description="No label ends after the newest bar that was collected for its symbol.",
    blocking=True,
)


@partitioned_asset(LABELS, version=transform.LABELS_VERSION, description=__doc__, reads=[BARS], checks=[HORIZON])
def labels(
    context: dg.AssetExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Compute and overwrite each slice."""
    early: list[str] = []

    def work(piece: Slice) -> Mapping[date, Mapping[str, Any]]:
        read_at = market_store.settled_until(BARS, piece.symbol)
        results = [compute(market_store, piece, timeframe) for timeframe in settings().feature_timeframes]
        early.extend(too_early(piece, results))
        frame = write(market_store, piece, results, read_at)
        described = rows_by_day(frame, piece.days)
        for day, values in described.items():
            values["matured"] = sum(result.matured.get(day, 0) for result, _ in results)
            values["expected"] = sum(result.expected.get(day, 0) for result, _ in results)
        return described

    report = materialise(context, work, made_from=market_store.made_from(LABELS))
    immature = [key for key, told in report.written.items() if told.get("matured", 0) < told.get("expected", 0)]
    if immature:
        context.log.warning(f"{len(immature)} partitions are not mature yet; newest {max(immature)}")
    yield dg.AssetCheckResult(
        check_name=HORIZON.name,
        passed=not early,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"partitions": len(report.written), "immature": len(immature), "early": "; ".join(early[:10])},
    )
    yield finish(context, report)


def too_early(piece: Slice, results: Sequence[Computed]) -> list[str]:
    """The slice, if a label of it ends after the newest bar that was collected."""
    early = any((result.labels["horizon_end"] > collected_until).any() for result, collected_until in results)
    return [str(piece)] if early else []


def write(store: MarketStore, piece: Slice, results: Sequence[Computed], read_at: datetime) -> pd.DataFrame:
    """Overwrite a slice with what was computed from the bars of `read_at`, and return its rows."""
    frame = pd.concat([result.labels for result, _ in results], ignore_index=True)
    complete = {
        day: all(result.matured.get(day, 0) == result.expected.get(day, 0) for result, _ in results)
        for day in piece.days
    }
    store.replace(
        LABELS,
        frame,
        symbol=piece.symbol,
        timeframes=settings().feature_timeframes,
        first_day=piece.first_day,
        end_day=piece.end_day,
        complete=complete,
        code_version=transform.LABELS_VERSION,
        read_at=read_at,
        inputs=inputs_of(LABELS, piece.symbol, None, settings()),
    )
    return frame


def compute(store: BarReader, piece: Slice, timeframe: str) -> Computed:
    """The labels of a slice at one timeframe, and the end of the newest bar that was collected."""
    collected = store.read_bars_with_warmup(
        piece.symbol,
        timeframe,
        piece.first_day,
        piece.end_day + timedelta(days=LOOK_AHEAD_DAYS),
        transform.VOLATILITY_BARS,
    )
    result = transform.compute(
        collected,
        instrument=instrument(piece.symbol),
        timeframe=timeframe,
        first_day=piece.first_day,
        end_day=piece.end_day,
    )
    if collected.empty:
        return result, pd.Timestamp.min.tz_localize("UTC")
    return result, pd.DatetimeIndex(trading_calendar.bar_end(pd.DatetimeIndex(collected["ts"]), timeframe)).max()
