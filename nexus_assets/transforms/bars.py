"""Raw rows to bars: validate, choose a provider, flag doubts, roll up.

The window of a day. Everything about a day's bars is decided on the raw rows from 17:00 New York of the day before to
the day's end (00:00 UTC of the next day): what a day's bars are does not depend on which other days are computed with
it. A row after 17:00 New York lies in two windows, its own day's and the next day's, where it is input of 4h and 1d
bars; it is judged in each by itself. The days are computed together by giving such a row a copy per window.

A bar belongs to the UTC day in which it ends. It exists once it is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import pandas as pd
import talib
from pandas.api.extensions import ExtensionArray

from nexus_assets import trading_calendar
from nexus_assets.errors import PartitionError
from nexus_assets.instruments import AssetClass, Instrument
from nexus_assets.schemas import BARS
from nexus_assets.timeframes import TIMEFRAMES, minutes
from nexus_assets.transforms.provider_choice import choose, disagreements
from nexus_assets.transforms.quarantined_bars import PRICES, broken_rules, quarantine

BARS_VERSION = 2
"""Raised whenever a bar, its flags, the rules of quarantine or the gap ledger may change."""

LARGE_MOVE_MULTIPLE = 50.0
"""A move of more than this many times the median move of its window is a doubt."""

STALE_RUN = 3
"""This many bars of equal open, high, low and close in a row are a doubt, from STALE_FROM_MINUTES up."""

STALE_FROM_MINUTES = 15

SUSPECTS = ("large_move", "stale", "before_gap")
"""The names in `suspect`, in the order in which they stand there."""

_CARRIED = SUSPECTS[:2]


@dataclass(frozen=True)
class Validated:
    """What validation leaves.

    Attributes:
        bars: Columns of schemas.BARS plus `day`, the window in which the row was judged (00:00 UTC), and `leader`, the
            provider of its trading day; ascending by day and ts, one row per day and ts, so a row after 17:00 New
            York can stand twice.
        quarantined: Columns of schemas.QUARANTINED_BARS; every raw row of the days that broke a rule.
        disagreements: Columns of schemas.DISAGREEMENTS.
        other_provider_rows: Valid rows of the days that another provider's row stands for.
    """

    bars: pd.DataFrame
    quarantined: pd.DataFrame
    disagreements: pd.DataFrame
    other_provider_rows: int


@dataclass(frozen=True)
class MadeBars:
    """The bars of some days. Every raw row of the days is a base bar or counted in one of the other three.

    Attributes:
        bars: Columns of schemas.BARS, base timeframe first, each timeframe ascending by ts.
        leaders: The provider of the trading day of each base bar, in their order.
        quarantined: Columns of schemas.QUARANTINED_BARS.
        disagreements: Columns of schemas.DISAGREEMENTS.
        other_provider_rows: Valid rows that another provider's row stands for.
        unfinished_rows: Rows of bars that are not over.
    """

    bars: pd.DataFrame
    leaders: np.ndarray
    quarantined: pd.DataFrame
    disagreements: pd.DataFrame
    other_provider_rows: int
    unfinished_rows: int


def make_bars(
    raw: pd.DataFrame,
    *,
    instrument: Instrument,
    base_timeframe: str,
    rolled_up: Sequence[str],
    first_day: date,
    end_day: date,
    complete_until: datetime,
    priority: Sequence[str],
) -> MadeBars:
    """The bars of the days [first_day, end_day), base and rolled up, and the rows that are not fit to be bars.

    Args:
        raw: Columns of schemas.RAW_OHLC: the newest revision of each (ts, provider) of one symbol in base_timeframe,
            from rollup_read_start(first_day) to end_day 00:00 UTC. Rows outside that stretch change nothing.
        instrument: Of the symbol.
        base_timeframe: Timeframe of `raw`.
        rolled_up: Longer timeframes to make.
        first_day: First UTC day.
        end_day: UTC day after the last.
        complete_until: Bars that end later are not over, and do not exist yet.
        priority: This symbol's providers, the preferred one first; see validate.

    Raises:
        PartitionError: raw holds another symbol or timeframe.
    """
    over = np.asarray(trading_calendar.bar_end(raw["ts"], base_timeframe) <= pd.Timestamp(complete_until))
    validated = validate(
        raw.take(np.flatnonzero(over)),
        instrument=instrument,
        base_timeframe=base_timeframe,
        first_day=first_day,
        end_day=end_day,
        priority=priority,
    )
    judged = validated.bars
    base = judged.take(np.flatnonzero(_in_own_day(judged, base_timeframe)))
    made = [base.drop(columns=["day", "leader"])]
    for timeframe in sorted(rolled_up, key=TIMEFRAMES.index):
        made.append(
            roll_up(
                judged,
                timeframe,
                asset_class=instrument.asset_class,
                first_day=first_day,
                end_day=end_day,
                complete_until=complete_until,
            )
        )
    filled = [frame for frame in made if len(frame)]
    bars = pd.concat(filled, ignore_index=True) if filled else BARS.empty()
    unfinished = int((~over & _of_days(raw, base_timeframe, first_day, end_day)).sum())
    return MadeBars(
        bars,
        base["leader"].to_numpy(),
        validated.quarantined,
        validated.disagreements,
        validated.other_provider_rows,
        unfinished,
    )


def validate(
    raw: pd.DataFrame,
    *,
    instrument: Instrument,
    base_timeframe: str,
    first_day: date,
    end_day: date,
    priority: Sequence[str],
) -> Validated:
    """Quarantine what is unfit, choose one provider per trading day, and flag doubts.

    The provider of a trading day (17:00 to 17:00 New York) is the first in `priority` with a valid row in it, and
    others fill its holes; see provider_choice.choose. Of a trading day that reaches into the next UTC day, a window
    sees the part before its end, and chooses by that.

    Suspect flags, each within the window:
        large_move: |ln(close / close before)| exceeds LARGE_MOVE_MULTIPLE times the window's median of it (where that
            is above zero). The first bar of a window has no close before it: weekend gaps are not judged.
        stale: every bar of a run of STALE_RUN or more with equal open, high, low and close, at 15m and up.
        before_gap: a bar that the calendar expects lies between this one and the next. The last is not judged.

    Args and errors as in make_bars; `bars_expected` is 1, or 0 for a bar that is allowed but not expected.
    """
    for column, value in (("symbol", instrument.symbol), ("timeframe", base_timeframe)):
        wrong = raw.loc[raw[column] != value, column]
        if len(wrong):
            raise PartitionError(
                f"{len(wrong)} raw rows have the {column} {wrong.iloc[0]!r}, not {value!r}.",
                next_step="Pass the rows of one symbol and timeframe.",
            )
    standing = np.flatnonzero(~raw["withdrawn"].to_numpy(dtype=bool))
    rows = raw.take(standing).sort_values(by=["ts", "provider"], ignore_index=True)
    rules = broken_rules(rows, instrument, base_timeframe)
    unfit = np.flatnonzero((rules != "") & _of_days(rows, base_timeframe, first_day, end_day))
    quarantined = quarantine(rows.take(unfit), rules[unfit], instrument)

    windows = _windows(rows.take(np.flatnonzero(rules == "")), base_timeframe, first_day, end_day)
    taken, leader = choose(windows, instrument, priority, base_timeframe)
    windows["leader"] = leader
    bars = _judged(windows.take(np.flatnonzero(taken)), instrument.asset_class, base_timeframe)
    own = np.flatnonzero(_in_own_day(windows, base_timeframe))
    apart = disagreements(windows.take(own).reset_index(drop=True), taken[own])
    return Validated(bars, quarantined, apart, int((~taken[own]).sum()))


def roll_up(
    bars: pd.DataFrame,
    timeframe: str,
    *,
    asset_class: AssetClass,
    first_day: date,
    end_day: date,
    complete_until: datetime,
) -> pd.DataFrame:
    """The bars of a longer timeframe that end in the days (first_day 00:00, end_day 00:00], ascending.

    A rolled-up bar lies within one trading day and names the provider of it. It has the kinds of its last base bar,
    the latest known_at, and the flags large_move and stale of any base bar (a missing base bar shows as
    bars_present below bars_expected). Volume is the sum, and NULL where a base bar has none or the kinds of volume
    differ; spread is the median of those there are.

    Args:
        bars: Validated.bars: base bars with the window they were judged in.
        timeframe: Longer than that of `bars`.
        asset_class: For bars_expected.
        first_day: First UTC day.
        end_day: UTC day after the last.
        complete_until: Bars that end later are left out.

    Returns:
        Columns of schemas.BARS; no row for an interval without a base bar.
    """
    ts = trading_calendar.bar_open_of(bars["ts"], timeframe)
    day = pd.DatetimeIndex(bars["day"])
    wanted = np.asarray(
        (day == _day_of(ts, timeframe))
        & (day >= pd.Timestamp(first_day, tz="UTC"))
        & (day < pd.Timestamp(end_day, tz="UTC"))
        & (trading_calendar.bar_end(ts, timeframe) <= pd.Timestamp(complete_until))
    )
    if not wanted.any():
        return BARS.empty()
    base, opens = bars.take(np.flatnonzero(wanted)), ts.asi8[wanted]
    is_first = np.concatenate([[True], opens[1:] != opens[:-1]])
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(base)) - 1
    rolled = base.take(last).reset_index(drop=True)
    ts = _instants(opens[first])
    return rolled.assign(
        timeframe=timeframe,
        ts=ts,
        open=base["open"].to_numpy()[first],
        high=np.maximum.reduceat(base["high"].to_numpy(), first),
        low=np.minimum.reduceat(base["low"].to_numpy(), first),
        volume=_summed_volume(base, first),
        spread=pd.Series(base["spread"].to_numpy()).groupby(np.cumsum(is_first)).median().to_numpy(),
        known_at=_instants(np.maximum.reduceat(pd.DatetimeIndex(base["known_at"]).as_unit("us").asi8, first)),
        bars_expected=_expected_counts(
            rolled["leader"].to_numpy(), ts, timeframe, str(base["timeframe"].iloc[0]), asset_class
        ),
        provider=rolled["leader"].astype("str"),
        bars_present=(last - first + 1).astype("int16"),
        suspect=_names(*(np.logical_or.reduceat(_has(base, name), first) for name in _CARRIED)),
    ).drop(columns=["day", "leader"])


def _day_of(opens: pd.DatetimeIndex, timeframe: str) -> pd.DatetimeIndex:
    """00:00 UTC of the day in which each bar ends; an end at 00:00 belongs to the day before."""
    return (trading_calendar.bar_end(opens, timeframe) - pd.Timedelta(1, "us")).normalize()


def _in_own_day(bars: pd.DataFrame, timeframe: str) -> np.ndarray:
    """Whether each row stands in the window of its own day."""
    return np.asarray(pd.DatetimeIndex(bars["day"]) == _day_of(pd.DatetimeIndex(bars["ts"]), timeframe))


def _of_days(rows: pd.DataFrame, timeframe: str, first_day: date, end_day: date) -> np.ndarray:
    """Whether each row is of the days, also where it is off the grid."""
    start, end = trading_calendar.slice_bounds(timeframe, first_day, end_day)
    return ((rows["ts"] >= start) & (rows["ts"] < end)).to_numpy(dtype=bool)


def _windows(rows: pd.DataFrame, timeframe: str, first_day: date, end_day: date) -> pd.DataFrame:
    """The rows by window, ascending by `day` and ts, with `trading_day`; a row after 17:00 New York has two windows."""
    opened = pd.DatetimeIndex(rows["ts"]).as_unit("us").normalize()
    traded = _instants(trading_calendar.trading_day(rows["ts"]).astype("datetime64[us]").astype(np.int64))
    late = np.flatnonzero(traded > opened)
    position = np.concatenate([np.arange(len(rows)), late])
    day = pd.DatetimeIndex(opened.append(traded[late]))
    ends = trading_calendar.bar_end(rows["ts"], timeframe)[position]
    inside = np.asarray(
        (day >= pd.Timestamp(first_day, tz="UTC"))
        & (day < pd.Timestamp(end_day, tz="UTC"))
        & (ends <= day + pd.Timedelta(1, "D"))
    )
    windows = rows.take(position[inside]).assign(day=day[inside], trading_day=traded[position[inside]])
    return windows.sort_values(by=["day", "ts", "provider"], ignore_index=True)


def _judged(rows: pd.DataFrame, asset_class: AssetClass, timeframe: str) -> pd.DataFrame:
    """The rows that were taken, as bars with `day`, `leader`, expectation and doubts; as _windows returns them."""
    if rows.empty:
        return BARS.empty().assign(day=_instants(np.empty(0, dtype=np.int64)), leader=pd.Series(dtype=object))
    ts = pd.DatetimeIndex(rows["ts"]).as_unit("us")
    has_next = np.append(np.asarray(rows["day"].array[1:] == rows["day"].array[:-1]), False)
    is_expected, between = _expected(rows["leader"].to_numpy(), ts, asset_class, timeframe)
    volume, spread = (rows[name].to_numpy(dtype="float64") for name in ("volume", "spread"))
    return rows.assign(
        ts=ts,
        volume=np.where(np.isfinite(volume), volume, np.nan),
        spread=np.where(np.isfinite(spread), spread, np.nan),
        bars_expected=is_expected.astype("int16"),
        bars_present=np.int16(1),
        suspect=_names(_large_moves(rows, has_next), _stale(rows, has_next, timeframe), has_next & between),
    ).reindex(columns=[*BARS.column_names, "day", "leader"])


def _expected(
    providers: np.ndarray, ts: pd.DatetimeIndex, asset_class: AssetClass, timeframe: str
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each bar is expected, and whether an expected one lies between it and the next row."""
    is_expected, between = np.zeros(len(ts), dtype=bool), np.zeros(len(ts), dtype=bool)
    following = np.append(ts.asi8[1:], ts.asi8[-1])
    for provider in set(providers):
        rows = providers == provider
        grid = trading_calendar.expected(
            asset_class, *_span(ts, trading_calendar.bar_end(ts, timeframe)), timeframe, provider
        ).asi8
        upto = np.searchsorted(grid, ts.asi8[rows], side="right")
        is_expected[rows] = upto > np.searchsorted(grid, ts.asi8[rows], side="left")
        between[rows] = np.searchsorted(grid, following[rows], side="left") > upto
    return is_expected, between


