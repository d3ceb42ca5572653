"""A small market under Dagster's webserver, daemon and code server, and the same market made in one go elsewhere."""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import yaml

from nexus_assets import launched_processes, launcher
from nexus_assets.database import Database
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import day_of_rows, partition_key
from nexus_assets.schemas import (
    BARS,
    CORRELATION_MATRIX,
    INDICATOR_ROWS,
    LABELS,
    PAIR_RANKINGS,
    RAW_OHLC,
    Table,
    table,
)
from nexus_assets.services import ServiceState
from nexus_assets.settings import Settings, load_settings, settings
from nexus_assets_tests.conftest import ROOT, DatabaseMaker
from nexus_assets_tests.graphs import graph
from nexus_assets_tests.selections.ui_client import Ui

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD")
TODAY = datetime.now(UTC).date()
FIRST_DAY = TODAY - timedelta(days=60)
END_DAY = TODAY + timedelta(days=1)
SETTLED_END = TODAY - timedelta(days=10)
"""Before this day everything is final: the horizon of every label is over, whatever the time."""

RAW, BAR_ROWS, INDICATORS, LABEL_ROWS = (f"{t.schema}/{t.name}" for t in (RAW_OHLC, BARS, INDICATOR_ROWS, LABELS))
CORRELATIONS, RANKINGS = (f"{t.schema}/{t.name}" for t in (CORRELATION_MATRIX, PAIR_RANKINGS))
CHAIN = (RAW, BAR_ROWS, INDICATORS, LABEL_ROWS)
ANALYTICS = (CORRELATIONS, RANKINGS)
LEFT_OUT = {"known_at", "delivery_id", "backfilled"}
"""Columns that say when and how a row was learned: another load has others."""

Selection = Mapping[str, Collection[str]]
"""Partition keys by asset."""


def day(number: int) -> date:
    """The day of that number; 0 is the first partition."""
    return FIRST_DAY + timedelta(days=number)


def keys(symbols: Iterable[str], first: int, end: int) -> list[str]:
    """A rectangle of partitions: days number first to end, end excluded."""
    return [partition_key(symbol, day(number)) for number in range(first, end) for symbol in symbols]


def days(first: int, end: int) -> list[str]:
    """Partitions by day."""
    return [str(day(number)) for number in range(first, end)]


def slices(database: Database, target: Table) -> dict[str, str]:
    """A hash of the rows of every partition of a table that has rows, before SETTLED_END."""
    rows = database.arrow(f"SELECT * FROM {target.qualified} ORDER BY {', '.join(target.key)}").cast(target.arrow)
    by_day = target.time_column == "day"
    frame = target.to_pandas(rows)
    moments = frame["day"] if by_day else day_of_rows(frame)
    partitions = moments.astype(str) if by_day else moments.astype(str) + "|" + frame["symbol"]
    kept = rows.select([name for name in rows.column_names if name not in LEFT_OUT])
    found: dict[str, Any] = {}
    for partition, row in zip(partitions, kept.to_pylist(), strict=True):
        if partition[:10] < str(SETTLED_END):
            found.setdefault(partition, hashlib.sha256()).update(repr(row).encode())
    return {partition: digest.hexdigest() for partition, digest in found.items()}


@dataclass
class ServedMarket:
    """What is served, its databases, and what every slice must hold in the end."""

    ui: Ui
    root: Path
    database: Database
    store: MarketStore
    url: str
    dagster_url: str
    right: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def ledger(self) -> dict[tuple[str, str], datetime]:
        """When each slice was written, by asset and partition."""
        rows = self.database.rows("SELECT table_name, symbol, day, written_at FROM nexus.slices")
        return {
            (row["table_name"].replace(".", "/"), f"{row['day']}|{row['symbol']}".rstrip("|")): row["written_at"]
            for row in rows
        }

    def recorded(self, *run_ids: str) -> dict[str, list[str]]:
        """The partitions whose materialisation these runs recorded, by asset."""
        with psycopg.connect(self.dagster_url) as connection:
            rows = connection.execute(
                "SELECT asset_key, partition FROM event_logs WHERE run_id = ANY (%s) "
                "AND dagster_event_type = 'ASSET_MATERIALIZATION'",
                (list(run_ids),),
            ).fetchall()
        found: dict[str, list[str]] = {}
        for asset, partition in rows:
            found.setdefault("/".join(json.loads(asset)), []).append(partition)
        return found

    def slices(self, asset: str) -> dict[str, str]:
        """A hash of the rows of every partition of an asset that has rows and is settled."""
        return slices(self.database, table(asset.replace("/", ".")))

    def differing(self, selection: Selection) -> dict[str, list[str]]:
        """Partitions of a selection whose rows are not those of the undisturbed load, by asset."""
        found = {}
        for asset, chosen in selection.items():
            have = self.slices(asset)
            want = self.right[asset]
            wrong = sorted(key for key in chosen if key[:10] < str(SETTLED_END) and have.get(key) != want.get(key))
            if wrong:
                found[asset] = wrong
        return found

    def one_number(self, query: str) -> int:
        """What a query of one number answers."""
        (row,) = self.database.rows(query)
        return int(next(iter(row.values())))


