"""Runs that meet, are cancelled, fail, or lose their database: in the end every selected slice is there and right."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psutil
import psycopg
import pytest
from psycopg import sql

from nexus_assets.database import lock_key
from nexus_assets.schemas import BARS, LABELS, Table
from nexus_assets.services import ServiceState, Supervisor, status
from nexus_assets.slice_writer import slice_lock
from nexus_assets_tests.selections.served_market import (
    BAR_ROWS,
    CHAIN,
    INDICATORS,
    LABEL_ROWS,
    RAW,
    SYMBOLS,
    ServedMarket,
    Watched,
    day,
    keys,
)

pytestmark = pytest.mark.end_to_end

WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM "
WAITING += "pg_database WHERE datname = current_database())"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


@pytest.fixture(scope="module", autouse=True)
def prices(market: ServedMarket) -> None:
    """Every bar is there, so that each slice of features has what it has in the undisturbed load."""
    if missing := market.ui.missing(BAR_ROWS):
        market.ui.await_backfills(market.ui.backfill([RAW, BAR_ROWS], missing))


@contextmanager
def held(market: ServedMarket, target: Table, symbol: str) -> Iterator[None]:
    """Another writer is at work on a symbol's slices of a table until the block ends."""
    with closing(psycopg.connect(market.url)) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(slice_lock(target, symbol)),))
        yield


@contextmanager
def refused(market: ServedMarket, symbol: str) -> Iterator[None]:
    """The database refuses labels of a symbol until the block ends."""
    check = sql.SQL("ALTER TABLE features.labels ADD CONSTRAINT refused CHECK (symbol <> {}) NOT VALID")
    with psycopg.connect(market.url, autocommit=True) as connection:
        connection.execute(check.format(sql.Literal(symbol)))
        try:
            yield
        finally:
            connection.execute("ALTER TABLE features.labels DROP CONSTRAINT refused")


def waiting(market: ServedMarket, count: int) -> None:
    """Wait until so many writers wait for a lock."""
    market.ui.until(lambda: market.one_number(WAITING) >= count, f"{count} waiting writers")


def ended_well(market: ServedMarket, *backfills: str) -> list[str]:
    market.ui.await_backfills(*backfills)
    return [run["id"] for backfill in backfills for run in market.ui.runs(backfill=backfill)]


def test_runs_that_write_the_same_slices_take_turns_and_none_deadlocks(market: ServedMarket) -> None:
    deadlocks = market.one_number(DEADLOCKS)
    left, right = keys(SYMBOLS[:3], 20, 22), keys(SYMBOLS[1:], 20, 22)
    with held(market, BARS, "GBPUSD"):
        backfills = [market.ui.backfill(CHAIN, chosen) for chosen in (left, right)]
        waiting(market, 2)
        before = market.ledger()
        time.sleep(0.5)
        after = market.ledger()
        assert {
            slot for slot in after if slot[0] == BAR_ROWS and "GBPUSD" in slot[1] and before[slot] != after[slot]
        } == set()
    ended_well(market, *backfills)
    assert market.differing({asset: {*left, *right} for asset in CHAIN}) == {}
    assert market.one_number(DEADLOCKS) == deadlocks


def test_a_run_that_is_terminated_leaves_whole_slices_and_the_rest_can_be_launched_again(market: ServedMarket) -> None:
    chosen = keys(SYMBOLS, 23, 24)
    watched = Watched.begin(market, [LABEL_ROWS])
    with held(market, LABELS, "USDJPY"):
        run_id = market.ui.run_range([LABEL_ROWS], chosen[0], chosen[-1])
        waiting(market, 1)
        market.ui.terminate(run_id)
        market.ui.await_runs(run_id, status="CANCELED")
    written = [key for key in chosen if key.endswith(("EURUSD", "GBPUSD"))]
    watched.assert_exactly({LABEL_ROWS: written}, [run_id])
    again = market.ui.reexecute_run(run_id, "FROM_FAILURE")
    market.ui.await_runs(again)
    assert sorted(market.recorded(again)[LABEL_ROWS]) == sorted(chosen)
    assert market.differing({LABEL_ROWS: chosen}) == {}


