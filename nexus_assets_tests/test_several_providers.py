"""Two providers of one symbol through the graph: holes, failures, late rows, and what is asked again."""

import gzip
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from nexus_assets.database import Database
from nexus_assets.market_store import MarketStore
from nexus_assets.planning import Ledger, stale_cells, worth_asking
from nexus_assets.providers.registry import load_sources
from nexus_assets.schemas import BARS
from nexus_assets.services import ServiceState
from nexus_assets.settings import load_settings
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.graphs import Graph, graph
from nexus_assets_tests.providers.price_files import utc, walk

FIRST_DAY, END_DAY = date(2024, 3, 5), date(2024, 3, 7)
SYMBOL = ("EURUSD", "EURUSD")
PRICES = ("market/raw_ohlc", "market/bars")
HOLES = [utc("2024-03-05 03:00"), utc("2024-03-05 04:00"), utc("2024-03-06 10:00")]
SOURCE = """
[[source]]
provider = "files"
name = "{name}"
path = "{name}/{{symbol}}.csv.gz"
timeframe = "1h"
time_zone = "UTC"
price_kind = "mid"
volume_kind = "ticks"
symbols = ["EURUSD"]
"""


def put(root: Path, provider: str, rows: pd.DataFrame) -> None:
    (root / provider).mkdir(exist_ok=True)
    text = rows.assign(ts=rows["ts"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_csv(index=False)
    (root / provider / "EURUSD.csv.gz").write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def whole() -> pd.DataFrame:
    return walk("1h", start=datetime(2024, 3, 5, tzinfo=UTC), end=datetime(2024, 3, 7, tzinfo=UTC))


@pytest.fixture
def made(
    databases: DatabaseMaker, services: ServiceState, tmp_path: Path, whole: pd.DataFrame
) -> Iterator[tuple[Graph, Path]]:
    """`best` has three holes; `spare` has one of them, and another close in one bar of both."""
    root = tmp_path / "prices"
    root.mkdir()
    sources = tmp_path / "sources.toml"
    sources.write_text(SOURCE.format(name="best") + SOURCE.format(name="spare"), encoding="utf-8")
    put(root, "best", whole[~whole["ts"].isin(HOLES)])
    spare = whole[~whole["ts"].isin(HOLES[1:])].copy()
    spare.loc[spare["ts"] == utc("2024-03-06 12:00"), ["open", "high", "low", "close"]] *= 1.01
    put(root, "spare", spare)
    url = databases.migrated()
    with graph(
        MarketStore(Database(url)), url, services.redis_url,
        symbols="EURUSD", start_day="2024-03-01", feature_timeframes="1h",
        files_root=str(root), sources=str(sources),
    ) as loaded:  # fmt: skip
        loaded.run(PRICES, SYMBOL, FIRST_DAY, END_DAY)
        yield loaded, tmp_path


def gaps(loaded: Graph) -> list[tuple[str, int, str, str, str]]:
    rows = loaded.store.database.rows("SELECT ts, bars, state, reason, provider FROM market.gaps ORDER BY ts")
    return [(f"{r['ts']:%d %H:%M}", r["bars"], r["state"], r["reason"], r["provider"]) for r in rows]


def worth(loaded: Graph, tmp_path: Path) -> set[tuple[str, date]]:
    config = load_settings(symbols="EURUSD", start_day="2024-03-01")
    root, file = tmp_path / "prices", tmp_path / "sources.toml"
    return worth_asking(loaded.store, load_sources(file, root), ["EURUSD"], FIRST_DAY, END_DAY, config=config)


def test_a_hole_is_filled_by_the_other_provider_and_one_that_nobody_has_is_not_asked_for_again(
    made: tuple[Graph, Path],
) -> None:
    loaded, tmp_path = made
    assert gaps(loaded) == [
        ("05 03:00", 1, "healed", "another_provider", "spare"),
        ("05 04:00", 1, "missing", "provider_has_none", "best,spare"),
        ("06 10:00", 1, "missing", "provider_has_none", "best,spare"),
    ]
    providers = loaded.store.database.rows(
        "SELECT provider, count(*) AS bars FROM market.bars WHERE timeframe = '1h' GROUP BY 1 ORDER BY 1"
    )
    assert [(row["provider"], row["bars"]) for row in providers] == [("best", 45), ("spare", 1)]
    assert worth(loaded, tmp_path) == set()
    days = loaded.store.database.rows(
        "SELECT day, expected, present, missing, worth_asking, healed FROM market.gap_days ORDER BY day"
    )
    assert [tuple(row.values()) for row in days] == [
        (FIRST_DAY, 24, 23, 1, 0, 1), (FIRST_DAY + timedelta(days=1), 24, 23, 1, 0, 0),
    ]  # fmt: skip
    # What was confirmed is asked of the first provider only, because the slice was asked for.
    before = loaded.store.database.rows("SELECT count(*) AS n FROM market.deliveries")[0]["n"]
    loaded.run(PRICES, SYMBOL, FIRST_DAY, END_DAY)
    assert loaded.store.database.rows("SELECT count(*) AS n FROM market.deliveries")[0]["n"] == before + 1


def test_a_close_on_which_providers_differ_is_recorded_and_checked(made: tuple[Graph, Path]) -> None:
    loaded, _ = made
    rows = loaded.store.database.rows("SELECT ts, provider, other_provider FROM market.disagreements")
    assert [tuple(row.values()) for row in rows] == [(utc("2024-03-06 12:00"), "best", "spare")]
    result = loaded.run(("market/bars",), SYMBOL, FIRST_DAY, END_DAY)
    checks = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert not checks["providers_agree"].passed
    assert "best against spare" in str(checks["providers_agree"].metadata["apart"].value)
    assert checks["gaps_are_explained"].passed


def test_a_late_row_of_the_better_provider_is_a_correction(made: tuple[Graph, Path], whole: pd.DataFrame) -> None:
    loaded, tmp_path = made
    put(tmp_path / "prices", "best", whole[~whole["ts"].isin(HOLES[2:])])
    loaded.run(PRICES, SYMBOL, FIRST_DAY, END_DAY)
    assert [gap[:1] + gap[2:] for gap in gaps(loaded)] == [
        ("05 03:00", "healed", "late", "best"),
        ("05 04:00", "healed", "late", "best"),
        ("06 10:00", "missing", "provider_has_none", "best,spare"),
    ]
    row = loaded.store.database.rows("SELECT count(*) AS n FROM market.bars WHERE provider = 'spare'")[0]
    assert row["n"] == 0


def test_a_provider_that_fails_is_noted_and_asked_again(made: tuple[Graph, Path], whole: pd.DataFrame) -> None:
    loaded, tmp_path = made
    put(tmp_path / "prices", "best", whole[~whole["ts"].isin([*HOLES, utc("2024-03-05 20:00")])])
    loaded.store.database.run(lambda c: c.execute("TRUNCATE market.raw_ohlc, market.deliveries"))
    (tmp_path / "prices" / "spare" / "EURUSD.csv.gz").write_bytes(b"no gzip at all")
    loaded.run(PRICES, SYMBOL, FIRST_DAY, END_DAY)
    assert [gap[1:4] for gap in gaps(loaded)] == [
        (2, "missing", "provider_failed"), (1, "missing", "provider_failed"), (1, "missing", "provider_failed"),
    ]  # fmt: skip
    failed = loaded.store.database.rows("SELECT provider, transient, message FROM market.failed_requests")
    assert [(row["provider"], row["transient"]) for row in failed] == [("spare", False)]
    assert "spare/EURUSD.csv.gz" in failed[0]["message"]
    assert worth(loaded, tmp_path) == {("EURUSD", FIRST_DAY), ("EURUSD", FIRST_DAY + timedelta(days=1))}
    result = loaded.run(("market/bars",), SYMBOL, FIRST_DAY, END_DAY)
    checks = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert not checks["gaps_are_explained"].passed


def test_a_source_that_is_declared_later_is_asked_for_the_gaps(made: tuple[Graph, Path]) -> None:
    loaded, tmp_path = made
    assert worth(loaded, tmp_path) == set()
    with (tmp_path / "sources.toml").open("a", encoding="utf-8") as file:
        file.write(SOURCE.format(name="third"))
    put(tmp_path / "prices", "third", walk("1h")[:3])
    assert worth(loaded, tmp_path) == {("EURUSD", FIRST_DAY), ("EURUSD", FIRST_DAY + timedelta(days=1))}


def test_bars_made_under_another_order_of_sources_or_other_hours_are_made_again(made: tuple[Graph, Path]) -> None:
    loaded, tmp_path = made
    file, root = tmp_path / "sources.toml", tmp_path / "prices"
    config = load_settings(symbols="EURUSD", start_day="2024-03-01")

    def stale(text: str) -> set[tuple[str, date]]:
        file.write_text(text, encoding="utf-8")
        sources = load_sources(file, root)
        ledger = Ledger.read(loaded.store, ["EURUSD"], FIRST_DAY, END_DAY, config=config, sources=sources)
        return stale_cells(ledger, BARS, ["EURUSD"], FIRST_DAY, END_DAY, config=config)

    best, spare = SOURCE.format(name="best"), SOURCE.format(name="spare")
    days = {("EURUSD", FIRST_DAY), ("EURUSD", FIRST_DAY + timedelta(days=1))}
    assert stale(best + spare) == set()
    assert stale(spare + best) == days
    closed = 'closed = [{ asset_class = "fx", days = ["friday"], start = "16:00", end = "17:00" }]\n'
    assert stale(best + closed + spare) == days
    assert stale(best + spare) == set()
