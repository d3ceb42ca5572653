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
import pandera.pandas
import psycopg
import upath.core

import nexus_assets.database
from nexus_assets.definitions import defs
from nexus_assets.instruments import instrument
from nexus_assets.market_holidays import OVERRIDES, Override
from nexus_assets.open_hours import open_intervals
from nexus_assets.providers.interface import Request
from nexus_assets.providers.synthetic import SyntheticProvider
from nexus_assets.schemas import TABLES
from nexus_assets.settings import settings
from nexus_assets.trading_calendar import bar_end
from nexus_assets.transforms import indicators, labels, plots

__all__ = ["dagster", "nexus_assets", "psycopg", "upath"]

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
    plots.gap_plot(bars, pd.DataFrame(columns=["ts", "ends_at", "state"]), [FIRST_DAY])
    plots.coverage_plot(pd.DataFrame({"symbol": [SYMBOL], "day": [FIRST_DAY], "present": [24], "expected": [24]}))


def validate_nothing() -> None:
    """Have pandera import what it needs for its first frame, and build the schemas."""
    pandera.pandas.DataFrameSchema().validate(pd.DataFrame())
    for table in TABLES:
        table.pandera  # noqa: B018 (kept by the table)


def build_calendars() -> None:
    """The open hours of the settings' symbols, but for what sources.toml says of its providers."""
    classes = {instrument(symbol).asset_class for symbol in settings().symbols}
    overrides = [*OVERRIDES.items(), *(((None, asset_class), Override()) for asset_class in classes)]
    for (_, asset_class), override in overrides:
        if asset_class in classes:
            for with_closures in (False, True):
                open_intervals(asset_class, override, with_closures)


for _job in defs.get_repository_def().get_all_jobs():
    _job.asset_layer.asset_graph  # noqa: B018 (resolved here once instead of in every worker)
rehearse()
validate_nothing()
build_calendars()
