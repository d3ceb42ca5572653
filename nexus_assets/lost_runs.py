"""Runs whose process is gone without a word, as after a kill -9 of everything or a restart of the machine.

Dagster leaves them as they are for ever, and each holds one of the places of `max_concurrent_runs`.
"""

import json
import re

import psutil
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultRunLauncher,
    RunsFilter,
)
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.tags import GRPC_INFO_TAG

UNDER_WAY = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1", ""}


def release_lost_runs(instance: DagsterInstance) -> list[str]:
    """Mark runs as failed that were launched on this machine and have no process; the daemon then retries them.

    To be called while no daemon is up, which could be launching a run at that moment. A run of another machine's
    code server is left alone, and so are all runs where they are launched elsewhere (Celery, Kubernetes): run
    monitoring asks that launcher.

    Returns:
        The ids of the runs.
    """
    if not isinstance(instance.run_launcher, DefaultRunLauncher):
        return []
    lost = [
        record.dagster_run
        for record in instance.get_run_records(RunsFilter(statuses=UNDER_WAY))
        if _is_local(record.dagster_run) and not _has_process(instance, record)
    ]
    for run in lost:
        instance.report_run_failed(run, "The run's process is gone without having ended the run.")
    return [run.run_id for run in lost]


def _is_local(run: DagsterRun) -> bool:
    server = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    return (server.get("host") or "") in LOCAL_HOSTS


def _has_process(instance: DagsterInstance, record: RunRecord) -> bool:
    """Whether the process that said it works on the run is alive, and is not a later one with the same number."""
    events = instance.get_records_for_run(
        record.dagster_run.run_id, of_type=DagsterEventType.ENGINE_EVENT, limit=100
    ).records
    for event in events:
        if found := re.match(r"Started process for run \(pid: (\d+)\)", event.event_log_entry.message or ""):
            try:
                process = psutil.Process(int(found[1]))
                alive = process.status() != psutil.STATUS_ZOMBIE
                return alive and process.create_time() <= event.event_log_entry.timestamp
            except psutil.NoSuchProcess:
                return False
    return False
