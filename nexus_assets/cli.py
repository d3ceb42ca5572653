"""`nexus ...`: the command line. Thin: each command is a few calls, and every error of ours is one sentence and a
next step.
"""

import json
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nexus_assets import cli_backfill, cli_corrections, cli_probe, cli_providers, cli_retention, services
from nexus_assets.errors import NexusError
from nexus_assets.session import CONSOLE, bring_up, home, say
from nexus_assets.settings import apply_dotenv, project_root, settings

app = typer.Typer(
    help="Market data as a Dagster asset graph. `nexus run` starts everything and opens the UI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cli_probe.app, name="probe")
app.add_typer(cli_corrections.app, name="corrections")
app.add_typer(cli_providers.app, name="providers")
app.add_typer(cli_retention.app, name="retention")
app.add_typer(cli_retention.pins, name="pins")


def main() -> None:
    """The console script."""
    try:
        app()
    except NexusError as error:
        CONSOLE.print(f"[red]Error:[/red] {escape(error.fact)}", soft_wrap=True)
        if error.next_step:
            CONSOLE.print(f"[bold]Next:[/bold] {escape(error.next_step)}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback()
def prepare(context: typer.Context) -> None:
    """Every command sees .env first, as `dagster dev` does."""
    context.obj = apply_dotenv(project_root())


@app.command()
def up(
    switch: Annotated[bool, typer.Option(help="Choose the PostgreSQL anew, although there is data.")] = False,
) -> None:
    """Start PostgreSQL and Redis, write .env, bring the schema up to date. Can be repeated at any time."""
    _, _, state = bring_up(switch=switch)
    say(f"PostgreSQL: {state.postgres}, {state.edition}. Redis: {state.redis}. Addresses are in .env.")
    say("Next: `nexus run` for everything with the UI, or `dagster dev` in this folder.")


@app.command()
def down(
    purge: Annotated[bool, typer.Option(help="Also remove data, programs, passwords and our block of .env.")] = False,
) -> None:
    """Stop PostgreSQL and Redis."""
    root = project_root()
    stopped = services.down(home(root, settings()), purge=purge, progress=say)
    say(f"Stopped {' and '.join(stopped)}." if stopped else "Nothing was running.")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Servers, sizes, rows per table, and what Redis serves."""
    from nexus_assets.overview import overview

    facts = overview(home(project_root(), settings()), settings())
    if as_json:
        print(json.dumps(facts.as_dict(), indent=2, default=str))
    else:
        facts.print()
    raise typer.Exit(0 if facts.all_running else 1)


@app.command()
def doctor(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False
) -> None:
    """Check the whole installation, in the order in which things fail. Exit code 1 if anything failed."""
    from nexus_assets.doctor import Finding, examine

    marks = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "failed": "[red]failed[/red]"}
    findings: list[Finding] = []
    for finding in examine(project_root(), context.obj):
        findings.append(finding)
        if not as_json:
            mark = marks.get(finding.verdict, finding.verdict)
            remedy = f"  [bold]->[/bold] {escape(finding.remedy)}" if finding.remedy else ""
            CONSOLE.print(f"{finding.name:16} {mark}  {escape(finding.fact)}{remedy}", soft_wrap=True)
    healthy = not any(finding.verdict == "failed" for finding in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [f.as_dict() for f in findings]}, indent=2))
    raise typer.Exit(0 if healthy else 1)


@app.command()
def migrate(plan: Annotated[bool, typer.Option(help="Show what would be applied; change nothing.")] = False) -> None:
    """Bring the database to the schema of this version."""
    from nexus_assets import migrations
    from nexus_assets.resources import open_market_store

    root, config = project_root(), settings()
    database = open_market_store(config).database
    if plan:
        for step in migrations.plan(database, root):
            repeated = "repeated" if step.kind != "migration" else "pending" if step.pending else "applied"
            print(f"{repeated:8}  {step.kind:10} {step.file}")
        return
    report = migrations.migrate(database, root, config, say)
    for message in report.messages:
        say(message)
    say(f"The schema is at version {report.version}; {len(report.applied)} files were applied.")


app.command(name="backfill")(cli_backfill.backfill)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where data.parquet and manifest.json go.")],
    symbols: Annotated[str, typer.Option(help="Comma-separated; all of NEXUS_SYMBOLS by default.")] = "",
    start: Annotated[str, typer.Option("--from", help="First open of a bar: a day or an instant, UTC.")] = "",
    end: Annotated[str, typer.Option("--to", help="End, exclusive.")] = "",
    features: Annotated[str, typer.Option(help="rsi_14,natr_14@4h,correlation@XAUUSD; all 32 by default.")] = "",
    label: Annotated[str, typer.Option(help="Column of features.labels.")] = "forward_return_24h",
    split: Annotated[str, typer.Option(help="train, validation, test or all; no split by default.")] = "",
    timeframe: Annotated[str, typer.Option(help="Of the rows; NEXUS_SERVING_TIMEFRAME by default.")] = "",
    as_known: Annotated[str, typer.Option(help="Only what was known at this instant.")] = "",
    assume_published: Annotated[
        float | None, typer.Option(help="With one of these: minutes after its end that a bar loaded later was known.")
    ] = None,
    as_served: Annotated[
        float | None, typer.Option(help="Each row from what was known so many minutes after the end of its bar.")
    ] = None,
    pin: Annotated[
        str, typer.Option(help="Under this name, keep every row that it takes to make the set again; see `nexus pins`.")
    ] = "",
    overwrite: Annotated[bool, typer.Option(help="Replace an export that is there.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the export in the folder with its manifest instead.")] = False,
) -> None:
    """Write a training set as Parquet, with a manifest that says how to make it again."""
    from nexus_assets import exports
    from nexus_assets.pinned_sets import pinned
    from nexus_assets.resources import open_market_store
    from nexus_assets.training_request import request
    from nexus_assets.training_sets import open_reader

    if verify:
        differences = exports.verify(folder)
        for sentence in differences:
            print(sentence)
        say("The export differs from its manifest." if differences else "The export is what its manifest says.")
        raise typer.Exit(1 if differences else 0)
    if not start or not end:
        raise typer.BadParameter("--from and --to are needed")
    config = settings()
    asked = request(
        symbols.replace(",", " ").split() or config.symbols,
        start,
        end,
        features.replace(",", " ").split() or None,
        label,
        split or None,
        timeframe or None,
        as_known or None,
        config=config,
        assume_published=None if assume_published is None else timedelta(minutes=assume_published),
        as_served=None if as_served is None else timedelta(minutes=as_served),
    )
    with pinned(open_market_store(config), asked, config, pin) if pin else nullcontext({}) as outcome:
        facts = exports.export(
            open_reader(asked, config),
            asked,
            folder,
            config,
            overwrite=overwrite,
            progress=lambda symbol, rows: say(f"{symbol}: {rows:,} rows so far"),
        )
        outcome["content_hash"] = facts["hashes"]["content_hash"]
    for reason, rows in facts["left_out"].items():
        say(f"Left out: {rows:,} rows, {reason}")
    size = facts["file"]["bytes"] / 1e6
    say(f"{facts['rows']:,} rows, {len(facts['columns'])} columns, {size:.1f} MB in {folder / exports.DATA}")
    print(facts["hashes"]["content_hash"])


@app.command()
def demo() -> None:
    """Load a market through Dagster's daemon, without a UI, and sum it up. Can be repeated at any time."""
    from nexus_assets.session import run_demo

    raise typer.Exit(run_demo())


@app.command()
def run(
    port: Annotated[int | None, typer.Option(help="Port of the UI; NEXUS_WEBSERVER_PORT, or 3000, by default.")] = None,
) -> None:
    """Start everything, open the UI, load a market through it, and serve until Ctrl-C."""
    from nexus_assets.session import serve_market

    serve_market(port)
