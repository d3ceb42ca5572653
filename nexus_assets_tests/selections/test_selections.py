"""What people select in the UI is written, all of it and nothing else, in whatever order the runs come.

The tests build on each other: prices first, then what is made of them. Backfills of one test are launched together.
"""

from datetime import date

import pytest

from nexus_assets.planning import ANALYTICS as ANALYTIC_TABLES
from nexus_assets.planning import Ledger, stale_cells, stale_days
from nexus_assets.resources import open_sources
from nexus_assets.schemas import INDICATOR_ROWS, LABELS, PAIR_RANKINGS
from nexus_assets.settings import settings
from nexus_assets.slice_ledger import ALL_SYMBOLS
from nexus_assets_tests.selections.served_market import (
    ANALYTICS,
    BAR_ROWS,
    CHAIN,
    CORRELATIONS,
    END_DAY,
    FIRST_DAY,
    INDICATORS,
    LABEL_ROWS,
    RANKINGS,
    RAW,
    SYMBOLS,
    TODAY,
    ServedMarket,
    Watched,
    days,
    keys,
)

pytestmark = pytest.mark.end_to_end

EARLY = keys(["XAUUSD"], 25, 28)
"""Features that are selected before there are prices."""
RECTANGLE = keys(SYMBOLS[:2], 0, 5)
RAGGED = [*keys(["USDJPY"], 0, 1), *keys(["USDJPY"], 2, 3), *keys(["XAUUSD"], 1, 2)]


def ids(runs: list[dict]) -> list[str]:
    return [run["id"] for run in runs]


def test_all_partitions_of_one_asset_and_features_that_come_before_their_prices(market: ServedMarket) -> None:
    watched = Watched.begin(market, [RAW, INDICATORS, LABEL_ROWS])
    everything = market.ui.partitions(RAW)
    features = market.ui.backfill([INDICATORS, LABEL_ROWS], EARLY)
    prices = market.ui.backfill([RAW], everything)
    market.ui.await_backfills(features, prices)
    runs = [*market.ui.runs(backfill=features), *market.ui.runs(backfill=prices)]
    watched.assert_exactly({RAW: everything, INDICATORS: EARLY, LABEL_ROWS: EARLY}, ids(runs), right=[RAW])
    # One run per symbol: Dagster keeps the smaller dimension constant.
    assert len(runs) == len(SYMBOLS) + 1
    assert market.slices(INDICATORS).keys() & set(EARLY) == set()


def test_a_rectangle_and_a_ragged_set_with_holes(market: ServedMarket) -> None:
    watched = Watched.begin(market, [BAR_ROWS])
    backfills = [market.ui.backfill([BAR_ROWS], chosen) for chosen in (RECTANGLE, RAGGED)]
    market.ui.await_backfills(*backfills)
    runs = [market.ui.runs(backfill=one) for one in backfills]
    watched.assert_exactly({BAR_ROWS: [*RECTANGLE, *RAGGED]}, ids([*runs[0], *runs[1]]))
    assert sorted(market.recorded(*ids(runs[1]))[BAR_ROWS]) == sorted(RAGGED)


def test_all_that_is_missing(market: ServedMarket) -> None:
    watched = Watched.begin(market, [BAR_ROWS])
    missing = market.ui.missing(BAR_ROWS)
    assert set(market.ui.partitions(BAR_ROWS)) - set(missing) == {*RECTANGLE, *RAGGED}
    backfill = market.ui.backfill([BAR_ROWS], missing)
    market.ui.await_backfills(backfill)
    watched.assert_exactly({BAR_ROWS: missing}, ids(market.ui.runs(backfill=backfill)))
    assert market.ui.missing(BAR_ROWS) == []


def test_features_that_came_too_early_are_stale_and_right_when_they_are_selected_again(market: ServedMarket) -> None:
    config = settings()
    ledger = Ledger.read(market.store, SYMBOLS, FIRST_DAY, END_DAY, config=config, sources=open_sources(config))
    for table in (INDICATOR_ROWS, LABELS):
        stale = stale_cells(ledger, table, SYMBOLS, FIRST_DAY, END_DAY, config=config)
        assert {(key[11:], date.fromisoformat(key[:10])) for key in EARLY} <= stale
    watched = Watched.begin(market, [INDICATORS, LABEL_ROWS])
    backfill = market.ui.backfill([INDICATORS, LABEL_ROWS], EARLY)
    market.ui.await_backfills(backfill)
    watched.assert_exactly({INDICATORS: EARLY, LABEL_ROWS: EARLY}, ids(market.ui.runs(backfill=backfill)))


