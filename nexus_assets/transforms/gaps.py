"""The state of every bar that is not simply present: missing and why, quarantined, healed, or a holiday.

Derived anew from what is stored whenever a slice's bars are: the bars, the rows in quarantine, and the history of who
was asked for what. So it says the same whichever partitions are computed together, and forgets nothing.

An answer speaks about a bar if the bar was over when it was given. It is final CONFIRMED_AFTER the bar's end: a
provider that does not have a bar by then does not have it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.instruments import Instrument
from nexus_assets.schemas import GAPS
from nexus_assets.transforms.quarantined_bars import broken_rules

CONFIRMED_AFTER = timedelta(days=1)

_NEVER = np.iinfo(np.int64).max
_KEYS = ["state", "reason", "provider", "known_at"]


@dataclass(frozen=True)
class Asked:
    """Answers and failures that cover bars on a grid; microseconds since 1970 UTC, one entry per bar.

    Attributes:
        first: When the first answer about each bar was given; the largest integer where none was.
        last: When the last one was; 0 where none was.
        confirmed: By provider, whether it gave a final answer about each bar.
        failed: By provider, whether its last request about each bar failed.
        answered: By provider, whether it answered at all about each bar.
    """

    first: np.ndarray
    last: np.ndarray
    confirmed: dict[str, np.ndarray]
    failed: dict[str, np.ndarray]
    answered: dict[str, np.ndarray]


def asked_about(opens: pd.DatetimeIndex, timeframe: str, requests: pd.DataFrame, providers: Sequence[str]) -> Asked:
    """Who was asked about which bars, once they were over.

    Args:
        opens: Opens of bars, ascending.
        requests: Columns provider, range_start, range_end, at, answered (False where the request failed).
        providers: Those that are told apart; others count for `first` and `last` only.
    """
    starts, ends = opens.as_unit("us").asi8, trading_calendar.bar_end(opens, timeframe).asi8
    count, grace = len(opens), round(CONFIRMED_AFTER.total_seconds() * 1e6)
    first, last = np.full(count, _NEVER), np.zeros(count, dtype=np.int64)
    confirmed, failed, answered = ({name: np.zeros(count, dtype=bool) for name in providers} for _ in range(3))
    ordered = requests.sort_values("at", kind="stable")
    instants = [pd.DatetimeIndex(ordered[name]).as_unit("us").asi8 for name in ("range_start", "range_end", "at")]
    for provider, is_answer, start, end, at in zip(ordered["provider"], ordered["answered"], *instants, strict=True):
        low = int(np.searchsorted(starts, start))
        high = min(int(np.searchsorted(starts, end)), int(np.searchsorted(ends, at, side="right")))
        if low >= high:
            continue
        if provider in failed:
            failed[provider][low:high] = not is_answer
        if not is_answer:
            continue
        first[low:high] = np.minimum(first[low:high], at)
        last[low:high] = at
        if provider in answered:
            answered[provider][low:high] = True
            sure = min(high, int(np.searchsorted(ends, at - grace, side="right")))
            confirmed[provider][low : max(sure, low)] = True
    return Asked(first, last, confirmed, failed, answered)


@dataclass(frozen=True)
class _Grid:
    """Bars of the weekly session that are over: opens, whether each is expected, and the provider of its day."""

    opens: pd.DatetimeIndex
    is_expected: np.ndarray
    leader: np.ndarray


def find_gaps(
    bars: pd.DataFrame,
    leaders: np.ndarray,
    kept_out: pd.DataFrame,
    requests: pd.DataFrame,
    revisions: Callable[[Sequence[pd.Timestamp]], pd.DataFrame],
    *,
    instrument: Instrument,
    timeframe: str,
    first_day: date,
    end_day: date,
    complete_until: datetime,
    providers: Sequence[str],
) -> pd.DataFrame:
    """The gaps of the days [first_day, end_day).

    Args:
        bars: Base bars of the days, columns of schemas.BARS.
        leaders: The provider of the trading day of each of them.
        kept_out: ts, provider, rule and known_at of rows in quarantine whose ts is that of a bar.
        requests: As asked_about takes them.
        revisions: Every raw row (columns of schemas.RAW_OHLC) of some ts; asked only where a bar may be healed.
        instrument: Of the symbol.
        timeframe: Of the bars.
        first_day: First UTC day.
        end_day: UTC day after the last.
        complete_until: Bars that end later are not over.
        providers: Who serves the symbol, the preferred one first.

    Returns:
        Columns of schemas.GAPS, by ts.
    """
    grid = _grid(bars, leaders, instrument, timeframe, first_day, end_day, complete_until, providers)
    if not len(grid.opens):
        return GAPS.empty()
    asked = asked_about(grid.opens, timeframe, requests, providers)
    present = np.isin(grid.opens.asi8, pd.DatetimeIndex(bars["ts"]).as_unit("us").asi8)
    states = pd.DataFrame(
        {name: pd.Series("", index=range(len(present)), dtype=object) for name in ("state", "reason", "provider")}
    )
    states["known_at"] = _instants(asked.last)
    absent = np.flatnonzero(~present & grid.is_expected)
    _mark_missing(states, absent, asked, providers)
    _mark_quarantined(states, absent, grid, kept_out)
    _mark_holidays(states, np.flatnonzero(~present & ~grid.is_expected), grid, instrument)
    _mark_healed(states, np.flatnonzero(present), grid, bars, leaders, asked, revisions, instrument, timeframe)
    return _stretches(states, grid, instrument.symbol, timeframe)


def _grid(
    bars: pd.DataFrame,
    leaders: np.ndarray,
    instrument: Instrument,
    timeframe: str,
    first_day: date,
    end_day: date,
    complete_until: datetime,
    providers: Sequence[str],
) -> _Grid:
    start, end = trading_calendar.slice_bounds(timeframe, first_day, end_day)
    opens = trading_calendar.bar_opens(timeframe, start, end)
    opens = opens[trading_calendar.bar_end(opens, timeframe) <= pd.Timestamp(complete_until)]
    days = _window(opens, timeframe)
    of_bars = pd.Series(leaders, index=_window(pd.DatetimeIndex(bars["ts"]), timeframe))
    known = of_bars[~of_bars.index.duplicated()]
    leader = known.reindex(days).fillna(providers[0] if providers else "").to_numpy(dtype=object)
    is_allowed, is_expected = np.zeros(len(opens), dtype=bool), np.zeros(len(opens), dtype=bool)
    for name in {str(name) for name in leader}:
        mine = leader == name
        is_allowed[mine] = trading_calendar.allowed(instrument.asset_class, opens[mine], timeframe, name)
        expected = trading_calendar.expected(instrument.asset_class, start, end, timeframe, name)
        is_expected[mine] = np.isin(opens.asi8[mine], expected.asi8)
    return _Grid(opens[is_allowed], is_expected[is_allowed], leader[is_allowed])


def _window(opens: pd.DatetimeIndex, timeframe: str) -> pd.MultiIndex:
    """The day partition and the trading day of each bar: what has one provider."""
    ends = trading_calendar.bar_end(opens, timeframe) - pd.Timedelta(1, "us")
    return pd.MultiIndex.from_arrays([ends.normalize(), trading_calendar.trading_day(opens).astype("datetime64[us]")])


def _mark_missing(states: pd.DataFrame, rows: np.ndarray, asked: Asked, providers: Sequence[str]) -> None:
    if not len(rows):
        return

    def of(flags: dict[str, np.ndarray]) -> np.ndarray:
        return np.array([flags[name][rows] for name in providers], dtype=bool).reshape(len(providers), len(rows))

    confirmed, failed, answered = of(asked.confirmed), of(asked.failed), of(asked.answered)
    open_ones = ~confirmed
    reasons = np.select(
        [
            (failed & open_ones).any(axis=0),
            (~answered & open_ones).any(axis=0) | (len(providers) == 0),
            open_ones.any(axis=0),
        ],
        ["provider_failed", "not_asked", "not_confirmed"],
        default="provider_has_none",
    )
    states.loc[rows, "state"] = "missing"
    states.loc[rows, "reason"] = reasons
    patterns, which = np.unique(confirmed.T, axis=0, return_inverse=True)
    texts = [",".join(np.array(providers)[pattern]) for pattern in patterns]
    states.loc[rows, "provider"] = np.array(texts, dtype=object)[which.ravel()]


def _mark_quarantined(states: pd.DataFrame, rows: np.ndarray, grid: _Grid, kept_out: pd.DataFrame) -> None:
    first = kept_out.drop_duplicates("ts").set_index("ts")
    found = first.index.get_indexer(grid.opens[rows])
    rows, found = rows[found >= 0], found[found >= 0]
    states.loc[rows, "state"] = "quarantined"
    for name, column in (("reason", "rule"), ("provider", "provider"), ("known_at", "known_at")):
        states.loc[rows, name] = first[column].array[found]


def _mark_holidays(states: pd.DataFrame, rows: np.ndarray, grid: _Grid, instrument: Instrument) -> None:
    if len(rows):
        states.loc[rows, "state"] = "holiday"
        for leader in {str(name) for name in grid.leader[rows]}:
            mine = rows[grid.leader[rows] == leader]
            reasons = trading_calendar.closure_reason(instrument.asset_class, grid.opens[mine], leader)
            states.loc[mine, "reason"] = reasons
        states.loc[rows, "known_at"] = pd.NaT


def _mark_healed(
    states: pd.DataFrame,
    rows: np.ndarray,
    grid: _Grid,
    bars: pd.DataFrame,
    leaders: np.ndarray,
    asked: Asked,
    revisions: Callable[[Sequence[pd.Timestamp]], pd.DataFrame],
    instrument: Instrument,
    timeframe: str,
) -> None:
    """Bars whose first valid row came after an answer about them, or from another provider than their day's."""
    if not len(rows):
        return
    position = pd.DatetimeIndex(bars["ts"]).get_indexer(grid.opens[rows])
    by_other = bars["provider"].to_numpy(dtype=object)[position] != leaders[position]
    learned = pd.DatetimeIndex(bars["known_at"]).as_unit("us").asi8[position]
    doubtful = np.flatnonzero(by_other | (learned > asked.first[rows]))
    if not len(doubtful):
        return
    every = revisions(list(grid.opens[rows[doubtful]]))
    valid = every[(broken_rules(every, instrument, timeframe) == "") & ~every["withdrawn"].to_numpy(dtype=bool)]
    first_valid = valid.sort_values("delivery_id").drop_duplicates("ts").set_index("ts")
    first_valid = first_valid.reindex(grid.opens[rows[doubtful]])
    late = pd.DatetimeIndex(first_valid["known_at"]).as_unit("us").asi8 > asked.first[rows[doubtful]]
    for healed, reason in ((by_other[doubtful], "another_provider"), (late & ~by_other[doubtful], "late")):
        which = rows[doubtful[healed]]
        states.loc[which, "state"] = "healed"
        states.loc[which, "reason"] = reason
        states.loc[which, "provider"] = bars["provider"].to_numpy(dtype=object)[position[doubtful[healed]]]
        known_at = first_valid["known_at"] if reason == "late" else bars["known_at"].iloc[position[doubtful]]
        states.loc[which, "known_at"] = known_at.array[healed]


