"""Corrections that nobody asked for by hand: the job that carries them out, and the sensor that starts it.

A hourly update makes bars right after it has delivered prices, so it leaves nothing pending. What stays pending was
delivered otherwise: by a run of market/raw_ohlc alone, by another process, or by a run that died in between.

What belongs here: starting, and recording what was done as materialisations. What is reached is in corrections.py.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster._core.definitions.data_version import CODE_VERSION_TAG
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from nexus_assets.correction_report import Corrections
from nexus_assets.corrections import carry_out, pending
from nexus_assets.feature_store import FeatureStore
from nexus_assets.jobs import history_update, market_catch_up, market_healing, market_update
from nexus_assets.market_store import MarketStore
from nexus_assets.materializations import announce, materialization
from nexus_assets.partitions import grain_at, parse_key
from nexus_assets.planning import VERSIONS
from nexus_assets.pools import WRITERS
from nexus_assets.providers.registry import Sources
from nexus_assets.schemas import DATASET_SPLITS, table
from nexus_assets.settings import settings
from nexus_assets.slice_ledger import ALL_SYMBOLS

TRAINING_SET = dg.AssetKey(["features", "training_set"])

SETTLED_AFTER = timedelta(seconds=30)
"""A change that is younger may be part of a run that is about to make the bars."""


def materialisations(report: Corrections) -> list[dg.AssetMaterialization]:
    """One for each partition that was computed anew, in the order of the graph."""
    events = []
    for name, effect in report.effects.items():
        metadata: Mapping[str, object] = {
            "correction": True,
            "rows_changed_in_all": effect.rows,
            "partitions_changed_in_all": len(effect.changed),
        }
        version = VERSIONS.get(name, 1)
        if name == DATASET_SPLITS.qualified:
            tags = {CODE_VERSION_TAG: str(version)}
            events.append(dg.AssetMaterialization(table(name).asset_key, metadata=metadata, tags=tags))
        changed = {_partition(text) for text in effect.changed}
        for symbol, begin in sorted({_partition(text) for text in effect.partitions}):
            labels = {**metadata, "rows_changed": (symbol, begin) in changed}
            grain = grain_at(begin)
            events.append(materialization(table(name), grain, symbol, begin, metadata=labels, version=version))
    events += [
        dg.AssetMaterialization(
            ["features", "training_set"], partition=month.isoformat(), metadata={"correction": True}
        )
        for month in report.months
    ]
    return events


def _partition(text: str) -> tuple[str, date]:
    """The symbol (empty: all) of a day's key, `2024-01-04|EURUSD` or `2024-01-04`, and the first day of the partition
    that holds it."""
    symbol, day = parse_key(text) if "|" in text else (ALL_SYMBOLS, date.fromisoformat(text))
    grain = grain_at(day)
    return symbol, grain.span(grain.begin(day))[0]


@dg.op(
    pool=WRITERS,
    required_resource_keys={"market_store", "feature_store", "sources"},
    description="Make every pending correction's bars again, and exactly what reads them; then serve the new features.",
)
def correct(context: dg.OpExecutionContext) -> None:
    """One run for all of them, whatever partitions they reach."""
    store: MarketStore = context.resources.market_store
    feature_store: FeatureStore = context.resources.feature_store
    sources: Sources = context.resources.sources
    cells = pending(store)
    context.log.info(f"{len(cells)} days of bars are older than their prices")
    report = carry_out(store, feature_store, sources, cells, progress=context.log.info)
    for name, effect in report.effects.items():
        context.log.info(f"{name}: {len(effect.partitions)} partitions, {effect.rows} rows changed")
    announce(materialisations(report), instance=context.instance, step=context.get_step_execution_context())


@dg.job(
    description="Corrections: bars whose prices changed, and exactly the features, correlations and sets they reach."
)
def market_corrections() -> None:
    """The only job whose partitions are not chosen by whoever starts it."""
    correct()


@dg.sensor(
    job_name=market_corrections.name,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING if settings().automation else dg.DefaultSensorStatus.STOPPED,
    description="Starts market_corrections when prices changed under bars that were made before.",
)
def correction_sensor(
    context: dg.SensorEvaluationContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.RunRequest | dg.SkipReason:
    """Waits while a run is under way that makes bars itself. A run that failed is repeated within the hour."""
    cells = pending(market_store, settled_before=datetime.now(UTC) - SETTLED_AFTER)
    if not cells:
        return dg.SkipReason("No bars are older than their prices.")
    busy = [
        run.job_name
        for job in (market_update, market_healing, market_catch_up, history_update, market_corrections)
        for run in context.instance.get_runs(
            dg.RunsFilter(job_name=job.name, statuses=[dg.DagsterRunStatus.QUEUED, *IN_PROGRESS_RUN_STATUSES]), limit=1
        )
    ]
    if busy:
        return dg.SkipReason(f"{len(cells)} days of bars are pending; {', '.join(busy)} is under way.")
    newest = market_store.newest_raw_change(sorted({symbol for symbol, _ in cells}))
    return dg.RunRequest(run_key=f"{newest} {len(cells)} {datetime.now(UTC):%Y-%m-%dT%H}")
