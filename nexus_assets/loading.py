"""Loading a market: planning what is missing, submitting it as runs, following them. Used by run, demo and backfill.

What belongs here: the order of the stages. What is stale is decided in planning.py, how a run is queued in backfill.py.
Each stage is planned when the one before it is over, from what is stored then, so a load that was interrupted goes on
where it stopped and never repeats a finished slice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from rich.console import Console

from nexus_assets.backfill import (
    LEAVE_TAG,
    PLAN_TAG,
    RETRIED_BY_TAG,
    WILL_RETRY_TAG,
    Rectangle,
    split_rectangles,
    submit,
)
from nexus_assets.backfill_progress import RETRY_SECONDS, FailedRun, follow
from nexus_assets.dagster_outages import patiently
from nexus_assets.jobs import daily_correlation, market_update, split_labels
from nexus_assets.load_plan import ExpectedRows, PlannedRun, Work
from nexus_assets.load_progress import LoadProgress
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import days_between
from nexus_assets.planning import (
    ANALYTICS,
    FEATURES,
    PRICES,
    Cell,
    Ledger,
    asset_names,
    correlation_reach,
    cover,
    day_rectangles,
    first_kept,
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
from nexus_assets.throughput import Throughput, measure

STAGES: tuple[str, ...] = ("prices", "features", "analytics", "splits")
WORTH_SPLITTING = 300
"""Partitions of an asset from which two runs side by side beat one: a run takes seconds to start. More runs: in
proportion."""

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Every slice was written after it."""

