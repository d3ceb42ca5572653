"""features/training_set: features joined to labels, as Parquet files with manifests.

From: features/indicators, features/labels and features/dataset_splits of every symbol. One folder for each month, with
the rows whose bars end in it: each row as a decision at its entry_at could have seen it. Which features and which
label is set by NEXUS_TRAINING_FEATURES and NEXUS_TRAINING_LABEL; other sets are made with `nexus export`.
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from nexus_assets import trading_calendar
from nexus_assets.assets.specification import OWNERS, asset_keys
from nexus_assets.errors import NexusError
from nexus_assets.exports import DATA, export
from nexus_assets.market_store import MarketStore
from nexus_assets.materializations import attach_metadata, record_written
from nexus_assets.partitions import months_partitions
from nexus_assets.pinned_sets import refuse_if_dropped
from nexus_assets.schemas import DATASET_SPLITS, INDICATOR_ROWS, LABELS
from nexus_assets.settings import Settings, project_root, settings
from nexus_assets.training_request import request

VERSION = 1
"""Raised whenever the files' layout may change; what stands in them has the versions of its tables."""

_ALL = dg.AllPartitionMapping()


@dg.asset(
    key=["features", "training_set"],
    group_name="features",
    owners=OWNERS,
    kinds={"parquet", "pyarrow"},
    code_version=str(VERSION),
    partitions_def=months_partitions(),
    # A month needs its days of every symbol; Dagster has no mapping from month to symbol and day.
    deps=[
        *(dg.AssetDep(key, partition_mapping=_ALL) for key in asset_keys(INDICATOR_ROWS)),
        *(dg.AssetDep(key, partition_mapping=_ALL) for key in asset_keys(LABELS)),
        DATASET_SPLITS.asset_key,
    ],
    backfill_policy=dg.BackfillPolicy.single_run(),
    description=__doc__,
)
def training_set(
    context: dg.AssetExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.MaterializeResult:
    """Write the folder of each month, replacing what is there.

    Raises:
        dagster.Failure: a month could not be written; the others are recorded all the same.
    """
    config = settings()
    described: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    for key in sorted(context.partition_keys):
        month = date.fromisoformat(key)
        folder = folder_of(config, month)
        try:
            facts = write(market_store, config, month, folder)
        except NexusError as error:
            failed.append(f"{key}: {error}")
            continue
        described[key] = describe(facts, folder)
        context.log.info(f"{key}: {facts['rows']:,} rows in {folder}")
    if failed:
        record_written(context, described)
        raise dg.Failure("\n".join(failed), metadata={"failed": dg.MetadataValue.md("\n\n".join(failed))})
    attach_metadata(context, described)
    return dg.MaterializeResult()


def folder_of(config: Settings, month: date) -> Path:
    """Where the files of a month lie: `<NEXUS_HOME>/training_sets/2024-01`."""
    home = config.home if config.home.is_absolute() else project_root() / config.home
    return home / "training_sets" / f"{month:%Y-%m}"


def write(store: MarketStore, config: Settings, month: date, folder: Path) -> dict[str, Any]:
    """Export a month of every symbol; returns the manifest.

    Raises:
        TrainingSetError: there is no row, some were dropped by retention, or the folder cannot be written to.
    """
    end_day = (month + timedelta(days=31)).replace(day=1)
    start, end = trading_calendar.slice_bounds(config.serving_timeframe, month, end_day)
    asked = request(
        config.symbols,
        start,
        end,
        config.training_features or None,
        config.training_label,
        "all",
        config.serving_timeframe,
        None,
        config=config,
    )
    refuse_if_dropped(store, asked, config)
    return export(store, asked, folder, config, overwrite=True)


def describe(facts: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Metadata of a month."""
    return {
        "dagster/row_count": facts["rows"],
        "path": dg.MetadataValue.path(str(folder / DATA)),
        "content_hash": facts["hashes"]["content_hash"],
        "left_out": facts["left_out"],
        "newest_known_at": facts["newest_known_at"],
        "git_revision": facts["rebuild"]["git_revision"] or "not in a git checkout",
        "symbols": {symbol: counted["rows"] for symbol, counted in facts["by_symbol"].items()},
        "bytes": facts["file"]["bytes"],
    }
