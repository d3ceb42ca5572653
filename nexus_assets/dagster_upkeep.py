"""Pruning of Dagster's own database, which otherwise grows with every run for ever.

Two terms. After `events_days` a run loses its log lines, what its steps printed, and every asset event that a newer
one has replaced; what it was and how it ended can still be read in the UI. After `runs_days` the run itself goes,
unless a partition's newest event is one of its. Never removed, however old:

- of each asset and partition, the newest event of each type: materialisation, observation, failure; and the newest
  plan, where no materialisation followed it, because the UI shows that partition as failed or under way;
- the newest result of each check and partition, and the newest tick of each schedule and sensor;
- anything of runs and backfills that are not over; asset keys, their cached status, dynamic partitions, backfills.

Rows are removed in the order of their ids, a few thousand in a transaction, so that nobody waits for long. The files
of the database do not shrink: autovacuum makes the room in them free for what comes.

Safe to repeat, to break off, and to run twice at a time: a row goes only where a newer one is committed, and so the
newest never goes. What belongs here: which rows, and the job. When it runs is in schedules.py.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, LiteralString

import dagster as dg
import psycopg
from dagster._core.events import PIPELINE_EVENTS
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG

from nexus_assets.database import Database
from nexus_assets.errors import DatabaseError
from nexus_assets.event_log import TESTED_DAGSTER_VERSIONS
from nexus_assets.resources import open_dagster_database
from nexus_assets.settings import Settings, settings

BATCH_ROWS = 5_000
"""Rows that one transaction looks at; it removes at most as many."""

BATCH_RUNS = 100
"""Runs that one transaction removes; about twenty events are left of each."""

KEPT_WITH_RUN = sorted(
    {event.value for event in PIPELINE_EVENTS}
    | {f"STEP_{name}" for name in ("START", "SUCCESS", "FAILURE", "SKIPPED", "UP_FOR_RETRY", "RESTARTED")}
)
"""Event types that say what a run was and how it ended; a handful for each run."""


@dataclass(frozen=True)
class Terms:
    """The instants before which things are old, UTC."""

    events: datetime
    runs: datetime
    ticks: datetime

    @classmethod
    def of(cls, config: Settings, now: datetime) -> "Terms":
        """What the settings keep, counted back from `now`."""
        days = (config.keep_events_days, config.keep_runs_days, config.keep_ticks_days)
        return cls(*(now - timedelta(days=count) for count in days))


@dataclass
class Pruned:
    """Rows that were removed, by kind. `outputs` are runs whose printed output was removed."""

    events: int = 0
    tags: int = 0
    checks: int = 0
    ticks: int = 0
    runs: int = 0
    outputs: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, field.name):,} {field.name}" for field in fields(self))


def prune(
    database: Database,
    terms: Terms,
    *,
    forget_output: Callable[[str], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
    dagster_version: str = dg.__version__,
) -> Pruned:
    """Remove what is old and replaced. Takes about a minute for a million rows.

    Args:
        database: Dagster's.
        forget_output: Removes what the steps of a run printed; called before the run's log is removed, perhaps twice.
        progress: Told a sentence about every ten seconds.

    Raises:
        DatabaseError: this Dagster version may keep other tables than those known here; nothing was removed. Or the
            server failed for longer than Database waits; what was removed until then stays removed.
    """
    if dagster_version not in TESTED_DAGSTER_VERSIONS:
        raise DatabaseError(
            f"Pruning was not tested with the tables of Dagster {dagster_version}, but with those of "
            f"{', '.join(sorted(TESTED_DAGSTER_VERSIONS))}. Nothing was removed.",
            next_step="Stop the schedule weekly_upkeep in the UI until nexus_assets supports this version.",
        )
    pruned = Pruned()
    busy = _unfinished_runs(database)
    told = time.monotonic()
    for _ in _prune_events(database, terms.events, busy, forget_output, pruned):
        if time.monotonic() - told > 10:
            progress(f"Removed so far: {pruned}")
            told = time.monotonic()
    pruned.checks = _delete(database, "asset_check_executions", _old_checks(database, terms.events, busy))
    pruned.ticks = _delete(database, "job_ticks", _old_ticks(database, terms.ticks))
    _prune_runs(database, terms.runs, pruned)
    return pruned


def _unfinished_runs(database: Database) -> list[str]:
    """Runs that are not over, and all runs of backfills that are not over."""
    query = """
    SELECT run_id FROM runs WHERE status <> ALL (%s)
    UNION
    SELECT runs.run_id FROM bulk_actions JOIN runs ON runs.backfill_id = bulk_actions.key
    WHERE bulk_actions.status <> ALL (%s)
    """
    ended = [status.value for status in FINISHED_STATUSES]
    over = sorted({status.value for status in BULK_ACTION_TERMINAL_STATUSES})
    return [row["run_id"] for row in database.rows(query, (ended, over))]


_WINDOW = """
SELECT max(id), min(timestamp) < %(before)s
FROM (SELECT id, timestamp FROM event_logs WHERE id > %(after)s ORDER BY id LIMIT %(rows)s) AS next
"""
# Every probe for a newer row is one look into an index of Dagster's own.
_DELETE_EVENTS = """
WITH gone AS (
    DELETE FROM event_logs AS old
    WHERE old.id > %(after)s AND old.id <= %(upto)s AND old.timestamp < %(before)s
        AND old.run_id <> ALL (%(busy)s)
        AND CASE
            WHEN old.asset_key IS NULL THEN
                old.dagster_event_type IS NULL OR old.dagster_event_type <> ALL (%(kept)s)
            WHEN old.partition IS NULL THEN EXISTS (
                SELECT FROM event_logs AS new
                WHERE new.asset_key = old.asset_key AND new.dagster_event_type = old.dagster_event_type
                    AND new.partition IS NULL AND new.id > old.id
            )
            ELSE EXISTS (
                SELECT FROM event_logs AS new
                WHERE new.asset_key = old.asset_key AND new.dagster_event_type = old.dagster_event_type
                    AND new.partition = old.partition AND new.id > old.id
            ) OR (
                old.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
                AND EXISTS (
                    SELECT FROM event_logs AS new
                    WHERE new.asset_key = old.asset_key AND new.dagster_event_type = 'ASSET_MATERIALIZATION'
                        AND new.partition = old.partition AND new.id > old.id
                )
                -- The newest plan of an asset, whatever its partition, tells Dagster which run to look at.
                AND EXISTS (
                    SELECT FROM event_logs AS new
                    WHERE new.asset_key = old.asset_key AND new.dagster_event_type = old.dagster_event_type
                        AND new.id > old.id
                )
            )
        END
    RETURNING old.id, old.run_id, old.dagster_event_type
), untagged AS (
    DELETE FROM asset_event_tags AS tag USING gone WHERE tag.event_id = gone.id RETURNING tag.id
)
SELECT
    (SELECT count(*) FROM gone), (SELECT count(*) FROM untagged),
    ARRAY (SELECT DISTINCT run_id FROM gone WHERE dagster_event_type = 'LOGS_CAPTURED' AND run_id <> '')
