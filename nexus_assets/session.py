"""What `nexus run` and `nexus demo` have in common: servers up, schema current, a market loaded, Redis served.

What belongs here: the order of the steps and what the user is told. Each step is somebody else's.
"""

import os
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from nexus_assets import launcher, migrations, services
from nexus_assets.errors import SettingsError
from nexus_assets.loading import Extent, Forecast, LoadReport, load
from nexus_assets.planning import switched_off
from nexus_assets.resources import open_feature_store, open_market_store, open_sources
from nexus_assets.services import ServiceState
from nexus_assets.serving import push
from nexus_assets.settings import Settings, apply_dotenv, load_settings, project_root, settings

CONSOLE = Console(stderr=True, highlight=False)


def say(sentence: str) -> None:
    """Progress, for people: to the error stream, so that results can be piped."""
    CONSOLE.print(f"[dim]{datetime.now():%H:%M:%S}[/dim] {sentence}", soft_wrap=True)


def home(root: Path, config: Settings) -> Path:
    """The state folder, absolute."""
    return config.home if config.home.is_absolute() else root / config.home


def bring_up(*, switch: bool = False) -> tuple[Path, Settings, ServiceState]:
    """Start the servers, write .env, migrate. Returns the root, the settings that now hold, and the servers.

    Raises:
        NexusError: whatever stands in the way, with the next step.
    """
    root = project_root()
    # Before our own block of .env goes over it: a server that the user named in the shell comes first.
    shell = dict(os.environ)
    apply_dotenv(root)
    config = load_settings()
    config.check_partitions(datetime.now(UTC).date())
    state = services.ensure_up(
        home(root, config),
        root,
        database_url=services.own_url("NEXUS_DATABASE_URL", root, shell),
        redis_url=services.own_url("NEXUS_REDIS_URL", root, shell),
        dagster_url=services.own_url("NEXUS_DAGSTER_URL", root, shell),
        progress=say,
        switch=switch,
    )
    for note in state.notes:
        say(note)
    services.write_env(root, state)
    apply_dotenv(root)
    os.environ.setdefault("DAGSTER_HOME", str(root))
    os.environ.update(
        NEXUS_DATABASE_URL=state.database_url, NEXUS_DAGSTER_URL=state.dagster_url, NEXUS_REDIS_URL=state.redis_url
    )
    settings.cache_clear()
    config = settings()
    report = migrations.migrate(open_market_store(config).database, root, config, say)
    if state.started or not all("/" in file for file in report.applied):
        for message in report.messages:
            say(message)
    return root, config, state


@dataclass(frozen=True)
class Preflight:
    """The symbols that a source serves, and sentences a user should read before a load."""

    symbols: tuple[str, ...]
    sentences: tuple[str, ...]


def preflight(config: Settings) -> Preflight:
    """What can be loaded with these settings."""
    sources = open_sources(config)
    served, unserved = sources.served(config.symbols, config.base_timeframe)
    sentences = []
    if sources.priority == ("synthetic",):
        sentences.append(
            "Prices are synthetic, and marked so in every row's provider. Set NEXUS_FILES_ROOT to a folder of price "
            "files, or the key of a market-data service, to use real ones."
        )
    if unserved:
        where = sources.explain(unserved[0], config.base_timeframe)
        sentences.append(f"No source serves {', '.join(unserved)}; they are skipped. {where}")
    sentences += switched_off(config, config.first_day, datetime.now(UTC).date()).values()
    return Preflight(served, tuple(sentences))


def load_market(
    running: launcher.Running, config: Settings, extent: Extent, known: Forecast | None = None
) -> LoadReport:
    """Load through a daemon that is up, then push what is new to Redis."""
    from nexus_assets.definitions import defs

    store = open_market_store(config)
    with dg.DagsterInstance.get() as instance:
        repository = defs.get_repository_def()
        report = load(
            instance,
            repository,
            store,
            config,
            extent,
            announce=say,
            console=CONSOLE,
            tend=running.tend,
            known=known,
        )
    pushed = push(store, open_feature_store(config), config)
    say(pushed.sentence)
    for failure in report.failed:
        say(f"[red]Run {failure.run_id} ended {failure.status}[/red]: {escape('; '.join(failure.errors))}")
    pushed.raise_failures()
    return report