JOBS = {
    "prices": market_update.name,
    "features": market_update.name,
    "analytics": daily_correlation.name,
    "splits": split_labels.name,
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


Stale = Mapping[Table, set[Cell]]
"""The slices of each table that are missing, incomplete or stale; the symbol of a table by day is the empty text."""


@dataclass(frozen=True)
class Forecast:
    """What a load would do now, by stage, and how long it takes as measured. A later stage grows by what an earlier
    one changes."""

    plan: Mapping[str, Sequence[PlannedRun]]
    throughput: Throughput

    @property
    def total(self) -> Work:
        """The work of all stages."""
        return sum((run.total for runs in self.plan.values() for run in runs), Work())

    @property
    def seconds(self) -> float | None:
        """From the first launch to the last end; None where something was not measured."""
        return self.throughput.seconds_of_stages(self.plan.values())

    @property
    def unmeasured(self) -> list[str]:
        """Assets of the plan of which nothing was measured."""
        assets = dict.fromkeys(asset for runs in self.plan.values() for run in runs for asset in run.work)
        return [asset for asset in assets if asset not in self.throughput.rates]


def forecast(instance: dg.DagsterInstance, store: MarketStore, config: Settings, extent: Extent) -> Forecast:
    """The runs that each stage needs, from what is stored now."""
    sources = open_sources(config)
    ledger = _ledger(store, sources, config, extent)
    plan = {stage: plan_stage(store, sources, config, extent, stage, ledger) for stage in extent.stages}
    return Forecast(plan, measure(instance))


def _ledger(store: MarketStore, sources: Sources, config: Settings, extent: Extent) -> Ledger:
    first = load_from(config, extent.first_day) - timedelta(days=correlation_reach(config))
    return Ledger.read(store, config.symbols, first, extent.end_day, config=config, sources=sources)


def plan_stage(
    store: MarketStore,
    sources: Sources,
    config: Settings,
    extent: Extent,
    stage: str,
    ledger: Ledger | None = None,
) -> list[PlannedRun]:
    """The runs that a stage needs now; none if everything is there.

    Args:
        ledger: what is stored, where it was read a moment ago.
    """
    ledger = ledger or _ledger(store, sources, config, extent)
    prices_from = load_from(config, extent.first_day)
    if stage == "splits":
        return _plan_splits(store, ledger, extent)
    if stage == "analytics":
        stale = _stale_days(ledger, extent, config)
        rectangles = day_rectangles({day for cells in stale.values() for _, day in cells}, ANALYTICS)
    else:
        tables, first_day = (PRICES, prices_from) if stage == "prices" else (FEATURES, extent.first_day)
        stale = _stale_cells(ledger, tables, extent, first_day, config)
        rectangles = _split(set().union(*stale.values()), config, tables)
    return _planned(stage, rectangles, stale, ExpectedRows(config, sources))


def _plan_splits(store: MarketStore, ledger: Ledger, extent: Extent) -> list[PlannedRun]:
    written = ledger.written(DATASET_SPLITS.qualified, ALL_SYMBOLS, WHOLE_TABLE)
    newest = ledger.newest_change(LABELS.qualified)
    if not extent.again and written is not None and (newest is None or newest <= written):
        return []
    # The asset has no partitions; a rectangle of one day is one run.
    assets = asset_names([DATASET_SPLITS])
    rectangle = Rectangle((), extent.end_day - timedelta(days=1), extent.end_day, assets=assets)
    work = Work(1, store.rows_recorded(LABELS))
    return [PlannedRun("splits", rectangle, (DATASET_SPLITS,), {assets[0]: work})]


def _planned(stage: str, rectangles: Sequence[Rectangle], stale: Stale, expected: ExpectedRows) -> list[PlannedRun]:
    tables = tuple(stale)
    runs = []
    for rectangle in rectangles:
        days = days_between(rectangle.first_day, rectangle.end_day)
        covered = {(symbol, day) for symbol in rectangle.symbols or (ALL_SYMBOLS,) for day in days}
        work = {}
        for asset, table in zip(rectangle.assets, tables, strict=True):
            cells = covered & stale[table]
            work[asset] = Work(len(cells), expected.of(table, cells))
        runs.append(PlannedRun(stage, rectangle, tables, work))
    return runs


def _stale_days(ledger: Ledger, extent: Extent, config: Settings) -> Stale:
    found = {}
    for table in ANALYTICS:
        if extent.again:
            kept = first_kept(config, table, ledger.made_from)
            days = set(days_between(max(extent.first_day, kept), extent.end_day))
        else:
            days = stale_days(ledger, table, config.symbols, extent.first_day, extent.end_day, config=config)
        found[table] = {(ALL_SYMBOLS, day) for day in days}
    return found


def _stale_cells(ledger: Ledger, tables: Sequence[Table], extent: Extent, first_day: date, config: Settings) -> Stale:
    if not extent.again:
        return {
            table: stale_cells(ledger, table, extent.symbols, first_day, extent.end_day, config=config)
            for table in tables
        }
    found = {}
    for table in tables:
        days = days_between(max(first_day, first_kept(config, table, ledger.made_from)), extent.end_day)
        found[table] = {(symbol, day) for symbol in extent.symbols for day in days}
    return found


def _split(cells: set[Cell], config: Settings, tables: Sequence[Table]) -> list[Rectangle]:
    pieces = []
    for rectangle in cover(cells, config.symbols, tables):
        parallel = max(1, min(config.parallel_runs, rectangle.partitions * 2 // WORTH_SPLITTING))
        for piece in split_rectangles(rectangle.symbols, rectangle.first_day, rectangle.end_day, parallel=parallel):
            pieces.append(Rectangle(piece.symbols, piece.first_day, piece.end_day, assets=rectangle.assets))
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
    tend: Callable[[], None] = lambda: None,
    known: Forecast | None = None,
) -> LoadReport:
    """Bring everything in the extent up to date, through the daemon's queue.

    Runs of an earlier load that are still under way are waited for first. A run that fails does not keep the later
    stages from computing what they can.

    Args:
        tend: called now and then while runs are waited for; keeps the daemon up.
        known: what was planned a moment ago.

    Raises:
        BackfillError: there is no daemon, or partitions are asked for that do not exist.
    """
    sources = open_sources(config)
    kept = first_kept(config, RAW_OHLC, store.days_made_from())
    if kept > extent.first_day:
        announce(f"Prices before {kept} lie before their retention (NEXUS_RETENTION_RAW_OHLC); they are not loaded")
    waited = _await_earlier(instance, announce, tend)
    if known is None or waited:
        known = forecast(instance, store, config, extent)
    since = store.settled_until()
    with LoadProgress(
        store,
        console or Console(stderr=True),
        known.plan,
        since=since,
        throughput=known.throughput,
        estimate=known.seconds,
    ) as progress:
        under_way = _Load(instance, repository, store, config, extent, announce, tend, since, progress)
        for stage in extent.stages:
            changed = under_way.report.runs > 0
            runs = plan_stage(store, sources, config, extent, stage) if changed else known.plan[stage]
            if not runs:
                announce(f"{stage}: everything is there")
                continue
            failed = under_way.run(stage, runs)
            if stage == "prices" and failed:
                under_way.finish_prices(ExpectedRows(config, sources))
    return under_way.report


@dataclass
class _Load:
    """A load under way."""

    instance: dg.DagsterInstance
    repository: dg.RepositoryDefinition
    store: MarketStore
    config: Settings
    extent: Extent
    announce: Announce
    tend: Callable[[], None]
    since: datetime
    progress: LoadProgress
    report: LoadReport = field(default_factory=LoadReport)

    def run(self, stage: str, runs: Sequence[PlannedRun], part: str = "") -> bool:
        """Submit and follow. Returns whether a run failed for good."""
        work = sum((run.total for run in runs), Work())
        self.announce(f"{stage}: {work.slices:,} partitions, {work.rows:,} rows expected, in {len(runs)} runs")
        leave = self.since if self.extent.again else BEGINNING
        submitted = submit(
            self.instance,
            self.repository,
            JOBS[stage],
            [run.rectangle for run in runs],
            plan=f"load {self.since.astimezone(UTC).isoformat(timespec='seconds')}{part}",
            tags={run.rectangle: {**run.tags, LEAVE_TAG: leave.isoformat()} for run in runs},
        )
        self.progress.begin(stage, runs)
        outcome = follow(self.instance, submitted, watch=self.progress.update, tend=self.tend)
        self.progress.end()
        self.report.materializations += outcome.materializations
        self.report.runs += len(submitted)
        self.report.failed += outcome.failed
        return bool(outcome.failed)

    def finish_prices(self, expected: ExpectedRows) -> None:
        """Make the bars of what was delivered, where the run ended because some other symbol's provider failed."""
        first, extent = load_from(self.config, self.extent.first_day), self.extent
        ledger = Ledger.read(self.store, self.config.symbols, first - timedelta(days=1), extent.end_day)
        cells = undelivered_downstream(
            ledger, [BARS], extent.symbols, first, extent.end_day, config=self.config, since=self.since
        )
        rectangles = _split(cells, self.config, [BARS])
        if rectangles:
            self.announce("prices: some symbols failed; making the bars of the others")
            self.run("prices", _planned("prices", rectangles, {BARS: cells}, expected), part=" bars")


def _await_earlier(instance: dg.DagsterInstance, announce: Announce, tend: Callable[[], None]) -> bool:
    """Whether there was anything to wait for."""
    waiting = patiently(lambda: _under_way(instance))
    if waiting:
        announce(f"{len(waiting)} runs of an earlier load are under way; waiting for them")
        follow(instance, waiting, tend=tend)
    return bool(waiting)


def _under_way(instance: dg.DagsterInstance) -> list[str]:
    """Planned runs that are queued, work, or failed a moment ago and are about to be retried."""
    statuses = [dg.DagsterRunStatus.QUEUED, *IN_PROGRESS_RUN_STATUSES]
    runs = instance.get_runs(dg.RunsFilter(statuses=statuses))
    lately = datetime.now(UTC) - timedelta(seconds=RETRY_SECONDS)
    failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=lately))
    runs = [
        *runs,
        *(run for run in failed if run.tags.get(WILL_RETRY_TAG) == "true" and RETRIED_BY_TAG not in run.tags),
    ]
    return [run.run_id for run in runs if PLAN_TAG in run.tags]
