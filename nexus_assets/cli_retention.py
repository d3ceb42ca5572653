"""`nexus retention ...` and `nexus pins ...`: what goes, and what stays for a training set's sake."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from nexus_assets.session import say
from nexus_assets.settings import settings

app = typer.Typer(help="Show and drop what lies before its retention.", no_args_is_help=True)
pins = typer.Typer(help="Training sets whose rows are never dropped.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command()
def plan(as_json: AsJson = False) -> None:
    """What would go of each table, and what holds rows back. Drops nothing."""
    from nexus_assets import dropping
    from nexus_assets.resources import open_market_store

    config = settings()
    _show(dropping.plan(open_market_store(config).database, config), as_json, "What would be dropped")


@app.command()
def apply(as_json: AsJson = False) -> None:
    """Drop it now, in this process, as the schedule does every day."""
    from nexus_assets import dropping
    from nexus_assets.resources import open_market_store

    config = settings()
    _show(dropping.drop(open_market_store(config).database, config, progress=say), as_json, "What was dropped")


def _show(found: list, as_json: bool, title: str) -> None:
    from nexus_assets.dropping import described

    facts = {going.expiry.table.qualified: described(going) for going in found}
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    if not facts:
        say("Everything is kept for ever: no NEXUS_RETENTION_... is set.")
        return
    grid = Grid("table", "retention", "keeps from", "rows", "size", "days before", "held back by", title=title)
    for name, told in facts.items():
        size = f"{told['bytes'] / 1e6:,.1f} MB"
        days = f"{told['days']} days"
        grid.add_row(
            name, days, told["kept_from"], f"{told['rows']:,}", size, told["before"] or "none", told["held_by"]
        )
    Console(highlight=False).print(grid)
    say("A table of TimescaleDB goes by whole chunks, so it keeps up to a chunk more than its setting.")


@pins.command("list")
def list_(as_json: AsJson = False) -> None:
    """The pinned training sets and the first days that they read."""
    from nexus_assets.pinned_sets import pinned_sets
    from nexus_assets.resources import open_market_store

    with open_market_store(settings()).database.session() as connection:
        found = pinned_sets(connection)
    rows = [
        {
            "name": pin.name,
            "symbols": pin.symbols,
            "from": pin.range_start.isoformat(),
            "to": pin.range_end.isoformat(),
            "as_known": pin.as_known.isoformat() if pin.as_known else None,
            "prices_from": pin.prices_from.isoformat(),
            "features_from": pin.features_from.isoformat() if pin.features_from else None,
            "content_hash": pin.content_hash,
            "pinned_at": pin.pinned_at.isoformat(timespec="seconds"),
        }
        for pin in found
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        say("No training set is pinned. `nexus export --pin NAME` pins one.")
    else:
        grid = Grid(*rows[0], title="Pinned training sets")
        for row in rows:
            grid.add_row(*(value or "" for value in row.values()))
        Console(highlight=False).print(grid)


@pins.command()
def remove(name: Annotated[str, typer.Argument(help="As it was given to `nexus export --pin`.")]) -> None:
    """Let a training set go: what only it needs may be dropped from now on. Its files stay."""
    from nexus_assets.pinned_sets import unpin
    from nexus_assets.resources import open_market_store

    unpin(open_market_store(settings()), name)
    say(f"{name} is not pinned any more.")
