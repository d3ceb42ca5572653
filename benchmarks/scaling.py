"""What a symbol takes: rows and bytes of each table, memory and connections of each process, and pairs of symbols.

    .venv/bin/python benchmarks/scaling.py [--symbols 4] [--days 365] [--json]

Starts the servers of this machine in a temporary folder and loads invented hours by `nexus backfill`, so through
Dagster's daemon, watching its processes. Then correlates a day of more and more symbols. docs/scaling.md quotes it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import psutil
import psycopg

from nexus_assets import instruments
from nexus_assets.services import ServiceState, down, ensure_up
from nexus_assets.settings import project_root
from nexus_assets.transforms.correlations import correlate

FIRST_DAY = date(2023, 1, 2)
TABLES = ("market.raw_ohlc", "market.bars", "features.indicators", "features.labels", "analytics.correlation_matrix")
MATERIALIZED = "SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"


class Watch:
    """The highest memory [bytes] and number of connections to PostgreSQL of each kind of process, while it runs."""

    def __init__(self, process: psutil.Process, port: int) -> None:
        self.memory: dict[str, int] = defaultdict(int)
        self.connections: dict[str, int] = defaultdict(int)
        self._process, self._port = process, port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.5):
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for one in family:
                try:
                    kind = self._kind(one.cmdline())
                    held = sum(bool(c.raddr) and c.raddr[1] == self._port for c in one.net_connections("tcp"))
                    memory = one.memory_info().rss
                except psutil.Error:
                    continue
                self.memory[kind] = max(self.memory[kind], memory)
                self.connections[kind] = max(self.connections[kind], held)

    @staticmethod
    def _kind(command: list[str]) -> str:
        line = " ".join(command)
        if "dagster._daemon" in line:
            return "daemon"
        if "multiprocessing" in line or "execute_run" in line:
            return "run worker"
        return "code server" if "grpc" in line else "command"


def load(state: ServiceState, root: Path, symbols: list[str], days: int) -> dict[str, Any]:
    """`nexus backfill` of a range, watched, and what is stored then."""
    for name in ("sql", "dagster.yaml", "workspace.yaml", "sources.toml"):
        (root / name).symlink_to(project_root() / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "DAGSTER_"))}
    environment |= {
        "NEXUS_ROOT": str(root), "DAGSTER_HOME": str(root), "NEXUS_DATABASE_URL": state.database_url,
        "NEXUS_DAGSTER_URL": state.dagster_url, "NEXUS_REDIS_URL": state.redis_url, "NEXUS_AUTOMATION": "off",
        "NEXUS_SYMBOLS": " ".join(symbols), "NEXUS_START_DAY": f"{FIRST_DAY}", "NEXUS_FEATURE_TIMEFRAMES": "1h",
    }  # fmt: skip
    arguments = ["backfill", "--from", f"{FIRST_DAY}", "--to", f"{FIRST_DAY + timedelta(days)}"]
    begun = time.perf_counter()
    command = subprocess.Popen([sys.executable, "-m", "nexus_assets", *arguments], env=environment, cwd=root)
    port = urlsplit(state.database_url).port
    assert port
    watch = Watch(psutil.Process(command.pid), port)
    code = command.wait()
    watch.end()
    if code:
        raise SystemExit(f"`nexus {' '.join(arguments)}` ended with {code}.")
    return {"load_seconds": time.perf_counter() - begun, "memory": watch.memory, "connections": watch.connections}


def stored(state: ServiceState) -> dict[str, Any]:
    """Rows and bytes of each table, indexes included, and of Dagster's events for each materialisation."""
    sizes = {}
    with psycopg.connect(state.database_url, autocommit=True) as connection:
        hyper = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
        for table in TABLES:
            count = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            size = f"hypertable_size('{table}')" if hyper else f"pg_total_relation_size('{table}')"
            taken = connection.execute(f"SELECT {size}".encode()).fetchone()
            assert count
            assert taken
            sizes[table] = {"rows": count[0], "bytes": taken[0]}
    with psycopg.connect(state.dagster_url.replace("+psycopg2", ""), autocommit=True) as connection:
        events = connection.execute("SELECT pg_total_relation_size('event_logs')").fetchone()
        materialized = connection.execute(MATERIALIZED).fetchone()
        assert events
        assert materialized
        sizes["event_logs"] = {"rows": materialized[0], "bytes": events[0]}
    return sizes


def pairs(count: int) -> dict[str, float]:
    """Correlate one day of `count` invented symbols with 101 common hourly closes each."""
    ends = datetime(2024, 3, 8, 22, tzinfo=UTC)
    ts = pd.date_range(end=ends, periods=130, freq="h").as_unit("us")
    closes = pd.concat(
        pd.DataFrame(
            {
                "symbol": f"S{number:05d}",
                "ts": ts,
                "close": 100 * np.exp(np.cumsum(np.random.default_rng(number).normal(0, 1e-3, len(ts)))),
                "known_at": ts,
            }
        )
        for number in range(count)
    )
    begun = time.perf_counter()
    made = correlate(closes, day=ends.date(), timeframe="1h", window=100)
    return {"symbols": count, "pairs": len(made), "seconds": time.perf_counter() - begun}


def main() -> None:
    """Print sentences, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--symbols", type=int, default=4)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    symbols = list(instruments.DEFAULT_SYMBOLS[: chosen.symbols])
    with tempfile.TemporaryDirectory(prefix="nexus-benchmark-") as folder:
        home, root = Path(folder) / "home", Path(folder) / "root"
        root.mkdir()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXUS_") or k == "NEXUS_CACHE"}
        state = ensure_up(
            home, root, database_url=None, redis_url=None, progress=lambda _: None, environment=environment
        )
        try:
            found = load(state, root, symbols, chosen.days)
            found["stored"] = stored(state)
        finally:
            down(home, purge=True)
    found["pairs"] = [pairs(count) for count in (50, 100, 200)]
    if chosen.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{len(symbols)} symbols x {chosen.days} days of hours on {state.edition}: {found['load_seconds']:.0f} s")
    for table, size in found["stored"].items():
        each = size["bytes"] / max(size["rows"], 1)
        print(f"  {table}: {size['rows']:,} rows, {size['bytes'] / 1e6:.1f} MB, {each:,.0f} bytes a row")
    for kind, memory in found["memory"].items():
        print(f"  {kind}: {memory / 1e6:,.0f} MB, {found['connections'][kind]} connections to PostgreSQL at most")
    for one in found["pairs"]:
        each = one["seconds"] / one["pairs"] * 1e6
        print(
            f"  a day of {one['symbols']} symbols: {one['pairs']:,} pairs in {one['seconds']:.2f} s, {each:.0f} us each"
        )


if __name__ == "__main__":
    main()
