"""Finding look-ahead: change every bar after an instant, and see whether any feature at or before it changes.

What belongs here: the probe, for any function from bars to features. The project's own features as such a function are
in leak_subjects.py, the command in cli_probe.py.

A feature row of a bar that ends at or before t may depend on bars that end at or before t, and on nothing else. Values
are compared bit by bit, so a leak of any size is found if the corrupted bars reach it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from nexus_assets.errors import ProbeError
from nexus_assets.trading_calendar import bar_end

FeatureFunction = Callable[[pd.DataFrame], pd.DataFrame]
"""From bars (ts, open, high, low, close, volume and more, by ts, of one symbol) to a frame with ts, optionally the
timeframe of each row (that of the bars by default), and feature columns."""

CORRUPTIONS = ("truncated", "scaled", "shuffled", "spiked", "thinned")
"""What is done to the bars after t: cut off; all prices times 1.7; rows in another order; each bar times a random
factor, and another volume; every second one taken out."""

_PRICES = ["open", "high", "low", "close"]


@dataclass(frozen=True)
class Leak:
    """The first value that changed although nothing before it had.

    Attributes:
        column: The feature.
        ts: Open of the row's bar.
        timeframe: Of the row.
        instant: Bars that end after it were corrupted; the row's own bar had ended by then.
        corruption: One of CORRUPTIONS.
        before: The value on the true bars; None where the row did not exist.
        after: The value on the corrupted ones.
        sees_ahead: How long after the row's end the latest bar ends that still changes it.
    """

    column: str
    ts: pd.Timestamp
    timeframe: str
    instant: pd.Timestamp
    corruption: str
    before: float | None
    after: float | None
    sees_ahead: pd.Timedelta


@dataclass
class ColumnVerdict:
    """What the probe found out about one column.

    `proven` says that corrupted bars changed the column's later rows: only then does their not changing the earlier
    ones say anything.
    """

    column: str
    compared: int = 0
    proven: bool = False
    leak: Leak | None = None

    @property
    def verdict(self) -> str:
        """leaks, clean, or not proven."""
        return "leaks" if self.leak else "clean" if self.proven and self.compared else "not proven"


@dataclass
class LeakReport:
    """Verdicts by column, and how they were come by."""

    columns: dict[str, ColumnVerdict] = field(default_factory=dict)
    bars: int = 0
    instants: int = 0
    runs: int = 0

    @property
    def leaks(self) -> list[Leak]:
        """The first leak of each column that has one."""
        return [verdict.leak for verdict in self.columns.values() if verdict.leak]

    @property
    def clean(self) -> bool:
        """Whether every column is clean: none leaks, and each was proven to react."""
        return bool(self.columns) and all(verdict.verdict == "clean" for verdict in self.columns.values())


def probe(
    function: FeatureFunction,
    bars: pd.DataFrame,
    *,
    timeframe: str,
    trials: int = 50,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LeakReport:
    """Look for columns that depend on bars which were not over yet.

    Args:
        function: Called on a copy of the bars; must return the same for the same bars.
        bars: Of one symbol and timeframe, ts ascending and unique.
        timeframe: Of the bars.
        trials: Instants that are tried, each with two corruptions: random bars' ends, the ends of days and weeks, and
            the last bars before a change of New York's clock.
        seed: Of the choice; the same seed tries the same.
        progress: Called with the trials done and their number.

    Raises:
        ProbeError: the function failed, returned no usable frame, or is not repeatable.
    """
    subject = _Subject(function, timeframe)
    clean = subject.run(bars, "the true bars")
    if not clean.equal(subject.run(bars, "the true bars, again")):
        raise ProbeError(
            "The function returned something else for the same bars.",
            next_step="Remove randomness, clocks and state from it.",
        )
    report = LeakReport({name: ColumnVerdict(name) for name in clean.columns}, len(bars))
    ends = pd.DatetimeIndex(bar_end(pd.DatetimeIndex(bars["ts"]), timeframe)).as_unit("us")
    random = np.random.default_rng(seed)
    positions = _instants(bars, ends, clean, trials, random)
    for number, position in enumerate(positions):
        for corruption in ("truncated", CORRUPTIONS[1 + number % (len(CORRUPTIONS) - 1)]):
            dirty = subject.run(corrupt(bars, position, corruption, seed), f"bars corrupted after {ends[position]}")
            report.runs += 1
            _compare(report, clean, dirty, ends[position], corruption)
        report.instants += 1
        if progress:
            progress(number + 1, len(positions))
    for verdict in report.columns.values():
        if verdict.leak:
            verdict.leak = _measured(verdict.leak, subject, bars, ends, seed)
    return report


def corrupt(bars: pd.DataFrame, position: int, corruption: str, seed: int) -> pd.DataFrame:
    """The bars up to `position`, included, as they are; later ones corrupted."""
    kept, later = bars.iloc[: position + 1], bars.iloc[position + 1 :]
    if corruption == "truncated" or later.empty:
        return kept.reset_index(drop=True)
    random = np.random.default_rng((seed, position))
    later = later.copy()
    if corruption == "scaled":
        later[_PRICES] *= 1.7
    elif corruption == "shuffled":
        columns = [name for name in bars.columns if name != "ts"]
        later[columns] = later[columns].to_numpy()[random.permutation(len(later))]
        later = later.astype(bars.dtypes.to_dict())
    elif corruption == "spiked":
        later[_PRICES] *= random.uniform(0.6, 1.6, (len(later), 1))
        if "volume" in later:
            later["volume"] = later["volume"] * 3.0 + 1.0
    elif corruption == "thinned":
        later = later.iloc[::2]
    return pd.concat([kept, later], ignore_index=True)


@dataclass(frozen=True)
class _Features:
    """Feature values by row: `keys` are (timeframe, ts) with the end of the row's bar."""

    keys: pd.MultiIndex
    ends: np.ndarray
    columns: dict[str, np.ndarray]

    def equal(self, other: "_Features") -> bool:
        return (
            self.keys.equals(other.keys)
            and list(self.columns) == list(other.columns)
            and all((_bits(self.columns[n]) == _bits(other.columns[n])).all() for n in self.columns)
        )


