"""Which provider's row stands for a bar, and where providers disagree.

One provider supplies a trading day (17:00 to 17:00 New York): mid less bid is 7% of the median move at 10:00 New York
and 76% at 17:00, so a day that is patched from several feeds without need has moves that never happened. A fallback
fills only what is a hole: a bar that the calendar of the day's provider expects and that it does not have, or that was
quarantined; and only with a row of the same kind of instrument and price.

Everything is decided within the window of a day (see bars.py).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.instruments import Instrument
from nexus_assets.schemas import DISAGREEMENTS

SPREADS_APART = 3.0
"""Closes of two providers that differ by more than so many times the hour's median spread disagree."""

INVENTED = "synthetic"
"""The provider whose prices are invented: it may supply a day that nobody else has, and never fills a hole."""

UNKNOWN_SPREAD = 0.001
"""What is allowed where no spread is known: 10 basis points of the close."""


def choose(
    windows: pd.DataFrame, instrument: Instrument, priority: Sequence[str], timeframe: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows become bars.

    Args:
        windows: Valid rows as bars._windows returns them: by `day` and ts, with `trading_day`.
        instrument: Only the first of `priority` may quote another kind of it: a future does not stand in for spot.
        priority: The preferred provider first; providers that are not named come last, by name.
        timeframe: Of the rows.

    Returns:
        Whether each row is taken, at most one per day and ts; and the name of the provider of each row's day.
    """
    names, rank = _ranks(windows["provider"], priority)
    eligible = np.asarray(windows["instrument_kind"] == instrument.kind) | (rank < min(len(priority), 1))
    ranked = pd.Series(np.where(eligible, rank, len(names)))
    groups = [windows["day"], windows["trading_day"]]
    best = ranked.groupby(groups).transform("min").to_numpy()
    leading = eligible & (rank == best)
    named = np.array([*names, ""], dtype=object)
    if (leading == eligible).all():
        return leading, named[best]
    leaders = windows.assign(price_kind=windows["price_kind"].astype(str), best=best)[leading]
    kinds = leaders.drop_duplicates(["day", "trading_day"]).set_index(["day", "trading_day"])
    of_leader = kinds.reindex(pd.MultiIndex.from_frame(windows[["day", "trading_day"]]))
    same_kind = np.asarray(
        (windows["price_kind"].astype(str).to_numpy() == of_leader["price_kind"].to_numpy())
        & (windows["instrument_kind"].to_numpy() == of_leader["instrument_kind"].to_numpy())
    )
    has_leader = pd.Series(leading).groupby([windows["day"], windows["ts"]]).transform("any").to_numpy(dtype=bool)
    filling = eligible & ~leading & same_kind & ~has_leader & np.asarray(windows["provider"] != INVENTED)
    filling &= _expected(windows, named[best], instrument, timeframe)
    first = pd.Series(np.where(filling, rank, len(names))).groupby([windows["day"], windows["ts"]]).transform("min")
    return leading | (filling & (rank == first.to_numpy())), named[best]


def _ranks(providers: pd.Series, priority: Sequence[str]) -> tuple[list[str], np.ndarray]:
    code, present = pd.factorize(providers)
    order = [*priority, *sorted(set(present) - set(priority))]
    return order, np.array([order.index(name) for name in present], dtype="int64")[code]


def _expected(windows: pd.DataFrame, leaders: np.ndarray, instrument: Instrument, timeframe: str) -> np.ndarray:
    """Whether the calendar of the day's provider expects each row's bar."""
    found = np.zeros(len(windows), dtype=bool)
    ts = pd.DatetimeIndex(windows["ts"])
    end = trading_calendar.bar_end([ts.max()], timeframe)[0]
    for leader in {str(name) for name in leaders}:
        mine = leaders == leader
        grid = trading_calendar.expected(
            instrument.asset_class, ts.min().to_pydatetime(), end.to_pydatetime(), timeframe, leader
        )
        found[mine] = np.isin(ts.as_unit("us").asi8[mine], grid.asi8)
    return found


def disagreements(rows: pd.DataFrame, taken: np.ndarray) -> pd.DataFrame:
    """Closes of other providers that lie further from a bar's close than the tolerance.

    The tolerance is SPREADS_APART times the median spread of the bars that were taken in the same day and hour, or
    UNKNOWN_SPREAD of the close where none of them tells its spread. Rows of another kind of instrument are not
    compared; another kind of price is, because a bid lies half a spread from the mid.

    Args:
        rows: Valid rows, each in the window of its own day, with `day`.
        taken: Whether each of them became a bar.

    Returns:
        Columns of schemas.DISAGREEMENTS, by ts and provider.
    """
    if taken.all() or not taken.any():
        return DISAGREEMENTS.empty()
    hours = [rows["day"], pd.DatetimeIndex(rows["ts"]).hour]
    spread = rows["spread"].where(taken).groupby(hours).transform("median")
    names = ["ts", "provider", "close", "instrument_kind", "known_at"]
    bars = rows.loc[taken, [*names, "symbol", "timeframe"]].assign(tolerance=spread[taken] * SPREADS_APART)
    bars["tolerance"] = bars["tolerance"].fillna(bars["close"] * UNKNOWN_SPREAD)
    others = rows.loc[~taken, names].rename(
        columns={"provider": "other_provider", "close": "other_close", "known_at": "other_known_at"}
    )
    pairs = bars.merge(others, on=["ts", "instrument_kind"])
    apart = pairs[(pairs["other_close"] - pairs["close"]).abs() > pairs["tolerance"]]
    if apart.empty:
        return DISAGREEMENTS.empty()
    latest = apart[["known_at", "other_known_at"]].max(axis=1)
    return (
        apart.assign(known_at=latest)
        .sort_values(["ts", "other_provider"], ignore_index=True)
        .reindex(columns=DISAGREEMENTS.column_names)
    )
