"""analytics/pair_rankings: which pairs diversify, hedge, or double a position.

From: analytics/correlation_matrix. Pairs ranked by absolute correlation, each with a category and a reason in words.
A category changes only when the correlation is more than one standard error beyond the boundary. Daily.
"""

from datetime import date, timedelta

import dagster as dg
import pandas as pd

from nexus_assets.assets.specification import partitioned_asset
from nexus_assets.market_store import BarReader, MarketStore
from nexus_assets.materializations import READ_AT, attach_metadata
from nexus_assets.partitions import days_of, grain_of
from nexus_assets.schemas import CORRELATION_MATRIX, PAIR_RANKINGS
from nexus_assets.transforms import correlations


@partitioned_asset(
    PAIR_RANKINGS,
    version=correlations.RANKINGS_VERSION,
    description=__doc__,
    reads=[CORRELATION_MATRIX],
    io_manager_key="timescale_io_manager",
)
def pair_rankings(
    context: dg.AssetExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.Output[pd.DataFrame]:
    """The ranking of every day of the run."""
    grain = grain_of(context.asset_key)
    days = days_of(context.partition_keys, grain)
    read_at = market_store.settled_until(CORRELATION_MATRIX)
    frame = compute(market_store, days)
    tables = {}
    for _, rows in frame.groupby("day"):
        ranked = rows.sort_values("rank")
        shown = pd.concat([ranked.head(5), ranked.tail(5)])[["rank", "symbol_a", "symbol_b", "category", "reason"]]
        # Of a month the last day's.
        tables[grain.key(None, rows["day"].iloc[0])] = {"best_and_worst": dg.MetadataValue.md(_markdown_table(shown))}
    attach_metadata(context, tables)
    return dg.Output(frame, metadata={READ_AT: read_at.isoformat()})


def compute(store: BarReader, days: list[date]) -> pd.DataFrame:
    """The rankings of these days, each from its own fixed look-back."""
    history = store.read_correlations(days[0] - timedelta(days=correlations.HISTORY_DAYS), days[-1] + timedelta(days=1))
    frames = []
    for day in days:
        past = history[(history["day"] > day - timedelta(days=correlations.HISTORY_DAYS)) & (history["day"] <= day)]
        frames.append(correlations.rank(past, day=day))
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else PAIR_RANKINGS.empty()


def _markdown_table(frame: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(str(value) for value in row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)
