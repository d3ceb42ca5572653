"""`nexus backfill` as a process, on servers of its own, through kill -9 of every part of it.

Each kill finds a known state: the test holds the lock of one symbol's slices, so that the run has finished the symbols
before it and waits. What was finished by then must not be written again.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import yaml
from dotenv import dotenv_values

from nexus_assets import launched_processes
from nexus_assets.database import Database, lock_key
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import BARS, INDICATOR_ROWS, LABELS, RAW_OHLC, Table
from nexus_assets.services import down
from nexus_assets.slice_writer import slice_lock
from nexus_assets_tests.conftest import ROOT, DatabaseMaker
from nexus_assets_tests.graphs import graph

# Longer than other tests may take: a machine that is busy starts a daemon in half a minute.
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD")
FIRST_DAY, END_DAY = date(2024, 1, 1), date(2024, 2, 15)
DAYS = (END_DAY - FIRST_DAY).days
TABLES = (RAW_OHLC, BARS, INDICATOR_ROWS, LABELS)
WRITTEN_AT = {"known_at", "delivery_id"}
"""Columns that tell when a row was learned, and differ between two loads of the same prices."""
SETTINGS = {
    "NEXUS_SYMBOLS": " ".join(SYMBOLS),
    "NEXUS_START_DAY": f"{FIRST_DAY}",
    "NEXUS_FEATURE_TIMEFRAMES": "1h",
    "NEXUS_AUTOMATION": "off",
}
PATIENCE_SECONDS = 180

Finished = dict[tuple[str, str, date], tuple[datetime, str]]
"""When a slice was written, and the transaction that wrote its row of the ledger."""


@dataclass
class Installation:
    """A project root with servers of its own."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "DAGSTER_"))}
        kept = {name: os.environ[name] for name in ("NEXUS_CACHE",) if name in os.environ}
        own = {"NEXUS_ROOT": str(self.root), "NEXUS_HOME": str(self.root / "home"), "NEXUS_POSTGRES": "embedded"}
        return {**inherited, **kept, **SETTINGS, **own, "PYTHONPATH": str(ROOT)}

    @property
    def url(self) -> str:
        return str(dotenv_values(self.root / ".env")["NEXUS_DATABASE_URL"])

    def nexus(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command in the background."""
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "nexus_assets", *arguments],
                env=self.environment, cwd=self.root, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @contextmanager
    def backfill(self, *symbols: str) -> Iterator[subprocess.Popen[bytes]]:
        """`nexus backfill` of prices and features, as somebody types it."""
        days = ["--from", f"{FIRST_DAY}", "--to", f"{END_DAY}", "--symbols", ",".join(symbols)]
        command = self.nexus("backfill", *days, "--select", "prices", "--select", "features")
        try:
            yield command
        finally:
            command.kill()
            command.wait()

    def eventually(self, what: str, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS} s. {self.told()}"
            time.sleep(0.1)
        return found

    def told(self) -> str:
        """All that the commands told so far, on one line."""
        return " ".join((self.root / "log").read_text(errors="replace").split())

    @contextmanager
    def held(self, table: Table, symbol: str) -> Iterator[psycopg.Connection]:
        """Keep writers of a symbol's slices waiting."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (lock_key(slice_lock(table, symbol)),))
            yield connection

    def finished(self, *symbols: str) -> Finished:
        with psycopg.connect(self.url) as connection:
            query = "SELECT table_name, symbol, day, written_at, xmin::text FROM nexus.slices WHERE symbol = ANY(%s)"
            return {tuple(row[:3]): tuple(row[3:]) for row in connection.execute(query, (list(symbols),))}

    def await_finished(self, table: Table, symbol: str) -> Finished:
        """Until all slices of a table and symbol are written; these and all before them."""

        def all_written() -> Finished | None:
            found = self.finished(*SYMBOLS)
            return found if sum(key[:2] == (table.qualified, symbol) for key in found) == DAYS else None

        return self.eventually(f"{table.qualified} of {symbol}", all_written)

    def daemon(self) -> psutil.Process:
        return psutil.Process(json.loads((self.root / "home" / "dagster" / "pids.json").read_text())["pid"])

    def worker(self) -> psutil.Process:
        """The process of the newest run."""
        url = str(dotenv_values(self.root / ".env")["NEXUS_DAGSTER_URL"]).replace("+psycopg2", "")
        started = "SELECT event FROM event_logs WHERE event LIKE %s ORDER BY id DESC LIMIT 1"
        with psycopg.connect(url) as connection:
            row = connection.execute(started, ("%Started process for run (pid: %",)).fetchone()
        assert row
        found = re.search(r"Started process for run \(pid: (\d+)\)", row[0])
        assert found
        return psutil.Process(int(found[1]))

    def postmaster(self) -> psutil.Process:
        with psycopg.connect(self.url) as connection:
            return psutil.Process(psutil.Process(connection.info.backend_pid).ppid())

    def processes(self) -> list[psutil.Process]:
        """What lives of Dagster and of our commands."""
        return [
            process
            for process, environment in launched_processes.processes_with_environment()
            if environment.get("NEXUS_ROOT") == str(self.root) and "python" in process.name()
        ]


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="nexus-tests-survival-") as folder:
        place = Installation(Path(folder))
        for name in ("sql", "workspace.yaml", "sources.toml"):
            (place.root / name).symlink_to(ROOT / name)
        config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
        # Only how soon a run without a process is noticed differs from every other installation.
        config["run_monitoring"]["poll_interval_seconds"] = 1
        (place.root / "dagster.yaml").write_text(yaml.safe_dump(config))
        try:
            assert place.nexus("up").wait(PATIENCE_SECONDS) == 0, place.told()
            yield place
        finally:
            for process in place.processes():
                process.kill()
            down(place.root / "home", purge=True)


