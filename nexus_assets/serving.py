"""What Redis should hold, decided from the database, and the push that brings it there. No Dagster.

Used by the sensor, by the end of a run and by the command line alike: each compares the database with Redis, so it
does not matter who comes first, or that an event was lost. What a value looks like is in redis_contract.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pandas as pd

from nexus_assets import redis_contract as contract
from nexus_assets.errors import FeatureStoreError
from nexus_assets.feature_store import FeatureStore, Pushed, Vector
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.market_store import MarketStore
from nexus_assets.redis_contract import Slot, Version
from nexus_assets.schemas import CORRELATION_MATRIX, PAIR_RANKINGS
from nexus_assets.settings import Settings

_SHOWN = 5


@dataclass(frozen=True)
class Decision:
    """What to push.

    Attributes:
        vectors: Rows of features.indicators to push.
        current: Slots whose newest vector is served as it is stored.
        ahead: Slots for which Redis serves a newer vector than the database holds.
    """

    vectors: pd.DataFrame
    current: tuple[Slot, ...]
    ahead: tuple[Slot, ...]


def decide(newest: pd.DataFrame, served: Mapping[Slot, Vector]) -> Decision:
    """Compare the newest stored vectors with the served ones.

    A vector is pushed where none is served, where the stored one is newer by (ts, known_at, code_version), and where
    both are of one version and differ: a bar that was delivered earlier may have been validated later.

    Args:
        newest: Rows of features.indicators, one for each symbol and timeframe.
        served: What Redis was read to hold. A slot that is absent is not served.
    """
    push, current, ahead = [], [], []
    for row in contract.records(newest):
        slot = Slot(row["symbol"], row["timeframe"])
        vector = served.get(slot)
        order = 1 if vector is None or pd.isna(row["known_at"]) else _order(_version(row), vector.version)
        if order == 0 and vector is not None:
            stored = {name: None if pd.isna(row[name]) else float(row[name]) for name in INDICATOR_NAMES}
            order = int(stored != vector.features)
        push.append(order > 0)
        if order == 0:
            current.append(slot)
        elif order < 0:
            ahead.append(slot)
    return Decision(cast(pd.DataFrame, newest[push]), tuple(current), tuple(ahead))


def _version(row: Mapping[str, Any]) -> Version:
    return Version(row["ts"].to_pydatetime(), row["known_at"].to_pydatetime(), int(row["code_version"]))


def _order(stored: Version, served: Version) -> int:
    return (stored > served) - (stored < served)


@dataclass(frozen=True)
class PushReport:
    """What one push did, for people and for whoever decides whether it succeeded."""

    vectors: Pushed
    prices: Pushed
    correlations: Pushed
    current: tuple[Slot, ...]
    ahead: tuple[Slot, ...]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What was pushed, in one line."""
        written = self.vectors.written
        parts = [_listed("vector", [f"{slot} {contract.instant(ts)}" for slot, ts in written.items()])]
        parts.append(_listed("price", [slot.symbol for slot in self.prices.written]))
        parts += [f"{slot.symbol} of {day:%Y-%m-%d}" for slot, day in self.correlations.written.items()]
        pushed = [part for part in parts if part]
        same = len(self.current)
        nothing = f"Nothing new: {same} vector{'' if same == 1 else 's'} served as stored."
        text = f"Pushed {'; '.join(pushed)}." if pushed else nothing
        if self.ahead:
            text += (
                f" Redis is ahead of the database for {_shortened([str(slot) for slot in self.ahead])}; "
                "an older vector never replaces a newer one."
            )
        healed = self.vectors.healed + self.prices.healed + self.correlations.healed
        if healed:
            text += f" Replaced what was not ours under {_shortened(healed)}."
        return text

    def raise_failures(self) -> None:
        """Raise what failed, after everything else was pushed.

        Raises:
            FeatureStoreError: at least one value could not be pushed; names each and the reason.
        """
        if self.failed:
            reasons = [f"{name}: {reason}" for name, reason in self.failed.items()]
            raise FeatureStoreError(
                f"Not pushed: {_shortened(reasons)} {self.sentence}",
                next_step="They are tried again with the next push.",
            )


def push(
    store: MarketStore,
    feature_store: FeatureStore,
    settings: Settings,
    symbols: Sequence[str] | None = None,
    *,
    now: datetime | None = None,
) -> PushReport:
    """Bring Redis up to the database: prices, correlations, then the newest vectors, then `data_ready`.

    Idempotent, and safe beside other pushes. One symbol that fails keeps no other; see PushReport.failed.

    Args:
        symbols: Those to push; all of the settings by default.
        now: The clock; decides which prices are still current.

    Raises:
        DatabaseError: the database cannot be read.
        FeatureStoreError: Redis cannot be read or written.
    """
    symbols = tuple(symbols or settings.symbols)
    now = now or datetime.now(UTC)
    slots = [Slot(symbol, timeframe) for timeframe in settings.feature_timeframes for symbol in symbols]
    served = feature_store.served(slots)
    frames = [store.newest_features(symbols, timeframe) for timeframe in settings.feature_timeframes]
    newest = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
    # Without a slice there was too little history: every indicator is NULL, and there is nothing to serve.
    decision = decide(cast(pd.DataFrame, newest[newest["slice_start"].notna()]), served)
    prices = feature_store.push_prices(store.newest_bars(symbols, settings.base_timeframe), now=now)
    correlations = feature_store.push_correlations(
        store.newest_days(CORRELATION_MATRIX, settings.correlation_timeframe),
        store.newest_days(PAIR_RANKINGS, settings.correlation_timeframe, days=2),
        now=now,
    )
    vectors = feature_store.push_features(decision.vectors)
    failed = {**prices.failed, **correlations.failed, **vectors.failed}
    return PushReport(vectors, prices, correlations, decision.current, decision.ahead, failed)


def _listed(noun: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({_shortened(names)})"


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
