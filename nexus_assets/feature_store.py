"""The feature store: writing to and reading from Redis by the contract of redis_contract.py. No Dagster, no database.

Every write is compared inside Redis with what stands there, in one script per batch: an older value never replaces
a newer one, whoever writes and in whatever order. What to write is decided in serving.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson
import pandas as pd

from nexus_assets import redis_contract as contract
from nexus_assets.errors import FeatureStoreError
from nexus_assets.redis_connection import WRITTEN, RedisConnection
from nexus_assets.redis_contract import Slot, Version, Write


@dataclass(frozen=True)
class Vector:
    """The features of one bar as they are served."""

    symbol: str
    timeframe: str
    ts: datetime
    bar_end: datetime
    known_at: datetime
    code_version: int
    features: dict[str, float | None]
    age: timedelta
    """Time since the bar was complete, by this machine's clock, when it was read."""

    @property
    def version(self) -> Version:
        """What it is ordered by."""
        return Version(self.ts, self.known_at, self.code_version)


@dataclass
class Pushed:
    """What became of the rows of one push, by symbol and timeframe, or by key where there is no symbol."""

    written: dict[Slot, datetime] = field(default_factory=dict)
    """ts of each newest value that was replaced."""
    unchanged: int = 0
    older: list[str] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def count(self, name: str, outcome: str) -> bool:
        """Note the outcome of one value; True where it was written."""
        if outcome.startswith("failed: "):
            self.failed[name] = outcome.removeprefix("failed: ")
        elif outcome == "older":
            self.older.append(name)
        elif outcome == "healed":
            self.healed.append(name)
        elif outcome not in WRITTEN:
            self.unchanged += 1
        return outcome in WRITTEN


