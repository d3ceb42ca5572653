"""Dagster's database and the ledger as a backfill of ten years leaves them, made from a real one of the last weeks.

The daemon really loads the newest weeks; what it left is then copied for each earlier stretch of as many weeks, with
other days, ids and runs. So every event, tag and run looks as Dagster and the assets wrote them, with metadata as long.
Ids of the copies are lower, as those of a history that was loaded before. Prices and features are not copied.
"""

import sys
import time
from collections.abc import Sequence
from datetime import date, timedelta

import psycopg
from dagster import DagsterInstance
from installation import BenchmarkError, Installation

REAL_DAYS = 56
"""Whole weeks, so that a copied Saturday is a Saturday; enough for the warm-up of hours."""
STRETCHES_A_RUN = 7
"""A backfill's run holds at most 400 days."""
FIRST_REAL_ID = 10_000_000
"""Ids that the copies do not reach."""

# Of each run its copies, one for every STRETCHES_A_RUN stretches, named by a hash.
RUNS = """
INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, create_timestamp, update_timestamp,
    start_time, end_time)
SELECT md5(run_id || %(cut)s)::uuid::text, snapshot_id, pipeline_name, mode, status,
    replace(replace(replace(run_body, run_id, md5(run_id || %(cut)s)::uuid::text), %(real_first)s, %(first)s),
        %(real_last)s, %(last)s),
    create_timestamp - %(ago)s, update_timestamp - %(ago)s, start_time - %(ago_seconds)s, end_time - %(ago_seconds)s
FROM runs WHERE run_id = ANY(%(runs)s)
"""
RUN_TAGS = """
INSERT INTO run_tags (run_id, key, value)
SELECT md5(run_id || %(cut)s)::uuid::text, key,
    replace(replace(value, %(real_first)s, %(first)s), %(real_last)s, %(last)s)
FROM run_tags WHERE run_id = ANY(%(runs)s)
"""
# In the order in which one run writes them: what it plans, then what it makes, asset by asset.
COPIES = """
CREATE TEMP TABLE copies ON COMMIT DROP AS
SELECT %(next_id)s + row_number() OVER (ORDER BY part, shift DESC, old_id) AS new_id, old_id, day,
    day - shift AS new_day
FROM (
    SELECT id AS old_id, left(partition, 10)::date AS day,
        min(left(partition, 10)::date) OVER (PARTITION BY asset_key) AS first_real_day,
        min(id) OVER (PARTITION BY run_id, dagster_event_type, asset_key) AS part
    FROM event_logs WHERE id >= %(first_real_id)s AND partition IS NOT NULL
) AS real CROSS JOIN unnest(%(shifts)s::int[]) AS shift
WHERE day >= %(real_first)s::date AND day - shift >= %(first_day)s AND day - shift < first_real_day
"""
EVENTS = """
INSERT INTO event_logs (id, run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
SELECT new_id, md5(run_id || %(cut)s)::uuid::text,
    replace(replace(event, run_id, md5(run_id || %(cut)s)::uuid::text), '"' || day, '"' || new_day),
    dagster_event_type, timestamp - %(ago)s, step_key, asset_key, replace(partition, day::text, new_day::text)
FROM copies JOIN event_logs ON id = old_id ORDER BY new_id
"""
EVENT_TAGS = """
INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
SELECT new_id, asset_key, key, CASE WHEN value = day::text THEN new_day::text ELSE value END, event_timestamp - %(ago)s
FROM copies JOIN asset_event_tags ON event_id = old_id ORDER BY new_id
"""
SLICES = """
INSERT INTO nexus.slices (table_name, symbol, day, written_at, changed_at, rows, complete, code_version, inputs)
SELECT table_name, symbol, day - shift, written_at, changed_at, rows, true, code_version, inputs
FROM nexus.slices CROSS JOIN unnest(%(shifts)s::int[]) AS shift
WHERE symbol <> '' AND day >= %(real_first)s::date AND day - shift >= %(first_day)s
ON CONFLICT DO NOTHING
"""