def _large_moves(rows: pd.DataFrame, has_next: np.ndarray) -> np.ndarray:
    close = rows["close"].to_numpy(dtype="float64")
    move = np.full(len(rows), np.nan)
    later = np.flatnonzero(has_next) + 1
    move[later] = np.abs(talib.LN(close[later] / close[later - 1])) if len(later) else np.nan
    window = np.cumsum(np.append(True, ~has_next[:-1]))
    median = pd.Series(move).groupby(window).transform("median").to_numpy()
    return (median > 0) & (move > LARGE_MOVE_MULTIPLE * median)


def _stale(rows: pd.DataFrame, has_next: np.ndarray, timeframe: str) -> np.ndarray:
    if minutes(timeframe) < STALE_FROM_MINUTES:
        return np.zeros(len(rows), dtype=bool)
    prices = rows[list(PRICES)].to_numpy(dtype="float64")
    as_before = np.concatenate([[False], has_next[:-1] & (prices[1:] == prices[:-1]).all(axis=1)])
    run = np.cumsum(~as_before) - 1
    return np.bincount(run)[run] >= STALE_RUN


def _names(*doubts: np.ndarray) -> ExtensionArray:
    """The text of `suspect`: the names of the doubts that hold, in the order of SUSPECTS; NULL for none."""
    code = sum(doubt.astype(np.int64) << bit for bit, doubt in enumerate(doubts))
    texts = [
        ",".join(name for bit, name in enumerate(SUSPECTS) if which >> bit & 1) or None
        for which in range(2 ** len(doubts))
    ]
    return pd.array(np.array(texts, dtype=object)[code], dtype="str")


