"""The hourly update of many symbols, from the schedule's tick to the last written row, and the daily correlation.

With one year and with ten years stored. The schedule is the project's own, set to every minute. Before each tick the
newest hours are removed, so that the update has something to add.
"""

import time
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

from hours import LAUNCH_RUN, timed_processes
from installation import BenchmarkError, Installation, installation

from nexus_assets import trading_calendar

if TYPE_CHECKING:
    from backfill import Chosen

YEARS = (1, 10)
TICKS = 4
YEAR = 364
"""Days by which a year is copied into the past: whole weeks, so that weekends fall on weekends."""
TABLES = ("market.raw_ohlc", "market.bars", "features.indicators", "features.labels")
START_SCHEDULE = """mutation { startSchedule(scheduleSelector: {repositoryName: "__repository__",
  repositoryLocationName: "nexus_assets", scheduleName: "hourly_update"}) { __typename } }"""
STOP_SCHEDULE = """mutation ($id: String!) { stopRunningSchedule(id: $id) { __typename } }"""
SCHEDULES = """{ schedulesOrError(repositorySelector: {repositoryName: "__repository__",
  repositoryLocationName: "nexus_assets"}) { ... on Schedules { results { name scheduleState { id } } } } }"""
LAST_ROW = "SELECT extract(epoch FROM max(written_at))::float FROM nexus.slices WHERE written_at <= to_timestamp(%s)"
RUNS = """
SELECT run_id, extract(epoch FROM create_timestamp), start_time, end_time, status FROM runs
WHERE pipeline_name = 'market_update' AND create_timestamp > %s ORDER BY id
"""


def measure(chosen: "Chosen") -> dict[str, Any]:
    """Seconds: medians of TICKS."""
    found: dict[str, Any] = {}
    for years in YEARS:
        today = datetime.now(UTC).date()
        first = today - timedelta(YEAR * years + 30)
        variables = {"symbols": " ".join(chosen.symbols), "start_day": f"{first}"}
        with installation(variables, module="minutely_definitions") as house:
            loaded = today - timedelta(YEAR)
            house.nexus("backfill", "--from", f"{loaded}", "--to", f"{today + timedelta(1)}")
            for number in range(1, years):
                copy_year(house, loaded, number)
            house.execute("ANALYZE")
            for name, value in {**updates(house, chosen, today), **correlation(house, today)}.items():
                found[f"{years}_years_{name}"] = value
    for name in ("run_seconds", "bare_seconds", "correlation_seconds"):
        found[f"ten_years_against_one_{name}"] = found[f"10_years_{name}"] / found[f"1_years_{name}"]
    return found


def copy_year(house: Installation, first_day: date, number: int) -> None:
    """Store what was loaded since a day once more, `number` years earlier: rows, ledger and Dagster's events."""
    days = YEAR * number
    columns = "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
    for table in (*TABLES, "nexus.slices"):
        names = [name for (name,) in house.market(columns, table.split("."))]
        shifted = ("ts", "entry_at", "t1", "horizon_end", "slice_start", "barrier_t1")
        values = [
            f"day - {days}" if n == "day" else f"{n} - interval '{days} days'" if n in shifted else n for n in names
        ]
        when = "day" if "day" in names else "ts"
        house.execute(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM {table} "
            f"WHERE {when} >= '{first_day}' ON CONFLICT DO NOTHING"
        )
    house.execute(
        "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition) "
        f"SELECT run_id, event, dagster_event_type, timestamp - interval '{days} days', step_key, asset_key, "
        f"(left(partition, 10)::date - {days})::text || substr(partition, 11) FROM event_logs "
        f"WHERE partition LIKE '%|%' AND left(partition, 10) >= '{first_day}'",
        dagster=True,
    )


def updates(house: Installation, chosen: "Chosen", today: date) -> dict[str, float]:
    """Several ticks of the hourly update."""
    remove_newest(house)
    since = datetime.now(UTC).replace(tzinfo=None)  # the load's runs are of the same job
    house.graphql(START_SCHEDULE)
    seen: dict[str, dict[str, float]] = {}
    deadline = time.monotonic() + 60 * (TICKS + 4)
    while len(seen) < TICKS + 1:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"Only {len(seen)} ticks of the hourly update ended in time.")
        time.sleep(1)
        for run_id, created, started, ended, status in house.dagster(RUNS, (since,)):
            if run_id in seen or ended is None:
                continue
            if status != "SUCCESS":
                raise BenchmarkError(f"Run {run_id} of the hourly update ended {status}.")
            written = house.market(LAST_ROW, (ended,))[0][0]
            tick = float(created) // 60 * 60
            seen[run_id] = {
                "tick_to_last_row_seconds": written - tick,
                "run_seconds": written - started,
                "tick_to_run_seconds": started - tick,
                "run_to_end_seconds": ended - started,
            }
            remove_newest(house)
    state = next(
        s["scheduleState"]["id"]
        for s in house.graphql(SCHEDULES)["schedulesOrError"]["results"]
        if s["name"] == "hourly_update"
    )
    house.graphql(STOP_SCHEDULE, {"id": state})
    remove_newest(house)
    # The first tick may find what the load itself has left to do.
    ticks = list(seen.values())[1:]
    found = {name: median(tick[name] for tick in ticks) for name in ticks[0]}
    found["bare_seconds"] = timed_processes([chosen.symbols], today - timedelta(1), today + timedelta(1))
    return found


def remove_newest(house: Installation) -> None:
    """Take the newest three hours of prices out, as if they were still to come."""
    newest = "(SELECT max(ts) FROM market.raw_ohlc) - interval '2 hours'"
    house.execute(f"DELETE FROM market.raw_ohlc WHERE ts >= {newest}")


def correlation(house: Installation, today: date) -> dict[str, float]:
    """A day's correlations and rankings anew, as the schedule asks for them."""
    day = today - timedelta(1)
    while trading_calendar.expected("fx", *trading_calendar.day_range(day, day + timedelta(1)), "1h").empty:
        day -= timedelta(1)
    house.execute(f"DELETE FROM analytics.correlation_matrix WHERE day = '{day}'")
    parameters = {
        "selector": {
            "repositoryName": "__repository__",
            "repositoryLocationName": "nexus_assets",
            "pipelineName": "daily_correlation",
        },
        "runConfigData": {},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": f"{day}"}]},
        "mode": "default",
    }
    run_id = house.graphql(LAUNCH_RUN, {"run": parameters})["launchPipelineExecution"]["run"]["runId"]
    while True:
        started, ended, status = house.dagster(
            "SELECT start_time, end_time, status FROM runs WHERE run_id = %s", (run_id,)
        )[0]
        if status == "SUCCESS":
            break
        if status in ("FAILURE", "CANCELED"):
            raise BenchmarkError(f"The daily correlation ended {status}.")
        time.sleep(0.5)
    pairs = house.market(f"SELECT count(*) FROM analytics.correlation_matrix WHERE day = '{day}'")[0][0]
    return {"correlation_seconds": ended - started, "correlation_pairs": pairs}
