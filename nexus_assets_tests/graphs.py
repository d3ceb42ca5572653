"""The project's own definitions under settings of a test's choosing.

Partitions are made when assets are defined, so the modules that define them are imported anew, and again afterwards.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import pytest

import nexus_assets
from nexus_assets.market_store import MarketStore
from nexus_assets.providers.connections import forget_clients
from nexus_assets.settings import settings
from nexus_assets_tests.conftest import ROOT

DEFINING = ("assets", "checks", "jobs", "schedules", "sensors", "catch_up", "definitions", "resources")


def _forget() -> None:
    for name in list(sys.modules):
        parts = name.split(".")
        if parts[0] == "nexus_assets" and len(parts) > 1 and parts[1] in DEFINING:
            del sys.modules[name]
            if len(parts) == 2 and hasattr(nexus_assets, parts[1]):
                # Or `from nexus_assets import checks` would find the old one.
                delattr(nexus_assets, parts[1])
    settings.cache_clear()
    forget_clients()


@dataclass
class Graph:
    """Definitions, a Dagster instance in memory, and the database behind them."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    store: MarketStore

    def run(
        self,
        assets: Sequence[str],
        symbols: tuple[str, str],
        first_day: date,
        end_day: date,
        *,
        fails: bool = False,
        backfill: str = "",
    ) -> dg.ExecuteInProcessResult:
        """Materialise a rectangle, as one run, of a backfill if it is named: the first and the last symbol, days
        [first_day, end_day)."""
        last_day = end_day - timedelta(days=1)
        tags = {
            **({"dagster/backfill": backfill} if backfill else {}),
            "dagster/asset_partition_range_start": f"{first_day}|{symbols[0]}",
            "dagster/asset_partition_range_end": f"{last_day}|{symbols[1]}",
        }
        return self._execute(assets, tags, fails)

    def run_days(self, assets: Sequence[str], first_day: date, end_day: date) -> dg.ExecuteInProcessResult:
        """The same for assets by day."""
        tags = {
            "dagster/asset_partition_range_start": f"{first_day}",
            "dagster/asset_partition_range_end": f"{end_day - timedelta(days=1)}",
        }
        return self._execute(assets, tags, False)

    def _execute(self, assets: Sequence[str], tags: dict[str, str], fails: bool) -> dg.ExecuteInProcessResult:
        keys = [dg.AssetKey.from_user_string(asset) for asset in assets]
        job = self.definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=self.instance, tags=tags, asset_selection=keys, raise_on_error=not fails
        )
        assert result.success is not fails
        return result


@contextmanager
def graph(
    store: MarketStore, database_url: str, redis_url: str, *, folder: Path | None = None, **variables: str
) -> Iterator[Graph]:
    """Definitions under these NEXUS_ variables, named without the prefix and in lower case. Dagster writes its
    event log and its compute logs to `folder`, or keeps them in memory."""
    stored = dg.DagsterInstance.local_temp(str(folder)) if folder else dg.DagsterInstance.ephemeral()
    with (
        pytest.MonkeyPatch.context() as patch,
        stored as instance,
        TemporaryDirectory(prefix="nexus-tests-root-") as root,
    ):
        # What the public functions read of .env must not be a developer's: its servers hold data.
        for name in ("sql", "dagster.yaml", "workspace.yaml", "sources.toml"):
            (Path(root) / name).symlink_to(ROOT / name)
        patch.setenv("NEXUS_ROOT", root)
        patch.setenv("NEXUS_DATABASE_URL", database_url)
        patch.setenv("NEXUS_REDIS_URL", redis_url)
        patch.setenv("NEXUS_AUTOMATION", "off")
        for name, value in variables.items():
            patch.setenv(f"NEXUS_{name.upper()}", value)
        _forget()
        try:
            yield Graph(importlib.import_module("nexus_assets.definitions").defs, instance, store)
        finally:
            _forget()