def _has(bars: pd.DataFrame, name: str) -> np.ndarray:
    return bars["suspect"].str.contains(name, regex=False, na=False).to_numpy(dtype=bool)


def _expected_counts(
    providers: np.ndarray, opens: pd.DatetimeIndex, timeframe: str, base_timeframe: str, asset_class: AssetClass
) -> np.ndarray:
    """Base bars that the calendar expects in each rolled-up bar."""
    ends = trading_calendar.bar_end(opens, timeframe)
    counts = np.zeros(len(opens), dtype="int16")
    for provider in set(providers):
        rows = providers == provider
        grid = trading_calendar.expected(asset_class, *_span(opens, ends), base_timeframe, provider).asi8
        counts[rows] = np.searchsorted(grid, ends.asi8[rows]) - np.searchsorted(grid, opens.asi8[rows])
    return counts


def _summed_volume(base: pd.DataFrame, first: np.ndarray) -> np.ndarray:
    kinds = pd.factorize(base["volume_kind"])[0]
    mixed = np.maximum.reduceat(kinds, first) != np.minimum.reduceat(kinds, first)
    return np.where(mixed, np.nan, np.add.reduceat(base["volume"].to_numpy(dtype="float64"), first))


def _span(opens: pd.DatetimeIndex, ends: pd.DatetimeIndex) -> tuple[datetime, datetime]:
    """From the first open to the last end."""
    first, last = _instants(np.array([opens.asi8.min(), ends.asi8.max()])).to_pydatetime()
    return first, last


def _instants(micros: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(micros.astype("datetime64[us]")).tz_localize("UTC")
