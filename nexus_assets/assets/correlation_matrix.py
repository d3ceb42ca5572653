"""analytics/correlation_matrix: how the symbols move together.

From: market/bars of all symbols. For each day and pair, the correlation of hourly log returns over the last 101 closes
that both have at or before the end of the day; NULL with the count where they have fewer. Daily.
"""

from datetime import date, timedelta

import dagster as dg
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.assets.specification import partitioned_asset
from nexus_assets.market_store import BarReader, MarketStore
from nexus_assets.materializations import READ_AT, attach_metadata
from nexus_assets.partitions import days_of, grain_of
from nexus_assets.schemas import BARS, CORRELATION_MATRIX
from nexus_assets.settings import settings
from nexus_assets.transforms import correlations, plots


@partitioned_asset(
    CORRELATION_MATRIX,
    version=correlations.CORRELATIONS_VERSION,
    description=__doc__,
    reads=[BARS],
    kinds={"pandas", "numpy"},
    io_manager_key="timescale_io_manager",
)
def correlation_matrix(
    context: dg.AssetExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.Output[pd.DataFrame]:
    """Every pair on every day of the run."""
    grain = grain_of(context.asset_key)
    days = days_of(context.partition_keys, grain)
    read_at = market_store.settled_until()
    frame = compute(market_store, days)
    if len(frame):
        newest = frame[frame["day"] == frame["day"].max()]
        day = newest["day"].iloc[0]
        picture = plots.as_markdown(plots.heatmap(newest), f"correlations of {day}")
        attach_metadata(context, {grain.key(None, day): {"correlations": dg.MetadataValue.md(picture)}})
    return dg.Output(frame, metadata={READ_AT: read_at.isoformat()})


def compute(store: BarReader, days: list[date]) -> pd.DataFrame:
    """The rows of these days: each on the closes of its own look-back, whichever days are asked for together."""
    config = settings()
    timeframe, window = config.correlation_timeframe, config.correlation_window
    reach = timedelta(days=correlations.look_back_days(timeframe, window))
    start, end = trading_calendar.slice_bounds(timeframe, days[0] - reach, days[-1] + timedelta(days=1))
    closes = store.read_closes(config.symbols, timeframe, start, end)
    ends = pd.DatetimeIndex(trading_calendar.bar_end(pd.DatetimeIndex(closes["ts"]), timeframe))
    frames = [CORRELATION_MATRIX.empty()]
    for day in days:
        first, last = trading_calendar.day_range(day - reach, day + timedelta(days=1))
        inside = closes[(ends > pd.Timestamp(first)) & (ends <= pd.Timestamp(last))]
        frames.append(correlations.correlate(inside, day=day, timeframe=timeframe, window=window))
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]
