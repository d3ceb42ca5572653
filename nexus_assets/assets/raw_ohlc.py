"""market/raw_ohlc: every bar that a provider delivered.

From: the providers that sources.toml names for a symbol, in order; the first that answers with rows delivers.
Grain: symbol, base timeframe, ts, provider, delivery. Append-only: a value that differs from the newest known one is
a new revision; an equal one is only counted. Hourly, and for any day on demand.
"""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import dagster as dg
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.assets.specification import declared
from nexus_assets.errors import PermanentProviderError, ProviderError
from nexus_assets.instruments import AssetClass, instrument
from nexus_assets.market_store import DeliveryCounts, MarketStore
from nexus_assets.partitions import Slice, partition_key, symbol_day_partitions
from nexus_assets.providers.interface import Delivery, Request
from nexus_assets.providers.registry import Sources
from nexus_assets.schemas import RAW_OHLC
from nexus_assets.settings import settings
from nexus_assets.slices import finish, materialise, wants_plots
from nexus_assets.transforms import plots

ACCOUNTED = dg.AssetCheckSpec(
    "every_delivery_accounted_for",
    asset=RAW_OHLC.asset_key,
    description="delivered = new + changed + unchanged + quarantined, in the counts and in the stored rows.",
    blocking=True,
)


@dg.asset(
    **declared(RAW_OHLC, version=1, kinds={"python"}),
    partitions_def=symbol_day_partitions(),
    description=__doc__,
    check_specs=[ACCOUNTED],
)
def raw_ohlc(
    context: dg.AssetExecutionContext,
    market_store: dg.ResourceParam[MarketStore],
    sources: dg.ResourceParam[Sources],
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Ask the provider for each slice and append what differs."""
    deliveries: list[DeliveryCounts] = []
    cells: dict[tuple[str, date], int] = {}

    def work(piece: Slice) -> Mapping[date, Mapping[str, Any]]:
        delivery = deliver(sources, piece)
        counts = market_store.append_delivery(delivery, run_id=context.run.run_id)
        deliveries.append(counts)
        described = describe(delivery, counts, piece)
        cells.update({(piece.symbol, day): described[day]["dagster/row_count"] for day in piece.days})
        return described

    report = materialise(context, work)
    if wants_plots(context):
        _attach_plot(report.written, cells)
    yield accounted(market_store, deliveries)
    yield finish(context, report)


def deliver(sources: Sources, piece: Slice) -> Delivery:
    """The answer of the first provider of the symbol that answers with rows; else the first empty one.

    Raises:
        ProviderError: no provider is declared for the symbol, or every one failed; the last failure is the cause.
    """
    timeframe = settings().base_timeframe
    start, end = trading_calendar.day_range(piece.first_day, piece.end_day)
    request = Request(piece.symbol, timeframe, start, end)
    failures: list[ProviderError] = []
    empty: Delivery | None = None
    for provider in sources.for_symbol(piece.symbol, timeframe):
        try:
            delivery = provider.fetch(request)
        except ProviderError as error:
            failures.append(error)
            continue
        if delivery.delivered:
            return delivery
        empty = empty or delivery
    if empty is not None:
        return empty
    if failures:
        raise failures[-1]
    raise PermanentProviderError(
        f"No source serves {piece.symbol} at {timeframe}.",
        next_step="Declare one in sources.toml, or leave the symbol out of NEXUS_SYMBOLS.",
    )


def describe(delivery: Delivery, counts: DeliveryCounts, piece: Slice) -> dict[date, dict[str, Any]]:
    """Metadata of each day of a delivery."""
    by_day = counts.per_day.set_index("day")
    described = {}
    for day in piece.days:
        numbers = {
            name: int(by_day.at[day, name]) if day in by_day.index else 0  # pyright: ignore[reportArgumentType]
            for name in ("new", "changed", "unchanged", "quarantined")
        }
        described[day] = {
            "dagster/row_count": sum(numbers.values()),
            **numbers,
            "provider": delivery.provider,
            "delivery": counts.delivery_id,
        }
    return described


def accounted(market_store: MarketStore, deliveries: list[DeliveryCounts]) -> dg.AssetCheckResult:
    """Compare the counts of this run's deliveries with the rows that are stored under their numbers."""
    wrong = market_store.unaccounted([counts.delivery_id for counts in deliveries])
    totals = {
        name: sum(getattr(counts, name) for counts in deliveries)
        for name in ("delivered", "new", "changed", "unchanged", "quarantined")
    }
    return dg.AssetCheckResult(
        check_name=ACCOUNTED.name,
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"deliveries": len(deliveries), **totals, **({"unaccounted": "; ".join(wrong)} if wrong else {})},
    )


def _attach_plot(written: dict[str, Mapping[str, Any]], delivered: dict[tuple[str, date], int]) -> None:
    """One picture of the whole run, on the newest day on which the run's first symbol trades."""
    rows = [(symbol, day, count, expected_rows(symbol, day)) for (symbol, day), count in delivered.items()]
    trading = [(symbol, day) for symbol, day, _, expected in rows if expected and symbol == rows[0][0]]
    if trading:
        coverage = pd.DataFrame(rows, columns=["symbol", "day", "present", "expected"])
        picture = plots.as_markdown(plots.coverage_plot(coverage), "rows delivered against rows expected")
        key = partition_key(*max(trading, key=lambda cell: cell[1]))
        written[key] = {**written[key], "coverage": dg.MetadataValue.md(picture)}


@lru_cache(maxsize=4096)
def _expected_rows(asset_class: AssetClass, timeframe: str, day: date) -> int:
    start, end = trading_calendar.day_range(day, day + timedelta(days=1))
    return len(trading_calendar.expected(asset_class, start, end, timeframe))


def expected_rows(symbol: str, day: date) -> int:
    """Base bars that the calendar expects of a symbol on a UTC day."""
    return _expected_rows(instrument(symbol).asset_class, settings().base_timeframe, day)
