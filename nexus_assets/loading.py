"""Loading a market: planning what is missing, submitting it as runs, following them. Used by run, demo and backfill.

What belongs here: the order of the stages. What is stale is decided in planning.py, how a run is queued in backfill.py.
Each stage is planned when the one before it is over, from what is stored then, so a load that was interrupted goes on
where it stopped and never repeats a finished slice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from nexus_assets.jobs import daily_correlation, history_correlation, history_update, market_update, split_labels
from nexus_assets.load_plan import ExpectedRows, PlannedRun, Work
from nexus_assets.load_progress import LoadProgress
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
from nexus_assets.throughput import Throughput, measure

STAGES: tuple[str, ...] = ("prices", "features", "analytics", "splits")
WORTH_SPLITTING = 300
"""Symbols x days of an asset from which two runs side by side beat one: a run takes seconds to start. More runs: in
proportion."""

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Every slice was written after it."""

STEPS = {
    "prices by month": ("prices", MONTHS, history_update.name),
    "prices": ("prices", DAYS, market_update.name),
    "features by month": ("features", MONTHS, history_update.name),
    "features": ("features", DAYS, market_update.name),
    "analytics by month": ("analytics", MONTHS, history_correlation.name),
    "analytics": ("analytics", DAYS, daily_correlation.name),
    "splits": ("splits", DAYS, split_labels.name),
}
"""In their order, what each step is of: the stage, the grain of its partitions, the job. The history comes first: what
the first days read is there by then."""

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
    """What a load would do now, by step, and how long it takes as measured. A later step grows by what an earlier
    one changes."""

    plan: Mapping[str, Sequence[PlannedRun]]
    throughput: Throughput

    @property
    def total(self) -> Work:
        """The work of all steps."""
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
    """The runs that each step needs, from what is stored now."""
    sources = open_sources(config)
    ledger = _ledger(store, sources, config, whole_months(extent, config))
    plan = {step: plan_stage(store, sources, config, extent, step, ledger) for step in steps(extent, config)}
    return Forecast(plan, measure(instance))


def steps(extent: Extent, config: Settings) -> list[str]:
    """The steps of a load, in their order."""
    return [step for step, (stage, grain, _) in STEPS.items() if stage in extent.stages and grain in grains(config)]


def whole_months(extent: Extent, config: Settings) -> Extent:
    """The extent with all days of the months of the history that it begins and ends in: they are written as a whole, so
    their first day needs its prices as well."""
    (first, _), (_, end) = (
        grain.span(grain.begin(day), config)
        for day in (extent.first_day, extent.end_day - timedelta(days=1))
        for grain in [grain_at(day, config)]
    )
    return replace(extent, first_day=first, end_day=end)


def _ledger(store: MarketStore, sources: Sources, config: Settings, extent: Extent) -> Ledger:
    first = load_from(config, extent.first_day) - timedelta(days=correlation_reach(config))
    until = extent.end_day + timedelta(days=LABEL_REACH_DAYS)
    return Ledger.read(store, config.symbols, first, until, config=config, sources=sources)


def plan_stage(
    store: MarketStore,
    sources: Sources,
    config: Settings,
    extent: Extent,
    step: str,
    ledger: Ledger | None = None,
) -> list[PlannedRun]:
    """The runs that a step needs now; none if everything is there.

    Args:
        ledger: what is stored, where it was read a moment ago.
    """
    stage, grain, _ = STEPS[step]
    extent = whole_months(extent, config)
    ledger = ledger or _ledger(store, sources, config, extent)
    if stage == "splits":
        return _plan_splits(store, ledger, extent)
    tables = {"prices": PRICES, "features": FEATURES, "analytics": ANALYTICS}[stage]
    first_day = load_from(config, extent.first_day) if stage == "prices" else extent.first_day
    low, high = grain.bounds(config)
    part = replace(extent, first_day=max(first_day, low), end_day=min(extent.end_day, high))
    stale = _stale_days(ledger, part, config) if stage == "analytics" else _stale_cells(ledger, tables, part, config)
    cells = set().union(*stale.values())
    if stage == "analytics":
        rectangles = day_rectangles({day for _, day in in_partitions(cells, grain, config)}, tables, grain)
    else:
        rectangles = _split(cells, config, tables, grain)
    return _planned(step, rectangles, stale, ExpectedRows(config, sources))


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


