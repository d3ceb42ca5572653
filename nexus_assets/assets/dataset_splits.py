"""features/dataset_splits: which labels may be trained on, validated on and tested on.

From: features/labels of every symbol. Boundaries are instants common to all symbols, set by NEXUS_TRAIN_END and
NEXUS_VALIDATION_END; a label whose [entry_at, t1] meets a later part is purged, and an embargo follows each boundary.
Rebuilt as a whole, by hand or after a backfill.
"""

from datetime import datetime
from typing import Any

import dagster as dg
import pandas as pd

from nexus_assets.assets.specification import asset_keys, declared
from nexus_assets.market_store import MarketStore
from nexus_assets.materializations import READ_AT
from nexus_assets.schemas import DATASET_SPLITS, LABELS
from nexus_assets.settings import settings
from nexus_assets.trading_calendar import day_start
from nexus_assets.transforms import plots, splits


@dg.asset(
    **declared(DATASET_SPLITS, version=splits.SPLITS_VERSION),
    deps=asset_keys(LABELS),
    io_manager_key="timescale_io_manager",
    description=__doc__,
)
def dataset_splits(market_store: dg.ResourceParam[MarketStore]) -> dg.Output[pd.DataFrame]:
    """Split every label of the serving timeframe."""
    read_at = market_store.settled_until()
    frame, boundaries = compute(market_store)
    metadata: dict[str, Any] = {READ_AT: read_at.isoformat()}
    metadata |= {str(name): int(count) for name, count in frame["split"].value_counts().items()}
    if len(frame):
        metadata |= {
            "train_end": str(boundaries[0]),
            "validation_end": str(boundaries[1]),
            "effective_rows": float(frame["uniqueness"].sum()),
            "timeline": dg.MetadataValue.md(plots.as_markdown(plots.split_plot(frame), "rows of each part over time")),
        }
    return dg.Output(frame, metadata=metadata)


def compute(store: MarketStore) -> tuple[pd.DataFrame, tuple[datetime | None, datetime | None]]:
    """The splits of all labels of the serving timeframe, and the two boundaries (None without labels)."""
    config = settings()
    labels = store.read_labels(config.symbols, config.serving_timeframe)
    if config.train_end and config.validation_end:
        boundaries = (day_start(config.train_end), day_start(config.validation_end))
    else:
        boundaries = splits.default_boundaries(labels) if len(labels) else (None, None)
    return splits.split(labels, train_end=boundaries[0], validation_end=boundaries[1]), boundaries
