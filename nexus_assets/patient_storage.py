"""Dagster's storages on a PostgreSQL server that may be restarted at any moment.

Stock storages try for six seconds to connect, and not again where the server goes away in the middle of a statement.
In a run worker either ends a step, which nothing repeats: Dagster retries runs whose worker died, and takes this for an
error of the asset. In a code server it ends the thread that reports dead workers, for ever.

What belongs here: waiting, for every storage that dagster.yaml names. What is stored differently is in event_log.py.
"""

import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.events import JobFailureData
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._serdes import ConfigurableClassData
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from dagster_postgres.utils import (
    DagsterPostgresException,
    create_pg_connection,
    get_token_provider_from_config,
    pg_url_from_config,
)
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

PATIENCE_SECONDS = 60.0
"""How long a server that is away is waited for. Our supervisor has it back within two seconds."""

LONGEST_PAUSE_SECONDS = 2.0

_Storage = TypeVar("_Storage", bound=type)
_inside = threading.local()
"""Whether this thread is inside a call that is repeated as a whole."""
_log = logging.getLogger("dagster")


def patient(storage: _Storage) -> _Storage:
    """Make every public call of a storage class wait for a server that is away, and repeat the call.

    A call that wrote before the connection broke writes again, so an event may be stored twice; nothing counts events.
    Calls of one method by another are part of the outer call.
    """
    for name in dir(storage):
        method = inspect.getattr_static(storage, name)
        if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_")):
            setattr(storage, name, _repeated(method))
    return storage


def _repeated(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if getattr(_inside, "call", False):
            return method(*args, **kwargs)
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, 0.1
        while True:
            _inside.call = True
            try:
                return method(*args, **kwargs)
            except (DBAPIError, DagsterPostgresException) as error:
                if not is_away(error) or time.monotonic() + pause > deadline:
                    raise
                _log.warning(f"Dagster's database went away during {method.__name__}; trying again in {pause:.1f} s")
            finally:
                _inside.call = False
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    return call


def is_away(error: Exception) -> bool:
    """Whether the server broke the connection off or could not be reached, rather than refused a statement."""
    return isinstance(error, DagsterPostgresException) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


_ALL_THERE = "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest(CAST(:names AS text[])) AS name"


@functools.lru_cache(maxsize=4)
def _shared_engine(url: str) -> Engine:
    """One engine for all storages of a process, with two idle connections at most: one statement may be sent inside
    another's connection. Where the server was restarted meanwhile, the call that finds one broken is repeated."""
    return create_engine(url, isolation_level="AUTOCOMMIT", pool_size=2, max_overflow=-1, pool_recycle=300)


class KeptConnections:
    """For a storage class of dagster-postgres: keeps its connections, and asks for its tables in one query.

    Stock storages connect anew for every statement: 2.3 ms here and 4.4 ms in the server, several hundred times in a
    run of one symbol and month.
    """

    _main_tables: ClassVar[tuple[str, ...]]
    _engine: Engine
    should_autocreate_tables: bool

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        token_provider: Any = None,
    ) -> None:
        def make(*, with_tables: bool) -> None:
            super(KeptConnections, self).__init__(postgres_url, with_tables, inst_data, token_provider)  # pyright: ignore
            if token_provider is None:
                self._engine = _shared_engine(postgres_url)

        make(with_tables=False)
        if should_autocreate_tables and not self._has_main_tables():
            make(with_tables=True)
        self.should_autocreate_tables = should_autocreate_tables

    def _has_main_tables(self) -> bool:
        with create_pg_connection(self._engine) as connection:
            return connection.execute(text(_ALL_THERE), {"names": list(self._main_tables)}).scalar_one()

    def dispose(self) -> None:
        """Close the idle connections: a process may open many instances, one after the other."""
        super().dispose()  # pyright: ignore[reportAttributeAccessIssue]
        self._engine.dispose()


@patient
class PatientPostgresRunStorage(KeptConnections, PostgresRunStorage):
    """PostgresRunStorage that waits, keeps its connections, and says that a run will be retried before it says that it
    failed. Configured like its parent."""

    _main_tables = ("runs", "instance_info")
    _has_run_times = False

    def has_run_stats_index_cols(self) -> bool:
        """As the parent, which asks the server for every run that it reads: columns that are there stay."""
        self._has_run_times = self._has_run_times or super().has_run_stats_index_cols()
        return self._has_run_times

    def handle_run_event(self, run_id: str, event: DagsterEvent, update_timestamp: datetime | None = None) -> None:
        """Update a run's status.

        Dagster writes the tag after the status. A backfill that is looked at in between is over, and then it refuses
        the retry.
        """
        if event.event_type == DagsterEventType.RUN_FAILURE and self.has_instance:
            self._say_whether_it_is_retried(run_id, event)
        super().handle_run_event(run_id, event, update_timestamp)

    def _say_whether_it_is_retried(self, run_id: str, event: DagsterEvent) -> None:
        instance: DagsterInstance = self._instance
        run = instance.get_run_by_id(run_id)
        if run is None or not instance.run_retries_enabled:
            return
        data = event.event_specific_data
        reason = data.failure_reason if isinstance(data, JobFailureData) else None
        retried = auto_reexecution_should_retry_run(instance, run.with_status(DagsterRunStatus.FAILURE), reason)
        self.add_run_tags(run_id, {WILL_RETRY_TAG: str(retried).lower()})

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PatientPostgresRunStorage":
        # The parent names itself here instead of cls, so a subclass has to repeat it.
        return cls(inst_data=inst_data, **arguments(config_value))


@patient
class PatientPostgresScheduleStorage(KeptConnections, PostgresScheduleStorage):
    """PostgresScheduleStorage that waits and keeps its connections. Configured like its parent."""

    _main_tables = ("jobs",)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PatientPostgresScheduleStorage":
        return cls(inst_data=inst_data, **arguments(config_value))


def arguments(config_value: Mapping[str, Any]) -> dict[str, Any]:
    """What the storages' constructors take of their part of dagster.yaml."""
    return {
        "postgres_url": pg_url_from_config(config_value),
        "should_autocreate_tables": config_value.get("should_autocreate_tables", True),
        "token_provider": get_token_provider_from_config(config_value),
    }
