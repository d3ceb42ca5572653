"""Submitting ranges of partitions as runs.

A rectangle (some symbols, a range of days) becomes one queued run that carries Dagster's partition range tags, so
that the daemon launches it like any other. Dagster's own backfills would make one run per symbol.

Runs carry a plan's name and their rectangle. Submitting the same plan again finds them, whatever happened in
between, and only submits what has neither finished nor is under way.
"""

import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    PartitionKeyRange,
    RepositoryDefinition,
    RunsFilter,
)
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.events import DagsterEvent
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

from nexus_assets.errors import BackfillError
from nexus_assets.partitions import DAYS, RANGE_END_TAG, RANGE_START_TAG, Grain, days_between

CODE_LOCATION = "nexus_assets"
"""The location_name of workspace.yaml; a run is launched in the location of that name."""
DEFINITIONS_MODULE = "nexus_assets.definitions"

PLAN_TAG = "nexus/plan"
RECTANGLE_TAG = "nexus/rectangle"
LANE_TAG = "nexus/lane"
"""dagster.yaml lets one run per value of this tag work at a time."""
LEAVE_TAG = "nexus/leave_written_since"
"""An ISO instant. Slices that were written at or after it, and are not stale, are left alone by the run."""
WILL_RETRY_TAG = "dagster/will_retry"
RETRIED_BY_TAG = "dagster/auto_retry_run_id"

MAX_DAYS = 400
"""Days of one run. A failure repeats its run's rectangle, and a run's events are held in memory."""


@dataclass(frozen=True)
class Rectangle:
    """The partitions of some assets: every symbol on every day in [first_day, end_day), UTC days.

    `symbols` are neighbours in the order of the symbol partitions; empty for assets that have one partition a day.
    `assets` are keys like `market/bars`; empty for all assets of the job.
    `grain` says how days are put together to partitions; of months, the days are those of whole partitions.
    """

    symbols: tuple[str, ...]
    first_day: date
    end_day: date
    assets: tuple[str, ...] = ()
    grain: Grain = DAYS

    def __post_init__(self) -> None:
        if self.first_day >= self.end_day:
            raise BackfillError(
                f"A range of days from {self.first_day} to {self.end_day} (not included) is empty.",
                next_step="Name an end after the start.",
            )

    @property
    def partitions(self) -> int:
        """Partitions of each asset."""
        begins = {self.grain.begin(day) for day in days_between(self.first_day, self.end_day)}
        return len(begins) * max(len(self.symbols), 1)

    @property
    def cells(self) -> int:
        """Days of each asset's symbols: what the work grows with, whatever the grain."""
        return (self.end_day - self.first_day).days * max(len(self.symbols), 1)

    @property
    def lane(self) -> str:
        """What must not be worked on by two runs at a time."""
        return f"{self.symbols[0]}..{self.symbols[-1]}" if self.symbols else "days"

    def __str__(self) -> str:
        assets = ",".join(self.assets) or "all assets"
        return f"{assets} of {self.lane} from {self.first_day} to {self.end_day}"

    def partition_range(self) -> tuple[str, str]:
        """Keys of the first and the last partition, as Dagster writes them: `2024-01-04|EURUSD` or `2024-01-04`."""
        first, last = (self.symbols[0], self.symbols[-1]) if self.symbols else (None, None)
        return self.grain.key(first, self.first_day), self.grain.key(last, self.end_day - timedelta(days=1))


