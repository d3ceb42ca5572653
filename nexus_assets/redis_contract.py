"""What stands in Redis: keys, lifetimes, payloads, messages. Pure; docs/redis.md says the same for people.

What belongs here: the public interface and nothing that talks to Redis. A change that an existing reader could
notice raises CONTRACT. Payloads are JSON; instants are ISO 8601 in UTC with a fixed width, so that they sort as text;
a missing number is null.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import orjson
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.errors import FeatureStoreError
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.timeframes import length

CONTRACT = 1
"""Version of everything in this module; it stands in every payload and message."""

PRICE_TTL = timedelta(minutes=5)
DAY_TTL = timedelta(days=1)
KEPT_ALIVE_DAYS = timedelta(days=4)
"""How long after its day a correlation is kept alive: over a weekend and a holiday no newer one comes."""

PRICE_UPDATES = "price_updates"
VOLATILITY_ALERTS = "volatility_alerts"
CORRELATION_ALERTS = "correlation_alerts"
DATA_READY = "data_ready"

CORRELATION_LATEST = "correlation:latest"
PAIRS_BEST = "pairs:best"
BEST_PAIRS = 20

VOLATILITY_RATIO = 1.45
"""hv_20 / hv_50 from which an alert is published: 1% of the hours of 21 FX pairs exceed it, and none can exceed
sqrt(49 / 19) = 1.606 by much, because the 20 returns are part of the 50."""

_VOLATILITY_COLUMNS = ("hv_20", "hv_50")


class Slot(NamedTuple):
    """What one newest vector is served for."""

    symbol: str
    timeframe: str

    def __str__(self) -> str:
        return f"{self.symbol} {self.timeframe}"


class Version(NamedTuple):
    """The order of two values of one key: an older one never replaces a newer one."""

    ts: datetime
    known_at: datetime
    code_version: int


@dataclass(frozen=True)
class Write:
    """One value for one key.

    Attributes:
        key: The key.
        payload: JSON.
        version: JSON of timeframe, ts, known_at, code_version, contract; compared inside Redis.
        version_key: Where the version of the stored value stands: `key` itself where the payload carries it and does
            not expire before the order matters, else a key of its own that does not expire.
        ttl: Lifetime; None for ever.
        keep_alive: Write an equal version again, so that its lifetime starts anew.
    """

    key: str
    payload: bytes
    version: bytes
    version_key: str
    ttl: timedelta | None = None
    keep_alive: bool = False


def instant(ts: datetime | pd.Timestamp) -> str:
    """`2024-01-04T10:00:00Z`: a bar's time in UTC, to the second."""
    return pd.Timestamp(ts).tz_convert("UTC").strftime("%Y-%m-%dT%H:%M:%SZ")


def exact_instant(ts: datetime | pd.Timestamp) -> str:
    """`2024-01-04T11:00:01.250000Z`: a clock's time in UTC, to the microsecond."""
    return pd.Timestamp(ts).tz_convert("UTC").strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_instant(text: str) -> datetime:
    """The instant of either form. Raises ValueError for anything else."""
    return datetime.fromisoformat(text).astimezone(UTC)


def latest_key(slot: Slot, serving_timeframe: str) -> str:
    """Key of the newest vector: `features:EURUSD:latest`, or `features:EURUSD:4h:latest` where 4h is not served."""
    return f"features:{_scope(slot, serving_timeframe)}:latest"


def vector_key(slot: Slot, ts: datetime | pd.Timestamp, serving_timeframe: str) -> str:
    """Key of the vector of one ts: `features:EURUSD:2024-01-04T10:00:00Z`."""
    return f"features:{_scope(slot, serving_timeframe)}:{instant(ts)}"


def _scope(slot: Slot, serving_timeframe: str) -> str:
    return slot.symbol if slot.timeframe == serving_timeframe else f"{slot.symbol}:{slot.timeframe}"


def price_key(symbol: str) -> str:
    """Key of the newest price: `market:EURUSD:latest`."""
    return f"market:{symbol}:latest"