def load_through_daemon(root: Path, config: Settings, extent: Extent, known: Forecast | None = None) -> int:
    """Load with a daemon of our own, or the one that is up. Returns the exit code.

    Args:
        known: what was planned a moment ago.
    """
    state_folder = home(root, config)
    with services.Supervisor(state_folder, report=say), launcher.daemon(config, root, say) as running:
        report = load_market(running, config, extent, known)
    return 1 if report.failed else 0


def demo_extent(config: Settings, symbols: tuple[str, ...]) -> Extent:
    """The last NEXUS_DEMO_DAYS days, today included."""
    end = datetime.now(UTC).date() + timedelta(days=1)
    return Extent(symbols, max(config.first_day, end - timedelta(days=config.demo_days)), end)


def run_demo() -> int:
    """Servers, schema, market, Redis, and a summary on standard output. Returns the exit code."""
    began = time.monotonic()
    root, config, _ = bring_up()
    ready = _preflight_or_stop(config)
    code = load_through_daemon(root, config, demo_extent(config, ready.symbols))
    print_summary(config)
    say(f"Done in {time.monotonic() - began:.0f} s. The servers stay up until `nexus down`.")
    say("Next: `make run` for the UI, or `nexus status`.")
    return code


def serve_market(port: int | None) -> None:
    """Servers, schema, UI; the market is loaded through it; then serve until Ctrl-C."""
    root, config, _ = bring_up()
    ready = _preflight_or_stop(config)
    with (
        services.Supervisor(home(root, config), report=say),
        launcher.serve(config, root, port or config.webserver_port, say) as running,
    ):
        say(f"The UI is at [bold]{running.url}[/bold]. Loading a market through it:")
        report = load_market(running, config, demo_extent(config, ready.symbols))
        say(f"{report.materializations:,} partitions were materialised in {report.runs} runs.")
        say(f"Open {running.url}/asset-groups for the graph, {running.url}/runs for what ran.")
        say("Try next: materialise a day of market/bars in the UI; `nexus status`; `nexus doctor`.")
        say("Schedules and the sensor are on (NEXUS_AUTOMATION=off stops them). Ctrl-C ends Dagster; `nexus down`")
        say("ends the servers.")
        running.wait()


def _preflight_or_stop(config: Settings) -> Preflight:
    ready = preflight(config)
    for sentence in ready.sentences:
        say(sentence)
    if not ready.symbols:
        raise SettingsError(
            "No source serves any of NEXUS_SYMBOLS.",
            next_step="Declare one in sources.toml, or unset NEXUS_FILES_ROOT to use synthetic prices.",
        )
    return ready


def latest_checks() -> list[tuple[str, bool, str]]:
    """The newest evaluation of every asset check: name, whether it passed, and what it told."""
    from nexus_assets.definitions import defs

    found = []
    with dg.DagsterInstance.get() as instance:
        keys = sorted(defs.get_repository_def().asset_graph.asset_check_keys, key=str)
        records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        for key in keys:
            name = f"{key.asset_key.to_user_string()}: {key.name}"
            record = records.get(key)
            evaluation = record.evaluation if record else None
            if evaluation is None:
                found.append((name, False, "not evaluated yet"))
            else:
                told = {label: value.value for label, value in evaluation.metadata.items() if value.value}
                found.append((name, evaluation.passed, ", ".join(f"{k} {v}" for k, v in told.items())[:160]))
    return found


def print_summary(config: Settings) -> None:
    """Rows per table, checks, and the newest features of one symbol read back from Redis; to standard output."""
    console = Console(highlight=False)
    grid = Grid("table", "rows", title="Stored")
    for name, rows in open_market_store(config).table_counts().items():
        grid.add_row(name, f"{rows:,}")
    console.print(grid)
    grid = Grid("check", "verdict", "detail", title="Checks")
    for name, passed, detail in latest_checks():
        grid.add_row(name, "[green]passed[/green]" if passed else "[yellow]not passed[/yellow]", escape(detail))
    console.print(grid)
    vectors = open_feature_store(config).latest(config.symbols)
    symbol = next((symbol for symbol in config.symbols if symbol in vectors), None)
    if symbol is None:
        console.print("Redis serves no features yet.")
        return
    console.print(f"[bold]features:{symbol}:latest[/bold] in Redis ({len(vectors)} symbols are served)")
    console.print(orjson.dumps(asdict(vectors[symbol]), option=orjson.OPT_INDENT_2, default=str).decode(), markup=False)