@dataclass
class Watched:
    """What was there before a selection was launched."""

    market: ServedMarket
    ledger: Mapping[tuple[str, str], datetime]
    green: Mapping[str, set[str]]

    @classmethod
    def begin(cls, market: ServedMarket, assets: Sequence[str]) -> "Watched":
        return cls(market, market.ledger(), {asset: market.ui.materialised(asset) for asset in assets})

    def assert_exactly(
        self, selection: Selection, run_ids: Sequence[str], *, right: Collection[str] | None = None
    ) -> None:
        """The runs wrote and recorded each chosen partition once and no other, and the rows are the right ones; where
        `right` is given, only those of these assets."""
        recorded = self.market.recorded(*run_ids)
        assert {asset: sorted(found) for asset, found in recorded.items()} == {
            asset: sorted(chosen) for asset, chosen in selection.items()
        }
        ledger = self.market.ledger()
        touched = {slot for slot, written_at in ledger.items() if self.ledger.get(slot) != written_at}
        assert touched == {(asset, key) for asset, chosen in selection.items() for key in chosen}
        for asset, chosen in selection.items():
            assert self.market.ui.materialised(asset) == self.green[asset] | set(chosen)
        judged = {asset: chosen for asset, chosen in selection.items() if right is None or asset in right}
        assert self.market.differing(judged) == {}


def impatient_dagster_yaml() -> dict[str, Any]:
    """The project's own, but for how often lost runs are looked for."""
    config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    config["run_monitoring"]["poll_interval_seconds"] = 2
    return config


@contextmanager
def served(root: Path, databases: DatabaseMaker, services: ServiceState, **changes: Any) -> Iterator[ServedMarket]:
    """Serve an empty market. Changes go to `concurrency` of dagster.yaml."""
    for name in ("sql", "sources.toml", "workspace.yaml"):
        (root / name).symlink_to(ROOT / name)
    config = impatient_dagster_yaml()
    config["concurrency"] |= changes
    (root / "dagster.yaml").write_text(yaml.safe_dump(config))
    url, dagster_url = databases.migrated(), databases.empty(extension=False)
    with environment(root, url, dagster_url, services) as settled:
        try:
            with launcher.serve(settled, root, 34_100, lambda _: None) as running:
                database = Database(url)
                yield ServedMarket(Ui(running.url), root, database, MarketStore(database), url, dagster_url)
        finally:
            for process in processes(root):
                process.kill()


@contextmanager
def environment(root: Path, url: str, dagster_url: str, services: ServiceState) -> Iterator[Settings]:
    """What Dagster's processes are given."""
    variables = {
        "DAGSTER_HOME": str(root),
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
        "NEXUS_ROOT": str(root),
        "NEXUS_HOME": str(root / "home"),
        "NEXUS_DATABASE_URL": url,
        "NEXUS_DAGSTER_URL": dagster_url.replace("postgresql://", "postgresql+psycopg2://", 1),
        "NEXUS_REDIS_URL": f"{services.redis_url.rsplit('/', 1)[0]}/7",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        **market_variables(),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        settings.cache_clear()
        try:
            yield load_settings()
        finally:
            settings.cache_clear()


def market_variables() -> dict[str, str]:
    """What defines the market: symbols, days, timeframes."""
    return {
        "NEXUS_SYMBOLS": " ".join(SYMBOLS),
        "NEXUS_START_DAY": str(FIRST_DAY),
        "NEXUS_FEATURE_TIMEFRAMES": "1h",
        "NEXUS_AUTOMATION": "off",
    }


def processes(root: Path) -> list[psutil.Process]:
    """Living processes that were given this root, ourselves apart."""
    return [
        process
        for process, variables in launched_processes.processes_with_environment()
        if variables.get("DAGSTER_HOME") == str(root)
    ]


def undisturbed(url: str, redis_url: str) -> dict[str, dict[str, str]]:
    """Every slice of the market, made in one process and in order, by asset."""
    database = Database(url)
    given: dict[str, Any] = {name.removeprefix("NEXUS_").lower(): value for name, value in market_variables().items()}
    ends = (SYMBOLS[0], SYMBOLS[-1])
    with graph(MarketStore(database), url, redis_url, **given) as made:
        made.run(CHAIN[:2], ends, FIRST_DAY, END_DAY)
        made.run(CHAIN[2:], ends, FIRST_DAY, END_DAY)
        made.run_days(ANALYTICS, FIRST_DAY, END_DAY)
    return {asset: slices(database, table(asset.replace("/", "."))) for asset in (*CHAIN, *ANALYTICS)}
