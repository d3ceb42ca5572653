"""Handing bars over directly: stored as a delivery, carried through to Redis at once, recorded in Dagster afterwards.

    import nexus_assets

    nexus_assets.push_bars("EURUSD", bars, provider="files")
    nexus_assets.withdraw_bars("EURUSD", ["2024-03-05T10:00:00Z"], provider="files")

No run is started: a run takes seconds to start, and a corrected bar should be served before that. The lineage is
there all the same, as materialisations of every partition that was computed anew.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
import pandas as pd

from nexus_assets.correction_report import Corrections
from nexus_assets.corrections import carry_out, pending
from nexus_assets.errors import PermanentProviderError, SettingsError
from nexus_assets.feature_store import FeatureStore
from nexus_assets.instruments import InstrumentKind, PriceKind, VolumeKind, instrument
from nexus_assets.market_store import DeliveryCounts, MarketStore
from nexus_assets.providers.interface import BAR_COLUMNS, Delivery, Request, bar_frame, empty_rejected
from nexus_assets.providers.registry import Sources
from nexus_assets.resources import open_feature_store, open_market_store, open_sources
from nexus_assets.settings import apply_dotenv, settings
from nexus_assets.timeframes import length
from nexus_assets.training_request import instant


@dataclass(frozen=True)
class Pushed:
    """What became of pushed or withdrawn bars.

    Attributes:
        deliveries: The counts of each stretch of neighbouring bars.
        corrections: What they reached.
        served_after: Seconds from the call until Redis held the corrected features.
    """

    deliveries: tuple[DeliveryCounts, ...]
    corrections: Corrections
    served_after: float


@dataclass(frozen=True)
class _Market:
    store: MarketStore
    feature_store: FeatureStore
    sources: Sources


@lru_cache(maxsize=1)
def _market() -> _Market:
    config = settings()
    return _Market(open_market_store(config), open_feature_store(config), open_sources(config))


def push_bars(
    symbol: str,
    bars: pd.DataFrame,
    *,
    provider: str,
    price_kind: PriceKind | None = None,
    volume_kind: VolumeKind | None = None,
    instrument_kind: InstrumentKind | None = None,
    record: bool = True,
) -> Pushed:
    """Store bars of the base timeframe as if their provider had delivered them, and serve what follows from them.

    Args:
        symbol: Generic name.
        bars: Columns ts (tz-aware, open of the bar), open, high, low, close, and volume and spread where there are any.
        provider: Under whose name the rows are stored.
        price_kind, volume_kind, instrument_kind: What the numbers are of; by default what the provider's newest stored
            row of the symbol is.
        record: Whether Dagster records the partitions; needs DAGSTER_HOME.

    Raises:
        PermanentProviderError: a ts without a time zone or twice, a column missing, or a kind that is not known.
        NexusError: the database or Redis cannot be written. What is stored is carried on by the sensor.
    """
    began = time.monotonic()
    apply_dotenv()
    market = _market()
    frame = _checked(symbol, bars)
    kinds = _kinds(market.store, symbol, provider, price_kind, volume_kind, instrument_kind)
    timeframe = settings().base_timeframe
    counts = []
    for stretch in _stretches(frame, timeframe):
        first, last = stretch["ts"].iloc[0].to_pydatetime(), stretch["ts"].iloc[-1].to_pydatetime()
        request = Request(symbol, timeframe, first, last + length(timeframe))
        delivery = Delivery(
            provider, request, stretch.reset_index(drop=True), empty_rejected(), 0, *kinds, source="pushed"
        )
        counts.append(market.store.append_delivery(delivery, run_id=None))
    return _carry_on(market, symbol, counts, began, record)


def withdraw_bars(symbol: str, ts: Sequence[str | datetime], *, provider: str, record: bool = True) -> Pushed:
    """Take bars of the base timeframe back, as tombstones, and serve what follows.

    Raises:
        DatabaseError: one of them is not stored, or was withdrawn before; nothing is withdrawn then.
    """
    began = time.monotonic()
    apply_dotenv()
    market = _market()
    wanted = [instant(value) for value in ts]
    counts = market.store.withdraw(symbol, settings().base_timeframe, provider, wanted, run_id=None)
    return _carry_on(market, symbol, [counts], began, record)


def _carry_on(market: _Market, symbol: str, counts: Sequence[DeliveryCounts], began: float, record: bool) -> Pushed:
    cells = pending(market.store, symbol=symbol)
    served: list[float] = []
    report = carry_out(
        market.store,
        market.feature_store,
        market.sources,
        cells,
        served=lambda: served.append(time.monotonic() - began),
    )
    if record:
        record_corrections(report)
    return Pushed(tuple(counts), report, served[0] if served else time.monotonic() - began)


def record_corrections(report: Corrections) -> None:
    """Let Dagster know of every partition that was computed anew."""
    import dagster as dg

    from nexus_assets.correction_runs import materialisations
    from nexus_assets.materializations import announce

    with dg.DagsterInstance.get() as instance:
        announce(materialisations(report), instance=instance)


def _checked(symbol: str, bars: pd.DataFrame) -> pd.DataFrame:
    instrument(symbol)
    missing = [name for name in ("ts", "open", "high", "low", "close") if name not in bars]
    if missing:
        raise PermanentProviderError(
            f"Bars of {symbol} have no column {', '.join(missing)}.", next_step=f"Give {', '.join(BAR_COLUMNS)}."
        )
    ts = pd.DatetimeIndex(bars["ts"])
    if ts.tz is None or not ts.is_unique:
        raise PermanentProviderError(
            f"The ts of bars of {symbol} have no time zone, or stand there twice.",
            next_step="Give tz-aware opens, each once.",
        )
    absent = np.full(len(bars), np.nan)
    values = np.array([bars[name].to_numpy("float64") if name in bars else absent for name in BAR_COLUMNS[1:]])
    return bar_frame(ts.tz_convert("UTC"), values).sort_values("ts", ignore_index=True)


def _kinds(
    store: MarketStore,
    symbol: str,
    provider: str,
    price_kind: PriceKind | None,
    volume_kind: VolumeKind | None,
    instrument_kind: InstrumentKind | None,
) -> tuple[PriceKind, VolumeKind, InstrumentKind]:
    given = (price_kind, volume_kind, instrument_kind)
    if None not in given:
        return given  # pyright: ignore[reportReturnType]
    known = store.kinds_of(symbol, settings().base_timeframe, provider)
    if known is None:
        raise SettingsError(
            f"{provider} has no stored bar of {symbol}, so it is not known what its numbers are of.",
            next_step="Pass price_kind, volume_kind and instrument_kind.",
        )
    return tuple(mine or stored for mine, stored in zip(given, known, strict=True))  # pyright: ignore[reportReturnType]


def _stretches(bars: pd.DataFrame, timeframe: str) -> Iterator[pd.DataFrame]:
    """Neighbouring bars: a delivery says of every bar in its range that it has it or has none."""
    begins = bars["ts"].diff() != length(timeframe)
    for _, stretch in bars.groupby(begins.cumsum()):
        yield stretch
