"""The job that drops what lies before its retention, and its daily schedule. The same on every edition of the server.

What belongs here: starting, and telling what went. What may go is decided in retention.py, how it goes in dropping.py.
"""

from typing import Any

import dagster as dg

from nexus_assets import dropping
from nexus_assets.market_store import MarketStore
from nexus_assets.pools import WRITERS
from nexus_assets.schedules import STATUS
from nexus_assets.schemas import ASSET_TABLES
from nexus_assets.settings import settings


@dg.op(
    pool=WRITERS,
    required_resource_keys={"market_store"},
    description="Drop rows that lie before their table's retention and are read by no pinned training set.",
)
def drop_expired(context: dg.OpExecutionContext) -> None:
    """What went stands in the step's metadata, and as an observation of each asset that lost rows."""
    store: MarketStore = context.resources.market_store
    went = dropping.drop(store.database, settings(), progress=context.log.info)
    metadata: dict[str, Any] = {}
    for going in went:
        told = dropping.described(going)
        metadata[going.expiry.table.qualified] = dg.MetadataValue.json(told)
        if told["held_by"]:
            context.log.warning(f"{going.expiry.table.qualified}: held back by {told['held_by']}")
        if going.rows and going.expiry.table in ASSET_TABLES:
            labels = {f"dropped_{name}": told[name] for name in ("rows", "bytes", "before")}
            context.log_event(dg.AssetObservation(going.expiry.table.asset_key, metadata=labels))
    context.add_output_metadata({**metadata, "rows": sum(going.rows for going in went)})


@dg.job(description="Rows that lie before their table's retention go; NEXUS_RETENTION_... says how long they stay.")
def market_retention() -> None:
    """Nothing to do where everything is kept for ever."""
    drop_expired()


@dg.schedule(
    job=market_retention,
    cron_schedule="50 1 * * *",
    execution_timezone="UTC",
    default_status=STATUS,
    description="Every day at 01:50: what lies before its retention goes.",
)
def daily_retention(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """One run a day, where anything has a retention."""
    if not any(settings().retentions.values()):
        return dg.SkipReason("Everything is kept for ever: no NEXUS_RETENTION_... is set.")
    return dg.RunRequest(run_key=f"{context.scheduled_execution_time}")
