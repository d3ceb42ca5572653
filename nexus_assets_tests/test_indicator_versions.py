"""Indicators in the database: the same bits for any grouping of partitions, and only new columns computed anew."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_assets import planning
from nexus_assets.assets import indicators as asset
from nexus_assets.indicator_table import INDICATOR_NAMES, INDICATORS, INDICATORS_VERSION
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import Slice, days_between
from nexus_assets.schemas import BARS, INDICATOR_ROWS
from nexus_assets.settings import load_settings
from nexus_assets.settings import settings as project_settings
from nexus_assets.transforms import indicators as transform
from nexus_assets_tests.transforms.feature_bars import real, walk

SYMBOLS = ("EURUSD", "USDJPY")
WINDOWS = ((date(2021, 3, 8), date(2021, 3, 31)), (date(2020, 10, 19), date(2020, 11, 9)))
"""Each holds the changes of clock of New York and of Europe, and the week between."""


@pytest.fixture(autouse=True)
def one_timeframe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NEXUS_FEATURE_TIMEFRAMES", "1h")
    monkeypatch.setenv("NEXUS_START_DAY", "2020-01-01")
    project_settings.cache_clear()
    yield
    project_settings.cache_clear()


def write_bars(store: MarketStore, bars: pd.DataFrame, first_day: date, end_day: date) -> None:
    symbol = str(bars["symbol"].iloc[0])
    store.replace(BARS, bars, symbol=symbol, timeframes=["1h"], first_day=first_day, end_day=end_day)


def write(store: MarketStore, piece: Slice, frame: pd.DataFrame, version: int = INDICATORS_VERSION) -> None:
    store.replace(
        INDICATOR_ROWS, frame, symbol=piece.symbol, timeframes=["1h"], first_day=piece.first_day,
        end_day=piece.end_day, code_version=version,
    )  # fmt: skip


def table_hash(store: MarketStore) -> str:
    """A hash of every bit of the table, as the server sees it."""
    return store.database.rows(
        "SELECT md5(string_agg(i::text, E'\\n' ORDER BY symbol, timeframe, ts)) AS hash FROM features.indicators AS i"
    )[0]["hash"]


@pytest.fixture(scope="module")
def recorded(store: MarketStore, real_data: Path) -> MarketStore:
    for first, end in WINDOWS:
        for symbol in SYMBOLS:
            start = first - timedelta(days=30)
            write_bars(store, real(real_data, symbol, start, end), start, end)
    return store


def whole(window: tuple[date, date]) -> list[Slice]:
    return [Slice(symbol, *window) for symbol in SYMBOLS]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=st.sampled_from(WINDOWS), cuts=st.sets(st.integers(1, 20), max_size=20), seed=st.integers(0, 10_000))
def test_any_grouping_in_any_order_leaves_the_same_bits_in_the_database(
    recorded: MarketStore, window: tuple[date, date], cuts: set[int], seed: int
) -> None:
    recorded.database.run(lambda connection: connection.execute("TRUNCATE features.indicators, nexus.slices"))
    for piece in whole(window):
        write(recorded, piece, asset.compute(recorded, piece))
    together = table_hash(recorded)
    recorded.database.run(lambda connection: connection.execute("TRUNCATE features.indicators, nexus.slices"))
    days = days_between(*window)
    edges = [days[0], *(days[k] for k in sorted(cuts) if k < len(days)), window[1]]
    pieces = [
        Slice(symbol, first, end) for symbol in SYMBOLS for first, end in pairwise(edges)
    ]  # fmt: skip
    random.Random(seed).shuffle(pieces)
    for piece in pieces:
        write(recorded, piece, asset.compute(recorded, piece))
    assert table_hash(recorded) == together
    rows = recorded.database.rows("SELECT count(*) AS rows, count(adx_14) AS full FROM features.indicators")[0]
    assert rows["rows"] == rows["full"] > 700


@pytest.mark.parametrize("indicator", INDICATORS, ids=lambda i: i.name)
def test_a_column_has_its_first_value_on_the_bar_that_its_entry_says(indicator) -> None:
    bars = walk("EURUSD", date(2024, 1, 8), date(2024, 1, 20))
    series = transform._series(bars)
    own = transform._own_formulas(series, 6228.0, [indicator])
    values = own.get(indicator.name)
    if values is None:
        values = transform._value(indicator, series, {})
    assert int(pd.Series(values).first_valid_index()) + 1 == indicator.warm_up  # pyright: ignore[reportArgumentType]
    assert indicator.warm_up <= transform.WARMUP_BARS


@pytest.mark.parametrize("indicator", [i for i in INDICATORS if i.call.isupper()], ids=lambda i: i.name)
def test_no_parameter_of_ta_lib_is_left_to_its_default(indicator) -> None:
    from talib.abstract import Function  # pyright: ignore[reportAttributeAccessIssue]

    assert set(indicator.parameters) == set(Function(indicator.call).parameters)


class TestANewColumn:
    """A column that is newer than a slice is computed alone."""

    first, end = date(2024, 2, 1), date(2024, 2, 20)

    @pytest.fixture
    def stored(self, fresh_store: MarketStore) -> MarketStore:
        """A slice that version 1 wrote, before sma_30 was there, with one value that nobody would compute."""
        start = self.first - timedelta(days=30)
        write_bars(fresh_store, walk("EURUSD", start, self.end), start, self.end)
        piece = Slice("EURUSD", self.first, self.end)
        write(fresh_store, piece, asset.compute(fresh_store, piece), version=1)
        fresh_store.database.run(
            lambda connection: connection.execute("UPDATE features.indicators SET sma_30 = NULL, rsi_14 = 12.5")
        )
        return fresh_store

    @pytest.fixture(autouse=True)
    def version_2(self, monkeypatch: pytest.MonkeyPatch) -> None:
        newer = tuple(replace(i, version=2) if i.name == "sma_30" else i for i in INDICATORS)
        for module in (asset, transform):
            monkeypatch.setattr(module, "INDICATORS", newer)
            monkeypatch.setattr(module, "INDICATORS_VERSION", 2)
        monkeypatch.setitem(planning.VERSIONS, INDICATOR_ROWS.qualified, 2)

    def test_it_is_computed_and_the_others_keep_their_bits(self, stored: MarketStore) -> None:
        piece = Slice("EURUSD", self.first, self.end)
        fresh = asset.compute(stored, piece)
        rows, computed = asset.bring_up_to_date(stored, piece)
        assert computed == 1
        pd.testing.assert_series_equal(rows["sma_30"], fresh["sma_30"], check_exact=True)
        assert (rows["rsi_14"] == 12.5).all()
        assert (rows["code_version"] == 2).all()
        others = [name for name in INDICATOR_NAMES if name not in ("sma_30", "rsi_14")]
        pd.testing.assert_frame_equal(rows[others], fresh[others], check_exact=True)
        write(stored, piece, rows, version=2)
        assert planning.untouched_version(stored, piece, load_settings()) == 2

    def test_a_slice_whose_bars_changed_since_is_computed_as_a_whole(self, stored: MarketStore) -> None:
        changed = walk("EURUSD", self.first, self.end)
        changed.loc[3, "close"] = float(changed["high"].iloc[3])
        write_bars(stored, changed, self.first, self.end)
        rows, computed = asset.bring_up_to_date(stored, Slice("EURUSD", self.first, self.end))
        assert computed == len(INDICATOR_NAMES)
        assert (rows["rsi_14"] != 12.5).all()

    def test_exactly_the_slices_of_the_older_version_are_planned(self, stored: MarketStore) -> None:
        done = Slice("EURUSD", self.first, self.first + timedelta(days=5))
        write(stored, done, asset.bring_up_to_date(stored, done)[0], version=2)
        config = load_settings(symbols=("EURUSD",), feature_timeframes=("1h",), start_day=date(2024, 1, 1))
        ledger = planning.Ledger.read(stored, ["EURUSD"], date(2024, 1, 1), self.end)
        stale = planning.stale_cells(ledger, INDICATOR_ROWS, ["EURUSD"], self.first, self.end, config=config)
        assert {day for _, day in stale} == set(days_between(done.end_day, self.end))

    def test_a_column_at_the_end_of_the_database_s_table_is_read_and_written_by_name(self, stored: MarketStore) -> None:
        stored.database.run(
            lambda connection: connection.execute(
                "DROP VIEW features.indicators_latest; ALTER TABLE features.indicators DROP COLUMN sma_30; "
                "ALTER TABLE features.indicators ADD COLUMN sma_30 double precision"
            )
        )
        piece = Slice("EURUSD", self.first, self.end)
        rows, _ = asset.bring_up_to_date(stored, piece)
        write(stored, piece, rows, version=2)
        read = stored.read_slice(INDICATOR_ROWS, symbol="EURUSD", first_day=self.first, end_day=self.end)
        pd.testing.assert_frame_equal(read, rows, check_exact=True, check_dtype=False)
        write(stored, piece, rows, version=2)
