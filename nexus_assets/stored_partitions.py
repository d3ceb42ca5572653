"""Telling Dagster of partitions that are stored and that it has no materialisation of.

Where NEXUS_START_DAY or NEXUS_HISTORY_START was moved, days that were loaded by day belong to months, or the other way
round. The rows stay where they are; without this the UI would show their new partitions as missing, and whoever
materialised them would ask providers for everything again.
"""

from collections.abc import Sequence
from datetime import date

import dagster as dg
import pandas as pd

from nexus_assets.market_store import MarketStore
from nexus_assets.materializations import announce, materialization
from nexus_assets.partitions import Grain, grains
from nexus_assets.planning import ANALYTICS, FEATURES, PRICES
from nexus_assets.schemas import Table
from nexus_assets.settings import Settings
from nexus_assets.slice_ledger import ALL_SYMBOLS


def record_stored(
    instance: dg.DagsterInstance,
    store: MarketStore,
    config: Settings,
    symbols: Sequence[str],
    first_day: date,
    end_day: date,
) -> int:
    """Record a materialisation of every partition in [first_day, end_day) that was written whole and has none.

    Returns:
        How many were recorded.
    """
    events: list[dg.AssetMaterialization] = []
    for grain in grains(config):
        for table in (*PRICES, *FEATURES, *ANALYTICS):
            low, high = grain.bounds(config)
            first, end = max(low, first_day), min(high, end_day)
            if first < end:
                written = store.ledger(table, [ALL_SYMBOLS] if table in ANALYTICS else symbols, first, end)
                events += _unknown(instance, grain, table, written, config)
    announce(events, instance=instance)
    return len(events)


def _unknown(
    instance: dg.DagsterInstance, grain: Grain, table: Table, written: pd.DataFrame, config: Settings
) -> list[dg.AssetMaterialization]:
    """The partitions of one asset among the written slices that Dagster does not know, whole ones only."""
    if written.empty:
        return []
    known = instance.get_materialized_partitions(dg.AssetKey(grain.asset_key(table)))
    events = []
    by_partition = written.groupby(["symbol", written["day"].map(grain.begin)])
    for symbol, begin in by_partition.groups:  # pyright: ignore[reportGeneralTypeIssues]
        slices = by_partition.get_group((symbol, begin))
        first, end = grain.span(begin, config)
        if len(slices) == (end - first).days and grain.key(symbol, begin) not in known:
            metadata = {"dagster/row_count": int(slices["rows"].sum()), "was_stored_before": True}
            version = int(slices["code_version"].min())
            events.append(materialization(table, grain, symbol, begin, metadata=metadata, version=version))
    return events
