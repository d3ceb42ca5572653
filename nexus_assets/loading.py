"""Loading a market: planning what is missing, submitting it as runs, following them. Used by run, demo and backfill.

What belongs here: the order of the stages. What is stale is decided in planning.py, how a run is queued in backfill.py.
Each stage is planned when the one before it is over, from what is stored then, so a load that was interrupted goes on
where it stopped and never repeats a finished slice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import chain

import dagster as dg
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from rich.console import Console

from nexus_assets.backfill import PLAN_TAG, Rectangle, split_rectangles, submit
from nexus_assets.backfill_progress import FailedRun, follow
from nexus_assets.jobs import daily_correlation, history_correlation, history_update, market_update, split_labels
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import DAYS, MONTHS, Grain, days_between, grain_at, grains
from nexus_assets.planning import (
    ANALYTICS,
    FEATURES,
    LABEL_REACH_DAYS,
    PRICES,
    Cell,
    Ledger,
    asset_names,
    correlation_reach,
    cover,
    day_rectangles,
    first_kept,
    in_partitions,
    load_from,
    stale_cells,
    stale_days,
    undelivered_downstream,
)
from nexus_assets.providers.registry import Sources
from nexus_assets.resources import open_sources
from nexus_assets.schemas import BARS, DATASET_SPLITS, LABELS, RAW_OHLC, Table
from nexus_assets.settings import Settings
from nexus_assets.slice_ledger import ALL_SYMBOLS, WHOLE_TABLE
from nexus_assets.stored_partitions import record_stored

STAGES: tuple[str, ...] = ("prices", "features", "analytics", "splits")
WORTH_SPLITTING = 300
"""Symbols x days of an asset from which two runs side by side beat one: a run takes seconds to start. More runs: in
proportion."""

JOBS = {
    ("prices", DAYS): market_update.name,
    ("features", DAYS): market_update.name,
    ("analytics", DAYS): daily_correlation.name,
    ("splits", DAYS): split_labels.name,
    ("prices", MONTHS): history_update.name,
    ("features", MONTHS): history_update.name,
    ("analytics", MONTHS): history_correlation.name,
}

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Extent:
    """What to load: these symbols, features and analytics of [first_day, end_day), and the prices they need."""

    symbols: tuple[str, ...]
    first_day: date
    end_day: date
    stages: tuple[str, ...] = STAGES
    again: bool = False


@dataclass
class LoadReport:
    """What a load did."""

    materializations: int = 0
    runs: int = 0
    failed: list[FailedRun] = field(default_factory=list)


def steps(extent: Extent, config: Settings) -> list[tuple[str, Grain]]:
    """The stages, each of the history before that of the days: what the first days read is there by then."""
    return [(stage, grain) for stage in extent.stages for grain in grains(config) if (stage, grain) in JOBS]


def whole_months(extent: Extent, config: Settings) -> Extent:
    """The extent with all days of the months of the history that it begins and ends in: they are written as a whole, so
    their first day needs its prices as well."""
    (first, _), (_, end) = (
        grain.span(grain.begin(day), config)
        for day in (extent.first_day, extent.end_day - timedelta(days=1))
        for grain in [grain_at(day, config)]
    )
    return replace(extent, first_day=first, end_day=end)


def plan_stage(
    store: MarketStore, sources: Sources, config: Settings, extent: Extent, stage: str, grain: Grain = DAYS
) -> list[Rectangle]:
    """The runs that a stage needs now, of the assets of one grain; none if everything is there."""
    extent = whole_months(extent, config)
    prices_from = load_from(config, extent.first_day)
    if stage != "splits":
        low, high = grain.bounds(config)
        prices_from = max(prices_from, low)
        extent = replace(extent, first_day=max(extent.first_day, low), end_day=min(extent.end_day, high))
        if prices_from >= extent.end_day:
            return []
    first = min(prices_from, load_from(config, extent.first_day)) - timedelta(days=correlation_reach(config))
    until = extent.end_day + timedelta(days=LABEL_REACH_DAYS)
    ledger = Ledger.read(store, config.symbols, first, until, config=config, sources=sources)
    if stage == "prices":
        return _split(_cells(ledger, PRICES, extent, prices_from, config), config, PRICES, grain)
    if stage == "features":
        return _split(_cells(ledger, FEATURES, extent, extent.first_day, config), config, FEATURES, grain)
    if stage == "analytics":
        kept = min(first_kept(config, table, ledger.made_from) for table in ANALYTICS)
        days = set(days_between(max(extent.first_day, kept), extent.end_day))
        if not extent.again:
            days = set(
                chain.from_iterable(
                    stale_days(ledger, table, config.symbols, extent.first_day, extent.end_day, config=config)
                    for table in ANALYTICS
                )
            )
        whole = {day for _, day in in_partitions({("", day) for day in days}, grain, config)}
        return day_rectangles(whole, ANALYTICS, grain)
    written = ledger.written(DATASET_SPLITS.qualified, ALL_SYMBOLS, WHOLE_TABLE)
    newest = ledger.newest_change(LABELS.qualified)
    if extent.again or written is None or (newest is not None and newest > written):
        # The asset has no partitions; a rectangle of one day is one run.
        return [Rectangle((), extent.end_day - timedelta(days=1), extent.end_day, assets=asset_names([DATASET_SPLITS]))]
    return []


def _cells(ledger: Ledger, tables: Sequence[Table], extent: Extent, first_day: date, config: Settings) -> set[Cell]:
    if extent.again:
        kept = min(first_kept(config, table, ledger.made_from) for table in tables)
        days = days_between(max(first_day, kept), extent.end_day)
        return {(symbol, day) for symbol in extent.symbols for day in days}
    return set().union(
        *(stale_cells(ledger, table, extent.symbols, first_day, extent.end_day, config=config) for table in tables)
    )


def _split(cells: set[Cell], config: Settings, tables: Sequence[Table], grain: Grain) -> list[Rectangle]:
    pieces = []
    for whole in cover(in_partitions(cells, grain, config), config.symbols, tables, grain):
        parallel = max(1, min(config.parallel_runs, whole.cells * 2 // WORTH_SPLITTING))
        for piece in split_rectangles(whole.symbols, whole.first_day, whole.end_day, parallel=parallel, grain=grain):
            pieces.append(replace(piece, assets=whole.assets))
    return pieces


def load(
    instance: dg.DagsterInstance,
    repository: dg.RepositoryDefinition,
    store: MarketStore,
    config: Settings,
    extent: Extent,
    *,
    announce: Announce,
    console: Console | None = None,
) -> LoadReport:
    """Bring everything in the extent up to date, through the daemon's queue.

    Runs of an earlier load that are still under way are waited for first. A run that fails does not keep the later
    stages from computing what they can.

    Raises:
        BackfillError: there is no daemon, or partitions are asked for that do not exist.
    """
    report = LoadReport()
    sources = open_sources(config)
    kept = first_kept(config, RAW_OHLC, store.days_made_from())
    if kept > extent.first_day:
        announce(f"Prices before {kept} lie before their retention (NEXUS_RETENTION_RAW_OHLC); they are not loaded")
    _await_earlier(instance, announce, console)
    began = datetime.now(UTC)
    plan = f"load {began.isoformat(timespec='seconds')}"
    for stage, grain in steps(extent, config):
        name = f"{stage} by {grain.dimension}" if grain is MONTHS else stage
        rectangles = plan_stage(store, sources, config, extent, stage, grain)
        if not rectangles:
            announce(f"{name}: everything is there")
            continue
        count = sum(rectangle.partitions * len(rectangle.assets) for rectangle in rectangles)
        announce(f"{name}: {count:,} partitions in {len(rectangles)} runs")
        runs = submit(instance, repository, JOBS[stage, grain], rectangles, plan=plan)
        outcome = follow(instance, runs, console=console)
        report.materializations += outcome.materializations
        report.runs += len(runs)
        report.failed += outcome.failed
        if stage == "prices" and outcome.failed:
            _finish_prices(instance, repository, store, config, extent, grain, began, plan, report, announce, console)
    told = record_stored(instance, store, config, extent.symbols, load_from(config, extent.first_day), extent.end_day)
    if told:
        announce(f"{told:,} partitions were stored before under other start days; Dagster knows of them now")
    return report


def _finish_prices(
    instance: dg.DagsterInstance,
    repository: dg.RepositoryDefinition,
    store: MarketStore,
    config: Settings,
    extent: Extent,
    grain: Grain,
    began: datetime,
    plan: str,
    report: LoadReport,
    announce: Announce,
    console: Console | None,
) -> None:
    """Make the bars of what was delivered, where the run ended because some other symbol's provider failed."""
    first = load_from(config, extent.first_day)
    ledger = Ledger.read(store, config.symbols, first - timedelta(days=1), extent.end_day)
    cells = undelivered_downstream(ledger, [BARS], extent.symbols, first, extent.end_day, config=config, since=began)
    rectangles = _split(cells, config, [BARS], grain)
    if not rectangles:
        return
    announce("prices: some symbols failed; making the bars of the others")
    runs = submit(instance, repository, JOBS["prices", grain], rectangles, plan=f"{plan} bars")
    outcome = follow(instance, runs, console=console)
    report.materializations += outcome.materializations
    report.runs += len(runs)
    report.failed += outcome.failed


def _await_earlier(instance: dg.DagsterInstance, announce: Announce, console: Console | None) -> None:
    waiting = [
        run.run_id
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, *IN_PROGRESS_RUN_STATUSES]))
        if PLAN_TAG in run.tags
    ]
    if waiting:
        announce(f"{len(waiting)} runs of an earlier load are under way; waiting for them")
        follow(instance, waiting, console=console)