def _stretches(states: pd.DataFrame, grid: _Grid, symbol: str, timeframe: str) -> pd.DataFrame:
    """One row for each stretch of neighbours of the weekly session in one state, within a UTC day."""
    marked = np.flatnonzero((states["state"] != "").to_numpy())
    if not len(marked):
        return GAPS.empty()
    rows = states.iloc[marked].reset_index(drop=True)
    opens, ends = grid.opens[marked], trading_calendar.bar_end(grid.opens[marked], timeframe)
    rows["day"] = (ends - pd.Timedelta(1, "us")).normalize()
    same = (rows[[*_KEYS, "day"]].eq(rows[[*_KEYS, "day"]].shift()) | rows[[*_KEYS, "day"]].isna()).all(axis=1)
    same &= rows["known_at"].isna() == rows["known_at"].isna().shift(fill_value=False)
    begins = ~(same & (np.diff(marked, prepend=-2) == 1))
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(rows)) - 1
    return (
        rows.iloc[first]
        .assign(symbol=symbol, timeframe=timeframe, ts=opens[first], ends_at=ends[last], bars=last - first + 1)
        .reindex(columns=GAPS.column_names)
        .reset_index(drop=True)
    )


def _instants(micros: np.ndarray) -> pd.Series:
    """Instants, missing where 0."""
    index = pd.DatetimeIndex(micros.astype("datetime64[us]")).tz_localize("UTC")
    return pd.Series(index).where(micros > 0)