@dataclass(frozen=True)
class _Subject:
    function: FeatureFunction
    timeframe: str

    def run(self, bars: pd.DataFrame, place: str) -> _Features:
        """The features of some bars, in the order of their keys."""
        try:
            frame = self.function(bars.copy())
        except Exception as error:  # whatever somebody else's function raises
            raise ProbeError(
                f"The feature function failed on {place}: {type(error).__name__}: {error}",
                next_step="It must work on any bars, also on fewer and on wild ones.",
            ) from error
        if not isinstance(frame, pd.DataFrame) or "ts" not in frame:
            raise ProbeError(
                f"The feature function returned {type(frame).__name__} on {place}, without a column ts.",
                next_step="Return a frame with ts and one column per feature.",
            )
        timeframes = frame["timeframe"] if "timeframe" in frame else pd.Series(self.timeframe, index=frame.index)
        keys = pd.MultiIndex.from_arrays([timeframes.to_numpy(), pd.DatetimeIndex(frame["ts"]).as_unit("us")])
        if not keys.is_unique:
            raise ProbeError(f"The feature function returned the same ts twice on {place}.")
        order = keys.argsort()
        ends = np.empty(len(frame), dtype=np.int64)
        for name in pd.unique(timeframes):
            mine = np.flatnonzero(timeframes == name)
            ends[mine] = bar_end(pd.DatetimeIndex(frame["ts"]).take(mine), str(name)).as_unit("us").asi8
        numbers = frame.drop(columns=["ts", "timeframe"], errors="ignore").select_dtypes(["number", "bool"])
        columns = {str(n): numbers[n].to_numpy(dtype=np.float64, na_value=np.nan)[order] for n in numbers}
        return _Features(keys.take(order), ends[order], columns)


def _bits(values: np.ndarray) -> np.ndarray:
    """The bits of each value; every NaN alike."""
    return np.where(np.isnan(values), np.nan, values).view(np.int64)


