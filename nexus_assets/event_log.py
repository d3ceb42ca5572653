"""Dagster's event log in PostgreSQL, with the events that announce a run's partitions written in batches.

Dagster writes two events per partition and asset: PLANNED when a run is made, MATERIALIZATION when it has worked.
With DAGSTER_EVENT_BATCH_SIZE set, its own PostgreSQL storage writes the second kind in batches and the first kind
one by one, about 5 ms each, in the process that makes the run. `BatchingPostgresEventLogStorage` writes both in
batches; what stands in the tables afterwards is the same.

Ids are taken before a batch commits, so events with a higher id can be visible earlier. Dagster's backfill daemon goes
on from the highest id that it has seen, and would miss the batch, wait for its partitions and at last call them failed;
so the highest id is told here only when nothing below it can appear any more.
"""

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import dagster
from dagster import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres.event_log import PostgresEventLogStorage
from sqlalchemy import text

from nexus_assets.patient_storage import KeptConnections, arguments, patient
from nexus_assets.pools import WRITERS
from nexus_assets.prompt_backfills import look_at_backfills_sooner

TESTED_DAGSTER_VERSIONS = frozenset({"1.13.27"})
"""The storage reaches into Dagster's private parts, so it only does so where its tests have passed."""

PLANNED = DagsterEventType.ASSET_MATERIALIZATION_PLANNED

PATIENCE_SECONDS = 30.0
"""How long a transaction that writes events is waited for. A batch of a thousand takes less than a second."""

_WRITERS = """
    SELECT virtualtransaction FROM pg_locks
    WHERE relation = 'event_logs'::regclass AND mode = 'RowExclusiveLock' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@patient
class BatchingPostgresEventLogStorage(KeptConnections, PostgresEventLogStorage):
    """PostgresEventLogStorage that also writes PLANNED events many at a time, waits for a server that is away, and
    keeps its connections.

    Configured in dagster.yaml like its parent. On a Dagster version that it was not tested with, it leaves all
    writing to its parent and warns once per process.
    """

    _main_tables = ("event_logs",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._known: set[str] = set()
        super().__init__(*args, **kwargs)
        self._batches_planned = dagster.__version__ in TESTED_DAGSTER_VERSIONS
        if not self._batches_planned:
            _warn_untested(dagster.__version__)
            return
        look_at_backfills_sooner()

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "BatchingPostgresEventLogStorage":
        # The parent names itself here instead of cls, so a subclass has to repeat it.
        return cls(inst_data=inst_data, **arguments(config_value))

    def has_table(self, table_name: str) -> bool:
        """As the parent, which asks the server each time: a table that is there stays."""
        ask = super().has_table
        return self._remembered(f"table {table_name}", lambda: ask(table_name))

    def has_asset_key_col(self, column_name: str) -> bool:
        """As the parent, which asks the server for every event that is stored."""
        ask = super().has_asset_key_col
        return self._remembered(f"column {column_name}", lambda: ask(column_name))

    def _remembered(self, what: str, is_there: Callable[[], bool]) -> bool:
        if what not in self._known and is_there():
            self._known.add(what)
        return what in self._known

    def get_concurrency_keys(self) -> set[str]:
        """The pools that are counted. Ours is one of them from the first look at the queue on: Dagster reads this
        before it makes the pools of queued runs known, so its first pass would start any number of writers."""
        keys = super().get_concurrency_keys()
        if WRITERS not in keys and self.has_instance and self._instance.global_op_concurrency_default_limit:
            self.initialize_concurrency_limit_to_default(WRITERS)
            keys = super().get_concurrency_keys()
        return keys

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events that Dagster collected; each of a type in dagster's BATCH_WRITABLE_EVENTS.

        A batch may hold several types: a run that plans checks sends their PLANNED events together with the
        assets'. The parent would then write the whole batch one by one.
        """
        if not self._batches_planned:
            super().store_event_batch(events)
            return
        planned = [event for event in events if event.dagster_event_type == PLANNED]
        others = [event for event in events if event.dagster_event_type != PLANNED]
        # First, because it is all or nothing: Dagster answers an error by storing the whole batch again, one by one,
        # and a run whose check was announced twice fails.
        if planned:
            self._store_planned(planned)
        # The parent updates the asset of the last event only: one type and one asset at a time.
        for _, group in groupby(sorted(others, key=_type_and_asset), key=_type_and_asset):
            super().store_event_batch(list(group))

    def get_maximum_record_id(self) -> int | None:
        """The highest id of an event, when every transaction that may hold a lower one has ended."""
        highest = super().get_maximum_record_id()
        waited_for = self._writers()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waited_for and time.monotonic() < deadline:
            time.sleep(0.02)
            waited_for &= self._writers()
        if waited_for:
            logging.getLogger("dagster").warning(
                f"A transaction has been writing events for {PATIENCE_SECONDS:.0f} s; events up to {highest} that it "
                "still holds may be passed over."
            )
        return highest

    def _writers(self) -> set[str]:
        with self.index_connection() as conn:
            return {row[0] for row in conn.execute(text(_WRITERS))}

    def _store_planned(self, events: Sequence[EventLogEntry]) -> None:
        rows = [self._event_to_row(event) for event in events]
        insert = SqlEventLogStorageTable.insert().returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
        with self.index_transaction() as conn:
            ids = [row[0] for row in conn.execute(insert, rows)]
            newest = {
                row["asset_key"]: (event, event_id) for row, event, event_id in zip(rows, events, ids, strict=True)
            }
            # In one order everywhere: two transactions that update the same assets must not wait for each other.
            for asset_key in sorted(newest):
                self._store_asset_event(conn, *newest[asset_key])


def _type_and_asset(event: EventLogEntry) -> tuple[str, str]:
    dagster_event = event.get_dagster_event()
    asset_key = dagster_event.asset_key
    return dagster_event.event_type_value, asset_key.to_string() if asset_key else ""


@functools.cache
def _warn_untested(version: str) -> None:
    logging.getLogger("dagster").warning(
        f"nexus_assets was not tested with Dagster {version} (but with {', '.join(sorted(TESTED_DAGSTER_VERSIONS))}): "
        "events that announce partitions are written one by one, about 5 ms each."
    )
