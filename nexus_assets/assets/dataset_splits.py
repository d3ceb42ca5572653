"""features/dataset_splits: which labels may be trained on, validated on and tested on.

From: features/labels of every symbol. Boundaries are instants common to all symbols; a training label whose
[entry_at, t1] meets a later split is purged, and an embargo follows each boundary. Rebuilt as a whole, by hand or
after a backfill.
"""

import dagster as dg
import pandas as pd

from nexus_assets.assets.specification import declared
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import DATASET_SPLITS, LABELS
from nexus_assets.settings import settings
from nexus_assets.transforms import splits


@dg.asset(
    **declared(DATASET_SPLITS, version=splits.SPLITS_VERSION),
    deps=[LABELS.asset_key],
    io_manager_key="timescale_io_manager",
    description=__doc__,
)
def dataset_splits(market_store: dg.ResourceParam[MarketStore]) -> dg.Output[pd.DataFrame]:
    """Split every label of the serving timeframe."""
    frame = splits.split(market_store.read_labels(settings().symbols, settings().serving_timeframe))
    counts = {str(name): int(count) for name, count in frame["split"].value_counts().items()}
    return dg.Output(frame, metadata=counts)