"""


def _prune_events(
    database: Database, before: datetime, busy: Sequence[str], forget_output: Callable[[str], None], pruned: Pruned
) -> Iterator[int]:
    """Walk through the event log until nothing in a batch is old; yields the last id of each batch."""
    parameters: dict[str, Any] = {"before": _naive(before), "busy": busy, "kept": KEPT_WITH_RUN, "rows": BATCH_ROWS}

    def batch(connection: psycopg.Connection) -> tuple[int, int, int, list[str]] | None:
        [(upto, old)] = connection.execute(_WINDOW, parameters | {"after": after})
        if not old:
            return None
        [(*counts, outputs)] = connection.execute(_DELETE_EVENTS, parameters | {"after": after, "upto": upto})
        for run_id in outputs:
            forget_output(run_id)
        return upto, *counts, outputs

    after = 0
    while done := database.run(batch):
        after, events, tags, outputs = done
        pruned.events += events
        pruned.tags += tags
        pruned.outputs += len(outputs)
        yield after


def _old_checks(database: Database, before: datetime, busy: Sequence[str]) -> list[int]:
    """Executions of checks before a newer result of the same check and partition."""
    query = """
    SELECT id FROM (
        SELECT
            id, run_id, evaluation_event_timestamp AS told_at,
            max(id) FILTER (WHERE execution_status <> 'PLANNED')
                OVER (PARTITION BY asset_key, check_name, partition) AS newest
        FROM asset_check_executions
    ) AS execution
    WHERE id < newest AND told_at < %s AND run_id <> ALL (%s) ORDER BY id
    """
    return [row["id"] for row in database.rows(query, (_naive(before), busy))]


def _old_ticks(database: Database, before: datetime) -> list[int]:
    """Ticks but the newest of each schedule and sensor, those that are no longer defined included."""
    query = """
    SELECT id FROM (
        SELECT id, timestamp, max(id) OVER (PARTITION BY coalesce(selector_id, job_origin_id)) AS newest FROM job_ticks
    ) AS tick
    WHERE id < newest AND timestamp < %s ORDER BY id
    """
    return [row["id"] for row in database.rows(query, (_naive(before),))]


def _delete(database: Database, table: LiteralString, ids: Sequence[int]) -> int:
    """Remove rows by id, a batch in a transaction."""

    def delete(piece: Sequence[int], connection: psycopg.Connection) -> int:
        return connection.execute(f"DELETE FROM {table} WHERE id = ANY (%s)", (piece,)).rowcount

    pieces = (ids[start : start + BATCH_ROWS] for start in range(0, len(ids), BATCH_ROWS))
    return sum(database.run(partial(delete, piece)) for piece in pieces)


_OLD_RUNS = """
SELECT run_id FROM runs
WHERE status = ANY (%(ended)s) AND coalesce(end_time, start_time, extract(epoch FROM create_timestamp)) < %(before)s
    AND run_id <> ALL (%(busy)s)
    -- What is left of its asset events is the newest of something, and its run is linked there.
    AND NOT EXISTS (
        SELECT FROM event_logs AS event WHERE event.run_id = runs.run_id AND event.asset_key IS NOT NULL
    )
    AND run_id NOT IN (SELECT last_run_id FROM asset_keys WHERE last_run_id IS NOT NULL)
    AND run_id NOT IN (SELECT run_id FROM asset_check_executions WHERE run_id IS NOT NULL)
    -- A retry names the run that it repeats.
    AND run_id NOT IN (SELECT value FROM run_tags WHERE key = ANY (%(ancestors)s) AND run_tags.run_id <> value)
