"""Submitting rectangles to a real daemon, over the toy graph."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import psutil
import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus

from nexus_assets import launcher
from nexus_assets.backfill import PLAN_TAG, Rectangle, split_rectangles, submit
from nexus_assets.backfill_progress import Outcome, follow
from nexus_assets.errors import BackfillError
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.dagster_homes import TOY_MODULE, DagsterHome, dagster_home
from nexus_assets_tests.toy_definitions import SYMBOLS, defs

REPOSITORY = defs.get_repository_def()
FIRST_DAY = date(2024, 1, 1)


@pytest.fixture(scope="module")
def home(databases: DatabaseMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterHome]:
    with dagster_home(tmp_path_factory.mktemp("backfill"), databases.empty()) as place:
        yield place


@pytest.fixture(scope="module")
def instance(home: DagsterHome) -> Iterator[DagsterInstance]:
    with home.instance() as opened:
        yield opened


@pytest.fixture(scope="module")
def daemon(home: DagsterHome, instance: DagsterInstance) -> Iterator[launcher.Running]:
    """Launches what is queued from the first test that asks for it; tests that queue for nobody stand before that."""
    with launcher.daemon(home.settings, home.root, lambda _: None) as running:
        yield running


def toy_submit(instance: DagsterInstance, job: str, *rectangles: Rectangle, plan: str) -> list[str]:
    return submit(instance, REPOSITORY, job, rectangles, plan=plan, module=TOY_MODULE)


def toy_follow(instance: DagsterInstance, run_ids: list[str]) -> tuple[Outcome, list[str]]:
    told: list[str] = []
    return follow(instance, run_ids, watch=told.append), told


def days(count: int, *symbols: str, assets: tuple[str, ...] = ()) -> Rectangle:
    return Rectangle(symbols or SYMBOLS, FIRST_DAY, FIRST_DAY + timedelta(days=count), assets)


def test_rectangles_together_hold_every_partition_once_and_come_day_by_day() -> None:
    rectangles = split_rectangles(("A", "B", "C", "D", "E"), FIRST_DAY, date(2024, 1, 8), parallel=2, max_days=3)
    held = [
        (symbol, rectangle.first_day + timedelta(days=day))
        for rectangle in rectangles
        for symbol in rectangle.symbols
        for day in range((rectangle.end_day - rectangle.first_day).days)
    ]
    assert sorted(held) == [(symbol, date(2024, 1, day)) for symbol in "ABCDE" for day in range(1, 8)]
    assert [rectangle.first_day.day for rectangle in rectangles] == [1, 1, 4, 4, 7, 7]
    assert {rectangle.lane for rectangle in rectangles} == {"A..B", "C..E"}


def test_a_symbol_alone_is_one_rectangle() -> None:
    assert split_rectangles(("A",), FIRST_DAY, date(2024, 1, 8)) == [Rectangle(("A",), FIRST_DAY, date(2024, 1, 8))]


def test_an_empty_range_of_days_is_refused() -> None:
    with pytest.raises(BackfillError, match="from 2024-01-01 to 2024-01-01"):
        split_rectangles(("A",), FIRST_DAY, FIRST_DAY)


@pytest.mark.parametrize(
    ("rectangle", "fact"),
    [
        (days(2, "AAA", "CCC"), "the symbols of that range are AAA, BBB, CCC, not AAA, CCC"),
        (days(2, "AAA", "ZZZ"), r"no partition 2024-01-02\|ZZZ"),
        (Rectangle(SYMBOLS, date(2023, 12, 31), FIRST_DAY), r"no partition 2023-12-31\|AAA"),
    ],
)
def test_partitions_that_do_not_exist_are_refused_and_nothing_is_queued(
    instance: DagsterInstance, rectangle: Rectangle, fact: str
) -> None:
    runs = instance.get_runs_count()
    with pytest.raises(BackfillError, match=fact):
        toy_submit(instance, "load", rectangle, plan="refused")
    assert instance.get_runs_count() == runs


def test_days_without_symbols_are_for_assets_with_one_partition_a_day(instance: DagsterInstance) -> None:
    (run_id,) = toy_submit(instance, "daily_load", Rectangle((), FIRST_DAY, date(2024, 1, 4)), plan="daily")
    run = instance.get_run_by_id(run_id)
    assert run
    assert run.tags["dagster/asset_partition_range_start"] == "2024-01-01"
    assert run.tags["dagster/asset_partition_range_end"] == "2024-01-03"
    instance.delete_run(run_id)


def test_a_submission_that_was_killed_between_creating_and_queueing_is_completed(
    home: DagsterHome, instance: DagsterInstance
) -> None:
    script = f"""
import os
from datetime import date
from dagster import DagsterInstance
from nexus_assets import backfill
from nexus_assets_tests.toy_definitions import SYMBOLS, defs
backfill.DagsterEvent.job_enqueue = lambda run: os.kill(os.getpid(), 9)
with DagsterInstance.get() as instance:
    rectangle = backfill.Rectangle(SYMBOLS, date(2024, 1, 1), date(2024, 1, 3))
    backfill.submit(instance, defs.get_repository_def(), "load", [rectangle], plan="cut", module="{TOY_MODULE}")