def test_a_chain_with_other_days_for_each_asset(market: ServedMarket) -> None:
    ranges = {
        RAW: (f"{days(20, 21)[0]}|GBPUSD", f"{days(30, 31)[0]}|GBPUSD"),
        BAR_ROWS: (f"{days(20, 21)[0]}|GBPUSD", f"{days(30, 31)[0]}|GBPUSD"),
        INDICATORS: (f"{days(27, 28)[0]}|GBPUSD", f"{days(30, 31)[0]}|GBPUSD"),
        LABEL_ROWS: (f"{days(29, 30)[0]}|GBPUSD", f"{days(30, 31)[0]}|GBPUSD"),
    }
    selection = {asset: keys(["GBPUSD"], first, 31) for asset, first in zip(ranges, (20, 20, 27, 29), strict=True)}
    watched = Watched.begin(market, list(ranges))
    backfill = market.ui.backfill_ranges({asset: [ends] for asset, ends in ranges.items()})
    market.ui.await_backfills(backfill)
    watched.assert_exactly(selection, ids(market.ui.runs(backfill=backfill)))


def test_assets_by_day_follow_the_days_of_the_symbols_that_are_selected_with_them(market: ServedMarket) -> None:
    watched = Watched.begin(market, [BAR_ROWS, *ANALYTICS])
    chosen = keys(SYMBOLS, 40, 42)
    backfill = market.ui.backfill([BAR_ROWS, *ANALYTICS], chosen)
    market.ui.await_backfills(backfill)
    selection = {BAR_ROWS: chosen, CORRELATIONS: days(40, 42), RANKINGS: days(40, 42)}
    # A day's ranking also follows from the week before, which is not there yet.
    watched.assert_exactly(selection, ids(market.ui.runs(backfill=backfill)), right=[BAR_ROWS, CORRELATIONS])


def test_one_run_for_a_range_for_one_partition_and_for_days_of_a_job(market: ServedMarket) -> None:
    watched = Watched.begin(market, [INDICATORS, LABEL_ROWS, *ANALYTICS])
    rectangle = keys(SYMBOLS[:2], 33, 36)
    alone = keys(["USDJPY"], 34, 35)
    runs = [
        market.ui.run_range([INDICATORS], rectangle[0], rectangle[-1]),
        market.ui.run_partition([LABEL_ROWS], alone[0]),
    ]
    job = market.ui.backfill_job("daily_correlation", days(44, 46))
    market.ui.await_runs(*runs)
    market.ui.await_backfills(job)
    selection = {INDICATORS: rectangle, LABEL_ROWS: alone, CORRELATIONS: days(44, 46), RANKINGS: days(44, 46)}
    ended = [*runs, *ids(market.ui.runs(backfill=job))]
    watched.assert_exactly(selection, ended, right=[INDICATORS, LABEL_ROWS, CORRELATIONS])


def test_when_nothing_is_stale_everything_that_is_green_is_right(market: ServedMarket) -> None:
    """Rankings that were made before the week behind them become stale when that week is there."""
    rounds = 0
    while stale := stale_analytics(market):
        assert (rounds := rounds + 1) <= 2
        market.ui.await_backfills(market.ui.backfill_job("daily_correlation", stale))
    assert rounds == 2
    assets = (*CHAIN, *ANALYTICS)
    green = {asset: market.ui.materialised(asset) for asset in assets}
    assert green[RANKINGS] == set(market.ui.partitions(RANKINGS))
    assert market.differing(green) == {}


def stale_analytics(market: ServedMarket) -> list[str]:
    """The days of correlations and rankings that are missing or older than what they follow from. Today's are never
    complete; once is enough."""
    config = settings()
    ledger = Ledger.read(market.store, SYMBOLS, FIRST_DAY, END_DAY, config=config, sources=open_sources(config))
    found = (stale_days(ledger, table, SYMBOLS, FIRST_DAY, END_DAY, config=config) for table in ANALYTIC_TABLES)
    never = {TODAY} if ledger.written(PAIR_RANKINGS.qualified, ALL_SYMBOLS, TODAY) else set()
    return sorted(str(day) for day in set().union(*found) - never)
