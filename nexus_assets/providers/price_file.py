"""One price file as bars in UTC, with what could not be read set aside and doubtful months marked."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from nexus_assets.providers.file_reader import Cells, ParquetFile, TextFile, naming, open_file
from nexus_assets.providers.interface import VALUE_COLUMNS, bar_frame
from nexus_assets.providers.layouts import Roles, Times, clock_of, describe, read_times, refuse, roles_of
from nexus_assets.providers.source_declaration import FilesSource
from nexus_assets.providers.time_zones import IN_ROWS, zone
from nexus_assets.timeframes import length

GRANULARITY_SHARE = 0.5
"""A month is of another timeframe than declared where fewer of the steps between its rows than this are as long as
it. The lowest share of a genuine month seen is 0.72, of an index at one minute."""

MIN_STEPS = 4
"""A month with fewer steps is too short to judge and takes the verdict of the nearest longer one in the file."""

UNREADABLE_TIME = "the time of the row cannot be read"

_OFFSETS_STEP = 'Set time_zone = "in_rows" if the printed offsets are true.'

_MISSING = frozenset({"", "nan", "null", "none", "n/a", "-"})


@dataclass(frozen=True)
class PriceFile:
    """What a source has to say of one symbol in one file.

    Attributes:
        rows: BAR_COLUMNS, `line`, and `wrong_step` (the row's month is of another timeframe), ordered by ts, rows of
            one ts in the order of the file.
        unusable: ts (of the nearest readable row before it in the file, else of the first one), line, detail.
    """

    rows: pd.DataFrame
    unusable: pd.DataFrame

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return int(self.rows.memory_usage(deep=False).sum() + self.unusable.memory_usage(deep=True).sum()) + 1024


def read_price_file(path: Path, source: FilesSource, symbol: str) -> PriceFile:
    """Read a file as its source declares it.

    Raises:
        SourceFormatError: the file is damaged, or is not what was declared.
    """
    file = open_file(path, lambda lines: describe(path, source, lines))
    roles = roles_of(path, source, file.names)
    cells = file.cells(roles.names())
    reasons = np.full(len(cells.lines), "", dtype=object)
    mine = _of_symbol(cells, roles, source, symbol, reasons)
    with naming(path):
        values = _values(cells, roles, source, symbol, reasons)
    printed = _printed_times(cells, roles)
    times = read_times(source, printed)
    instants = _instants(path, clock_of(source, roles), times, reasons)
    usable, unusable = mine & (reasons == ""), mine & (reasons != "")
    malformed = _malformed_of(file, source, symbol, cells.malformed)
    if not usable.any() and (unusable.any() or malformed):
        reason = next(iter([*reasons[unusable], *malformed.values()]))
        refuse(path, "at least one readable row", f"{reason}; first time: {next(iter(printed), 'none')}")

    rows = bar_frame(instants[usable], values[:, usable])
    rows["line"] = cells.lines[usable]
    bad_lines = np.concatenate([cells.lines[unusable], np.array(list(malformed), dtype="int64")])
    # For ranges, a row without a usable key lies where the readable row before it lies.
    anchor = np.maximum(np.searchsorted(cells.lines[usable], bad_lines) - 1, 0)
    details = pd.Series([*reasons[unusable], *malformed.values()], dtype="str")
    bad = pd.DataFrame({"ts": instants[usable][anchor], "line": bad_lines, "detail": details})

    inside = _inside(source, times.instants[usable])
    rows, bad = rows.loc[inside], bad.loc[inside[anchor]].sort_values("line", ignore_index=True)
    rows = rows.sort_values("ts", kind="stable", ignore_index=True)
    rows["wrong_step"] = _wrong_step(pd.DatetimeIndex(rows["ts"]), source.timeframe)
    return PriceFile(rows, bad)


def _of_symbol(cells: Cells, roles: Roles, source: FilesSource, symbol: str, reasons: np.ndarray) -> np.ndarray:
    """Which rows belong to the symbol. In a file of one symbol, a row that names another one is unusable."""
    mine = np.ones(len(cells.lines), dtype=bool)
    if roles.symbol is None:
        return mine
    spelling = source.symbols[symbol]
    names = pd.Series(cells.columns[roles.symbol].to_pandas()).astype("str")
    same = np.asarray(names == spelling)
    if source.shared_file:
        return same
    for row in np.flatnonzero(~same):
        reasons[row] = f"the row names {names.iloc[row]!r} where {spelling!r} was expected"
    return mine


def _malformed_of(
    file: TextFile | ParquetFile, source: FilesSource, symbol: str, malformed: dict[int, str]
) -> dict[int, str]:
    """The malformed lines that count as the symbol's: in a file of many symbols those that hold its spelling, and
    for the first symbol also those that hold none, so that each is delivered once."""
    if not source.shared_file or isinstance(file, ParquetFile):
        return malformed
    mine = {}
    for line, reason in malformed.items():
        cells = {cell.strip().strip('"') for cell in file.lines[line - 1].split(file.header.delimiter)}
        named = (name for name, spelling in source.symbols.items() if spelling in cells)
        if symbol == next(named, next(iter(source.symbols))):
            mine[line] = reason
    return mine


def _values(cells: Cells, roles: Roles, source: FilesSource, symbol: str, reasons: np.ndarray) -> np.ndarray:
    """VALUE_COLUMNS, scaled, shape (6, n). Cells that are no numbers give their row a reason."""
    price, spread = source.price_divisor_of(symbol), source.spread_divisor_of(symbol)
    plan = [*((name, price) for name in roles.prices), (roles.volume, 1.0), (roles.spread, spread)]
    values = np.full((len(VALUE_COLUMNS), len(cells.lines)), np.nan)
    for row, (name, divisor) in enumerate(plan):
        if name is None or (VALUE_COLUMNS[row] == "volume" and source.volume_kind == "none"):
            continue
        numbers, wrong = _numbers(cells.columns[name])
        # Dividing integer points rounds once; multiplying by 1e-5 would round twice.
        values[row] = numbers / divisor
        for place in wrong[reasons[wrong] == ""]:
            reasons[place] = f"{VALUE_COLUMNS[row]} {cells.columns[name][int(place)].as_py()!r} is not a number"
    return values


def _numbers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(the cells as floats, NaN where empty; the positions of cells that are neither a number nor empty)."""
    try:
        return np.asarray(column.cast(pa.float64()).to_pandas(), dtype="float64"), np.array([], dtype="int64")
    except pa.ArrowInvalid:
        return _numbers_one_by_one(column.to_pylist())


def _numbers_one_by_one(words: list[str | None]) -> tuple[np.ndarray, np.ndarray]:
    # float() rounds as Arrow's cast does, so a file's bits do not depend on whether one of its cells is empty.
    numbers, wrong = np.full(len(words), np.nan), []
    for place, word in enumerate(words):
        if word is None or word.lower() in _MISSING:
            continue
        try:
            numbers[place] = float(word)
        except ValueError:
            wrong.append(place)
    return numbers, np.array(wrong, dtype="int64")


def _printed_times(cells: Cells, roles: Roles) -> pd.Series:
    parts = [pd.Series(cells.columns[name].to_pandas()) for name in roles.time]
    return parts[0] if len(parts) == 1 else parts[0].astype("str") + " " + parts[1].astype("str")


def _instants(path: Path, clock: str, times: Times, reasons: np.ndarray) -> pd.DatetimeIndex:
    """The times as UTC; rows whose time cannot be told get a reason."""
    declared = zone(clock)
    if times.is_utc:
        if not declared.prints_offsets:
            refuse(path, f"times of the zone {clock}, without an offset", "an offset in every row", _OFFSETS_STEP)
        instants = times.instants
    elif clock == IN_ROWS:
        refuse(path, "an offset from UTC in every row", "times without one", "Declare the source's time_zone.")
    else:
        instants, unclear = declared.to_utc(times.instants)
        untold = (reasons == "") & (unclear != "")
        reasons[untold] = unclear[untold]
    reasons[(reasons == "") & np.asarray(instants.isna())] = UNREADABLE_TIME
    return instants


def _inside(source: FilesSource, printed: pd.DatetimeIndex) -> np.ndarray:
    """Which rows lie in [starts, ends) by the clock of the file."""
    wall = printed.tz_localize(None)
    inside = np.ones(len(wall), dtype=bool)
    if source.starts is not None:
        inside &= np.asarray(wall >= pd.Timestamp(source.starts))
    if source.ends is not None:
        inside &= np.asarray(wall < pd.Timestamp(source.ends))
    return inside


def _wrong_step(ts: pd.DatetimeIndex, timeframe: str) -> np.ndarray:
    """Whether each row lies in a UTC month of another timeframe than declared. `ts` ascending."""
    if len(ts) == 0:
        return np.array([], dtype=bool)
    month = np.asarray(ts.year * 12 + ts.month)
    first = np.flatnonzero(np.append(True, month[1:] != month[:-1]))
    right = np.diff(ts.as_unit("us").asi8) == length(timeframe) // timedelta(microseconds=1)
    within = month[1:] == month[:-1]
    number = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(ts))))
    steps = np.bincount(number[1:][within], minlength=len(first))
    agreeing = np.bincount(number[1:][within & right], minlength=len(first))
    judged = np.flatnonzero(steps >= MIN_STEPS)
    if len(judged) == 0:
        return np.zeros(len(ts), dtype=bool)
    verdict = agreeing[judged] < GRANULARITY_SHARE * steps[judged]
    # The nearest judged month, the earlier of two.
    distance = np.abs(np.arange(len(first))[:, None] - judged[None, :])
    return verdict[np.argmin(distance, axis=1)][number]
