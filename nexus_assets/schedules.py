"""When work starts by itself. All times are UTC. NEXUS_AUTOMATION=off starts everything stopped.

What belongs here: thin schedules; what is stale is decided in planning.py.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from nexus_assets.backfill import Rectangle
from nexus_assets.dagster_upkeep import dagster_upkeep
from nexus_assets.jobs import daily_correlation, market_healing, market_update, training_sets
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import RANGE_END_TAG, RANGE_START_TAG
from nexus_assets.planning import FEATURES, PRICES, Ledger, cover, load_from, stale_cells
from nexus_assets.providers.registry import Sources
from nexus_assets.settings import Settings, settings
from nexus_assets.slices import PLOTS_TAG

STATUS = dg.DefaultScheduleStatus.RUNNING if settings().automation else dg.DefaultScheduleStatus.STOPPED


def range_tags(rectangle: Rectangle) -> dict[str, str]:
    """The tags that make one run of a rectangle."""
    start, end = rectangle.partition_range()
    return {RANGE_START_TAG: start, RANGE_END_TAG: end}


def _day_of(context: dg.ScheduleEvaluationContext) -> date:
    return (context.scheduled_execution_time or datetime.now(UTC)).astimezone(UTC).date()


@dg.schedule(
    job=market_update,
    cron_schedule="5 * * * *",
    execution_timezone="UTC",
    default_status=STATUS,
    description="Every hour, five minutes past: yesterday and today of every symbol that a source serves, in one run.",
)
def hourly_update(
    context: dg.ScheduleEvaluationContext, sources: dg.ResourceParam[Sources]
) -> dg.RunRequest | dg.SkipReason:
    """Yesterday is asked again because providers correct it; hours that were missed are covered the same way."""
    config = settings()
    served, unserved = sources.served(config.symbols, config.base_timeframe)
    if unserved:
        context.log.warning(f"No source serves {', '.join(unserved)}: see sources.toml")
    if not served:
        return dg.SkipReason("No source serves any of NEXUS_SYMBOLS; declare one in sources.toml.")
    today = _day_of(context)
    first = max(config.start_day, today - timedelta(days=1))
    symbols = config.symbols[config.symbols.index(served[0]) : config.symbols.index(served[-1]) + 1]
    tags = range_tags(Rectangle(symbols, first, today + timedelta(days=1)))
    scheduled = context.scheduled_execution_time
    # The first update of a day completes the day before and draws it.
    if scheduled is not None and scheduled.astimezone(UTC).hour > 0:
        tags[PLOTS_TAG] = "off"
    return dg.RunRequest(run_key=f"{scheduled}", tags=tags)


@dg.schedule(
    job=daily_correlation,
    cron_schedule="20 0 * * *",
    execution_timezone="UTC",
    default_status=STATUS,
    description="Every day at 00:20: correlations and rankings of the day before.",
)
def daily_correlation_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """The day before, which is known from 00:00 on."""
    day = _day_of(context) - timedelta(days=1)
    return dg.RunRequest(run_key=day.isoformat(), partition_key=day.isoformat())


@dg.schedule(
    job=market_healing,
    cron_schedule="40 0 * * *",
    execution_timezone="UTC",
    default_status=STATUS,
    description="Every day at 00:40: slices of the last days that are missing, immature, stale, or have a gap that a "
    "provider may still fill.",
)
def daily_healing(
    context: dg.ScheduleEvaluationContext,
    market_store: dg.ResourceParam[MarketStore],
    sources: dg.ResourceParam[Sources],
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each rectangle of slices that need it; the last NEXUS_HEALING_DAYS days before today."""
    config = settings()
    served, _ = sources.served(config.symbols, config.base_timeframe)
    today = _day_of(context)
    rectangles = healing_rectangles(market_store, sources, config, served, today)
    if not rectangles:
        yield dg.SkipReason(f"Every slice of the last {config.healing_days} days is complete.")
    for number, rectangle in enumerate(rectangles):
        yield dg.RunRequest(run_key=f"{today}-{number}", tags=range_tags(rectangle))


@dg.schedule(
    job=training_sets,
    cron_schedule="10 1 10 * *",
    execution_timezone="UTC",
    default_status=STATUS,
    description="On the 10th of every month at 01:10: the training set of the month before, whose labels are over.",
)
def monthly_training_set(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """The last horizon of a month ends at most eight days after it."""
    month = (_day_of(context).replace(day=1) - timedelta(days=1)).replace(day=1)
    if month < settings().first_day.replace(day=1):
        return dg.SkipReason(f"{month:%B %Y} lies before the first day.")
    return dg.RunRequest(run_key=month.isoformat(), partition_key=month.isoformat())


@dg.schedule(
    job=dagster_upkeep,
    cron_schedule="15 3 * * 0",
    execution_timezone="UTC",
    default_status=STATUS,
    description="Every Sunday at 03:15, when markets are closed: old logs, events and runs out of Dagster's database.",
)
def weekly_upkeep(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """A week that was missed is made up for by the next."""
    return dg.RunRequest(run_key=_day_of(context).isoformat())


def healing_rectangles(
    store: MarketStore, sources: Sources, config: Settings, symbols: tuple[str, ...], today: date
) -> list[Rectangle]:
    """What healing would run: the union over the stages, because one run holds them all."""
    first = max(config.start_day, today - timedelta(days=config.healing_days))
    until = today + timedelta(days=1)
    ledger = Ledger.read(store, symbols, load_from(config, first), until, config=config, sources=sources)
    tables = (*PRICES, *FEATURES)
    cells = set().union(*(stale_cells(ledger, table, symbols, first, today, config=config) for table in tables))
    return cover(cells, config.symbols, tables)


SCHEDULES = [hourly_update, daily_correlation_schedule, daily_healing, monthly_training_set, weekly_upkeep]
