"""A year of hours of many symbols through the daemon: from submit to the last recorded materialisation.

Beside it the same work without Dagster, a backfill launched as the UI does, and stock Dagster: its own event log
storage with one run for each partition, and with `BackfillPolicy.single_run()`.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from installation import BenchmarkError, Installation, installation

from nexus_assets.partitions import days_between, partition_key

if TYPE_CHECKING:
    from backfill import Chosen

ASSETS = ("market/raw_ohlc", "market/bars", "features/indicators", "features/labels")
PROCESSES = 2
SMALL_DAYS = 91
"""Days of the smaller of two ranges; the difference is what a partition more costs."""
UI_DAYS = 122
STOCK_DAYS = 15
STOCK_RUNS = 20

LAUNCH_RUN = """mutation ($run: ExecutionParams!) { launchPipelineExecution(executionParams: $run) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


def measure(chosen: "Chosen") -> dict[str, Any]:
    """Seconds, and milliseconds for a partition of an asset."""
    found: dict[str, Any] = {}
    with installation(chosen.variables()) as ours:
        small, bare_small = ranges(ours, chosen, min(SMALL_DAYS, chosen.days // 2))
        whole, bare = ranges(ours, chosen, chosen.days)
        found |= {f"rectangles_{name}": value for name, value in whole.items()}
        more = whole["materialisations"] - small["materialisations"]
        overhead = (whole["seconds"] - bare) - (small["seconds"] - bare_small)
        found["bare_work_seconds"] = bare
        found["rectangles_marginal_overhead_ms"] = overhead / more * 1e3
        found["rectangles_overhead_ms"] = (whole["seconds"] - bare) / whole["materialisations"] * 1e3
        days = min(UI_DAYS, chosen.days)
        keys = all_keys(chosen, days)
        found |= {f"ui_rectangle_{n}": v for n, v in through_the_ui(ours, chosen, keys).items()}
        ragged = [key for number, key in enumerate(keys) if (number * 7919) % 97 > 2]
        found |= {f"ui_ragged_{n}": v for n, v in through_the_ui(ours, chosen, ragged).items()}
        bare_ui = bare_seconds(ours, chosen, days)
        for name in ("rectangle", "ragged"):
            seconds, count = found[f"ui_{name}_seconds"], found[f"ui_{name}_materialisations"]
            share = count / (4 * len(keys))
            found[f"ui_{name}_overhead_ms"] = (seconds - bare_ui * share) / count * 1e3
    with installation(chosen.variables(), stock=True) as stock:
        found |= one_run_each(stock, chosen)
        stock.empty()
        keys = all_keys(chosen, min(STOCK_DAYS, chosen.days))
        single = through_the_ui(stock, chosen, keys)
        each = single["seconds"] / single["materialisations"]
        found["stock_single_run_ms"] = each * 1e3
        found["stock_single_run_extrapolated_seconds"] = each * found["rectangles_materialisations"]
    for name in ("one_run_each", "single_run"):
        found[f"times_faster_than_stock_{name}"] = (
            found[f"stock_{name}_extrapolated_seconds"] / found["rectangles_seconds"]
        )
    return found


def all_keys(chosen: "Chosen", days: int) -> list[str]:
    """Every partition of the first `days` days."""
    span = days_between(chosen.first_day, chosen.first_day + timedelta(days))
    return [partition_key(symbol, day) for symbol in chosen.symbols for day in span]


def ranges(ours: Installation, chosen: "Chosen", days: int) -> tuple[dict[str, Any], float]:
    """`nexus backfill` of the first `days` days into empty tables, and the seconds of the bare work."""
    ours.empty()
    submitted = datetime.now(UTC)
    end = chosen.first_day + timedelta(days)
    ours.nexus(
        "backfill", "--from", f"{chosen.first_day}", "--to", f"{end}", "--select", "prices", "--select", "features"
    )
    first = ours.dagster(
        "SELECT min(create_timestamp) FROM runs WHERE create_timestamp >= %s", (submitted.replace(tzinfo=None),)
    )[0][0]
    count, last = ours.recorded(submitted)
    expected = 4 * days * len(chosen.symbols)
    if count != expected:
        raise BenchmarkError(f"{count} materialisations were recorded, not {expected}.")
    return {
        "materialisations": count,
        "seconds": (last - first.replace(tzinfo=UTC)).total_seconds(),
        "rows": sum(rows(ours)),
    }, bare_seconds(ours, chosen, days)


def rows(ours: Installation) -> Sequence[int]:
    """Rows of the four tables."""
    tables = ("market.raw_ohlc", "market.bars", "features.indicators", "features.labels")
    return [ours.market(f"SELECT count(*) FROM {table}")[0][0] for table in tables]


def bare_seconds(ours: Installation, chosen: "Chosen", days: int) -> float:
    """Seconds of the same work in as many processes as there are runs, without their start-up."""
    ours.empty()
    half = len(chosen.symbols) // PROCESSES or 1
    groups = [chosen.symbols[:half], chosen.symbols[half:]]
    end = chosen.first_day + timedelta(days)
    return timed_processes([group for group in groups if group], chosen.first_day, end)


def timed_processes(groups: Sequence[Sequence[str]], first_day: date, end_day: date) -> float:
    """Seconds that the slowest group's process worked; all begin at once."""
    script = Path(__file__).with_name("bare_work.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, ",".join(group), f"{first_day}", f"{end_day}"], stdout=subprocess.PIPE, text=True
        )
        for group in groups
    ]
    told = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise BenchmarkError("The bare work failed.")
    return max(float(seconds) for seconds in told)


def through_the_ui(house: Installation, chosen: "Chosen", keys: Sequence[str]) -> dict[str, Any]:
    """A selection of partitions of the four assets, launched by the mutation that the UI sends, into empty tables."""
    house.empty()
    submitted = house.backfill(ASSETS, keys)
    count, last = house.recorded(submitted)
    if count != 4 * len(keys):
        raise BenchmarkError(f"{count} materialisations were recorded, not {4 * len(keys)}.")
    runs = house.dagster("SELECT count(*) FROM runs WHERE create_timestamp >= %s", (submitted.replace(tzinfo=None),))
    return {"materialisations": count, "seconds": (last - submitted).total_seconds(), "runs": runs[0][0]}


def one_run_each(stock: Installation, chosen: "Chosen") -> dict[str, Any]:
    """Single partitions, a run for each, all submitted at once."""
    keys = [partition_key(symbol, chosen.first_day) for symbol in chosen.symbols][:STOCK_RUNS]
    submitted = datetime.now(UTC)
    for key in keys:
        parameters = {
            "selector": {
                "repositoryName": "__repository__",
                "repositoryLocationName": "nexus_assets",
                "pipelineName": "market_update",
            },
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": key}]},
            "mode": "default",
        }
        launched = stock.graphql(LAUNCH_RUN, {"run": parameters})["launchPipelineExecution"]
        if "run" not in launched:
            raise BenchmarkError(f"launchPipelineExecution: {launched}")
    states = "SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
    while stock.dagster(states)[0][0]:
        time.sleep(0.5)
    count, last = stock.recorded(submitted)
    if count != 4 * len(keys):
        raise BenchmarkError(f"{count} materialisations were recorded, not {4 * len(keys)}.")
    each = (last - submitted).total_seconds() / len(keys)
    return {
        "stock_one_run_each_seconds_a_run": each,
        "stock_one_run_each_extrapolated_seconds": each * chosen.days * len(chosen.symbols),
    }