def _planned(step: str, rectangles: Sequence[Rectangle], stale: Stale, expected: ExpectedRows) -> list[PlannedRun]:
    tables = tuple(stale)
    runs = []
    for rectangle in rectangles:
        days = days_between(rectangle.first_day, rectangle.end_day)
        covered = {(symbol, day) for symbol in rectangle.symbols or (ALL_SYMBOLS,) for day in days}
        work = {}
        for asset, table in zip(rectangle.assets, tables, strict=True):
            cells = covered & stale[table]
            work[asset] = Work(len(cells), expected.of(table, cells))
        runs.append(PlannedRun(step, rectangle, tables, work))
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


def _stale_cells(ledger: Ledger, tables: Sequence[Table], extent: Extent, config: Settings) -> Stale:
    if not extent.again:
        return {
            table: stale_cells(ledger, table, extent.symbols, extent.first_day, extent.end_day, config=config)
            for table in tables
        }
    found = {}
    for table in tables:
        days = days_between(max(extent.first_day, first_kept(config, table, ledger.made_from)), extent.end_day)
        found[table] = {(symbol, day) for symbol in extent.symbols for day in days}
    return found


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
        for step in steps(extent, config):
            changed = under_way.report.runs > 0
            runs = plan_stage(store, sources, config, extent, step) if changed else known.plan[step]
            if not runs:
                announce(f"{step}: everything is there")
                continue
            failed = under_way.run(step, runs)
            if STEPS[step][0] == "prices" and failed:
                under_way.finish_prices(step, ExpectedRows(config, sources))
    told = record_stored(instance, store, config, extent.symbols, load_from(config, extent.first_day), extent.end_day)
    if told:
        announce(f"{told:,} partitions were stored before under other start days; Dagster knows of them now")
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

    def run(self, step: str, runs: Sequence[PlannedRun], part: str = "") -> bool:
        """Submit and follow. Returns whether a run failed for good."""
        work = sum((run.total for run in runs), Work())
        self.announce(f"{step}: {work.slices:,} partitions, {work.rows:,} rows expected, in {len(runs)} runs")
        leave = self.since if self.extent.again else BEGINNING
        submitted = submit(
            self.instance,
            self.repository,
            STEPS[step][2],
            [run.rectangle for run in runs],
            plan=f"load {self.since.astimezone(UTC).isoformat(timespec='seconds')}{part}",
            tags={run.rectangle: {**run.tags, LEAVE_TAG: leave.isoformat()} for run in runs},
        )
        self.progress.begin(step, runs)
        outcome = follow(self.instance, submitted, watch=self.progress.update, tend=self.tend)
        self.progress.end()
        self.report.materializations += outcome.materializations
        self.report.runs += len(submitted)
        self.report.failed += outcome.failed
        return bool(outcome.failed)

    def finish_prices(self, step: str, expected: ExpectedRows) -> None:
        """Make the bars of what was delivered, where the run ended because some other symbol's provider failed."""
        first, extent = load_from(self.config, self.extent.first_day), self.extent
        ledger = Ledger.read(self.store, self.config.symbols, first - timedelta(days=1), extent.end_day)
        cells = undelivered_downstream(
            ledger, [BARS], extent.symbols, first, extent.end_day, config=self.config, since=self.since
        )
        rectangles = _split(cells, self.config, [BARS], STEPS[step][1])
        if rectangles:
            self.announce(f"{step}: some symbols failed; making the bars of the others")
            self.run(step, _planned(step, rectangles, {BARS: cells}, expected), part=" bars")


def _await_earlier(instance: dg.DagsterInstance, announce: Announce, tend: Callable[[], None]) -> bool:
    """Whether there was anything to wait for."""
    waiting = _under_way(instance)
    if waiting:
        announce(f"{len(waiting)} runs of an earlier load are under way; waiting for them")
        follow(instance, waiting, tend=tend)
    return bool(waiting)


def _under_way(instance: dg.DagsterInstance) -> list[str]:
    """Planned runs that are queued, work, or failed a moment ago and are to be retried, whose retry has not begun."""
    statuses = [dg.DagsterRunStatus.QUEUED, *IN_PROGRESS_RUN_STATUSES]
    found = [run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=statuses)) if PLAN_TAG in run.tags]
    lately = datetime.now(UTC) - timedelta(seconds=RETRY_SECONDS)
    failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=lately))
    for run in failed:
        if PLAN_TAG in run.tags and run.tags.get(WILL_RETRY_TAG) == "true":
            # Made, and not queued yet: it will be followed through the run that it retries.
            retry = instance.get_run_by_id(run.tags[RETRIED_BY_TAG]) if RETRIED_BY_TAG in run.tags else None
            if retry is None or retry.status == dg.DagsterRunStatus.NOT_STARTED:
                found.append(run.run_id)
    return found
