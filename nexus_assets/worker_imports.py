"""What a run worker has imported, and has done once, before it is forked; see warm_workers.py.

The fork server imports this module. Nothing here may connect to a server, and no library may start a pool of threads:
only the thread that forks goes on in the child. A month of invented prices takes every path that loads something at its
first use: compiled kernels and fonts. Arrow is left out: it would start its pool.
"""

from datetime import UTC, date, datetime
from typing import cast

import dagster._grpc.impl
import numpy as np
import pandas as pd
import psycopg

import nexus_assets.database
from nexus_assets.definitions import defs
from nexus_assets.instruments import instrument
from nexus_assets.providers.interface import Request
from nexus_assets.providers.synthetic import SyntheticProvider
from nexus_assets.trading_calendar import bar_end
from nexus_assets.transforms import indicators, labels, plots

__all__ = ["dagster", "nexus_assets", "psycopg"]

SYMBOL, TIMEFRAME, FIRST_DAY, END_DAY = "EURUSD", "1h", date(2024, 1, 22), date(2024, 1, 26)


def rehearse() -> None:
    """Compute and draw four days."""
    asked = Request(SYMBOL, TIMEFRAME, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 31, tzinfo=UTC))
    bars = SyntheticProvider().fetch(asked).bars
    bars = bars.assign(known_at=bar_end(bars["ts"], TIMEFRAME), volume_kind="ticks", price_kind="mid")
    where = {"instrument": instrument(SYMBOL), "timeframe": TIMEFRAME, "first_day": FIRST_DAY, "end_day": END_DAY}
    indicators.compute(bars, **where)
    labels.compute(bars, **where)
    plots.price_plot(cast(pd.DataFrame, bars.assign(symbol=SYMBOL, timeframe=TIMEFRAME, suspect=np.nan)))


for _job in defs.get_repository_def().get_all_jobs():
    _job.asset_layer.asset_graph  # noqa: B018 (resolved here once instead of in every worker)
rehearse()
