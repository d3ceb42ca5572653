"""What `nexus probe leaks` can be turned on: the project's own features, and a function of the user's.

What belongs here: making a function from bars to features. How it is probed is in leaks.py.
"""

import importlib
import sys
from datetime import timedelta
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.errors import ProbeError
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.instruments import instrument
from nexus_assets.leaks import FeatureFunction
from nexus_assets.schemas import BARS, RAW_OHLC
from nexus_assets.settings import Settings
from nexus_assets.transforms import indicators, training_sets
from nexus_assets.transforms.bars import make_bars


def project_features(symbol: str, config: Settings) -> FeatureFunction:
    """The features that this project computes, from base bars as if they had just been delivered.

    Validation, rolling up, the indicators of every feature timeframe, and their join to the shortest one as training
    sets and models see them: `rsi_14`, and `rsi_14@4h` from the last 4h bar that was over.
    """

    def features(bars: pd.DataFrame) -> pd.DataFrame:
        made = _bars_of_every_timeframe(bars, symbol, config)
        frames = {name: _indicators(made, symbol, name) for name in config.feature_timeframes}
        base = config.feature_timeframes[0]
        rows = frames[base]
        columns = {"ts": rows["ts"], **{name: rows[name] for name in INDICATOR_NAMES}}
        decided_at = trading_calendar.bar_end(pd.DatetimeIndex(rows["ts"]), base).as_unit("us").asi8
        for timeframe in config.feature_timeframes[1:]:
            other = frames[timeframe]
            over = trading_calendar.bar_end(pd.DatetimeIndex(other["ts"]), timeframe).as_unit("us").asi8
            position = training_sets.join_features(decided_at, over)
            for name in INDICATOR_NAMES:
                values = other[name].to_numpy()
                seen = values[position] if len(values) else np.full(len(position), np.nan)
                joined = np.where(position == training_sets.NOTHING, np.nan, seen)
                columns[f"{name}@{timeframe}"] = pd.Series(joined)
        return pd.DataFrame(columns).assign(timeframe=base)

    return features


def _bars_of_every_timeframe(bars: pd.DataFrame, symbol: str, config: Settings) -> pd.DataFrame:
    raw = bars.assign(
        symbol=symbol,
        timeframe=config.base_timeframe,
        provider="probe",
        delivery_id=1,
        backfilled=False,
        withdrawn=False,
    )
    absent = {"spread": np.nan, "price_kind": "mid", "volume_kind": "ticks", "volume": np.nan}
    raw = raw.assign(**{name: value for name, value in absent.items() if name not in raw})
    item = instrument(symbol)
    ends = trading_calendar.bar_end(pd.DatetimeIndex(raw["ts"]), config.base_timeframe)
    raw = raw.assign(instrument_kind=item.kind, known_at=ends.as_unit("us"))
    return make_bars(
        raw[RAW_OHLC.column_names],
        instrument=item,
        base_timeframe=config.base_timeframe,
        rolled_up=config.rolled_up_timeframes,
        first_day=ends[0].date() + timedelta(days=1),
        end_day=ends[-1].date() + timedelta(days=1),
        complete_until=ends[-1].to_pydatetime(),
        priority=("probe",),
    ).bars[BARS.column_names]


def _indicators(bars: pd.DataFrame, symbol: str, timeframe: str) -> pd.DataFrame:
    mine = bars[bars["timeframe"] == timeframe]
    days = [mine["ts"].iloc[0].date(), mine["ts"].iloc[-1].date() + timedelta(days=2)] if len(mine) else []
    if not days:
        raise ProbeError(f"The bars make no {timeframe} bar.", next_step="Give more bars.")
    rows = indicators.compute(
        mine, instrument=instrument(symbol), timeframe=timeframe, first_day=days[0], end_day=days[1]
    )
    return rows[rows["slice_start"].notna()].reset_index(drop=True)


def named_function(name: str) -> FeatureFunction:
    """The function of `module:name`; the working folder is searched first.

    Raises:
        ProbeError: there is no such module or function.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ProbeError(f"{name!r} names no function.", next_step="Write module:function, such as features:make.")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ProbeError(
            f"{name} cannot be imported: {error}.", next_step=f"Run from the folder that holds {module}.py."
        ) from error
    if not callable(found):
        raise ProbeError(f"{name} is a {type(found).__name__}, not a function.")
    return cast(FeatureFunction, found)
