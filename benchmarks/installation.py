"""An installation of a benchmark's own: servers in a temporary folder, and `dagster dev` over the project's graph.

One process works with one installation at a time, because settings are those of the process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import yaml

from nexus_assets import launcher, migrations
from nexus_assets.database import Database
from nexus_assets.services import ServiceState, down, ensure_up
from nexus_assets.settings import project_root, settings

PARTS = ("sql", "dagster.yaml", "workspace.yaml", "sources.toml", "requirements.lock")
STOCK_EVENT_LOG = {"module": "dagster_postgres.event_log", "class": "PostgresEventLogStorage"}
KEPT = ("NEXUS_CACHE", "NEXUS_POSTGRES", "NEXUS_REAL_DATA")
EMPTIED = (
    "SELECT format('TRUNCATE %I.%I CASCADE', schemaname, tablename) FROM pg_tables WHERE schemaname IN "
    "('market', 'features', 'analytics') OR (schemaname, tablename) = ('nexus', 'slices')"
)
LAUNCH = """mutation ($backfill: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $backfill) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
STATE = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status
  error { message } } } }"""


class BenchmarkError(Exception):
    """What was to be measured did not happen."""


@dataclass(frozen=True)
class Installation:
    """A root folder, servers and a Dagster that is up.

    Attributes:
        url: Of the webserver; empty where only the servers are up.
        pid: Of the process that holds webserver, daemon and code server.
    """

    root: Path
    servers: ServiceState
    url: str = ""
    pid: int = 0

    def nexus(self, *arguments: str) -> None:
        """Run a `nexus` command to its end, as a user does.

        Raises:
            BenchmarkError: it failed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "nexus_assets", *arguments], cwd=self.root, capture_output=True, text=True
        )
        if done.returncode:
            raise BenchmarkError(f"nexus {' '.join(arguments)}: {done.stderr[-2000:]}")

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The data that the webserver answers."""
        body = json.dumps({"query": query, "variables": variables or {}}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as response:
            answer = json.load(response)
        if answer.get("errors"):
            raise BenchmarkError(f"GraphQL: {answer['errors']}")
        return answer["data"]

    def backfill(self, assets: Sequence[str], keys: Sequence[str]) -> datetime:
        """Launch a backfill as the UI does and wait for its end. Returns when it was submitted.

        Raises:
            BenchmarkError: it did not complete.
        """
        submitted = datetime.now(UTC)
        parameters = {
            "partitionNames": list(keys),
            "assetSelection": [{"path": asset.split("/")} for asset in assets],
            "tags": [],
        }
        launched = self.graphql(LAUNCH, {"backfill": parameters})["launchPartitionBackfill"]
        if "backfillId" not in launched:
            raise BenchmarkError(f"launchPartitionBackfill: {launched}")
        while True:
            state = self.graphql(STATE, {"id": launched["backfillId"]})["partitionBackfillOrError"]
            if state["status"] == "COMPLETED_SUCCESS":
                return submitted
            if state["status"] not in ("REQUESTED", "CANCELING"):
                raise BenchmarkError(f"The backfill ended {state['status']}: {state['error']}")
            time.sleep(0.5)

    def dagster(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query of Dagster's database."""
        return _rows(self.servers.dagster_url.replace("+psycopg2", ""), query, parameters)

    def market(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query of the market's database."""
        return _rows(self.servers.database_url, query, parameters)

    def execute(self, statement: str, *, dagster: bool = False) -> None:
        """Run a statement that returns nothing, on the market's or on Dagster's database."""
        url = self.servers.dagster_url.replace("+psycopg2", "") if dagster else self.servers.database_url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def recorded(self, since: datetime) -> tuple[int, datetime]:
        """How many materialisations were recorded since an instant, and when the last of them was."""
        count, last = self.dagster(
            "SELECT count(*), max(timestamp) FROM event_logs "
            "WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND timestamp >= %s",
            (since.replace(tzinfo=None),),
        )[0]
        if not count:
            raise BenchmarkError("Nothing was materialised.")
        return count, last.replace(tzinfo=UTC)

    def empty(self) -> None:
        """Remove every row of the market, and the ledger of what was written."""
        with psycopg.connect(self.servers.database_url, autocommit=True) as connection:
            for (statement,) in connection.execute(EMPTIED).fetchall():
                connection.execute(statement.encode())


def _rows(url: str, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


@contextmanager
def installation(
    variables: Mapping[str, str], *, stock: bool = False, dagster: bool = True, module: str = ""
) -> Iterator[Installation]:
    """Servers with empty, migrated databases, and Dagster's webserver, daemon and code server under these NEXUS_
    variables, named without the prefix and in lower case. Everything is removed at the end.

    Args:
        stock: Dagster's own event log storage, one event at a time.
        dagster: Whether Dagster is started.
        module: Definitions to load in place of the project's own.
    """
    with ExitStack() as stack:
        # A run worker that is still saying goodbye may write into the folder while it is removed.
        temporary = tempfile.TemporaryDirectory(prefix="nexus-benchmark-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        home, root = folder / "home", folder / "root"
        root.mkdir()
        for name in PARTS:
            (root / name).symlink_to(project_root() / name)
        if stock:
            _edit(root / "dagster.yaml", lambda config: config["event_log_storage"].update(STOCK_EVENT_LOG))
        if module:
            _edit(
                root / "workspace.yaml",
                lambda config: config["load_from"][0]["python_module"].update(module_name=module),
            )
        for name in [n for n in os.environ if n.startswith(("NEXUS_", "DAGSTER_")) and n not in KEPT]:
            del os.environ[name]
        servers = ensure_up(home, root, database_url=None, redis_url=None, progress=lambda _: None)
        stack.callback(down, home, purge=True)
        os.environ.update(
            NEXUS_HOME=str(home),
            NEXUS_ROOT=str(root),
            NEXUS_DATABASE_URL=servers.database_url,
            NEXUS_DAGSTER_URL=servers.dagster_url,
            NEXUS_REDIS_URL=servers.redis_url,
            DAGSTER_HOME=str(root),
            DAGSTER_EVENT_BATCH_SIZE="0" if stock else "1000",
            PYTHONPATH=os.pathsep.join([str(project_root()), str(Path(__file__).parent)]),
            **{"NEXUS_AUTOMATION": "off"} | {f"NEXUS_{name.upper()}": value for name, value in variables.items()},
        )
        settings.cache_clear()
        migrations.migrate(Database(servers.database_url), root, settings())
        if not dagster:
            yield Installation(root, servers)
            return
        running = stack.enter_context(launcher.serve(settings(), root, 3000, lambda _: None))
        yield Installation(root, servers, running.url, running.pid)


def _edit(path: Path, change: Any) -> None:
    config = yaml.safe_load(path.read_text())
    change(config)
    path.unlink()
    path.write_text(yaml.safe_dump(config))