def version_key(key: str) -> str:
    """Key that remembers the version of a value that expires: `nexus:version:market:EURUSD:latest`."""
    return f"nexus:version:{key}"


def vector_ttl(timeframe: str) -> timedelta:
    """Lifetime of the vector of one ts: two bars, at least an hour."""
    return max(timedelta(hours=1), 2 * length(timeframe))


def message(**content: object) -> bytes:
    """A message on a channel: JSON with the contract's version."""
    return orjson.dumps({"contract": CONTRACT, **content})


def vector_writes(row: Mapping[str, Any], serving_timeframe: str) -> tuple[Write, Write]:
    """The newest vector and the vector of its ts, from one row of features.indicators.

    Raises:
        FeatureStoreError: the row has no ts or known_at, or holds an infinite number.
    """
    slot = Slot(row["symbol"], row["timeframe"])
    stamps = _stamps(row, slot)
    values = {name: _number(row[name], f"{name} of {slot} {stamps['ts']}") for name in INDICATOR_NAMES}
    payload = orjson.dumps({"contract": CONTRACT, "symbol": slot.symbol, **stamps, "features": values})
    version = _version(stamps)
    latest, at_ts = latest_key(slot, serving_timeframe), vector_key(slot, row["ts"], serving_timeframe)
    return (
        Write(latest, payload, version, latest),
        Write(at_ts, payload, version, at_ts, vector_ttl(slot.timeframe)),
    )


def price_write(row: Mapping[str, Any], now: datetime) -> Write:
    """The newest price, from one row of market.bars.

    It is kept alive only while no newer bar can be there, so that a missing key means "no current price".

    Raises:
        FeatureStoreError: the row has no ts or known_at, or holds an infinite number.
    """
    slot = Slot(row["symbol"], row["timeframe"])
    stamps = _stamps({**row, "code_version": 0}, slot)
    where = f"the bar of {slot} {stamps['ts']}"
    numbers = {name: _number(row[name], where) for name in ("open", "high", "low", "close", "volume", "spread")}
    kinds = {name: row[name] for name in ("provider", "price_kind", "volume_kind", "instrument_kind")}
    version = _version(stamps)
    del stamps["code_version"]
    payload = orjson.dumps(
        {"contract": CONTRACT, "symbol": slot.symbol, **stamps, "price": numbers["close"], **numbers, **kinds}
    )
    current_until = parse_instant(stamps["bar_end"]) + length(slot.timeframe) + PRICE_TTL
    key = price_key(slot.symbol)
    return Write(key, payload, version, version_key(key), PRICE_TTL, keep_alive=now < current_until)


def correlation_write(matrix: pd.DataFrame, now: datetime) -> Write:
    """The correlations of one day, from all its rows of analytics.correlation_matrix."""
    symbols = sorted({*matrix["symbol_a"], *matrix["symbol_b"]})
    columns = ("symbol_a", "symbol_b", "correlation", "n", "standard_error")
    content = {"window_bars": int(matrix["window_bars"].iloc[0]), "symbols": symbols}
    return _day_write(CORRELATION_LATEST, matrix, content, columns, now)


def best_pairs_write(rankings: pd.DataFrame, now: datetime) -> Write:
    """The first BEST_PAIRS pairs of one day, from its rows of analytics.pair_rankings."""
    columns = (
        *("rank", "symbol_a", "symbol_b", "correlation", "standard_error"),
        *("change_7d", "category", "reason"),
    )
    return _day_write(PAIRS_BEST, rankings.sort_values("rank"), {}, columns, now, at_most=BEST_PAIRS)


