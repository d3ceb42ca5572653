"""The project's event log storage, for dagster.yaml; where the daemon imports it, backfills are looked at every second.

Dagster looks at backfills every 30 seconds and has no setting for it.
"""

import sys

from nexus_assets.event_log import BatchingPostgresEventLogStorage

if controller := sys.modules.get("dagster._daemon.controller"):
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 1  # pyright: ignore[reportAttributeAccessIssue]

__all__ = ["BatchingPostgresEventLogStorage"]
