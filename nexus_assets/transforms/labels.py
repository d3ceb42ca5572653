"""Labels: what the price did in the 24 open market hours after each bar.

A label looks ahead on purpose. entry_at is the end of its bar, horizon_end is 24 open hours of the asset class later,
and a row exists only once the bars reach horizon_end: otherwise the newest labels would be the ones that were decided
early, and hold every touch of a barrier and no time-out.

Source of the triple-barrier method: López de Prado, Advances in Financial Machine Learning, 2018, chapter 3.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd

from nexus_assets.errors import PartitionError
from nexus_assets.instruments import Instrument
from nexus_assets.schemas import LABELS
from nexus_assets.timeframes import length
from nexus_assets.trading_calendar import advance, bar_end, day_start
from nexus_assets.transforms.returns import log_returns, mean_and_deviation

LABELS_VERSION = 2
"""Raised whenever a label may change."""

HORIZON_OPEN_HOURS = 24
"""Open market hours between entry_at and horizon_end."""

LOOK_AHEAD = timedelta(days=7)
"""How far past its last day the bars are read. The longest horizon measured on real markets spans 98 hours."""

VOLATILITY_BARS = 50
"""Log returns up to and including the entry bar from which the volatility of one bar is estimated."""

PROFIT_WIDTH = LOSS_WIDTH = 4.0
"""Distance of the barriers from the entry in volatilities of one bar. At 1h, where the volatility of the whole horizon
is 4.9 such, three labels in eight of EURUSD (2016 to 2021) meet profit, as many loss, and a quarter neither."""

DEAD_ZONE = 0.25
"""Share of the horizon's volatility within which a return has no direction: a fifth of the labels."""

_DAY = 86_400_000_000  # microseconds

_HALF_SPREADS: Mapping[str, tuple[float, float]] = {"mid": (0.5, 0.5), "bid": (1.0, 0.0), "ask": (0.0, 1.0)}
"""By kind of price: spreads that are paid on top of it when buying, and below it when selling. A last price has none:
on which side of the spread it was traded is not known."""


@dataclass(frozen=True)
class LabelResult:
    """The labels of some days, and how many there will be.

    Attributes:
        labels: Columns of schemas.LABELS, by ts.
        expected: Bars of each day: the labels it has once every horizon has passed.
        matured: Labels that each day has now.
    """

    labels: pd.DataFrame
    expected: dict[date, int]
    matured: dict[date, int]


def compute(
    bars: pd.DataFrame, *, instrument: Instrument, timeframe: str, first_day: date, end_day: date
) -> LabelResult:
    """Label the bars that end in (first_day 00:00, end_day 00:00] UTC.

    forward_return_24h is exit close / entry close - 1. The exit bar is the last one that ends at or before
    horizon_end; it must end later than one timeframe before it, else the return is missing, for `no_exit_bar`. t1 is
    the end of the exit bar. direction_24h is its sign, 0 within DEAD_ZONE of the horizon's volatility. The barrier_*
    columns are those of triple_barrier at PROFIT_WIDTH and LOSS_WIDTH. known_at is the latest known_at from the first
    bar of the volatility to the last bar in the horizon.

    The newest bar decides which horizons have passed. It is looked for within LOOK_AHEAD after each day, so that a
    day's labels do not depend on the days computed with it; where the bars have a hole longer than that, the labels
    whose horizon ends in it stay absent.

    Args:
        bars: Columns of schemas.BARS of one symbol and timeframe, ts ascending and unique: the VOLATILITY_BARS bars
            before first_day, as far as there are any, and then all until LOOK_AHEAD after end_day.
        instrument: Gives symbol and asset class.
        timeframe: Of the bars.
        first_day: First UTC day, inclusive.
        end_day: UTC day after the last.

    Raises:
        PartitionError: ts is not ascending and unique.
    """
    path = _path(bars, instrument, timeframe)
    start, stop = (int(i) for i in np.searchsorted(path.ends, [_micros(first_day), _micros(end_day)], side="right"))
    entry = np.arange(start, stop)
    day = (path.ends[entry] - 1) // _DAY
    horizons = path.horizons(entry, HORIZON_OPEN_HOURS)
    visible = horizons <= _newest_end(path.ends, day)
    counts = [_per_day(days, first_day, end_day) for days in (day, day[visible])]
    entry, horizons = entry[visible], horizons[visible]
    exits = _exits(path, entry, horizons)
    volatility = _volatility(path.close)[entry]
    columns = _instants(path, entry, horizons, instrument.symbol)
    columns |= _forward(path, entry, exits, volatility)
    columns |= _barriers(path, entry, exits, PROFIT_WIDTH * volatility, LOSS_WIDTH * volatility)
    columns["volatility_50"] = volatility
    known_at = _latest(path.known_at, np.maximum(entry - VOLATILITY_BARS, 0), exits.last)
    columns["known_at"] = _index(known_at)
    columns["code_version"] = np.full(len(entry), LABELS_VERSION, dtype=np.int16)
    return LabelResult(pd.DataFrame(columns)[LABELS.column_names], *counts)


