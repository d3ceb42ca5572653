"""Old history by month: the same tables and the same bits as by day, in assets of their own."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from nexus_assets.database import Database
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, PAIR_RANKINGS, RAW_OHLC, Table
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.graphs import Graph, graph

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY")
ENDS = ("EURUSD", "USDJPY")
HISTORY_START, START_DAY, END_DAY = date(2021, 1, 15), date(2021, 3, 10), date(2021, 3, 20)
"""Neither is the first of its month."""
MONTHS = date(2021, 1, 1), date(2021, 3, 2)
PRICES, FEATURES, ANALYTICS = (
    ("raw_ohlc", "bars"),
    ("indicators", "labels"),
    ("correlation_matrix", "pair_rankings"),
)
NOT_OF_THE_MARKET = {"known_at", "delivery_id", "window_known_at"}
"""When we learned something differs between two databases."""


def history(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"history/{name}" for name in names)


Told = dict[str, dict[str, dict]]
"""By asset and partition, the metadata of its newest materialisation."""


def told_by(made: Graph, assets: tuple[str, ...]) -> Told:
    told = {}
    for asset in assets:
        records = made.instance.fetch_materializations(dg.AssetKey.from_user_string(asset), limit=2000).records
        events = [record.asset_materialization for record in reversed(records)]
        told[asset] = {str(e.partition): {k: v.value for k, v in e.metadata.items()} for e in events if e}
    return told


@pytest.fixture(scope="module")
def by_day(databases: DatabaseMaker, services, real_data: Path) -> tuple[MarketStore, Told]:
    """The reference: a partition for each day."""
    url = databases.migrated()
    with graph(
        MarketStore(Database(url)), url, services.redis_url,
        symbols=" ".join(SYMBOLS), start_day=str(HISTORY_START), files_root=str(real_data / "oanda_h1"),
    ) as made:  # fmt: skip
        made.run(("market/raw_ohlc", "market/bars"), ENDS, HISTORY_START, END_DAY)
        made.run(("features/indicators", "features/labels"), ENDS, HISTORY_START, END_DAY)
        made.run_days(("analytics/correlation_matrix", "analytics/pair_rankings"), HISTORY_START, END_DAY)
        return made.store, told_by(made, ("market/raw_ohlc", "market/bars", "features/indicators", "features/labels"))


@pytest.fixture(scope="module")
def by_month(databases: DatabaseMaker, services, real_data: Path, by_day: object) -> Iterator[Graph]:
    """The same days, those before START_DAY by month."""
    url = databases.migrated()
    with graph(
        MarketStore(Database(url)), url, services.redis_url,
        symbols=" ".join(SYMBOLS), start_day=str(START_DAY), history_start=str(HISTORY_START),
        files_root=str(real_data / "oanda_h1"),
    ) as made:  # fmt: skip
        made.run(history(PRICES), ENDS, *MONTHS)
        made.run(("market/raw_ohlc", "market/bars"), ENDS, START_DAY, END_DAY)
        made.run(history(FEATURES), ENDS, *MONTHS)
        made.run(("features/indicators", "features/labels"), ENDS, START_DAY, END_DAY)
        made.run_days(history(ANALYTICS), *MONTHS)
        made.run_days(("analytics/correlation_matrix", "analytics/pair_rankings"), START_DAY, END_DAY)
        yield made


def rows(store: MarketStore, table: Table) -> pd.DataFrame:
    names = [name for name in table.column_names if name not in NOT_OF_THE_MARKET]
    key = ", ".join(name for name in table.key if name in names)
    return store.database.frame(f"SELECT {', '.join(names)} FROM {table.qualified} ORDER BY {key}")


@pytest.mark.parametrize(
    "table",
    [RAW_OHLC, BARS, INDICATOR_ROWS, LABELS, CORRELATION_MATRIX, PAIR_RANKINGS],
    ids=lambda table: table.qualified,
)
def test_history_by_month_is_the_same_bits_as_by_day(
    by_day: tuple[MarketStore, Told], by_month: Graph, table: Table
) -> None:
    expected, found = rows(by_day[0], table), rows(by_month.store, table)
    times = pd.to_datetime(found["ts" if "ts" in found else "day"], utc=True)
    for first, end in ((HISTORY_START, START_DAY), (START_DAY, END_DAY)):
        inside = (times >= pd.Timestamp(first, tz="UTC")) & (times < pd.Timestamp(end, tz="UTC"))
        assert inside.sum() > 20
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_a_month_tells_the_sums_of_its_days(by_day: tuple[MarketStore, Told], by_month: Graph) -> None:
    for name, schema in (
        ("bars", "market"),
        ("raw_ohlc", "market"),
        ("indicators", "features"),
        ("labels", "features"),
    ):
        days = by_day[1][f"{schema}/{name}"]
        months = told_by(by_month, (f"history/{name}",))[f"history/{name}"]
        assert set(months) == {f"2021-0{month}-01|{symbol}" for month in (1, 2, 3) for symbol in SYMBOLS}
        for key, told in months.items():
            mine = {
                day: of_day
                for day, of_day in days.items()
                if day[:7] == key[:7] and day[10:] == key[10:] and day[:10] < str(START_DAY)
            }
            for label in (
                "dagster/row_count",
                "quarantined",
                "suspects",
                "matured",
                "expected",
                "rows_without_warm_up",
            ):
                if label in told:
                    assert told[label] == sum(of_day[label] for of_day in mine.values()), (key, label)
            assert told["dagster/row_count"] > 100
            if "first_ts" in told:
                assert told["first_ts"] == min(of_day["first_ts"] for of_day in mine.values() if "first_ts" in of_day)
                assert told["last_ts"] == max(of_day["last_ts"] for of_day in mine.values() if "last_ts" in of_day)
            assert not {"quarantined_share", "data_age_minutes"} & told.keys()
