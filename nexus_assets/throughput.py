"""How fast this installation loads: seconds of each asset and of a run, from what Dagster recorded of earlier loads.

A planned run carries the rows that it was expected to write; the events of its steps say how long each took. Only
loads count that ended well at the first attempt: a retry leaves alone what was written before.

What belongs here: measuring, and what follows for a plan. Nothing is assumed where nothing was measured.
"""

import heapq
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median

import dagster as dg
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.tags import RETRY_NUMBER_TAG

from nexus_assets.backfill import PLAN_TAG
from nexus_assets.load_plan import ROWS_TAG, PlannedRun, Work
from nexus_assets.settings import settings

MOST_RUNS = 12
"""Runs that are measured: the newest ones. The steps of a run are looked for among all its events."""
MOST_LOADS = 12


@dataclass(frozen=True)
class Rate:
    """Seconds of a step: so many whatever it does, and so many for each row that the calendar expects."""

    seconds: float
    seconds_per_row: float

    def of(self, rows: int) -> float:
        """Seconds of a step that writes these rows."""
        return self.seconds + self.seconds_per_row * rows


@dataclass(frozen=True)
class Throughput:
    """What was measured; nothing by default."""

    rates: Mapping[str, Rate] = field(default_factory=dict)
    """By asset."""
    run_seconds: float = 0.0
    """Seconds from the launch of a run to its end, its steps left out."""
    runs: int = 0
    rows: int = 0
    days: int = 0
    parallel: int = 1
    """Runs that work side by side at most."""

    @property
    def basis(self) -> str:
        """What the numbers rest on, for people."""
        if not self.runs:
            return "no load has ended on this installation"
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        days = "day" if self.days == 1 else f"{self.days} days"
        return f"measured in {runs} of the last {days}, {self.rows:,} rows"

    def seconds(self, run: PlannedRun) -> float | None:
        """How long a planned run takes by itself; None where one of its assets was not measured."""
        steps = [self._step(asset, work) for asset, work in run.work.items()]
        return None if None in steps else self.run_seconds + sum(step for step in steps if step is not None)

    def seconds_of_stage(self, runs: Sequence[PlannedRun]) -> float | None:
        """From the first launch to the last end: as many side by side as may work, one of each lane; None where one was
        not measured."""
        lengths = [self.seconds(run) for run in runs]
        if None in lengths:
            return None
        return side_by_side(
            [(run.rectangle.lane, length) for run, length in zip(runs, lengths, strict=True) if length is not None],
            self.parallel,
        )

    def seconds_of_stages(self, stages: Iterable[Sequence[PlannedRun]]) -> float | None:
        """All stages, one after the other; None where a run was not measured."""
        seconds = [self.seconds_of_stage(runs) for runs in stages]
        return None if None in seconds else sum(length for length in seconds if length is not None)

    def _step(self, asset: str, work: Work) -> float | None:
        if asset not in self.rates:
            return None
        return self.rates[asset].of(work.rows)


def side_by_side(runs: Iterable[tuple[str, float]], places: int) -> float:
    """When the last of these runs ends, which are launched in their order as places become free, one of each lane at
    a time.

    Args:
        runs: lane and seconds of each.
    """
    waiting, working, now = list(runs), [], 0.0
    while waiting or working:
        busy = {lane for _, lane in working}
        ready = next((run for run in waiting if run[0] not in busy), None)
        if ready is not None and len(working) < places:
            waiting.remove(ready)
            heapq.heappush(working, (now + ready[1], ready[0]))
        else:
            now, _ = heapq.heappop(working)
    return now


def measure(instance: dg.DagsterInstance) -> Throughput:
    """What the newest loads of this installation took.

    Reads the tags of planned runs, at most MOST_RUNS runs, and the step events of these.
    """
    records = _newest_runs(instance)
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    besides, measured, rows = [], [], 0
    for record in records:
        seconds, steps = _durations(instance, record.dagster_run.run_id)
        if not steps:
            continue  # pruned since
        expected: dict[str, int] = json.loads(record.dagster_run.tags[ROWS_TAG])
        besides.append(seconds - sum(steps.values()))
        measured.append(record)
        rows += sum(expected.values())
        for asset, count in expected.items():
            if asset in steps:
                points[asset].append((count, steps[asset]))
    queue = instance.get_concurrency_config().run_queue_config
    places = queue.max_concurrent_runs if queue else 1
    wanted = settings().parallel_runs
    parallel = wanted if places < 0 else min(places, wanted)  # below 0: no limit
    if not measured:
        return Throughput(parallel=parallel)
    oldest = min(record.end_time for record in measured)
    return Throughput(
        rates={asset: fit(found) for asset, found in points.items()},
        run_seconds=max(0.0, median(besides)),
        runs=len(measured),
        rows=rows,
        days=max(1, ceil((time.time() - oldest) / 86_400)),
        parallel=parallel,
    )


def _newest_runs(instance: dg.DagsterInstance) -> list[RunRecord]:
    # A plan's name ends in the instant at which it was made, so the newest ones come last.
    plans = sorted({plan for _, values in instance.get_run_tags([PLAN_TAG]) for plan in values})[-MOST_LOADS:]
    if not plans:
        return []
    wanted = dg.RunsFilter(tags={PLAN_TAG: plans}, statuses=[dg.DagsterRunStatus.SUCCESS])
    return [
        record
        for record in instance.get_run_records(wanted, limit=MOST_RUNS)
        if ROWS_TAG in record.dagster_run.tags and RETRY_NUMBER_TAG not in record.dagster_run.tags and record.end_time
    ]


def _durations(instance: dg.DagsterInstance, run_id: str) -> tuple[float, dict[str, float]]:
    """Seconds from the launch of a run to its end, and of each of its steps by asset."""
    wanted = {dg.DagsterEventType.RUN_STARTING, dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.RUN_SUCCESS}
    entries = [r.event_log_entry for r in instance.get_records_for_run(run_id, of_type=wanted, limit=50).records]
    instants = {entry.dagster_event_type: entry.timestamp for entry in entries}
    steps = {}
    for event in (entry.get_dagster_event() for entry in entries):
        if event.event_type == dg.DagsterEventType.STEP_SUCCESS and event.step_key:
            steps[event.step_key.replace("__", "/")] = event.step_success_data.duration_ms / 1000
    begun, over = (instants.get(kind) for kind in (dg.DagsterEventType.RUN_STARTING, dg.DagsterEventType.RUN_SUCCESS))
    return (over - begun if over and begun else sum(steps.values())), steps


def fit(points: Sequence[tuple[int, float]]) -> Rate:
    """The line through (rows, seconds) by least squares, neither of its two numbers below zero. Of runs that all had
    as many rows, seconds in proportion to rows."""
    count = len(points)
    mean_rows = sum(rows for rows, _ in points) / count
    mean_seconds = sum(seconds for _, seconds in points) / count
    spread = sum((rows - mean_rows) ** 2 for rows, _ in points)
    slope = sum((rows - mean_rows) * (seconds - mean_seconds) for rows, seconds in points) / spread if spread else 0.0
    if spread and slope > 0 and (rest := mean_seconds - slope * mean_rows) >= 0:
        return Rate(rest, slope)
    squares = sum(rows**2 for rows, _ in points)
    if not squares:
        return Rate(mean_seconds, 0.0)
    if spread and slope <= 0:
        return Rate(mean_seconds, 0.0)
    return Rate(0.0, sum(rows * seconds for rows, seconds in points) / squares)
