"""`nexus probe ...`: looking for mistakes in features."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.progress import Progress
from rich.table import Table as Grid

from nexus_assets.errors import DatabaseError, ProbeError
from nexus_assets.session import CONSOLE, say
from nexus_assets.settings import Settings, settings

app = typer.Typer(help="Look for mistakes in features.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keeps `leaks` a command of its own while it is the only one."""


@app.command()
def leaks(
    function: Annotated[str, typer.Option(help="module:name of yours; this project's own features by default.")] = "",
    symbol: Annotated[str, typer.Option(help="Whose stored bars are used.")] = "EURUSD",
    bars: Annotated[Path | None, typer.Option(help="CSV or Parquet with ts, open, high, low, close, volume.")] = None,
    days: Annotated[int, typer.Option(min=7, help="Days of bars, up to the newest.")] = 120,
    trials: Annotated[int, typer.Option(min=1, help="Instants after which everything is corrupted.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the choice of instants.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Corrupt every bar after random instants and see whether a feature at or before them changes.

    Exit code 1 if any column leaks, 2 if a column never reacted to anything, so that nothing is proven.
    """
    from nexus_assets.leak_subjects import named_function, project_features
    from nexus_assets.leaks import probe, rows_of

    config = settings()
    given, source = _bars(config, symbol, bars, days)
    say(f"{len(given):,} bars of {config.base_timeframe} from {source}")
    subject = named_function(function) if function else project_features(symbol, config)
    with Progress(console=CONSOLE, transient=True) as bar:
        task = bar.add_task("instants", total=trials)
        report = probe(
            subject,
            given,
            timeframe=config.base_timeframe,
            trials=trials,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    rows = list(rows_of(report))
    if as_json:
        print(json.dumps({"instants": report.instants, "runs": report.runs, "columns": rows}, indent=2))
    else:
        _print(rows)
        say(f"{report.instants} instants, {report.runs} runs of the function, {len(report.leaks)} columns leak")
    raise typer.Exit(1 if report.leaks else 0 if report.clean else 2)


def _bars(config: Settings, symbol: str, file: Path | None, days: int) -> tuple[pd.DataFrame, str]:
    """Bars of the base timeframe, and where they come from."""
    if file is not None:
        return _from_file(file), str(file)
    end = datetime.now(UTC)
    if config.database_url is not None:
        from nexus_assets.resources import open_market_store

        try:
            store = open_market_store(config)
            newest = store.newest_bars([symbol], config.base_timeframe)
            if len(newest):
                last = newest["ts"].iloc[0] + pd.Timedelta(days=1)
                found = store.read_bars(symbol, config.base_timeframe, last - timedelta(days=days), last)
                return found, f"market.bars, {symbol}"
        except DatabaseError as error:
            say(f"{error.fact}")
    from nexus_assets.providers.interface import Request
    from nexus_assets.providers.synthetic import SyntheticProvider

    request = Request(symbol, config.base_timeframe, end - timedelta(days=days), end)
    return SyntheticProvider().fetch(request).bars, "the synthetic provider, because no bars are stored"


def _from_file(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
        frame["ts"] = pd.to_datetime(frame["ts"], utc=True).dt.as_unit("us")
        return frame.sort_values("ts", ignore_index=True)[["ts", "open", "high", "low", "close", "volume"]]
    except (OSError, ValueError, KeyError) as error:
        raise ProbeError(
            f"{file} cannot be read as bars: {error}.",
            next_step="Give CSV or Parquet with the columns ts (UTC), open, high, low, close, volume.",
        ) from error


def _print(rows: list[dict[str, object]]) -> None:
    grid = Grid("column", "verdict", "row", "unchanged up to", "changed", "sees ahead")
    colours = {"clean": "green", "leaks": "red", "not proven": "yellow"}
    for row in rows:
        verdict = str(row["verdict"])
        change = f"{row['before']} to {row['after']}" if "before" in row else ""
        grid.add_row(
            str(row["column"]),
            f"[{colours[verdict]}]{verdict}[/]",
            str(row.get("ts", "")),
            str(row.get("instant", "")),
            change,
            str(row.get("sees_ahead", "")),
        )
    CONSOLE.print(grid)
