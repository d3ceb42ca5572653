"""Following submitted runs to their end: through retries, to what failed and why."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus

from nexus_assets.backfill import RETRIED_BY_TAG, WILL_RETRY_TAG
from nexus_assets.errors import BackfillError

POLL_SECONDS = 0.5
RETRY_SECONDS = 300.0
"""How long a retry that Dagster announced is waited for. Its daemon looks for failed runs every five seconds."""
SILENT_DAEMON_SECONDS = 90.0
"""The daemon reports every 30 s. Nothing launches a queued run when it does not."""


@dataclass(frozen=True)
class FailedRun:
    """A run that ended without success and that nobody retries."""

    run_id: str
    status: str
    errors: tuple[str, ...]
    """One per failed step, `step: message`, and the run's own message where it failed outside of a step."""


@dataclass(frozen=True)
class Outcome:
    """How runs ended."""

    succeeded: tuple[str, ...]
    failed: tuple[FailedRun, ...]
    materializations: int


def follow(
    instance: DagsterInstance,
    run_ids: Sequence[str],
    *,
    watch: Callable[[str], None] = lambda _: None,
    tend: Callable[[], None] = lambda: None,
) -> Outcome:
    """Wait for runs to end. A run that the daemon retries is followed into its retry.

    Args:
        watch: called every POLL_SECONDS with a sentence: how many runs have ended.
        tend: called as often; keeps the daemon up.

    Raises:
        BackfillError: a run is gone from Dagster's database, or runs wait for a daemon that does not report.
    """
    current = list(run_ids)
    ended: dict[str, DagsterRun] = {}
    failing: dict[str, float] = {}
    began = time.monotonic()
    while True:
        tend()
        runs = [ended.get(run_id) or _run(instance, run_id) for run_id in current]
        for position, run in enumerate(runs):
            if retry := run.tags.get(RETRIED_BY_TAG):
                current[position] = retry
            elif run.run_id not in ended and _has_ended(instance, run, failing):
                ended[run.run_id] = run
        watch(f"{sum(run_id in ended for run_id in current)} of {len(current)} runs ended")
        if all(run_id in ended for run_id in current):
            return _outcome(instance, [ended[run_id] for run_id in current])
        if time.monotonic() - began > SILENT_DAEMON_SECONDS:
            _require_daemon(instance, runs)
        time.sleep(POLL_SECONDS)


def _run(instance: DagsterInstance, run_id: str) -> DagsterRun:
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise BackfillError(
            f"Run {run_id} is not in Dagster's database any more.", next_step="Start the same backfill again."
        )
    return run


def _has_ended(instance: DagsterInstance, run: DagsterRun, failing: dict[str, float]) -> bool:
    """Whether nothing more will happen. A failure is labelled with its retry a moment after it is recorded; `failing`
    remembers since when we have waited for that."""
    if run.status == DagsterRunStatus.FAILURE and instance.run_retries_enabled:
        waited = time.monotonic() - failing.setdefault(run.run_id, time.monotonic())
        return run.tags.get(WILL_RETRY_TAG) == "false" or waited > RETRY_SECONDS
    return run.is_finished


def _require_daemon(instance: DagsterInstance, runs: Sequence[DagsterRun]) -> None:
    """Refuse to wait for a daemon that is not there. A daemon that is busy still reports."""
    waiting = [run for run in runs if run.status in (DagsterRunStatus.QUEUED, DagsterRunStatus.FAILURE)]
    heartbeats = instance.get_daemon_heartbeats().values()
    silent = time.time() - max((heartbeat.timestamp for heartbeat in heartbeats), default=0.0)
    if waiting and silent > SILENT_DAEMON_SECONDS:
        raise BackfillError(
            f"{len(waiting)} runs wait for Dagster's daemon, which has not reported for {min(silent, 1e6):,.0f} s.",
            next_step="Start it with `nexus run` or `dagster dev`; the runs stay queued.",
        )


def _outcome(instance: DagsterInstance, runs: Sequence[DagsterRun]) -> Outcome:
    materializations = sum(instance.get_run_stats(run.run_id).materializations for run in runs)
    succeeded = tuple(run.run_id for run in runs if run.status == DagsterRunStatus.SUCCESS)
    failed = tuple(
        FailedRun(run.run_id, run.status.value, tuple(_errors(instance, run.run_id)))
        for run in runs
        if run.status != DagsterRunStatus.SUCCESS
    )
    return Outcome(succeeded, failed, materializations)


def _errors(instance: DagsterInstance, run_id: str) -> Iterator[str]:
    wanted = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    events = [
        record.event_log_entry.get_dagster_event()
        for record in instance.get_records_for_run(run_id, of_type=wanted, limit=100).records
    ]
    steps = [event for event in events if event.event_type == DagsterEventType.STEP_FAILURE]
    for event in steps:
        data = event.step_failure_data
        error = data.error
        # The innermost cause is the error that was raised in the asset; what is around it is Dagster's wrapping.
        while error is not None and error.cause is not None:
            error = error.cause
        text = data.user_failure_data.description if data.user_failure_data else None
        yield f"{event.step_key}: {text or (error.message.strip() if error else event.message)}"
    if not steps:
        yield from (event.message or "The run failed without a message." for event in events)
