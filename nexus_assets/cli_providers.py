"""`nexus providers ...`: the market-data APIs."""

import signal
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table as Grid

from nexus_assets.errors import SettingsError
from nexus_assets.session import CONSOLE, say
from nexus_assets.settings import project_root, settings

if TYPE_CHECKING:
    from nexus_assets.rehearsal import ProviderBook, Rehearsal

app = typer.Typer(help="The market-data APIs.", no_args_is_help=True)


@app.command("test")
def try_keys(
    symbol: Annotated[str, typer.Argument(help="Generic symbol, such as EURUSD.")] = "EURUSD",
    quotes: Annotated[bool, typer.Option("--quotes", help="Ask for the latest bid and ask as well.")] = False,
) -> None:
    """Try the keys: one small request to each market-data service. Exit code 1 if none answered."""
    from nexus_assets.providers.http import HttpLimits
    from nexus_assets.providers.trial import trials
    from nexus_assets.resources import open_connections, open_sources

    config = settings()
    used = open_sources(config).services
    # Nobody wants to wait here; what is spent still counts in the budget that all processes share.
    patience = HttpLimits(attempts=1, deadline_s=20.0, budget_s=2.0)
    grid = Grid("service", "key", "used", "spelling", "answer", "time", title=f"{symbol} {config.base_timeframe}")
    marks = {True: "green", False: "red", None: "dim"}
    answered = False
    for trial in trials(
        open_connections(config, patience), symbol, config.base_timeframe, now=datetime.now(UTC), quotes=quotes
    ):
        answered |= trial.works is True
        answer = f"[{marks[trial.works]}]{escape(trial.answer)}[/{marks[trial.works]}]"
        seconds = "" if trial.seconds is None else f"{trial.seconds:.2f} s"
        is_used = "yes" if trial.service in used else "no"
        grid.add_row(trial.service, trial.key, is_used, escape(trial.spelling), answer, seconds)
    CONSOLE.print(grid)
    if not answered:
        say("No service answered. docs/providers.md says how to switch each on.")
    raise typer.Exit(0 if answered else 1)


@app.command()
def rehearse(
    prices: Annotated[
        Path | None, typer.Option(help="Folder of price files, read as sources.toml declares; synthetic by default.")
    ] = None,
    script: Annotated[Path | None, typer.Option(help="Faults, limits, keys and time, as TOML or JSON.")] = None,
    recordings: Annotated[
        Path | None, typer.Option(help="Folder of recorded responses with an index.json; they come first.")
    ] = None,
    at: Annotated[
        str, typer.Option(help="What time it is at the start, such as 2024-03-05T10:30; now by default.")
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65530, help="First of six ports; free ones by default.")] = 0,
) -> None:
    """Play all six APIs on this machine, with faults by script, until Ctrl-C.

    Prints the variables that send requests there, one a line; what was asked, and every limit that was broken, at the
    end.
    """
    from nexus_assets.rehearsal import Rehearsal, Script, read_script
    from nexus_assets.rehearsal.faults import PROVIDERS

    asked = read_script(script) if script else Script()
    shift = (_instant(at) or asked.now or datetime.now(UTC)) - datetime.now(UTC)
    rehearsal = Rehearsal(
        _book(prices),
        faults=asked.faults,
        limits=asked.limits,
        keys=asked.keys,
        recordings=recordings,
        now=lambda: datetime.now(UTC) + shift,
        ports={name: port + place for place, name in enumerate(PROVIDERS)} if port else {},
    )
    with rehearsal:
        for name, value in rehearsal.environment().items():
            print(f"{name}={value}", flush=True)
        say("The rehearsal is on; Ctrl-C ends it.")
        _wait_for_the_end()
        _sum_up(rehearsal)


def _wait_for_the_end() -> None:
    """Returns at Ctrl-C and at SIGTERM."""
    ended = Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    # A signal that reaches another thread does not end a wait without a limit.
    while not ended.wait(0.2):
        continue
    for number, handler in before.items():
        signal.signal(number, handler)


def _book(folder: Path | None) -> "ProviderBook":
    from nexus_assets.providers.registry import load_sources
    from nexus_assets.providers.synthetic import LAST_DAY, SyntheticProvider
    from nexus_assets.rehearsal import ProviderBook

    if folder is None:
        # Bars beyond the moment are wanted: the server needs the one that is not over, and decides what is visible.
        end = datetime(LAST_DAY.year, LAST_DAY.month, LAST_DAY.day, tzinfo=UTC)
        return ProviderBook(SyntheticProvider(now=lambda: end))
    sources = load_sources(settings().sources or project_root() / "sources.toml", folder)
    # Without connections there are no services among them.
    book = ProviderBook(*(provider for provider in sources.providers if provider.name != "synthetic"))
    if not book.symbols():
        raise SettingsError(
            f"No source in {sources.origin} finds a price file of a known symbol in {folder}.",
            next_step="Name the files as docs/providers.md says, or declare them in sources.toml.",
        )
    say(f"Prices of {', '.join(book.symbols())} from {folder}")
    return book


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no instant; write it as 2024-03-05T10:30") from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _sum_up(rehearsal: "Rehearsal") -> None:
    grid = Grid("provider", "calls", "answers", "at once", "faults", "rules broken")
    for provider in rehearsal.urls:
        calls = rehearsal.calls_of(provider)
        statuses = Counter(call.status or "cut" for call in calls)
        faults = Counter(kind for call in calls for kind in call.faults)
        broken = Counter(one.rule for one in rehearsal.violations if one.provider == provider)
        columns = (", ".join(f"{count} x {what}" for what, count in c.items()) for c in (statuses, faults, broken))
        answers, fired, rules = columns
        grid.add_row(provider, str(len(calls)), answers, str(rehearsal.most_at_once(provider)), fired, rules)
    CONSOLE.print(grid)
