"""Runs on other machines: Dagster's Celery launcher, for workers that may disappear.

`dagster_celery.CeleryRunLauncher` asks Celery's result backend whether a run's worker is well. A machine that is lost
takes its worker with it and leaves "started" there, so the run would be waited for without an end. It also stops a
run without saying that somebody wanted it, which counts as a failure and is retried. This class adds both; queues,
broker, workers and the way a run is started are dagster-celery's.

Used by deploy/celery/dagster.yaml; needs the extra `celery`.
"""

import time
from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance, DagsterRun, Field, IntSource
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError

LOST_AFTER_SECONDS = 60
REPLY_SECONDS = 2.0
"""A worker's own process answers while a child of it works on the run."""
FORGET_SECONDS = 3600
"""Runs that nobody asks about any more have ended."""


class CeleryRuns(CeleryRunLauncher):
    """CeleryRunLauncher that asks the workers themselves who works on a run.

    A run that no worker has claimed for `lost_after_seconds` is reported as failed, and Dagster's retries take it up.
    Should its worker be alive after all, both write the same slices, one after the other, with the same values.
    """

    def __init__(self, lost_after_seconds: int = LOST_AFTER_SECONDS, **launcher: Any) -> None:
        super().__init__(**launcher)
        self.lost_after_seconds = lost_after_seconds
        self._claimed_at: dict[str, float] = {}
        """Run: when a worker last said that it has it, or when we first asked; the clock is monotonic."""

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """dagster-celery's settings, and `lost_after_seconds`."""
        seconds = Field(
            IntSource,
            is_required=False,
            default_value=LOST_AFTER_SECONDS,
            description="A run that no worker claims for so long is reported as failed.",
        )
        return {**super().config_type(), "lost_after_seconds": seconds}  # pyright: ignore[reportGeneralTypeIssues]

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> "CeleryRuns":
        return cls(inst_data=inst_data, **config_value)

    @property
    def supports_resume_run(self) -> bool:
        """A run's finished slices are found by planning; the run itself is repeated."""
        return False

    def terminate(self, run_id: str) -> bool:
        """Stop a run's process. Returns False where the run is over or was never handed to Celery."""
        instance: DagsterInstance = self._instance
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished or DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return False
        # Without this event the end of the process would be a failure.
        instance.report_run_canceling(run)
        return super().terminate(run_id)

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether a run that Dagster believes to be started is worked on.

        Raises:
            kombu.exceptions.OperationalError: the broker cannot be reached, so nobody knows. The time it is away does
                not count against the run.
        """
        now = time.monotonic()
        kept = self.lost_after_seconds + FORGET_SECONDS
        self._claimed_at = {known: at for known, at in self._claimed_at.items() if now - at < kept}
        try:
            claimed = self._is_claimed(run)
        except OperationalError:
            self._claimed_at.pop(run.run_id, None)
            raise
        if claimed:
            self._claimed_at[run.run_id] = now
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        silent = now - self._claimed_at.setdefault(run.run_id, now)
        if silent < self.lost_after_seconds:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"No worker has claimed the run for {silent:.0f} s.")
        del self._claimed_at[run.run_id]
        return CheckRunHealthResult(
            WorkerStatus.FAILED, f"No Celery worker has worked on the run for {silent:.0f} s; its machine may be lost."
        )

    def _is_claimed(self, run: DagsterRun) -> bool:
        task = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task is None:
            return False
        inspect = self.celery.control.inspect(timeout=REPLY_SECONDS)
        replies = inspect.query_task(task) or {}
        return any(task in tasks for tasks in replies.values())