class FeatureStore:
    """A Redis that holds the newest features, prices and correlations. Usable from several threads.

    Args:
        url: `redis://[:password@]host:port/number`.
        serving_timeframe: The timeframe whose keys carry no timeframe.

    Raises:
        FeatureStoreError: the URL is none, or, from every method, Redis could not be reached or refused.
    """

    def __init__(self, url: str, *, serving_timeframe: str = "1h") -> None:
        self.serving_timeframe = serving_timeframe
        self._redis = RedisConnection(url)

    @property
    def address(self) -> str:
        """host:port."""
        return self._redis.address

    def close(self) -> None:
        """Close the connections."""
        self._redis.client.close()

    # Writing ------------------------------------------------------------------------------------------------------

    def push_features(self, frame: pd.DataFrame) -> Pushed:
        """Serve rows of features.indicators: each under its ts, the newest of each symbol and timeframe as latest.

        A row that cannot be served is named in `failed` and keeps no other from being served. If anything was
        written, `data_ready` is published once, and `volatility_alerts` for each new vector that qualifies.
        """
        pushed = Pushed()
        writes: list[Write] = []
        rows: list[dict[str, Any]] = []
        for row in contract.records(frame):
            try:
                writes += contract.vector_writes(row, self.serving_timeframe)
            except FeatureStoreError as error:
                pushed.failed[str(Slot(row["symbol"], row["timeframe"]))] = str(error)
            else:
                rows.append(row)
        outcomes = self._redis.compare_and_set(writes)
        newest: dict[Slot, dict[str, Any]] = {}
        for row, outcome, at_ts in zip(rows, outcomes[::2], outcomes[1::2], strict=True):
            slot = Slot(row["symbol"], row["timeframe"])
            if pushed.count(str(slot), outcome):
                newest[slot] = row
            if at_ts.startswith("failed: "):
                pushed.failed[str(slot)] = at_ts.removeprefix("failed: ")
        pushed.written = {slot: row["ts"].to_pydatetime() for slot, row in newest.items()}
        if newest:
            self._announce(newest)
        return pushed

    def _announce(self, newest: dict[Slot, dict[str, Any]]) -> None:
        messages = [
            (contract.VOLATILITY_ALERTS, contract.volatility_alert(row))
            for slot, row in newest.items()
            if slot.timeframe == self.serving_timeframe and contract.is_volatile(row)
        ]
        vectors = [
            {
                "symbol": slot.symbol,
                "timeframe": slot.timeframe,
                "ts": contract.instant(row["ts"]),
                "key": contract.latest_key(slot, self.serving_timeframe),
            }
            for slot, row in newest.items()
        ]
        symbols = sorted({slot.symbol for slot in newest})
        messages.append((contract.DATA_READY, contract.message(symbols=symbols, vectors=vectors)))
        self._redis.publish(messages)

    def push_prices(self, bars: pd.DataFrame, *, now: datetime) -> Pushed:
        """Serve the newest row of market.bars of each symbol as its price; `price_updates` carries each new one.

        `now` decides which prices are still current and are kept alive.
        """
        pushed = Pushed()
        writes: list[Write] = []
        rows: list[dict[str, Any]] = []
        for row in contract.records(bars):
            try:
                writes.append(contract.price_write(row, now))
            except FeatureStoreError as error:
                pushed.failed[row["symbol"]] = str(error)
            else:
                rows.append(row)
        messages = []
        for row, write, outcome in zip(rows, writes, self._redis.compare_and_set(writes), strict=True):
            if pushed.count(row["symbol"], outcome):
                pushed.written[Slot(row["symbol"], row["timeframe"])] = row["ts"].to_pydatetime()
                messages.append((contract.PRICE_UPDATES, write.payload))
        self._redis.publish(messages)
        return pushed

    def push_correlations(self, matrix: pd.DataFrame, rankings: pd.DataFrame, *, now: datetime) -> Pushed:
        """Serve the correlations and the best pairs of the newest day.

        `matrix` holds one day of analytics.correlation_matrix; `rankings` the newest day of analytics.pair_rankings
        and, where there is one, the day before it: each pair whose category differs is published on
        `correlation_alerts`, once. Either may be empty.
        """
        pushed = Pushed()
        writes = [] if matrix.empty else [contract.correlation_write(matrix, now)]
        today = rankings
        if not rankings.empty:
            today = cast(pd.DataFrame, rankings[rankings["day"] == rankings["day"].max()])
            writes.append(contract.best_pairs_write(today, now))
        for write, outcome in zip(writes, self._redis.compare_and_set(writes), strict=True):
            frame = matrix if write.key == contract.CORRELATION_LATEST else today
            if pushed.count(write.key, outcome):
                day = frame["day"].iloc[0]
                pushed.written[Slot(write.key, frame["timeframe"].iloc[0])] = datetime(
                    day.year, day.month, day.day, tzinfo=UTC
                )
                if frame is today:
                    earlier = cast(pd.DataFrame, rankings[rankings["day"] != day])
                    changes = contract.category_changes(earlier, today)
                    self._redis.publish([(contract.CORRELATION_ALERTS, change) for change in changes])
        return pushed

    def forget(self, symbols: Iterable[str], timeframes: Iterable[str]) -> int:
        """Remove the newest vectors and prices of the symbols, so that the next push serves what the database holds.

        For a Redis that served another database before: what it holds may be newer than all that is stored now.

        Returns:
            The number of keys removed.
        """
        symbols, timeframes = tuple(symbols), tuple(timeframes)
        keys = [contract.latest_key(Slot(s, t), self.serving_timeframe) for s in symbols for t in timeframes]
        shared = [contract.CORRELATION_LATEST, contract.PAIRS_BEST, *map(contract.price_key, symbols)]
        return self._redis.delete([*keys, *shared, *map(contract.version_key, shared)])

    # Reading ------------------------------------------------------------------------------------------------------

    def latest(self, symbols: Iterable[str], timeframe: str | None = None) -> dict[str, Vector]:
        """The newest vector of each symbol that has one, in one request.

        Raises:
            FeatureStoreError: Redis cannot be read, or a key holds something else; never an empty answer instead.
        """
        slots = [Slot(symbol, timeframe or self.serving_timeframe) for symbol in symbols]
        keys = [contract.latest_key(slot, self.serving_timeframe) for slot in slots]
        found = zip(slots, keys, self._redis.get(keys), strict=True)
        return {slot.symbol: self._vector(key, text) for slot, key, text in found if text is not None}

    def served(self, slots: Sequence[Slot]) -> dict[Slot, Vector]:
        """The newest vector of each slot that has a readable one of this contract, in one request.

        What cannot be read counts as not served, so that the next push replaces it.

        Raises:
            FeatureStoreError: Redis cannot be read. "The read failed" is not "nothing is served".
        """
        keys = [contract.latest_key(slot, self.serving_timeframe) for slot in slots]
        found = {}
        for slot, key, text in zip(slots, keys, self._redis.get(keys), strict=True):
            try:
                vector = None if text is None else self._vector(key, text)
            except FeatureStoreError:
                continue
            if vector is not None and vector.timeframe == slot.timeframe:
                found[slot] = vector
        return found

    def vector(self, symbol: str, ts: datetime, timeframe: str | None = None) -> Vector | None:
        """The vector of one bar as it was served; None where it was never served or has expired."""
        slot = Slot(symbol, timeframe or self.serving_timeframe)
        key = contract.vector_key(slot, ts, self.serving_timeframe)
        text = self._redis.get([key])[0]
        return None if text is None else self._vector(key, text)

    def prices(self, symbols: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The current price of each symbol that has one: the payload of `market:{symbol}:latest`."""
        symbols = tuple(symbols)
        keys = [contract.price_key(symbol) for symbol in symbols]
        found = zip(symbols, keys, self._redis.get(keys), strict=True)
        return {symbol: self._payload(key, text) for symbol, key, text in found if text is not None}

    def correlations(self) -> dict[str, Any] | None:
        """The payload of `correlation:latest`; None where there is none."""
        return self._document(contract.CORRELATION_LATEST)

    def best_pairs(self) -> dict[str, Any] | None:
        """The payload of `pairs:best`; None where there is none."""
        return self._document(contract.PAIRS_BEST)

    def check(self) -> dict[str, Any]:
        """Write a value, read it back, and tell about the server.

        Returns:
            version, used_memory (bytes), maxmemory_policy, keys (in this database).

        Raises:
            FeatureStoreError: Redis cannot be reached, or answers something else than was written.
        """
        written = contract.exact_instant(datetime.now(UTC)).encode()
        client = self._redis.client
        with self._redis.asking("write a value and read it back"):
            client.set("nexus:check", written, ex=10)
            read = client.get("nexus:check")
            about = cast(dict[str, Any], client.info())
            size = client.dbsize()
        if read != written:
            raise FeatureStoreError(
                f"Redis at {self._redis.address} answered {read!r} where {written!r} was written.",
                next_step="See whether another program writes to this database of Redis.",
            )
        return {
            "version": about["redis_version"],
            "used_memory": about["used_memory"],
            "maxmemory_policy": about["maxmemory_policy"],
            "keys": size,
        }

    def _document(self, key: str) -> dict[str, Any] | None:
        text = self._redis.get([key])[0]
        return None if text is None else self._payload(key, text)

    def _payload(self, key: str, text: bytes) -> dict[str, Any]:
        try:
            payload = orjson.loads(text)
            if payload["contract"] > contract.CONTRACT:
                raise FeatureStoreError(
                    f"The key {key} in Redis at {self._redis.address} is of contract {payload['contract']}; "
                    f"this code reads up to {contract.CONTRACT}.",
                    next_step="Update nexus_assets here.",
                )
        except (ValueError, TypeError, KeyError) as error:
            raise self._foreign(key) from error
        return payload

    def _vector(self, key: str, text: bytes) -> Vector:
        payload = self._payload(key, text)
        try:
            stamps = {name: contract.parse_instant(payload[name]) for name in ("ts", "bar_end", "known_at")}
            return Vector(
                symbol=payload["symbol"],
                timeframe=payload["timeframe"],
                code_version=int(payload["code_version"]),
                features=dict(payload["features"]),
                age=datetime.now(UTC) - stamps["bar_end"],
                **stamps,
            )
        except (ValueError, TypeError, KeyError) as error:
            raise self._foreign(key) from error

    def _foreign(self, key: str) -> FeatureStoreError:
        return FeatureStoreError(
            f"The key {key} in Redis at {self._redis.address} does not hold what the contract says.",
            next_step="Another program wrote it; the sensor's next push replaces it within two minutes.",
        )
