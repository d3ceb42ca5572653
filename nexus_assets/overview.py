"""`nexus status`: servers, sizes, rows, and what Redis serves."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from nexus_assets import services
from nexus_assets.database import Database
from nexus_assets.errors import NexusError
from nexus_assets.resources import open_feature_store, open_market_store
from nexus_assets.services import ServiceStatus
from nexus_assets.settings import Settings


@dataclass
class Overview:
    """What there is. `problems` are sentences about what could not be read."""

    servers: list[ServiceStatus]
    rows: dict[str, int] = field(default_factory=dict)
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
            grid = Grid("table", "rows", title="Stored")
            for name, rows in self.rows.items():
                grid.add_row(name, f"{rows:,}")
            console.print(grid)
            console.print(f"Dagster's own database: {_size(self.dagster_bytes)}")
            console.print(f"Redis serves the features of {len(self.served)} symbols.")
        for problem in self.problems:
            console.print(f"[red]{problem}[/red]")


def overview(home: Path, config: Settings) -> Overview:
    """Look at everything; what cannot be read is told in `problems`."""
    found = Overview(services.status(home))
    if not found.all_running:
        return found
    try:
        found.rows = open_market_store(config).table_counts()
        if config.dagster_url is not None:
            plain = config.dagster_url.get_secret_value().replace("postgresql+psycopg2://", "postgresql://", 1)
            size = Database(plain).rows("SELECT pg_database_size(current_database()) AS bytes")
            found.dagster_bytes = size[0]["bytes"]
        vectors = open_feature_store(config).latest(config.symbols)
        found.served = {symbol: vector.ts.isoformat() for symbol, vector in vectors.items()}
    except NexusError as error:
        found.problems.append(str(error))
    return found


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f} MB"
