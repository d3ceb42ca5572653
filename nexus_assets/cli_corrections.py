"""`nexus corrections ...`: what changed prices reach, and doing it."""

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table as Grid

from nexus_assets.correction_report import Corrections
from nexus_assets.errors import PermanentProviderError
from nexus_assets.session import say
from nexus_assets.settings import settings

app = typer.Typer(help="Show and carry out what changed prices reach.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Symbol = Annotated[str, typer.Argument(help="Generic name, such as EURUSD.")]
Provider = Annotated[str, typer.Option(help="Under whose name the bars are stored.")]


@app.command()
def plan(as_json: AsJson = False) -> None:
    """What is pending and what it would change: partitions, rows, the largest change of each column. Writes nothing."""
    from nexus_assets.corrections import pending, propagate
    from nexus_assets.resources import open_market_store, open_sources

    config = settings()
    store = open_market_store(config)
    cells = pending(store)
    report = propagate(store, open_sources(config), cells, write=False, progress=say)
    _show(report, as_json, title="What the pending corrections would change")
    if not as_json:
        say(f"{len(cells)} days of bars are older than their prices.")
        say("The sensor carries this out by itself; `nexus corrections apply` does it now." if cells else "")


@app.command()
def apply(as_json: AsJson = False) -> None:
    """Carry out what is pending now, in this process, up to Redis, splits and training sets."""
    from nexus_assets.corrections import carry_out, pending
    from nexus_assets.pushing import record_corrections
    from nexus_assets.resources import open_feature_store, open_market_store, open_sources

    config = settings()
    store = open_market_store(config)
    report = carry_out(store, open_feature_store(config), open_sources(config), pending(store), progress=say)
    record_corrections(report)
    _show(report, as_json, title="What the corrections changed")


@app.command()
def push(
    symbol: Symbol,
    file: Annotated[Path, typer.Argument(help="CSV or Parquet: ts (with a time zone), open, high, low, close, ...")],
    provider: Provider,
    as_json: AsJson = False,
) -> None:
    """Store corrected bars of the base timeframe, and serve what follows from them."""
    from nexus_assets.pushing import push_bars

    pushed = push_bars(symbol, _bars(file), provider=provider)
    changed = sum(counts.new + counts.changed for counts in pushed.deliveries)
    unchanged = sum(counts.unchanged for counts in pushed.deliveries)
    say(f"{changed} bars are new or changed, {unchanged} are as they were; served after {pushed.served_after:.2f} s.")
    _show(pushed.corrections, as_json, title="What they changed")


@app.command()
def withdraw(
    symbol: Symbol,
    ts: Annotated[list[str], typer.Argument(help="Opens of bars, such as 2024-03-05T10:00:00Z.")],
    provider: Provider,
    as_json: AsJson = False,
) -> None:
    """Take bars of the base timeframe back. Their revisions are kept; training sets as known before keep them."""
    from nexus_assets.pushing import withdraw_bars

    pushed = withdraw_bars(symbol, ts, provider=provider)
    say(f"{len(ts)} bars are withdrawn; served after {pushed.served_after:.2f} s.")
    _show(pushed.corrections, as_json, title="What that changed")


def _bars(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
        frame["ts"] = pd.to_datetime(frame["ts"])
    except (OSError, ValueError, KeyError) as error:
        raise PermanentProviderError(
            f"{file} cannot be read as bars: {error}.", next_step="Give CSV or Parquet with ts, open, high, low, close."
        ) from error
    return frame


def _show(report: Corrections, as_json: bool, *, title: str) -> None:
    if as_json:
        print(json.dumps(_facts(report), indent=2))
        return
    grid = Grid("table", "partitions reached", "partitions changed", "rows", "largest change of a column", title=title)
    for name, effect in report.effects.items():
        moved = sorted(effect.largest.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{column} {value:.3g}" for column, value in moved[:4])
        grid.add_row(name, str(len(effect.partitions)), str(len(effect.changed)), f"{effect.rows:,}", shown)
    Console(highlight=False).print(grid)
    if report.splits:
        say("features.dataset_splits is made again as a whole.")
    if report.months:
        say(f"Months of features/training_set, where they exist: {', '.join(f'{m:%Y-%m}' for m in report.months)}.")


def _facts(report: Corrections) -> dict[str, Any]:
    return {
        "tables": {
            name: {
                "partitions": sorted(effect.partitions),
                "changed": sorted(effect.changed),
                "rows": effect.rows,
                "largest_change": effect.largest,
            }
            for name, effect in report.effects.items()
        },
        "splits": report.splits,
        "months": [f"{month:%Y-%m}" for month in report.months],
    }
