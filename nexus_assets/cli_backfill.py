"""`nexus backfill`: showing what a load is going to do, then doing it."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid

from nexus_assets.errors import SettingsError
from nexus_assets.session import CONSOLE, bring_up, say

if TYPE_CHECKING:
    from nexus_assets.load_plan import PlannedRun
    from nexus_assets.loading import Extent, Forecast
    from nexus_assets.settings import Settings


PIPE_WIDTH = 160


class Stage(StrEnum):
    """Parts of the graph that `nexus backfill --select` names."""

    PRICES = "prices"
    FEATURES = "features"
    ANALYTICS = "analytics"
    SPLITS = "splits"


def backfill(
    first_day: Annotated[str, typer.Option("--from", help="First UTC day, such as 2024-01-01.")],
    end_day: Annotated[str, typer.Option("--to", help="UTC day after the last.")],
    symbols: Annotated[str, typer.Option(help="Comma-separated; all of NEXUS_SYMBOLS by default.")] = "",
    select: Annotated[list[Stage] | None, typer.Option(help="Part of the graph; repeatable; all by default.")] = None,
    again: Annotated[bool, typer.Option(help="Also repeat slices that are there and up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; start nothing.")] = False,
) -> None:
    """Load what is missing or stale in a range of days, as few large runs. Repeat it to resume."""
    import dagster as dg

    from nexus_assets.loading import forecast
    from nexus_assets.resources import open_market_store
    from nexus_assets.session import load_through_daemon

    root, config, _ = bring_up()
    stages = tuple(stage.value for stage in Stage if select is None or stage in select)
    extent = _extent(config, symbols, _day(first_day), _day(end_day), stages, again)
    with dg.DagsterInstance.get() as instance:
        known = forecast(instance, open_market_store(config), config, extent)
    _show(known)
    if not dry_run:
        raise typer.Exit(load_through_daemon(root, config, extent, known))


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day; write it as 2024-01-31") from None


def _extent(
    config: "Settings", symbols: str, first_day: date, end_day: date, stages: tuple[str, ...], again: bool
) -> "Extent":
    from nexus_assets.instruments import in_catalogue_order
    from nexus_assets.loading import Extent
    from nexus_assets.session import preflight

    served = preflight(config).symbols
    wanted = in_catalogue_order(symbols.replace(",", " ").split()) if symbols else served
    unknown = [symbol for symbol in wanted if symbol not in served]
    if unknown:
        raise SettingsError(
            f"No source serves {', '.join(unknown)}, or NEXUS_SYMBOLS does not name them.",
            next_step="Declare a source in sources.toml, or name other symbols.",
        )
    last = min(end_day, datetime.now(UTC).date() + timedelta(days=1))
    extent = Extent(wanted, max(first_day, config.first_day), last, stages, again)
    if extent.first_day >= extent.end_day:
        raise SettingsError(
            f"There is no day from {extent.first_day} (included) to {extent.end_day} (not included).",
            next_step=f"Name an end after the start; {config.first_day} is the earliest day, today the last.",
        )
    return extent


def _show(known: "Forecast") -> None:
    """The runs of a plan, how many rows they are expected to write, and how long that takes."""
    from nexus_assets.load_progress import duration

    grid = Grid(title="Plan, from what is stored now", box=SIMPLE_HEAD)
    for name in ("stage", "assets", "symbols"):
        grid.add_column(name, overflow="fold")
    for name in ("from", "to", "partitions", "rows expected", "time"):
        grid.add_column(name, justify="right", no_wrap=name in ("from", "to"), overflow="fold")
    for stage, runs in known.plan.items():
        for run in runs:
            seconds = known.throughput.seconds(run)
            grid.add_row(stage, *_cells(run), "not measured yet" if seconds is None else duration(seconds))
    if not known.total.slices:
        say("Everything is there.")
        return
    # A file or a pipe has no width.
    (CONSOLE if CONSOLE.is_terminal else Console(stderr=True, width=PIPE_WIDTH)).print(grid)
    say(f"{known.total.slices:,} partitions, {known.total.rows:,} rows expected by the calendar.")
    measured = known.throughput
    if known.seconds is not None:
        runs_at_a_time = "1 run" if measured.parallel == 1 else f"{measured.parallel} runs"
        say(f"About {duration(known.seconds)} with at most {runs_at_a_time} at a time, {measured.basis}.")
    else:
        say(f"How long {', '.join(known.unmeasured)} will take is not measured yet: {measured.basis}.")
    say("A later stage grows by what an earlier one changes.")


def _cells(run: "PlannedRun") -> Sequence[str]:
    rectangle, total = run.rectangle, run.total
    days = str(rectangle.first_day), str(rectangle.end_day)
    return ", ".join(rectangle.assets), rectangle.lane, *days, f"{total.slices:,}", f"{total.rows:,}"