def fill(house: Installation, symbols: Sequence[str], first_day: date, end_day: date) -> dict[str, float]:
    """Everything that a backfill of [first_day, end_day) of these symbols leaves, in an empty installation.

    Returns:
        Numbers of events and partitions; seconds of the real part and of the copies; and what a partition of an asset
        has of each kind of row, and how long its events are, really loaded against copied.

    Raises:
        BenchmarkError: the copies differ from what was really loaded.
    """
    real_first = max(first_day, end_day - timedelta(REAL_DAYS))
    with DagsterInstance.from_config(str(house.root)) as instance:
        instance.event_log_storage.get_maximum_record_id()  # makes the tables
    with _connected(house.servers.dagster_url) as connection:
        connection.execute(f"ALTER SEQUENCE event_logs_id_seq RESTART WITH {FIRST_REAL_ID}".encode())
    _say(f"Loading {(end_day - real_first).days} days of {len(symbols)} symbols through the daemon")
    begun = time.perf_counter()
    chosen = ["--select", "prices", "--select", "features"]
    house.nexus("backfill", "--from", f"{real_first}", "--to", f"{end_day}", *chosen)
    real_seconds = time.perf_counter() - begun
    stretches = -(-(end_day - first_day).days // REAL_DAYS)
    next_id = 0
    for first in reversed(range(1, stretches, STRETCHES_A_RUN)):
        shifts = [REAL_DAYS * n for n in range(first, min(first + STRETCHES_A_RUN, stretches))]
        next_id = _copy(house, shifts, next_id, first_day, real_first, end_day)
    for url in (house.servers.dagster_url, house.servers.database_url):
        with _connected(url) as connection:
            connection.execute(b"VACUUM ANALYZE")
    copied_seconds = time.perf_counter() - begun - real_seconds
    return {
        "real_seconds": real_seconds,
        "copied_seconds": copied_seconds,
        **compared(house, len(symbols) * (end_day - first_day).days),
    }


def _copy(
    house: Installation, shifts: list[int], next_id: int, first_day: date, real_first: date, end_day: date
) -> int:
    begun = time.perf_counter()
    days = (end_day - real_first).days
    ago = timedelta(hours=shifts[0] // REAL_DAYS)
    values = {
        "cut": f"{shifts[0]}",
        "shifts": shifts,
        "next_id": next_id,
        "first_real_id": FIRST_REAL_ID,
        "first_day": first_day,
        "real_first": f"{real_first}",
        "real_last": f"{end_day - timedelta(1)}",
        "first": f"{max(first_day, real_first - timedelta(shifts[-1]))}",
        "last": f"{real_first + timedelta(days - 1 - shifts[0])}",
        "ago": ago,
        "ago_seconds": ago.total_seconds(),
    }
    with _connected(house.servers.dagster_url) as connection, connection.transaction():
        found = connection.execute("SELECT DISTINCT run_id FROM event_logs WHERE id >= %(first_real_id)s", values)
        values["runs"] = [run for (run,) in found]
        for statement in (RUNS, RUN_TAGS, COPIES, EVENTS, EVENT_TAGS):
            connection.execute(statement.encode(), values)
        count = connection.execute(b"SELECT count(*) FROM copies").fetchone()
    with _connected(house.servers.database_url) as connection:
        connection.execute(SLICES.encode(), values)
    assert count
    _say(f"{values['first']} to {values['last']}: {count[0]:,} events in {time.perf_counter() - begun:.0f} s")
    return next_id + count[0]


def compared(house: Installation, partitions: int) -> dict[str, float]:
    """Compare the copies with what was really loaded: the same kinds of events and tags, one of each for a partition.

    Raises:
        BenchmarkError: they differ, or partitions are missing.
    """
    counted = house.dagster(
        """
        SELECT asset_key, dagster_event_type, id >= %s AS real, count(*), count(DISTINCT partition), avg(length(event))
        FROM event_logs WHERE partition IS NOT NULL GROUP BY 1, 2, 3
        """,
        (FIRST_REAL_ID,),
    )
    tags = house.dagster(
        "SELECT asset_key, key, event_id >= %s, count(*), count(DISTINCT event_id) FROM asset_event_tags "
        "GROUP BY 1, 2, 3",
        (FIRST_REAL_ID,),
    )
    real = {asset: keys for asset, kind, is_real, _, keys, _ in counted if is_real and kind.endswith("PLANNED")}
    for asset, kind, is_real, rows, keys, *_ in (*counted, *tags):
        expected = real[asset] if is_real else partitions - real[asset]
        if (rows, keys) != (expected, expected):
            raise BenchmarkError(f"{asset}: {rows} of {kind} for {expected} partitions; really loaded: {is_real}.")
    kinds = [{row[:2] for row in (*counted, *tags) if row[2] is is_real} for is_real in (True, False)]
    slices = house.market("SELECT count(*) FROM nexus.slices WHERE symbol <> ''")[0][0]
    if len(real) != 4 or kinds[0] != kinds[1] or slices != 4 * partitions:
        raise BenchmarkError(f"Not everything was copied: {kinds}, {slices} slices.")
    found: dict[str, float] = {"partitions": partitions}
    for name, is_real in (("real", True), ("copied", False)):
        mine = [row for row in counted if row[2] == is_real]
        found[f"{name}_event_bytes"] = float(sum(row[3] * row[5] for row in mine)) / sum(row[3] for row in mine)
    found["events"] = sum(row[3] for row in counted)
    found["runs"] = house.dagster("SELECT count(*) FROM runs")[0][0]
    found["dagster_database_gb"] = house.dagster("SELECT pg_database_size(current_database()) / 1e9::float")[0][0]
    return found


def _connected(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("+psycopg2", ""), autocommit=True)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
