"""Raw rows for the tests of the bars: invented ones and recorded ones."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nexus_assets.instruments import instrument
from nexus_assets.schemas import BARS, QUARANTINED_BARS, RAW_OHLC
from nexus_assets.trading_calendar import day_start, expected, rollup_read_start
from nexus_assets.transforms.bars import MadeBars, make_bars


def raw_rows(ts: list[pd.Timestamp] | pd.DatetimeIndex, symbol: str = "EURUSD", **columns: Any) -> pd.DataFrame:
    """Rows of schemas.RAW_OHLC; what is not named is a quiet, valid bar of the provider `files`."""
    size = len(ts)
    values: dict[str, object] = {
        "symbol": symbol,
        "timeframe": "1h",
        "ts": pd.DatetimeIndex(ts).as_unit("us"),
        "provider": "files",
        "delivery_id": 7,
        "known_at": pd.Timestamp("2024-02-01", tz="UTC").as_unit("us"),
        # No two bars are alike, and moves are of one size.
        "open": 1.1 + 0.001 * (np.arange(size) % 2),
        "high": 1.102 + 0.00001 * np.arange(size),
        "low": 1.099,
        "close": 1.1 + 0.001 * ((np.arange(size) + 1) % 2),
        "volume": 10.0,
        "spread": 0.0002,
        "price_kind": "mid",
        "volume_kind": "ticks",
        "instrument_kind": instrument(symbol).kind,
        "backfilled": True,
        "withdrawn": False,
    }
    return pd.DataFrame({**values, **columns}, index=range(size))[RAW_OHLC.column_names]


def expected_rows(first: date, end: date, symbol: str = "EURUSD", **columns: Any) -> pd.DataFrame:
    """A quiet, valid 1h bar wherever one is expected, from the first day's reading start to the end of the last."""
    timeframe = str(columns.get("timeframe", "1h"))
    ts = expected(instrument(symbol).asset_class, rollup_read_start(first), day_start(end), timeframe)
    return raw_rows(ts, symbol, **columns)


def recorded_rows(path: Path, symbol: str, timeframe: str) -> pd.DataFrame:
    """The rows of a recorded file, the first row of each ts."""
    frame = pd.read_parquet(path).dropna(subset=["ts"]).drop_duplicates("ts").sort_values("ts")
    prices = {name: frame[name].to_numpy("float64") for name in ("open", "high", "low", "close")}
    volume = frame["volume"].to_numpy("float64") if "volume" in frame else np.nan
    return raw_rows(pd.DatetimeIndex(frame["ts"]), symbol, **prices, timeframe=timeframe, volume=volume, spread=np.nan)


def made(
    raw: pd.DataFrame,
    first: date,
    end: date | None = None,
    *,
    rolled_up: Sequence[str] = ("4h", "1d"),
    priority: Sequence[str] = ("files",),
    complete_until: pd.Timestamp | None = None,
) -> MadeBars:
    """make_bars on the rows that the days may read, its result checked against the schemas."""
    end = end or first + timedelta(days=1)
    read = raw[(raw["ts"] >= rollup_read_start(first)) & (raw["ts"] < day_start(end))]
    result = make_bars(
        pd.DataFrame(read),
        instrument=instrument(str(raw["symbol"].iloc[0])),
        base_timeframe=str(raw["timeframe"].iloc[0]),
        rolled_up=rolled_up,
        first_day=first,
        end_day=end,
        complete_until=complete_until or day_start(end),
        priority=priority,
    )
    BARS.pandera.validate(result.bars)
    QUARANTINED_BARS.pandera.validate(result.quarantined)
    return result


def bars_of(result: MadeBars, timeframe: str) -> Any:
    """The bars of one timeframe, a DataFrame by ts."""
    return result.bars[result.bars["timeframe"] == timeframe].set_index("ts")
