"""Metadata for each partition of a step that makes thousands of them.

Dagster's own calls are too slow for that: `add_asset_metadata` lists every partition key of the run each time it is
called, and `log_event` stores one event at a time. Where this module was tested it reaches past them; on any other
Dagster version it uses them.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import dagster
from dagster import AssetExecutionContext, AssetKey, AssetMaterialization, DagsterInstance, MultiPartitionKey
from dagster._core.definitions.data_version import CODE_VERSION_TAG
from dagster._core.definitions.partitions.utils import get_tags_from_multi_partition_key
from dagster._core.events import (
    DagsterEvent,
    DagsterEventBatchMetadata,
    DagsterEventType,
    StepMaterializationData,
    generate_event_batch_id,
)
from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID

from nexus_assets.event_log import TESTED_DAGSTER_VERSIONS
from nexus_assets.partitions import Grain
from nexus_assets.schemas import Table

PartitionMetadata = Mapping[str, Mapping[str, Any]]
"""{partition key: {label: value}}, with keys as the run's context gives them."""

READ_AT = "read_at"
"""Metadata of a frame that TimescaleIOManager stores: before this instant (ISO format) everything was written that it
was made from. What changes later makes it stale, even if that was before the frame itself was stored."""


def attach_metadata(context: AssetExecutionContext | StepExecutionContext, metadata: PartitionMetadata) -> None:
    """Attach metadata to the materialization that Dagster will record for each of these partitions.

    Args:
        context: an asset's context, or the `step_context` of an IO manager's output context. The step has one asset.
        metadata: for partitions of this run only; called again for a partition, the labels are merged.
    """
    step = context if isinstance(context, StepExecutionContext) else context.get_step_execution_context()
    asset_key = _only_asset(step)
    if dagster.__version__ not in TESTED_DAGSTER_VERSIONS:
        for partition_key, labels in metadata.items():
            step.add_asset_metadata(labels, asset_key=asset_key, partition_key=partition_key)
        return
    merged = dict(step._metadata_accumulator.per_output_metadata)
    for partition_key, labels in metadata.items():
        handle = AssetMetadataHandle(asset_key=asset_key, partition_key=partition_key)
        merged[handle] = {**merged.get(handle, {}), **labels}
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata=merged)


def record_written(context: AssetExecutionContext, metadata: PartitionMetadata) -> None:
    """Record materializations now, for a step that wrote these partitions and is about to fail for others.

    A step that fails records nothing by itself. After this call, raise; a step that returns would record them twice.
    """
    step = context.get_step_execution_context()
    asset_key = _only_asset(step)
    version = step.job_def.asset_layer.get(asset_key).code_version
    common_tags = {CODE_VERSION_TAG: version} if version else {}
    keys = {str(key): key for key in context.partition_keys}
    batch, last = generate_event_batch_id(), len(metadata) - 1
    for position, (text, labels) in enumerate(metadata.items()):
        key = keys[text]
        tags = {**common_tags, **(get_tags_from_multi_partition_key(key) if isinstance(key, MultiPartitionKey) else {})}
        event = AssetMaterialization(asset_key, partition=key, metadata=labels, tags=tags)
        if dagster.__version__ in TESTED_DAGSTER_VERSIONS:
            DagsterEvent.asset_materialization(step, event, DagsterEventBatchMetadata(batch, position == last))
        else:
            context.log_event(event)


def materialization(
    table: Table, grain: Grain, symbol: str | None, day: date, *, metadata: Mapping[str, Any], version: int
) -> AssetMaterialization:
    """The event of the partition that holds a day of a table; without a symbol, of one that is by day only."""
    key, tags = grain.key(symbol, day), {CODE_VERSION_TAG: str(version)}
    if symbol:
        key = MultiPartitionKey({grain.dimension: grain.begin(day).isoformat(), "symbol": symbol})
        tags |= get_tags_from_multi_partition_key(key)
    return AssetMaterialization(grain.asset_key(table), partition=key, metadata=metadata, tags=tags)


def announce(
    events: Sequence[AssetMaterialization], *, instance: DagsterInstance, step: StepExecutionContext | None = None
) -> None:
    """Record materializations of any assets: of a run's step, or, where no run made them, on their own."""
    batch, last = generate_event_batch_id(), len(events) - 1
    for position, event in enumerate(events):
        metadata = DagsterEventBatchMetadata(batch, position == last)
        if step is not None:
            DagsterEvent.asset_materialization(step, event, metadata)
        else:
            instance.report_dagster_event(
                DagsterEvent(
                    event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
                    job_name=RUNLESS_JOB_NAME,
                    event_specific_data=StepMaterializationData(event),
                ),
                run_id=RUNLESS_RUN_ID,
                batch_metadata=metadata,
            )


def _only_asset(step: StepExecutionContext) -> AssetKey:
    if step.assets_def is None:
        raise TypeError(f"Step {step.step.key} makes no asset, so its partitions have no metadata.")
    return step.assets_def.key
