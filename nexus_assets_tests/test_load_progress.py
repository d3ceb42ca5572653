"""How far a load is told to be, from a ledger that grows slice by slice."""

import io
import re
from collections.abc import Sequence
from datetime import date, timedelta

import pytest
from rich.console import Console

from nexus_assets.backfill import Rectangle
from nexus_assets.database import Database
from nexus_assets.load_plan import PlannedRun, Work
from nexus_assets.load_progress import LoadProgress
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import BARS, DATASET_SPLITS, RAW_OHLC
from nexus_assets.slice_ledger import LedgerRow, record
from nexus_assets.throughput import Throughput

MONDAY = date(2024, 3, 4)
ASSETS = ("market/raw_ohlc", "market/bars")
PRICES = PlannedRun(
    "prices",
    Rectangle(("EURUSD", "GBPUSD"), MONDAY, MONDAY + timedelta(days=5), ASSETS),
    (RAW_OHLC, BARS),
    {"market/raw_ohlc": Work(10, 240), "market/bars": Work(10, 310)},
)
SPLITS = PlannedRun(
    "splits",
    Rectangle((), MONDAY, MONDAY + timedelta(days=1), ("features/dataset_splits",)),
    (DATASET_SPLITS,),
    {"features/dataset_splits": Work(1, 120)},
)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_assets.load_progress.LINE_SECONDS", 0.0)
    monkeypatch.setattr("nexus_assets.load_progress.SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr("nexus_assets.load_progress.QUERY_SHARE", 1000.0)


def write(database: Database, table, symbol: str, days: Sequence[date], rows: int = 24) -> None:
    entries = [LedgerRow(day, rows, True) for day in days]
    database.run(lambda connection: record(connection, table, symbol, entries, code_version=1))


def week(count: int = 5) -> list[date]:
    return [MONDAY + timedelta(days=number) for number in range(count)]


def shown(store: MarketStore, console: Console) -> None:
    """A load of which some slices were there before, some are written, and one stage fails for a symbol."""
    database = store.database
    write(database, BARS, "EURUSD", week())
    since = store.settled_until()
    plan = {"prices": [PRICES], "splits": [SPLITS]}
    with LoadProgress(store, console, plan, since=since, throughput=Throughput(), estimate=None) as progress:
        progress.begin("prices", [PRICES])
        progress.update("0 of 1 runs ended")
        write(database, RAW_OHLC, "EURUSD", week())
        progress.update("0 of 1 runs ended")
        write(database, RAW_OHLC, "EURUSD", week())  # once more, as a retry may
        write(database, RAW_OHLC, "USDJPY", week())  # by somebody else
        write(database, BARS, "EURUSD", week(2))
        progress.update("0 of 1 runs ended")
        progress.end()
        progress.begin("splits", [SPLITS])
        write(database, DATASET_SPLITS, "", [date(1970, 1, 1)], rows=120)
        progress.update("1 of 1 runs ended")
        progress.end()


def test_lines_tell_slices_that_were_written_since_the_load_began_over_all_its_stages(
    fresh_store: MarketStore,
) -> None:
    out = io.StringIO()
    shown(fresh_store, Console(file=out, width=200))
    lines = [re.sub(r"[\d,]+ rows/s", "... rows/s", line) for line in out.getvalue().splitlines()]
    assert lines[0] == "prices: 0 of 21 partitions, 0 of 1 runs ended, ... rows/s, time left is not known yet"
    assert [re.sub(r", [^,]* left$", "", line) for line in lines[1:]] == [
        "prices: 5 of 21 partitions, 0 of 1 runs ended, ... rows/s",
        "prices: 7 of 21 partitions, 0 of 1 runs ended, ... rows/s",
        "prices: 7 of 21 partitions, ... rows/s",
        # What the prices did not get is not waited for any more.
        "splits: 8 of 8 partitions, 1 of 1 runs ended, ... rows/s",
        "splits: 8 of 8 partitions, ... rows/s",
    ]
    assert lines[-1].endswith("0 s left")


def test_on_a_terminal_it_is_a_bar(fresh_store: MarketStore) -> None:
    out = io.StringIO()
    shown(fresh_store, Console(file=out, width=120, force_terminal=True))
    assert "8/8" in out.getvalue()
    assert "Loading splits" in out.getvalue()
