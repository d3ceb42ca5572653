"""What can be started: by hand in the UI, by a schedule, by `nexus backfill`.

What belongs here: selections of assets. When they run is in schedules.py.
"""

import dagster as dg

from nexus_assets.partitions import DAYS, MONTHS, Grain
from nexus_assets.planning import ANALYTICS, FEATURES, PRICES
from nexus_assets.schemas import BARS, DATASET_SPLITS, Table


def _selection(*tables: Table, grain: Grain = DAYS) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(grain.asset_key(table) for table in tables))


market_update = dg.define_asset_job(
    "market_update",
    selection=_selection(*PRICES, *FEATURES),
    description="Prices, bars, indicators and labels of symbols and days; hourly for yesterday and today.",
)

market_healing = dg.define_asset_job(
    "market_healing",
    selection=_selection(*PRICES, *FEATURES),
    description="The same, for slices of the last days that are missing, immature or stale.",
)

market_catch_up = dg.define_asset_job(
    "market_catch_up",
    selection=_selection(BARS, *FEATURES),
    description="Bars, indicators and labels of prices that were delivered in a run that failed for other symbols.",
)

daily_correlation = dg.define_asset_job(
    "daily_correlation",
    selection=_selection(*ANALYTICS),
    description="Correlations and ranked pairs of a day.",
)

split_labels = dg.define_asset_job(
    "split_labels",
    selection=_selection(DATASET_SPLITS),
    description="Assign every label to training, validation or test.",
)

training_sets = dg.define_asset_job(
    "training_sets",
    selection=_selection(DATASET_SPLITS) | dg.AssetSelection.assets(["features", "training_set"]),
    description="Splits anew, and the training set of a month as Parquet.",
)

history_update = dg.define_asset_job(
    "history_update",
    selection=_selection(*PRICES, *FEATURES, grain=MONTHS),
    description="Prices, bars, indicators and labels of symbols and months before NEXUS_START_DAY.",
)

history_correlation = dg.define_asset_job(
    "history_correlation",
    selection=_selection(*ANALYTICS, grain=MONTHS),
    description="Correlations and ranked pairs of the days of a month before NEXUS_START_DAY.",
)

JOBS = [market_update, market_healing, market_catch_up, daily_correlation, split_labels, training_sets]

HISTORY_JOBS = [history_update, history_correlation]
"""For an installation that has a history only: elsewhere their assets do not exist."""
