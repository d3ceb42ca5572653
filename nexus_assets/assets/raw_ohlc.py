"""market/raw_ohlc: every bar that a provider delivered.

From: the providers that sources.toml names for a symbol, in order; the first that answers delivers, the others are
asked for what it does not have. Market-data services are asked for all days of a run at once.
Grain: symbol, base timeframe, ts, provider, delivery. Append-only: a value that differs from the newest known one is
a new revision; an equal one is only counted. Hourly, and for any day on demand.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import dagster as dg
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.assets.specification import partitioned_asset
from nexus_assets.collecting import Collected, collect
from nexus_assets.instruments import AssetClass, instrument
from nexus_assets.market_store import DeliveryCounts, MarketStore
from nexus_assets.partitions import Grain, Slice, grain_of, slices_of
from nexus_assets.providers.registry import Sources
from nexus_assets.providers.service_state import service_states
from nexus_assets.reading_ahead import ReadingAhead
from nexus_assets.request_log import MAX_MESSAGE
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


@partitioned_asset(RAW_OHLC, version=1, description=__doc__, checks=[ACCOUNTED], kinds={"python"})
def raw_ohlc(
    context: dg.AssetExecutionContext,
    market_store: dg.ResourceParam[MarketStore],
    sources: dg.ResourceParam[Sources],
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Ask the provider for each slice and append what differs."""
    deliveries: list[DeliveryCounts] = []
    grain = grain_of(context.asset_key)
    ahead = ReadingAhead(slices_of(context.partition_keys, grain))
    cells: dict[tuple[str, date], int] = {}

    def work(piece: Slice) -> Mapping[date, Mapping[str, Any]]:
        now = datetime.now(UTC)
        collected = collect(
            market_store, sources, piece, config=settings(), run_id=context.run.run_id, now=now, ahead=ahead
        )
        for failure in collected.failures:
            context.log.warning(f"{piece}: {failure}")
        deliveries.extend(counts for _, counts in collected.answers)
        described = describe(collected, piece)
        described[piece.days[-1]] |= describe_services(sources, collected, piece, now)
        cells.update({(piece.symbol, day): described[day]["dagster/row_count"] for day in piece.days})
        return described

    report = materialise(context, work, made_from=market_store.made_from(RAW_OHLC))
    if wants_plots(context):
        _attach_plot(report.written, cells, grain)
    yield accounted(market_store, deliveries)
    yield finish(context, report)


def describe(collected: Collected, piece: Slice) -> dict[date, dict[str, Any]]:
    """Metadata of each day of a slice, over all its deliveries."""
    counts = pd.concat([counts.per_day for _, counts in collected.answers]).groupby("day").sum()
    counts = counts.reindex(piece.days, fill_value=0)
    origin = {
        "provider": ", ".join(delivery.provider for delivery, _ in collected.answers),
        "delivery": ", ".join(str(counts.delivery_id) for _, counts in collected.answers),
    }
    described = {}
    for day, numbers in zip(piece.days, counts.to_dict("records"), strict=True):
        described[day] = {"dagster/row_count": int(sum(numbers.values())), **numbers, **origin}
    return described


def describe_services(sources: Sources, collected: Collected, piece: Slice, now: datetime) -> dict[str, Any]:
    """What calling the market-data services was like, and how old the newest data are where the slice reaches today;
    for the newest day of a slice."""
    found: dict[str, Any] = {}
    states = service_states(sources)
    if states:
        found["services"] = dg.MetadataValue.json({state.service: state.as_dict() for state in states})
    if collected.failures:
        found["provider_failures"] = "; ".join(str(failure) for failure in collected.failures)[:MAX_MESSAGE]
    if collected.newest_open is not None and piece.end_day > now.date():
        end = trading_calendar.bar_end(collected.newest_open, settings().base_timeframe)[0]
        found["data_age_minutes"] = round((pd.Timestamp(now) - end).total_seconds() / 60, 1)
    return found


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


def _attach_plot(written: dict[str, Mapping[str, Any]], delivered: dict[tuple[str, date], int], grain: Grain) -> None:
    """One picture of the whole run, on the newest day on which the run's first symbol trades; of one symbol it would be
    a stripe that says less than the picture of its gaps."""
    if len({symbol for symbol, _ in delivered}) < 2:
        return
    rows = [(symbol, day, count, expected_rows(symbol, day)) for (symbol, day), count in delivered.items()]
    trading = [(symbol, day) for symbol, day, _, expected in rows if expected and symbol == rows[0][0]]
    if trading:
        coverage = pd.DataFrame(rows, columns=["symbol", "day", "present", "expected"])
        picture = plots.as_markdown(plots.coverage_plot(coverage), "rows delivered against rows expected")
        key = grain.key(*max(trading, key=lambda cell: cell[1]))
        written[key] = {**written[key], "coverage": dg.MetadataValue.md(picture)}


@lru_cache(maxsize=4096)
def _expected_rows(asset_class: AssetClass, timeframe: str, day: date) -> int:
    start, end = trading_calendar.day_range(day, day + timedelta(days=1))
    return len(trading_calendar.expected(asset_class, start, end, timeframe))


def expected_rows(symbol: str, day: date) -> int:
    """Base bars that the calendar expects of a symbol on a UTC day."""
    return _expected_rows(instrument(symbol).asset_class, settings().base_timeframe, day)
