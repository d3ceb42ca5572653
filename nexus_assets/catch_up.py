"""The sensor that goes on where a failed update stopped: one symbol's provider must not keep the others from features.

What belongs here: reacting to a run that failed. What lags behind is decided in planning.py.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from nexus_assets.backfill import PLAN_TAG
from nexus_assets.jobs import market_catch_up, market_healing, market_update
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import RANGE_END_TAG, RANGE_START_TAG, parse_key
from nexus_assets.planning import FEATURES, Ledger, cover, load_from, undelivered_downstream
from nexus_assets.schedules import range_tags
from nexus_assets.schemas import BARS
from nexus_assets.settings import settings


@dg.run_failure_sensor(
    name="catch_up_sensor",
    monitored_jobs=[market_update, market_healing],
    request_job=market_catch_up,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING if settings().automation else dg.DefaultSensorStatus.STOPPED,
    description="After an update that failed for some symbols: bars, indicators and labels of the others.",
)
def catch_up_sensor(
    context: dg.RunFailureSensorContext, market_store: dg.ResourceParam[MarketStore]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each rectangle of slices whose prices the failed run delivered. `nexus backfill` does so itself."""
    run = context.dagster_run
    tags = run.tags
    if PLAN_TAG in tags or RANGE_START_TAG not in tags:
        yield dg.SkipReason(f"Run {run.run_id} was not started by a schedule.")
        return
    started = context.instance.get_run_record_by_id(run.run_id)
    since = datetime.fromtimestamp(started.start_time or 0, UTC) if started else datetime.now(UTC)
    (first_symbol, first_day), (last_symbol, last_day) = (parse_key(tags[t]) for t in (RANGE_START_TAG, RANGE_END_TAG))
    for number, request in enumerate(requests(market_store, (first_symbol, last_symbol), first_day, last_day, since)):
        yield request.with_replaced_attrs(run_key=f"{run.run_id}-{number}")


def requests(
    store: MarketStore, symbols: tuple[str, str], first_day: date, last_day: date, since: datetime
) -> list[dg.RunRequest]:
    """The runs that bring bars and features up to prices delivered at or after `since`; symbols are the first and the
    last of a range of partitions, days are included."""
    config = settings()
    chosen = config.symbols[config.symbols.index(symbols[0]) : config.symbols.index(symbols[1]) + 1]
    end_day = last_day + timedelta(days=1)
    ledger = Ledger.read(store, chosen, load_from(config, first_day), end_day)
    tables = (BARS, *FEATURES)
    cells = undelivered_downstream(ledger, tables, chosen, first_day, end_day, config=config, since=since)
    return [dg.RunRequest(tags=range_tags(rectangle)) for rectangle in cover(cells, config.symbols, tables)]