"""
    killed = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=home.root, check=False)
    assert killed.returncode == -signal.SIGKILL
    run_ids = toy_submit(instance, "load", days(2), plan="cut")
    runs = [run for run in instance.get_runs() if run.tags.get(PLAN_TAG) == "cut"]
    assert [(run.run_id, run.status) for run in runs] == [(run_ids[0], DagsterRunStatus.QUEUED)]
    instance.delete_run(run_ids[0])


@pytest.mark.end_to_end
def test_every_partition_of_every_rectangle_is_materialized_with_its_own_metadata(
    instance: DagsterInstance, daemon: launcher.Running
) -> None:
    rectangles = split_rectangles(SYMBOLS, FIRST_DAY, date(2024, 1, 11))
    outcome, told = toy_follow(instance, toy_submit(instance, "load", *rectangles, plan="full"))
    assert (len(outcome.succeeded), outcome.failed, outcome.materializations) == (2, (), 80)
    assert told[-1] == "2 of 2 runs ended"
    materialized = instance.get_materialized_partitions(AssetKey(["toy", "bars"]))
    assert len(materialized) == 40
    event = instance.get_latest_materialization_event(AssetKey(["toy", "raw"]))
    assert event
    assert event.asset_materialization
    assert {"keys", "rows"} <= event.asset_materialization.metadata.keys()


@pytest.mark.end_to_end
def test_the_same_plan_again_submits_nothing_and_another_plan_does(
    instance: DagsterInstance, daemon: launcher.Running
) -> None:
    first = toy_submit(instance, "load", days(1), plan="again")
    assert toy_submit(instance, "load", days(1), plan="again") == first
    toy_follow(instance, first)
    assert toy_submit(instance, "load", days(1), plan="again") == first
    other = toy_submit(instance, "load", days(1), plan="yet again")
    assert other != first
    toy_follow(instance, other)


@pytest.mark.end_to_end
def test_a_selection_of_assets_materializes_only_these(instance: DagsterInstance, daemon: launcher.Running) -> None:
    run_ids = toy_submit(instance, "load", days(3, assets=("toy/bars",)), plan="selection")
    outcome, _ = toy_follow(instance, run_ids)
    assert outcome.materializations == 12


@pytest.mark.end_to_end
def test_one_bad_symbol_is_named_and_the_others_are_recorded(
    instance: DagsterInstance, daemon: launcher.Running
) -> None:
    outcome, _ = toy_follow(instance, toy_submit(instance, "half_broken_load", days(5), plan="half"))
    (failed,) = outcome.failed
    assert failed.errors == ("toy__half_broken: DDD has no provider",)
    materialized = instance.get_materialized_partitions(AssetKey(["toy", "half_broken"]))
    assert materialized == {f"2024-01-0{day}|{symbol}" for day in range(1, 6) for symbol in SYMBOLS[:3]}


@pytest.mark.end_to_end
def test_an_error_in_an_asset_is_told_and_submitted_again_by_the_same_plan(
    instance: DagsterInstance, daemon: launcher.Running
) -> None:
    run_ids = toy_submit(instance, "crashing_load", days(1), plan="crash")
    outcome, _ = toy_follow(instance, run_ids)
    assert [failed.errors for failed in outcome.failed] == [("toy__crashing: ValueError: the price is negative",)]
    again = toy_submit(instance, "crashing_load", days(1), plan="crash")
    assert again != run_ids
    toy_follow(instance, again)


@pytest.mark.end_to_end
def test_a_run_whose_worker_is_killed_is_retried_and_followed_into_the_retry(
    instance: DagsterInstance, daemon: launcher.Running
) -> None:
    run_ids = toy_submit(instance, "slow_load", days(1), plan="killed worker")
    os.kill(worker_of(instance, run_ids[0]), signal.SIGKILL)
    outcome, _ = toy_follow(instance, run_ids)
    assert outcome.failed == ()
    assert outcome.succeeded != tuple(run_ids)
    assert toy_submit(instance, "slow_load", days(1), plan="killed worker") == list(outcome.succeeded)


def worker_of(instance: DagsterInstance, run_id: str) -> int:
    """The process that works on a run, once it does."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        run = instance.get_run_by_id(run_id)
        if run and run.status == DagsterRunStatus.STARTED:
            for record in instance.get_records_for_run(run_id).records:
                message = record.event_log_entry.message or ""
                if message.startswith("Started process for run (pid: "):
                    pid = int(message.split("pid: ")[1].split(")")[0])
                    assert psutil.pid_exists(pid)
                    return pid
        time.sleep(0.1)
    raise AssertionError(f"run {run_id} did not start")


def test_waiting_for_a_daemon_that_does_not_report_ends_with_the_reason(
    databases: DatabaseMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus_assets.backfill_progress.SILENT_DAEMON_SECONDS", 0.5)
    with dagster_home(tmp_path, databases.empty()) as place, place.instance() as opened:
        run_ids = toy_submit(opened, "load", days(1), plan="no daemon")
        with pytest.raises(BackfillError, match="1 runs wait for Dagster's daemon"):
            toy_follow(opened, run_ids)
