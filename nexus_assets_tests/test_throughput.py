"""What a plan is expected to take: rows by hand-counted calendars, seconds from runs that Dagster recorded."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from nexus_assets.backfill import PLAN_TAG, Rectangle
from nexus_assets.load_plan import ROWS_TAG, ExpectedRows, PlannedRun, Work
from nexus_assets.load_progress import Tally, duration, time_left
from nexus_assets.resources import open_sources
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, RAW_OHLC
from nexus_assets.settings import load_settings
from nexus_assets.throughput import Rate, Throughput, fit, measure, side_by_side
from nexus_assets_tests.toy_definitions import PARTITIONS, defs

MONDAY, SATURDAY = date(2024, 3, 4), date(2024, 3, 9)
CONFIG = load_settings(symbols=("EURUSD", "GBPUSD", "XAUUSD"), feature_timeframes=("1h", "4h"))
ASSETS = ("toy/raw", "toy/bars")


def days_of(symbol: str, count: int = 7) -> set[tuple[str, date]]:
    return {(symbol, MONDAY + timedelta(days=number)) for number in range(count)}


@pytest.mark.parametrize(
    ("table", "symbol", "rows"),
    [
        # From Monday 00:00 UTC to Friday 22:00 (17:00 New York), and Sunday from 21:00: New York's clock has changed.
        (RAW_OHLC, "EURUSD", 4 * 24 + 22 + 3),
        # Gold opens an hour later and rests an hour at 22:00 from Monday to Thursday.
        (RAW_OHLC, "XAUUSD", 4 * 23 + 22 + 2),
        # Besides 1h, six 4h bars and one 1d bar of each of five trading days. Sunday's first 4h bar ends on Monday.
        (BARS, "EURUSD", (4 * 24 + 22 + 3) + 30 + 5),
        (INDICATOR_ROWS, "EURUSD", (4 * 24 + 22 + 3) + 30),
        (LABELS, "EURUSD", (4 * 24 + 22 + 3) + 30),
    ],
)
def test_rows_are_those_that_the_calendar_expects_of_a_week(table, symbol: str, rows: int) -> None:
    assert ExpectedRows(CONFIG, open_sources(CONFIG)).of(table, days_of(symbol)) == rows


def test_days_without_a_market_have_no_rows() -> None:
    expected = ExpectedRows(CONFIG, open_sources(CONFIG))
    assert expected.of(RAW_OHLC, {("EURUSD", SATURDAY), ("XAUUSD", SATURDAY)}) == 0
    assert expected.of(CORRELATION_MATRIX, {("", SATURDAY)}) == 0


def test_correlations_are_every_pair_of_every_day_with_bars() -> None:
    expected = ExpectedRows(CONFIG, open_sources(CONFIG))
    assert expected.of(CORRELATION_MATRIX, {("", day) for _, day in days_of("EURUSD")}) == 3 * 6


def test_the_line_through_measured_runs_has_what_every_step_costs_and_what_every_row_does() -> None:
    rate = fit([(1_000, 1.5), (3_000, 2.5), (5_000, 3.5)])
    assert rate.seconds == pytest.approx(1.0)
    assert rate.seconds_per_row == pytest.approx(0.0005)
    assert rate.of(100_000) == pytest.approx(51.0)


def test_a_line_never_promises_less_than_nothing() -> None:
    assert fit([(2_000, 4.0), (2_000, 2.0)]) == Rate(0.0, 0.0015)
    assert fit([(100, 3.0), (1_000, 1.0)]) == Rate(2.0, 0.0)
    below_zero = fit([(100, 0.01), (1_000, 2.0), (2_000, 5.0)])
    assert below_zero.seconds == 0.0
    assert 0.002 < below_zero.seconds_per_row < 0.0026
    assert fit([(0, 0.5)]) == Rate(0.5, 0.0)


def test_runs_work_side_by_side_but_those_of_a_lane_follow_one_another() -> None:
    assert side_by_side([("a", 3.0), ("b", 3.0)], 2) == 3.0
    assert side_by_side([("a", 3.0), ("b", 3.0)], 1) == 6.0
    assert side_by_side([("a", 3.0), ("a", 3.0), ("b", 3.0)], 2) == 6.0
    assert side_by_side([("a", 5.0), ("b", 1.0), ("a", 1.0), ("b", 1.0)], 2) == 6.0
    assert side_by_side([], 2) == 0.0


def planned(rows: int, *, slices: int = 10, lane: str = "AAA", assets: tuple[str, ...] = ASSETS) -> PlannedRun:
    rectangle = Rectangle((lane,), MONDAY, SATURDAY, assets)
    return PlannedRun("prices", rectangle, (RAW_OHLC, BARS), {asset: Work(slices, rows) for asset in assets})


def test_a_stage_takes_as_long_as_its_runs_do_beside_one_another() -> None:
    rates = {"toy/raw": Rate(1.0, 0.001), "toy/bars": Rate(0.0, 0.002)}
    known = Throughput(rates=rates, run_seconds=4.0, runs=3, rows=5_000, days=1, parallel=2)
    assert known.seconds(planned(1_000)) == pytest.approx(4.0 + 1.0 + 1.0 + 2.0)
    assert known.seconds_of_stage([planned(1_000), planned(1_000, lane="BBB")]) == pytest.approx(8.0)
    assert known.seconds_of_stages([[planned(1_000)], [], [planned(1_000)]]) == pytest.approx(16.0)
    assert known.basis == "measured in 3 runs of the last day, 5,000 rows"


def test_what_was_not_measured_has_no_time() -> None:
    assert Throughput().seconds(planned(1_000)) is None
    assert Throughput().basis == "no load has ended on this installation"
    half = Throughput(rates={"toy/raw": Rate(1.0, 0.0)}, runs=1)
    assert half.seconds_of_stages([[planned(1_000, assets=("toy/raw",))], [planned(1_000)]]) is None


def test_the_time_left_goes_from_the_estimate_to_the_load_s_own_speed() -> None:
    known = Throughput(rates=dict.fromkeys(ASSETS, Rate(0.0, 0.001)), runs=1)
    tally = Tally.of([planned(1_000)])
    assert time_left([tally], known, 3.0, estimate=20.0) == 20.0
    assert time_left([tally], Throughput(), 3.0, estimate=None) is None
    tally.done = {"toy/raw": Work(10, 1_000)}
    assert time_left([tally], Throughput(), 30.0, estimate=None) == pytest.approx(30.0)
    assert time_left([tally], known, 30.0, estimate=20.0) == pytest.approx(0.5 * (0.5 * 60 + 0.5 * 20))
    tally.done["toy/bars"] = Work(10, 990)
    assert time_left([tally], known, 50.0, estimate=20.0) == 0.0


def test_the_time_left_is_over_all_stages() -> None:
    over, to_come = Tally.of([planned(1_000)]), Tally.of([planned(3_000)])
    over.done = dict.fromkeys(ASSETS, Work(9, 900))
    over.finish()
    known = Throughput(rates=dict.fromkeys(ASSETS, Rate(0.0, 0.001)), runs=1)
    assert time_left([over, to_come], known, 9.0, estimate=None) == pytest.approx(30.0)


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "0 s"), (99, "99 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_lengths_of_time_are_told_in_the_unit_that_people_would_use(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


def load_toys(instance: dg.DagsterInstance, days: int, plan: str | None, **tags: str) -> str:
    keys = [f"2024-01-{day:02}|AAA" for day in (1, days)]
    own = {PLAN_TAG: plan, ROWS_TAG: json.dumps({"toy/raw": 24 * days, "toy/bars": 30 * days})} if plan else {}
    ranges = dict(zip(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), keys, strict=True))
    job = defs.resolve_job_def("load")
    assert PARTITIONS.has_partition_key(keys[0])
    return job.execute_in_process(instance=instance, tags={**ranges, **own, **tags}).run_id


def test_nothing_is_told_of_an_installation_that_never_loaded(instance: dg.DagsterInstance) -> None:
    load_toys(instance, 2, plan=None)
    assert measure(instance).rates == {}


def test_loads_are_measured_by_the_durations_of_their_steps(instance: dg.DagsterInstance) -> None:
    runs = [load_toys(instance, days, f"load 2024-01-0{days}T00:00:00+00:00") for days in (2, 3, 9)]
    load_toys(instance, 2, "load 2024-01-04T00:00:00+00:00", **{"dagster/retry_number": "1"})
    found = measure(instance)
    assert (found.runs, found.rows, found.days) == (3, 54 * (2 + 3 + 9), 1)
    assert set(found.rates) == set(ASSETS)
    steps = {
        run_id: {step.step_key: (step.end_time or 0) - (step.start_time or 0) for step in stats}
        for run_id in runs
        for stats in [instance.get_run_step_stats(run_id)]
    }
    for asset, rows in (("toy/raw", 24), ("toy/bars", 30)):
        points = [
            (rows * days, steps[run][asset.replace("/", "__")]) for run, days in zip(runs, (2, 3, 9), strict=True)
        ]
        total = sum(found.rates[asset].of(count) for count, _ in points)
        assert total == pytest.approx(sum(seconds for _, seconds in points), rel=0.5, abs=0.05)
    assert 0 <= found.run_seconds < 30


def test_only_the_newest_loads_count(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_assets.throughput.MOST_LOADS", 1)
    for day in ("01", "02"):
        load_toys(instance, 2, f"load 2024-01-{day}T00:00:00+00:00")
    assert measure(instance).runs == 1