def _instants(
    bars: pd.DataFrame, ends: pd.DatetimeIndex, clean: _Features, trials: int, random: np.random.Generator
) -> list[int]:
    """Positions of the last true bar: half of them before closures and at days' ends, half anywhere."""
    decided = np.unique(clean.ends)
    if not len(decided) or len(bars) < 3:
        raise ProbeError("The features have no row.", next_step="Give more bars: the function's warm-up and then some.")
    first = int(np.searchsorted(ends.asi8, decided[0]))
    usable = np.arange(max(first, 0), len(bars) - 1)
    if not len(usable):
        raise ProbeError("Only the last bar has features.", next_step="Give more bars.")
    gaps = np.flatnonzero(np.diff(ends.asi8) > 2 * np.median(np.diff(ends.asi8)))
    midnights = np.flatnonzero(np.diff(ends.asi8 // 86_400_000_000) > 0)
    offsets = np.array([stamp.utcoffset() for stamp in ends.tz_convert("America/New_York")], dtype="timedelta64[s]")
    switches = np.flatnonzero(offsets[1:] != offsets[:-1])
    special = np.intersect1d(np.concatenate([gaps, midnights, midnights + 1]), usable)
    always = np.intersect1d(switches, usable)
    chosen = [*always[: trials // 4]]
    chosen += random.choice(special, min(trials // 2 - len(chosen), len(special)), replace=False).tolist()
    chosen += random.choice(usable, min(trials - len(chosen), len(usable)), replace=False).tolist()
    return sorted({int(position) for position in chosen})


def _compare(report: LeakReport, clean: _Features, dirty: _Features, instant: pd.Timestamp, corruption: str) -> None:
    limit = pd.DatetimeIndex([instant]).as_unit("us").asi8[0]
    for missing in set(clean.columns) ^ set(dirty.columns):
        raise ProbeError(f"The column {missing} is there on some bars only ({corruption} after {instant}).")
    before, after = clean.ends <= limit, dirty.ends <= limit
    keys = clean.keys[before].union(dirty.keys[after])
    ours, theirs = clean.keys[before].get_indexer(keys), dirty.keys[after].get_indexer(keys)
    shared = clean.keys[~before].intersection(dirty.keys[~after])
    later = clean.keys.get_indexer(shared), dirty.keys.get_indexer(shared)
    for name, verdict in report.columns.items():
        old, new = clean.columns[name], dirty.columns[name]
        verdict.proven |= bool((_bits(old[later[0]]) != _bits(new[later[1]])).any())
        verdict.compared += len(keys)
        left = np.where(ours >= 0, _at(old[before], ours), np.nan)
        right = np.where(theirs >= 0, _at(new[after], theirs), np.nan)
        changed = np.flatnonzero((_bits(left) != _bits(right)) | ((ours < 0) != (theirs < 0)))
        if len(changed) and verdict.leak is None:
            row = changed[0]
            timeframe, ts = keys[row]
            verdict.leak = Leak(
                name,
                ts,
                timeframe,
                instant,
                corruption,
                float(left[row]) if ours[row] >= 0 else None,
                float(right[row]) if theirs[row] >= 0 else None,
                pd.Timedelta(0),
            )


def _at(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return values[positions] if len(values) else np.full(len(positions), np.nan)


def _measured(leak: Leak, subject: _Subject, bars: pd.DataFrame, ends: pd.DatetimeIndex, seed: int) -> Leak:
    """The leak with how far it sees: the latest bar whose corruption, with all after it, still changes the row."""
    clean = subject.run(bars, "the true bars")
    key = (leak.timeframe, leak.ts)

    def value(features: _Features) -> tuple[bool, int]:
        row = int(features.keys.get_indexer(pd.MultiIndex.from_tuples([key]))[0])
        return row >= 0, int(_bits(features.columns[leak.column])[row]) if row >= 0 else 0

    truth = value(clean)
    low, high = int(ends.get_indexer(pd.DatetimeIndex([leak.instant]))[0]), len(bars) - 1
    # Corrupting after `low` changes the row; after `high`, which is the last bar, nothing is corrupted.
    while high - low > 1:
        middle = (low + high) // 2
        changed = value(subject.run(corrupt(bars, middle, leak.corruption, seed), f"after {ends[middle]}")) != truth
        low, high = (middle, high) if changed else (low, middle)
    own_end = bar_end(pd.DatetimeIndex([leak.ts]), leak.timeframe)[0]
    return replace(leak, sees_ahead=pd.Timedelta(ends[min(low + 1, len(ends) - 1)] - own_end))


def rows_of(report: LeakReport) -> Iterator[dict[str, object]]:
    """The report as plain rows, for a table or JSON."""
    for verdict in report.columns.values():
        leak = verdict.leak
        yield {
            "column": verdict.column,
            "verdict": verdict.verdict,
            "compared": verdict.compared,
            **(
                {
                    "ts": leak.ts.isoformat(),
                    "timeframe": leak.timeframe,
                    "instant": leak.instant.isoformat(),
                    "corruption": leak.corruption,
                    "before": leak.before,
                    "after": leak.after,
                    "sees_ahead": str(leak.sees_ahead),
                }
                if leak
                else {}
            ),
        }
