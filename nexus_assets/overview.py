"""`nexus status`: servers, sizes, rows, and what Redis serves."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from nexus_assets import services
from nexus_assets.errors import NexusError
from nexus_assets.resources import open_dagster_database, open_feature_store, open_market_store
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


@dataclass
class Overview:
    """What there is. `problems` are sentences about what could not be read."""

    servers: list[ServiceStatus]
    rows: dict[str, int] = field(default_factory=dict)
    storage: list[TableStorage] = field(default_factory=list)
    dagster_tables: list[DagsterTable] = field(default_factory=list)
    dagster_bytes: int | None = None
    served: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def all_running(self) -> bool:
        """Whether there are servers, and every one answers."""
        return bool(self.servers) and all(server.running for server in self.servers)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "all_running": self.all_running}

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
        for problem in self.problems:
            console.print(f"[red]{problem}[/red]")

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
        vectors = open_feature_store(config).latest(config.symbols)
        found.served = {symbol: vector.ts.isoformat() for symbol, vector in vectors.items()}
    except NexusError as error:
        found.problems.append(str(error))
    return found


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"