@pytest.fixture(scope="module")
def undisturbed(databases: DatabaseMaker) -> Iterator[MarketStore]:
    """The same prices, loaded at one go in one process."""
    url = databases.migrated()
    ends = SYMBOLS[0], SYMBOLS[-1]
    variables = {name.removeprefix("NEXUS_").lower(): value for name, value in SETTINGS.items()}
    with graph(MarketStore(Database(url)), url, "redis://127.0.0.1:1/0", folder=None, **variables) as made:
        made.run(("market/raw_ohlc", "market/bars"), ends, FIRST_DAY, END_DAY)
        made.run(("features/indicators", "features/labels"), ends, FIRST_DAY, END_DAY)
        yield made.store


def content(url: str, table: Table, symbols: tuple[str, ...]) -> tuple[int, str]:
    """The number and a hash of a table's rows of these symbols."""
    columns = ", ".join(f'"{name}"' for name in table.column_names if name not in WRITTEN_AT)
    key = ", ".join(name for name in table.key if name not in WRITTEN_AT)
    with psycopg.connect(url) as connection:
        row = connection.execute(
            f"SELECT count(*), md5(string_agg(line, E'\\n' ORDER BY {key})) "
            f"FROM (SELECT *, ROW({columns})::text AS line FROM {table.qualified}) AS rows "
            "WHERE symbol = ANY(%s)".encode(),
            (list(symbols),),
        ).fetchone()
    assert row
    return row[0], row[1]


def assert_like_undisturbed(installation: Installation, undisturbed: MarketStore, symbols: tuple[str, ...]) -> None:
    url = undisturbed.database._conninfo
    for table in TABLES:
        count, digest = content(installation.url, table, symbols)
        assert count > 24 * DAYS / 2 * len(symbols)
        assert (count, digest) == content(url, table, symbols), table.qualified


def assert_untouched(installation: Installation, before: Finished) -> None:
    after = installation.finished(*SYMBOLS)
    assert {key: after[key] for key in before} == before


def test_a_backfill_goes_on_when_the_run_s_worker_and_then_the_daemon_are_killed(
    installation: Installation, undisturbed: MarketStore
) -> None:
    first, second = symbols = SYMBOLS[0], SYMBOLS[1]
    with installation.held(BARS, second) as lock, installation.backfill(*symbols) as command:
        before = installation.await_finished(BARS, first)
        installation.worker().kill()
        lock.execute("SELECT pg_advisory_lock(%s)", (lock_key(slice_lock(INDICATOR_ROWS, second)),))
        lock.execute("SELECT pg_advisory_unlock(%s)", (lock_key(slice_lock(BARS, second)),))
        before |= installation.await_finished(INDICATOR_ROWS, first)
        installation.daemon().kill()
        installation.eventually(
            "the new daemon", lambda: "ended with code -9; starting it again" in installation.told()
        )
        lock.close()
        assert command.wait(PATIENCE_SECONDS) == 0, installation.told()
    assert_untouched(installation, before)
    assert_like_undisturbed(installation, undisturbed, symbols)


def test_a_backfill_that_is_killed_itself_is_resumed_and_survives_the_database(
    installation: Installation, undisturbed: MarketStore
) -> None:
    first, second = symbols = SYMBOLS[2], SYMBOLS[3]
    with installation.held(BARS, second) as lock:
        with installation.backfill(*symbols) as command:
            before = installation.await_finished(BARS, first)
            command.send_signal(signal.SIGKILL)
            command.wait()
        assert installation.worker().is_running()
        with installation.backfill(*symbols) as command:
            # The daemon and the run's worker lived on; they are ended, and the new daemon retries the run.
            installation.eventually(
                "the wait for the retry", lambda: "of an earlier load are under way" in installation.told()
            )
            assert "Dagster processes that an earlier `nexus` left behind" in installation.told()
            lock.execute("SELECT pg_advisory_lock(%s)", (lock_key(slice_lock(INDICATOR_ROWS, second)),))
            lock.execute("SELECT pg_advisory_unlock(%s)", (lock_key(slice_lock(BARS, second)),))
            before |= installation.await_finished(INDICATOR_ROWS, first)
            installation.postmaster().kill()
            assert command.wait(PATIENCE_SECONDS) == 0, installation.told()
    assert_untouched(installation, before)
    assert_like_undisturbed(installation, undisturbed, symbols)