def test_a_backfill_that_is_cancelled_half_way_is_completed_by_its_re_execution(market: ServedMarket) -> None:
    chosen = [*keys(SYMBOLS[:2], 20, 25)]
    with held(market, LABELS, "GBPUSD"):
        backfill = market.ui.backfill([LABEL_ROWS], chosen)
        waiting(market, 1)
        market.ui.until(lambda: "SUCCESS" in {run["status"] for run in market.ui.runs(backfill=backfill)}, "half of it")
        market.ui.cancel(backfill)
        market.ui.await_backfills(backfill, status="CANCELED")
    runs = market.ui.runs(backfill=backfill)
    assert {run["status"] for run in runs} == {"SUCCESS", "CANCELED"}
    assert market.differing({LABEL_ROWS: set(market.recorded(*(run["id"] for run in runs))[LABEL_ROWS])}) == {}
    again = market.ui.reexecute_backfill(backfill, "FROM_FAILURE")
    recorded = market.recorded(*ended_well(market, again))[LABEL_ROWS]
    assert sorted(recorded) == sorted(key for key in chosen if key.endswith("GBPUSD"))
    assert market.differing({LABEL_ROWS: chosen}) == {}


def test_a_run_that_failed_for_one_symbol_is_right_after_its_re_execution_from_failure(market: ServedMarket) -> None:
    wednesday = next(number for number in range(43, 50) if day(number).weekday() == 2)
    chosen = keys(SYMBOLS[2:], wednesday, wednesday + 1)
    watched = Watched.begin(market, [LABEL_ROWS])
    with refused(market, "XAUUSD"):
        backfill = market.ui.backfill([LABEL_ROWS], chosen)
        market.ui.await_backfills(backfill, status="COMPLETED_FAILED")
    (failed,) = market.ui.runs(backfill=backfill)
    watched.assert_exactly({LABEL_ROWS: chosen[:1]}, [failed["id"]])
    again = market.ui.reexecute_run(failed["id"], "FROM_FAILURE")
    market.ui.await_runs(again)
    assert market.differing({LABEL_ROWS: chosen}) == {}


def test_a_run_whose_worker_is_killed_is_repeated_and_the_backfill_succeeds(market: ServedMarket) -> None:
    chosen = keys(SYMBOLS[:1], 28, 30)
    with held(market, LABELS, "EURUSD"):
        backfill = market.ui.backfill([INDICATORS, LABEL_ROWS], chosen)
        waiting(market, 1)
        os.kill(worker(market), signal.SIGKILL)
        lost = market.ui.runs(backfill=backfill)[-1]["id"]
        market.ui.until(lambda: market.ui.runs(runIds=[lost])[0]["status"] == "FAILURE", "the loss is noticed")
    ended_well(market, backfill)
    assert [run["parentRunId"] for run in market.ui.runs(backfill=backfill)] == [lost, None]
    assert market.differing({INDICATORS: chosen, LABEL_ROWS: chosen}) == {}


def worker(market: ServedMarket) -> int:
    """The process of the only writer that waits."""
    ports = {
        row["client_port"]
        for row in market.database.rows(
            "SELECT client_port FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
        )
    }
    (pid,) = {c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr[1] in ports and c.pid}
    return pid


def test_a_backfill_of_twelve_runs_outlives_a_kill_of_postgres_in_the_middle_of_a_statement_of_dagster(
    market: ServedMarket, services: ServiceState
) -> None:
    chosen = [key for first in (32, 36, 40) for key in keys(SYMBOLS, first, first + 2)]
    selection = {INDICATORS: chosen, LABEL_ROWS: chosen}
    reports: list[str] = []
    with Supervisor(services.home, report=reports.append):
        with closing(psycopg.connect(market.dagster_url)) as lock:
            with held(market, LABELS, "GBPUSD"):
                backfill = market.ui.backfill(list(selection), chosen)
                waiting(market, 1)
                # A step reads this between its work and its end; the loss of it was taken for the asset's error.
                lock.execute("LOCK TABLE asset_keys IN ACCESS EXCLUSIVE MODE")
            time.sleep(3)
            kill_postgres(services)
        ran = ended_well(market, backfill)
    assert reports == ["postgres had stopped and was started again"]
    assert len([run for run in market.ui.runs(backfill=backfill) if not run["parentRunId"]]) == 12
    assert {asset: set(found) for asset, found in market.recorded(*ran).items()} == {
        asset: set(found) for asset, found in selection.items()
    }
    assert market.differing(selection) == {}


def kill_postgres(services: ServiceState) -> None:
    (pid,) = [server.pid for server in status(services.home) if server.name == "postgres"]
    assert pid
    os.kill(pid, signal.SIGKILL)
