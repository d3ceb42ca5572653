"""How far a load is: a bar on a terminal, else a line now and then, over all its stages.

Counted in slices of the ledger that were written since the load began: it grows with every transaction, while Dagster
records a step's materialisations when the step is over.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from nexus_assets.load_plan import PlannedRun, Work
from nexus_assets.market_store import MarketStore
from nexus_assets.slice_ledger import ALL_SYMBOLS
from nexus_assets.throughput import Throughput

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal to draw a bar on."""
QUERY_SHARE = 0.05
"""Of the time may be spent on counting; the ledger of ten years takes longer than that of a month."""
SHORTEST_PAUSE = 0.5


@dataclass
class Tally:
    """What a load was to write of a stage, and what it has written: by asset."""

    planned: dict[str, Work]
    done: dict[str, Work]

    @classmethod
    def of(cls, runs: Sequence[PlannedRun]) -> "Tally":
        """Nothing done yet of what these runs are for."""
        planned: dict[str, Work] = {}
        for run in runs:
            for asset, work in run.work.items():
                planned[asset] = planned.get(asset, Work()) + work
        return cls(planned, {})

    def finish(self) -> None:
        """The stage is over: what it has not written by now is not to be written."""
        self.planned = {asset: self.done.get(asset, Work()) for asset in self.planned}

    def share(self, asset: str) -> float:
        """How much of an asset's work is done, from 0 to 1."""
        planned = self.planned[asset].slices
        return min(1.0, self.done.get(asset, Work()).slices / planned) if planned else 1.0


def time_left(tallies: Sequence[Tally], throughput: Throughput, elapsed: float, estimate: float | None) -> float | None:
    """Seconds until all is written; None while nothing was written and nothing was measured.

    Work is weighed by what was measured of its asset; where something was not, all of it by rows. The estimate of the
    plan counts less the more is done, and the load's own speed more.
    """
    assets = [(tally, asset) for tally in tallies for asset in tally.planned]
    measured = all(asset in throughput.rates for _, asset in assets)
    total = done = 0.0
    for tally, asset in assets:
        work = tally.planned[asset]
        # A slice without rows, as on a Sunday in a market of hours, takes its time as well.
        weight = throughput.rates[asset].of(work.rows) if measured else float(work.rows + work.slices)
        total += weight
        done += weight * tally.share(asset)
    share = done / total if total else 1.0
    if share == 0.0:
        return estimate
    by_own_speed = elapsed / share
    expected = by_own_speed if estimate is None else share * by_own_speed + (1 - share) * estimate
    return max(0.0, (1 - share) * expected)


class LoadProgress:
    """The progress of one load, shown while the block lasts.

    Args:
        since: when the load began, by the database's clock.
        estimate: seconds that the whole plan was expected to take; None where that was not measured.
    """

    def __init__(
        self,
        store: MarketStore,
        console: Console,
        plan: Mapping[str, Sequence[PlannedRun]],
        *,
        since: datetime,
        throughput: Throughput,
        estimate: float | None,
    ) -> None:
        self._store, self._console, self._since = store, console, since
        self._throughput, self._estimate = throughput, estimate
        self._tallies = {stage: Tally.of(runs) for stage, runs in plan.items()}
        self._stage, self._runs = "", list[PlannedRun]()
        self._began = time.monotonic()
        self._next_count = self._next_line = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "LoadProgress":
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rest]}"),
            )
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
            self._task = self._bar.add_task("Loading", total=None, rest="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, stage: str, runs: Sequence[PlannedRun]) -> None:
        """A stage was planned anew and starts."""
        self._stage, self._runs = stage, list(runs)
        self._tallies[stage] = Tally.of(runs)
        self._next_count = 0.0

    def end(self) -> None:
        """The stage is over."""
        self._count()
        self._show("", last=True)
        self._tallies[self._stage].finish()

    def update(self, text: str) -> None:
        """Count and show, as often as is cheap; `text` says how the runs are."""
        if time.monotonic() >= self._next_count:
            self._count()
        self._show(text)

    def _count(self) -> None:
        begun = time.monotonic()
        self._tallies[self._stage].done = self._written()
        took = time.monotonic() - begun
        self._next_count = begun + max(SHORTEST_PAUSE, took / QUERY_SHARE)

    def _written(self) -> dict[str, Work]:
        tables = {
            asset: table.qualified
            for run in self._runs
            for asset, table in zip(run.rectangle.assets, run.tables, strict=True)
        }
        symbols = {symbol for run in self._runs for symbol in run.rectangle.symbols} or {ALL_SYMBOLS}
        days = list(chain.from_iterable(run.days for run in self._runs))
        if not days:
            return {}
        found = self._store.slices_written(
            sorted(set(tables.values())), sorted(symbols), min(days), max(days), self._since
        )
        return {asset: Work(*found.get(table, (0, 0))) for asset, table in tables.items()}

    def _show(self, text: str, *, last: bool = False) -> None:
        now = time.monotonic()
        planned = sum((work for tally in self._tallies.values() for work in tally.planned.values()), Work())
        written = sum((work for tally in self._tallies.values() for work in tally.done.values()), Work())
        done = min(written.slices, planned.slices)
        elapsed = now - self._began
        left = time_left(list(self._tallies.values()), self._throughput, elapsed, self._estimate)
        rest = [
            *([text] if text else []),
            f"{written.rows / elapsed:,.0f} rows/s" if elapsed else "",
            "time left is not known yet" if left is None else f"{duration(left)} left",
        ]
        told = ", ".join(part for part in rest if part)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, completed=done, total=planned.slices, description=f"Loading {self._stage}", rest=told
            )
        elif last or now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            self._console.print(
                f"{self._stage}: {done:,} of {planned.slices:,} partitions, {told}", highlight=False, soft_wrap=True
            )


def duration(seconds: float) -> str:
    """A length of time, for people: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"