def split_rectangles(
    symbols: Sequence[str],
    first_day: date,
    end_day: date,
    *,
    parallel: int = 2,
    max_days: int = MAX_DAYS,
    grain: Grain = DAYS,
) -> list[Rectangle]:
    """Cut a range into rectangles for `parallel` runs at a time: groups of symbols, then pieces of days that cut no
    partition in two.

    They come in the order in which to submit them: the earliest days of every group first.

    Raises:
        BackfillError: the range of days is empty, or no symbol is named.
    """
    if not symbols:
        raise BackfillError("No symbol is named.", next_step="Name at least one.")
    whole = Rectangle(tuple(symbols), first_day, end_day, grain=grain)
    groups = min(parallel, len(symbols))
    edges = [len(symbols) * group // groups for group in range(groups + 1)]
    cuts = [first_day]
    while cuts[-1] < end_day:
        cuts.append(min(grain.begin(cuts[-1] + timedelta(max_days)), end_day))
    return [
        replace(whole, symbols=tuple(symbols[low:high]), first_day=start, end_day=end)
        for start, end in pairwise(cuts)
        for low, high in pairwise(edges)
    ]


def submit(
    instance: DagsterInstance,
    repository: RepositoryDefinition,
    job_name: str,
    rectangles: Sequence[Rectangle],
    *,
    plan: str,
    location: str = CODE_LOCATION,
    module: str = DEFINITIONS_MODULE,
    tags: Mapping[Rectangle, Mapping[str, str]] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Queue one run per rectangle, unless the plan has one that finished or is under way.

    The runs wait in Dagster's database for the daemon, which need not be up.

    Args:
        repository: `Definitions.get_repository_def()` of the module that the code location loads.
        plan: the same text for the same work; a new text submits finished rectangles again.
        tags: more tags of a rectangle's run.

    Returns:
        The run of each rectangle, found or new, in the order of `rectangles`.

    Raises:
        BackfillError: a rectangle names partitions that the job's assets do not have.
    """
    known = _newest_runs(instance, plan)
    run_ids = []
    for rectangle in rectangles:
        run = known.get(str(rectangle))
        if run is None or _is_lost(run):
            progress(f"Submitting {rectangle}: {rectangle.partitions:,} partitions of each asset")
            more = {PLAN_TAG: plan, **(tags or {}).get(rectangle, {})}
            run = _create(instance, repository, job_name, rectangle, more, location, module)
        if run.status == DagsterRunStatus.NOT_STARTED:
            instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)
        run_ids.append(run.run_id)
    return run_ids


def _newest_runs(instance: DagsterInstance, plan: str) -> dict[str, DagsterRun]:
    runs = instance.get_runs(RunsFilter(tags={PLAN_TAG: plan}))
    return {run.tags[RECTANGLE_TAG]: run for run in reversed(runs)}


def _is_lost(run: DagsterRun) -> bool:
    """Whether the run ended without success and nobody is going to retry it."""
    if run.status == DagsterRunStatus.FAILURE:
        return run.tags.get(WILL_RETRY_TAG) != "true"
    return run.status in (DagsterRunStatus.CANCELED, DagsterRunStatus.CANCELING)


def _create(
    instance: DagsterInstance,
    repository: RepositoryDefinition,
    job_name: str,
    rectangle: Rectangle,
    tags: Mapping[str, str],
    location: str,
    module: str,
) -> DagsterRun:
    job = repository.get_job(job_name)
    selection = {AssetKey.from_user_string(asset) for asset in rectangle.assets}
    assets = selection or set(job.asset_layer.executable_asset_keys)
    _check_partitions(repository, assets, rectangle)
    start, end = rectangle.partition_range()
    remote = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), repository.name)
    pointer = ModuleCodePointer(module, "defs")
    python = RepositoryPythonOrigin(sys.executable, pointer, None, DEFAULT_DAGSTER_ENTRY_POINT, {})
    return instance.create_run_for_job(
        job,
        tags={
            **tags,
            RECTANGLE_TAG: str(rectangle),
            LANE_TAG: rectangle.lane,
            RANGE_START_TAG: start,
            RANGE_END_TAG: end,
        },
        asset_selection=selection or None,
        remote_job_origin=remote.get_job_origin(job_name),
        job_code_origin=JobPythonOrigin(job_name, python),
    )


def _check_partitions(repository: RepositoryDefinition, assets: Set[AssetKey], rectangle: Rectangle) -> None:
    """Refuse what Dagster would turn into another range, or into none, without a word."""
    start, end = rectangle.partition_range()
    for definition in {repository.asset_graph.get(asset).partitions_def for asset in assets}:
        if definition is None:
            continue
        missing = [key for key in (start, end) if not definition.has_partition_key(key)]
        if missing:
            raise BackfillError(
                f"{rectangle}: there is no partition {' and no partition '.join(missing)}.",
                next_step="Name days from NEXUS_START_DAY (by month: from NEXUS_HISTORY_START) to today, and "
                "symbols of NEXUS_SYMBOLS.",
            )
        keys = definition.get_partition_keys_in_range(PartitionKeyRange(start, end))
        symbols = {str(key).partition("|")[2] for key in keys} - {""}
        if symbols != set(rectangle.symbols):
            raise BackfillError(
                f"{rectangle}: the symbols of that range are {', '.join(sorted(symbols))}, not "
                f"{', '.join(rectangle.symbols)}.",
                next_step="Name neighbours in the order of the symbol partitions.",
            )