def _day_write(
    key: str,
    rows: pd.DataFrame,
    content: dict[str, Any],
    columns: tuple[str, ...],
    now: datetime,
    at_most: int | None = None,
) -> Write:
    day = rows["day"].iloc[0]
    # The row of a day is known from the next day's 00:00 UTC on.
    valid_from = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    stamps = {
        "timeframe": rows["timeframe"].iloc[0],
        "ts": instant(valid_from),
        "known_at": exact_instant(max(rows["known_at"])),
        "code_version": int(max(rows["code_version"])),
    }
    version = _version(stamps)
    del stamps["ts"]
    pairs = [
        {name: _plain(row[name], f"{key} of {day}") for name in columns} for row in records(rows.iloc[:at_most, :])
    ]
    payload = orjson.dumps({"contract": CONTRACT, "day": day.isoformat(), **stamps, **content, "pairs": pairs})
    return Write(key, payload, version, version_key(key), DAY_TTL, keep_alive=now < valid_from + KEPT_ALIVE_DAYS)


def records(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows as mappings of column to value."""
    names = [str(name) for name in frame.columns]
    for values in frame.itertuples(index=False, name=None):
        yield dict(zip(names, values, strict=True))


def is_volatile(row: Mapping[str, Any]) -> bool:
    """Whether hv_20 is at least VOLATILITY_RATIO times hv_50; False where one of them is missing."""
    short, long = (float(row[name]) for name in _VOLATILITY_COLUMNS)
    return bool(long > 0 and short >= VOLATILITY_RATIO * long)


def volatility_alert(row: Mapping[str, Any]) -> bytes:
    """The message for one vector: both volatilities and their ratio."""
    short, long = (float(row[name]) for name in _VOLATILITY_COLUMNS)
    return message(
        symbol=row["symbol"], timeframe=row["timeframe"], ts=instant(row["ts"]), hv_20=short, hv_50=long,
        ratio=short / long, threshold=VOLATILITY_RATIO,
    )  # fmt: skip


def category_changes(previous: pd.DataFrame, newest: pd.DataFrame) -> list[bytes]:
    """One message for each pair whose category differs between two days of analytics.pair_rankings."""
    before = {(row["symbol_a"], row["symbol_b"]): row for row in records(previous)}
    changed = []
    for row in records(newest.sort_values(["symbol_a", "symbol_b"])):
        old = before.get((row["symbol_a"], row["symbol_b"]))
        if old is not None and old["category"] != row["category"]:
            changed.append(
                message(
                    day=row["day"].isoformat(), previous_day=old["day"].isoformat(), timeframe=row["timeframe"],
                    symbol_a=row["symbol_a"], symbol_b=row["symbol_b"],
                    correlation=float(row["correlation"]), category=row["category"],
                    previous_correlation=float(old["correlation"]), previous_category=old["category"],
                )
            )  # fmt: skip
    return changed


def _stamps(row: Mapping[str, Any], slot: Slot) -> dict[str, Any]:
    if pd.isna(row["ts"]) or pd.isna(row["known_at"]):
        raise FeatureStoreError(
            f"A row of {slot} has ts {row['ts']} and known_at {row['known_at']}; both are needed to order it.",
            next_step="Materialise the day again.",
        )
    end = trading_calendar.bar_end(pd.DatetimeIndex([row["ts"]]), slot.timeframe).to_pydatetime()[0]
    return {
        "timeframe": slot.timeframe,
        "ts": instant(row["ts"]),
        "bar_end": instant(end),
        "known_at": exact_instant(row["known_at"]),
        "code_version": int(row["code_version"]),
    }


def _version(stamps: Mapping[str, Any]) -> bytes:
    names = ("timeframe", "ts", "known_at", "code_version")
    return orjson.dumps({"contract": CONTRACT, **{name: stamps[name] for name in names}})


def _number(value: Any, where: str) -> float | None:
    number = float(value) if value is not None else np.nan
    if np.isinf(number):
        raise FeatureStoreError(
            f"{where} is {number}; a number that is not finite is missing and must be stored as NULL.",
            next_step="Materialise the day again.",
        )
    return None if np.isnan(number) else number


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, float | np.floating):
        return _number(value, where)
    return value.item() if isinstance(value, np.generic) else value
