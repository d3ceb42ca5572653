"""Which raw rows are kept out of market.bars, and the rows that say so.

A rule looks at one row only: no neighbour, no future. So a row is judged alike whenever and with whatever it is judged.
"""

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.instruments import Instrument
from nexus_assets.schemas import QUARANTINE_RULES, QUARANTINED_BARS

MAX_LOG_RANGE = 0.7
"""Largest |ln(high / low)| of a bar. The widest true bar known, EURCHF on 2015-01-15, has 0.35."""

PRICES = ("open", "high", "low", "close")

_CONTENT = ("ts", *PRICES, "volume", "spread", "price_kind", "volume_kind", "instrument_kind", "backfilled")


def broken_rules(rows: pd.DataFrame, instrument: Instrument, timeframe: str) -> np.ndarray:
    """The first rule that each row breaks, in the order of schemas.QUARANTINE_RULES.

    Args:
        rows: Columns of schemas.RAW_OHLC, of one symbol and timeframe.
        instrument: Declares the asset class and the price band.
        timeframe: Timeframe of the rows.

    Returns:
        One name per row; "" for a row that breaks none.
    """
    prices = rows[list(PRICES)].to_numpy(dtype="float64")
    high, low = prices[:, PRICES.index("high")], prices[:, PRICES.index("low")]
    lowest, highest = prices.min(axis=1), prices.max(axis=1)
    ts = pd.DatetimeIndex(rows["ts"])
    # Every comparison with NaN is false, so a row that is not finite breaks that rule and no later one.
    broken = {
        "not_finite": ~np.isfinite(prices).all(axis=1),
        "not_positive": lowest <= 0,
        "high_low": (high < highest) | (low > lowest),
        "off_grid": np.asarray(trading_calendar.bar_open_of(ts, timeframe) != ts),
        "outside_session": ~_allowed(rows, instrument, timeframe),
        "price_band": (lowest < instrument.price_band[0]) | (highest > instrument.price_band[1]),
        # The same as |ln(high / low)| > MAX_LOG_RANGE: numpy's logarithm differs in the last bit between processors.
        "range": high > low * math.exp(MAX_LOG_RANGE),
    }
    rules = [rule for rule in QUARANTINE_RULES if rule in broken]
    return np.select([broken[rule] for rule in rules], rules, default="")


def _allowed(rows: pd.DataFrame, instrument: Instrument, timeframe: str) -> np.ndarray:
    inside = np.zeros(len(rows), dtype=bool)
    for provider in rows["provider"].unique():
        of_provider = (rows["provider"] == provider).to_numpy()
        ts = pd.DatetimeIndex(rows["ts"][of_provider])
        inside[of_provider] = trading_calendar.allowed(instrument.asset_class, ts, timeframe, provider)
    return inside


def quarantine(rows: pd.DataFrame, rules: np.ndarray, instrument: Instrument) -> pd.DataFrame:
    """The rows of schemas.QUARANTINED_BARS for raw rows that broke a rule, stage `validation`, in the order given.

    Args:
        rows: Columns of schemas.RAW_OHLC.
        rules: The rule that each of them broke.
        instrument: For the price band named in `detail`.
    """
    if rows.empty:
        return QUARANTINED_BARS.empty()
    records = [{str(name): value for name, value in record.items()} for record in rows.to_dict("records")]
    origin = [f"delivery {record['delivery_id']}" for record in records]
    content = [json.dumps({name: _json(record[name]) for name in _CONTENT}) for record in records]
    hashes = [hashlib.sha256(f"{o}\n{c}".encode()).hexdigest()[:32] for o, c in zip(origin, content, strict=True)]
    details = [_DETAILS[rule](record, instrument) for rule, record in zip(rules, records, strict=True)]
    named = rows.assign(
        rule=pd.array(rules, dtype="str"),
        stage="validation",
        row_hash=hashes,
        origin=origin,
        content=content,
        detail=details,
    )
    return named.reindex(columns=QUARANTINED_BARS.column_names).reset_index(drop=True)


def _json(value: Any) -> Any:
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return bool(value) if isinstance(value, np.bool_) else value


def _prices_in_words(row: dict[str, Any], _: Instrument) -> str:
    return ", ".join(f"{name} {row[name]:.10g}" for name in PRICES)


def _grid_in_words(row: dict[str, Any], _: Instrument) -> str:
    opens = trading_calendar.bar_open_of(row["ts"], row["timeframe"])[0]
    return f"opens at {row['ts']:%Y-%m-%d %H:%M:%S} UTC; the {row['timeframe']} bar around it opens at {opens:%H:%M}"


def _session_in_words(row: dict[str, Any], instrument: Instrument) -> str:
    local = row["ts"].astimezone(trading_calendar.NEW_YORK)
    return f"opens on {local:%A %Y-%m-%d %H:%M} New York, when {instrument.asset_class} is closed every week"


def _band_in_words(row: dict[str, Any], instrument: Instrument) -> str:
    low, high = instrument.price_band
    return f"{_prices_in_words(row, instrument)}; the band of {instrument.symbol} is {low:g} to {high:g}"


def _range_in_words(row: dict[str, Any], _: Instrument) -> str:
    high, low = row["high"], row["low"]
    return f"high {high:.10g}, low {low:.10g}: ln(high / low) is {math.log(high / low):.3f}, above {MAX_LOG_RANGE}"


_DETAILS: dict[str, Callable[[dict[str, Any], Instrument], str]] = {
    "not_finite": _prices_in_words,
    "not_positive": _prices_in_words,
    "high_low": _prices_in_words,
    "off_grid": _grid_in_words,
    "outside_session": _session_in_words,
    "price_band": _band_in_words,
    "range": _range_in_words,
}