def triple_barrier(
    bars: pd.DataFrame,
    *,
    instrument: Instrument,
    timeframe: str,
    profit: float = PROFIT_WIDTH,
    loss: float = LOSS_WIDTH,
    horizon_open_hours: float = HORIZON_OPEN_HOURS,
    volatility: np.ndarray | None = None,
) -> pd.DataFrame:
    """Which of three barriers each bar's position meets first: profit, loss or time. Long side.

    The position is entered at the close of bar ts and looks at the bars after it that end at or before horizon_end.
    Profit and loss lie at close x (1 + profit x volatility) and close x (1 - loss x volatility). A bar that opens at
    or beyond a barrier exits at its open, one that holds both counts as the loss and is marked ambiguous, any other
    exits at the barrier. Without a touch it exits at the close of the last bar that ends at or before horizon_end,
    which must be less than one bar older than it.

    Args:
        bars: Columns of schemas.BARS of one symbol and timeframe, ts ascending and unique.
        instrument: Gives the asset class, whose open hours count.
        timeframe: Of the bars.
        profit: Width of the upper barrier in volatilities.
        loss: Width of the lower one.
        horizon_open_hours: Open market hours until the third.
        volatility: Of one bar, as a fraction, one value per bar, known at its end. By default the standard deviation
            (ddof 1) of the last VOLATILITY_BARS log returns.

    Returns:
        One row per bar whose horizon has passed: ts, entry_at, horizon_end, barrier (profit, loss, time),
        barrier_label (1, -1, 0), barrier_t1 (end of the deciding bar), barrier_return (exit price / entry close - 1),
        barrier_net_return (less the spreads that the two bars store), barrier_ambiguous, barrier_width (the profit
        barrier's, as a fraction), barrier_missing_reason (no_volatility where it is missing or zero, no_exit_bar).

    Raises:
        PartitionError: ts is not ascending and unique.
    """
    path = _path(bars, instrument, timeframe)
    entry = np.arange(len(path.ends))
    horizons = path.horizons(entry, horizon_open_hours)
    passed = horizons <= path.ends.max(initial=0)
    entry, horizons = entry[passed], horizons[passed]
    scale = _volatility(path.close) if volatility is None else np.asarray(volatility, dtype=np.float64)
    columns = _instants(path, entry, horizons, instrument.symbol)
    columns |= _barriers(path, entry, _exits(path, entry, horizons), profit * scale[entry], loss * scale[entry])
    return pd.DataFrame(columns).drop(columns=["symbol", "timeframe"])


@dataclass(frozen=True)
class _Path:
    """Bars as arrays; instants in microseconds since 1970."""

    ts: np.ndarray
    ends: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    spread: np.ndarray
    price_kind: np.ndarray
    known_at: np.ndarray
    asset_class: str
    timeframe: str

    def horizons(self, entry: np.ndarray, open_hours: float) -> np.ndarray:
        """The end of each entry's horizon."""
        ends = _index(self.ends[entry])
        return advance(self.asset_class, ends, open_hours).as_unit("us").asi8  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _Exits:
    """The last bar of each horizon, and whether it is new enough to exit at its close."""

    last: np.ndarray
    there: np.ndarray


def _path(bars: pd.DataFrame, instrument: Instrument, timeframe: str) -> _Path:
    ts = pd.DatetimeIndex(bars["ts"]).as_unit("us")
    if not (ts.is_monotonic_increasing and ts.is_unique):
        raise PartitionError(
            f"The {timeframe} bars of {instrument.symbol} are not in ascending order of a unique ts.",
            next_step="Read them from market.bars ordered by ts.",
        )
    prices = {n: np.ascontiguousarray(bars[n], dtype=np.float64) for n in ("open", "high", "low", "close", "spread")}
    return _Path(
        ts=ts.asi8,
        ends=bar_end(ts, timeframe).as_unit("us").asi8,
        **prices,
        price_kind=np.asarray(bars["price_kind"], dtype=object),
        known_at=pd.DatetimeIndex(bars["known_at"]).as_unit("us").asi8,
        asset_class=instrument.asset_class,
        timeframe=timeframe,
    )


def _volatility(close: np.ndarray) -> np.ndarray:
    """Standard deviation (ddof 1) of the last VOLATILITY_BARS log returns, per bar; missing where there are fewer."""
    return mean_and_deviation(log_returns(close), VOLATILITY_BARS)[1]


def _exits(path: _Path, entry: np.ndarray, horizons: np.ndarray) -> _Exits:
    last = np.searchsorted(path.ends, horizons, side="right") - 1
    one_bar = int(length(path.timeframe).total_seconds()) * 1_000_000
    return _Exits(last, path.ends[last] > horizons - one_bar)


def _instants(path: _Path, entry: np.ndarray, horizons: np.ndarray, symbol: str) -> dict[str, object]:
    return {
        "symbol": pd.Series(symbol, index=range(len(entry)), dtype="str"),
        "timeframe": pd.Series(path.timeframe, index=range(len(entry)), dtype="str"),
        "ts": _index(path.ts[entry]),
        "entry_at": _index(path.ends[entry]),
        "horizon_end": _index(horizons),
    }