ORDER BY id
"""


def _prune_runs(database: Database, before: datetime, pruned: Pruned) -> None:
    """Runs that nothing names any more, with the rest of their events."""
    parameters = {
        "ended": [status.value for status in FINISHED_STATUSES],
        "before": before.timestamp(),
        "busy": _unfinished_runs(database),
        "ancestors": [PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG],
    }
    with database.session() as connection:
        doomed = [run_id for (run_id,) in connection.execute(_OLD_RUNS, parameters)]

    def delete(run_ids: Sequence[str], connection: psycopg.Connection) -> tuple[int, int]:
        piece = (run_ids,)
        events = connection.execute("DELETE FROM event_logs WHERE run_id = ANY (%s)", piece).rowcount
        connection.execute("DELETE FROM run_tags WHERE run_id = ANY (%s)", piece)
        return connection.execute("DELETE FROM runs WHERE run_id = ANY (%s)", piece).rowcount, events

    for start in range(0, len(doomed), BATCH_RUNS):
        runs, events = database.run(partial(delete, doomed[start : start + BATCH_RUNS]))
        pruned.runs += runs
        pruned.events += events


def _naive(instant: datetime) -> datetime:
    """As Dagster stores instants: UTC without saying so."""
    return instant.astimezone(UTC).replace(tzinfo=None)


@dg.op(description="Remove what is old and replaced from Dagster's database, in small transactions.")
def prune_dagster_database(context: dg.OpExecutionContext) -> None:
    """The terms are NEXUS_KEEP_EVENTS_DAYS, NEXUS_KEEP_RUNS_DAYS and NEXUS_KEEP_TICKS_DAYS."""
    config, started = settings(), time.monotonic()
    logs = context.instance.compute_log_manager
    pruned = prune(
        open_dagster_database(config),
        Terms.of(config, datetime.now(UTC)),
        forget_output=lambda run_id: logs.delete_logs(prefix=[run_id]),
        progress=context.log.info,
    )
    context.log.info(f"Removed in {time.monotonic() - started:.0f} s: {pruned}")


@dg.job(description="Old logs, replaced events, old runs and ticks out of Dagster's database. docs/operations.md")
def dagster_upkeep() -> None:
    """No partition loses its newest materialisation."""
    prune_dagster_database()
