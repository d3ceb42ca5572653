"""A market of a benchmark's own: servers in a temporary folder, and prices that went through the project's graph.

One process holds one market, because settings and partitions are fixed when the definitions are imported.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import dagster as dg

from nexus_assets import migrations
from nexus_assets.database import Database
from nexus_assets.market_store import MarketStore
from nexus_assets.services import ServiceState, down, ensure_up
from nexus_assets.settings import project_root, settings

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class LoadedMarket:
    """Definitions, a Dagster instance in memory, the database behind them, and the servers."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    store: MarketStore
    servers: ServiceState
    folder: Path

    def run(self, assets: Sequence[str], symbols: Sequence[str], first_day: date, end_day: date) -> None:
        """Materialise the days [first_day, end_day) of the first to the last of these symbols, as one run."""
        last_day = end_day - timedelta(days=1)
        self._execute(assets, f"{first_day}|{symbols[0]}", f"{last_day}|{symbols[-1]}")

    def run_days(self, assets: Sequence[str], first_day: date, end_day: date) -> None:
        """The same for assets by day."""
        self._execute(assets, f"{first_day}", f"{end_day - timedelta(days=1)}")

    def run_whole(self, assets: Sequence[str]) -> None:
        """The same for assets without partitions."""
        self._execute(assets)

    def _execute(self, assets: Sequence[str], *ends: str) -> None:
        names = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
        self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            tags=dict(zip(names, ends, strict=False)),
            asset_selection=[dg.AssetKey.from_user_string(asset) for asset in assets],
            run_config=QUIET,
        )


@contextmanager
def loaded_market(**variables: str) -> Iterator[LoadedMarket]:
    """Servers with an empty, migrated database, and definitions under these NEXUS_ variables, named without the prefix
    and in lower case. Everything is removed at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nexus-benchmark-")))
        home, root = folder / "home", folder / "root"
        root.mkdir()
        # What reads .env of the project's root must not find the user's.
        for name in ("sql", "sources.toml", "requirements.lock"):
            (root / name).symlink_to(project_root() / name)
        for name in [n for n in os.environ if n.startswith("NEXUS_") and n not in ("NEXUS_CACHE", "NEXUS_POSTGRES")]:
            del os.environ[name]
        servers = ensure_up(home, root, database_url=None, redis_url=None, progress=lambda _: None)
        stack.callback(down, home, purge=True)
        os.environ.update(
            NEXUS_ROOT=str(root),
            NEXUS_DATABASE_URL=servers.database_url,
            NEXUS_REDIS_URL=servers.redis_url,
            NEXUS_AUTOMATION="off",
            **{f"NEXUS_{name.upper()}": value for name, value in variables.items()},
        )
        settings.cache_clear()
        store = MarketStore(Database(servers.database_url))
        migrations.migrate(store.database, root, settings())
        from nexus_assets.definitions import defs

        instance = stack.enter_context(dg.DagsterInstance.ephemeral())
        yield LoadedMarket(defs, instance, store, servers, folder)
