"""`nexus status`: servers, sizes, rows, and what Redis serves."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from nexus_assets import services, trading_calendar
from nexus_assets.errors import NexusError
from nexus_assets.market_store import MarketStore
from nexus_assets.providers.service_state import ServiceState, service_states
from nexus_assets.resources import open_dagster_database, open_feature_store, open_market_store, open_sources
from nexus_assets.services import ServiceStatus
from nexus_assets.settings import Settings
from nexus_assets.storage_report import (
    DagsterTable,
    TableStorage,
    columnstore_sentence,
    dagster_tables,
    storage_by_table,
)

LARGEST = 5
"""Of Dagster's tables, so many are named."""


@dataclass(frozen=True)
class DataAge:
    """The newest bar of a symbol: who delivered it, when it ended (ISO 8601, UTC), and how many minutes ago."""

    provider: str
    newest_end: str
    minutes: float


@dataclass
class Overview:
    """What there is. `problems` are sentences about what could not be read."""

    servers: list[ServiceStatus]
    rows: dict[str, int] = field(default_factory=dict)
    storage: list[TableStorage] = field(default_factory=list)
    dagster_tables: list[DagsterTable] = field(default_factory=list)
    dagster_bytes: int | None = None
    served: dict[str, str] = field(default_factory=dict)
    market_data: list[ServiceState] = field(default_factory=list)
    data_age: dict[str, DataAge] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def all_running(self) -> bool:
        """Whether there are servers, and every one answers."""
        return bool(self.servers) and all(server.running for server in self.servers)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            **asdict(self),
            "market_data": {state.service: state.as_dict() for state in self.market_data},
            "all_running": self.all_running,
        }

    def print(self) -> None:
        """For people."""
        console = Console(highlight=False)
        if not self.servers:
            console.print("No servers were started here yet. Run `nexus up`.")
        grid = Grid("server", "state", "edition", "address", "pid", "data", "uptime", title="Servers")
        for server in self.servers:
            state = "[green]running[/green]" if server.running else "[red]stopped[/red]"
            uptime = f"{server.uptime / 3600:.1f} h" if server.uptime is not None else ""
            grid.add_row(
                server.name, state, f"{server.edition} {server.version}", server.address, str(server.pid or ""),
                _size(server.data_bytes), uptime,
            )  # fmt: skip
        console.print(grid)
        if self.rows:
            console.print(self._stored())
            console.print(columnstore_sentence(self.storage))
            console.print(self._dagster())
            console.print(f"Redis serves the features of {len(self.served)} symbols.")
        self._print_market_data(console)
        for problem in self.problems:
            console.print(f"[red]{problem}[/red]")

    def _print_market_data(self, console: Console) -> None:
        if self.market_data:
            columns = ("service", "breaker", "calls", "failures", "p50", "p95", "p99", "budget left", "last failure")
            grid = Grid(*columns, title="Market-data services")
            for state in self.market_data:
                wait = f", {state.opens_in_s:.0f} s" if state.opens_in_s else ""
                latencies = (_seconds(value) for value in (state.p50_s, state.p95_s, state.p99_s))
                grid.add_row(
                    state.service, f"{state.breaker}{wait}", f"{state.calls:,}", f"{state.failures:,}", *latencies,
                    state.budget, escape(state.reason[:80]),
                )  # fmt: skip
            console.print(grid)
        if self.data_age:
            grid = Grid("symbol", "newest bar ends", "age", "provider", title="Data age")
            for symbol, age in self.data_age.items():
                grid.add_row(symbol, age.newest_end, f"{age.minutes / 60:,.1f} h", age.provider)
            console.print(grid)

    def _stored(self) -> Grid:
        storage = {f"{item.schema}.{item.table}": item for item in self.storage}
        grid = Grid("table", "rows", "size", "columnstore", title="Stored")
        for name, rows in self.rows.items():
            item = storage.get(name)
            grid.add_row(name, f"{rows:,}", _size(item.bytes) if item else "", item.packing if item else "")
        return grid

    def _dagster(self) -> Grid:
        """The largest tables; the others are small and many."""
        grid = Grid("table", "rows, about", "size", title=f"Dagster's own database: {_size(self.dagster_bytes)}")
        for item in self.dagster_tables[:LARGEST]:
            grid.add_row(item.table, f"{item.rows:,}", _size(item.bytes))
        rest = self.dagster_tables[LARGEST:]
        if rest:
            grid.add_row(f"{len(rest)} others", f"{sum(i.rows for i in rest):,}", _size(sum(i.bytes for i in rest)))
        return grid


def overview(home: Path, config: Settings) -> Overview:
    """Look at everything; what cannot be read is told in `problems`."""
    found = Overview(services.status(home))
    if not found.all_running:
        return found
    try:
        store = open_market_store(config)
        found.rows = store.table_counts()
        found.storage = store.database.run(storage_by_table)
        if config.dagster_url is not None:
            dagster = open_dagster_database(config)
            found.dagster_bytes = dagster.rows("SELECT pg_database_size(current_database()) AS bytes")[0]["bytes"]
            found.dagster_tables = dagster.run(dagster_tables)
        found.data_age = data_age(store, config)
        found.market_data = service_states(open_sources(config))
        vectors = open_feature_store(config).latest(config.symbols)
        found.served = {symbol: vector.ts.isoformat() for symbol, vector in vectors.items()}
    except NexusError as error:
        found.problems.append(str(error))
    return found


def data_age(store: MarketStore, config: Settings) -> dict[str, DataAge]:
    """The newest bar of the base timeframe of each symbol that has one."""
    now = pd.Timestamp.now("UTC")
    found = {}
    for row in store.newest_bars(config.symbols, config.base_timeframe).itertuples():
        end = trading_calendar.bar_end(row.ts, config.base_timeframe)[0]  # pyright: ignore[reportArgumentType]
        minutes = round((now - end).total_seconds() / 60, 1)
        found[str(row.symbol)] = DataAge(str(row.provider), f"{end:%Y-%m-%dT%H:%M:%SZ}", minutes)
    return found


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"