def _forward(path: _Path, entry: np.ndarray, exits: _Exits, volatility: np.ndarray) -> dict[str, object]:
    """The return to the end of the horizon and its direction."""
    returns = np.where(exits.there, path.close[exits.last] / path.close[entry] - 1.0, np.nan)
    hours = length(path.timeframe) / timedelta(hours=1)
    dead = DEAD_ZONE * math.sqrt(HORIZON_OPEN_HOURS / hours) * volatility
    direction = np.where(np.abs(returns) > dead, np.sign(returns), 0.0)
    return {
        "t1": pd.Series(_index(path.ends[exits.last])).where(exits.there),
        "forward_return_24h": returns,
        "missing_reason": pd.Series("no_exit_bar", index=range(len(entry)), dtype="str").mask(exits.there),
        "direction_24h": _nullable(direction, np.isnan(returns) | np.isnan(volatility)),
    }


def _barriers(path: _Path, entry: np.ndarray, exits: _Exits, profit: np.ndarray, loss: np.ndarray) -> dict[str, object]:
    """The barrier_* columns."""
    from nexus_assets.transforms.triple_barrier import LOSS, PROFIT, UNTOUCHED, first_touch

    usable = (profit > 0) & (loss > 0)  # False where missing
    outcome, position, price, ambiguous = first_touch(
        (path.open, path.high, path.low, path.close),
        entry,
        exits.last,
        np.where(usable, profit, np.nan),
        np.where(usable, loss, np.nan),
    )
    timed_out = outcome == UNTOUCHED
    decided = usable & (~timed_out | exits.there)
    price = np.where(timed_out, path.close[position], price)
    reason = np.where(usable, "no_exit_bar", "no_volatility")
    names = np.select([outcome == PROFIT, outcome == LOSS], ["profit", "loss"], "time")
    return {
        "barrier": pd.Series(names, dtype="str").where(decided),
        "barrier_label": _nullable(outcome.astype(np.float64), ~decided),
        "barrier_t1": pd.Series(_index(path.ends[position])).where(decided),
        "barrier_return": np.where(decided, price / path.close[entry] - 1.0, np.nan),
        "barrier_net_return": np.where(decided, _net_return(path, entry, position, price), np.nan),
        "barrier_width": np.where(usable, profit, np.nan),
        "barrier_ambiguous": pd.Series(ambiguous, dtype="boolean").where(decided),
        "barrier_missing_reason": pd.Series(reason, dtype="str").mask(decided),
    }


def _net_return(path: _Path, entry: np.ndarray, position: np.ndarray, price: np.ndarray) -> np.ndarray:
    """The return when the spread is paid: bought on the ask, sold on the bid. Missing without a spread at an end."""
    none = (np.nan, np.nan)
    buying = np.array([_HALF_SPREADS.get(kind, none)[0] for kind in path.price_kind[entry]])
    selling = np.array([_HALF_SPREADS.get(kind, none)[1] for kind in path.price_kind[position]])
    bought = path.close[entry] + buying * path.spread[entry]
    return (price - selling * path.spread[position]) / bought - 1.0


def _nullable(values: np.ndarray, missing: np.ndarray) -> pd.Series:
    """Whole numbers, some of them missing."""
    return pd.Series(pd.array(np.where(missing, 0, values).astype(np.int16), dtype="Int16")).mask(missing)


def _index(microseconds: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(microseconds.astype(np.int64).view("datetime64[us]")).tz_localize("UTC")


def _micros(day: date) -> int:
    """00:00 UTC of a day in microseconds since 1970."""
    return int(day_start(day).timestamp()) * 1_000_000


def _newest_end(ends: np.ndarray, day: np.ndarray) -> np.ndarray:
    """The end of the newest bar that ends at most LOOK_AHEAD after each day (given in days since 1970)."""
    limit = (day + 1) * _DAY + int(LOOK_AHEAD.total_seconds()) * 1_000_000
    return ends[np.searchsorted(ends, limit, side="right") - 1]


def _latest(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The largest of values[first..last], both inclusive, for each pair of positions.

    Doubling: level k holds the maximum of 2**k values; two of them that may overlap cover any stretch.
    """
    result = values[first].copy()
    spans = last - first + 1
    level, width = values, 1
    while spans.size and width <= spans.max():
        fits = (spans >= width) & (spans < 2 * width)
        result[fits] = np.maximum(level[first[fits]], level[last[fits] - width + 1])
        level = np.maximum(level[:-width], level[width:])
        width *= 2
    return result


def _per_day(day: np.ndarray, first_day: date, end_day: date) -> dict[date, int]:
    """How many rows each day has, days without any included; `day` counts days since 1970."""
    first = (first_day - date(1970, 1, 1)).days
    counts = np.bincount(day - first, minlength=(end_day - first_day).days)
    return {first_day + timedelta(days=i): int(count) for i, count in enumerate(counts)}
