"""The layouts of price files: which column holds what, and how times are printed.

`describe` reads the beginning of a text file, `roles_of` maps column names to roles, `read_times` turns printed times
into instants or wall clock times. Nothing here opens a file.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from nexus_assets.errors import SourceFormatError
from nexus_assets.providers.file_reader import DELIMITERS, Header
from nexus_assets.providers.source_declaration import FilesSource

PRICES = ("open", "high", "low", "close")

_HISTDATA = ("ts", *PRICES, "volume")
_HISTDATA_ROW = re.compile(r"\d{8} \d{6}(;[^;]*){5}")
_MT5_WITHOUT_HEADER = ("date", "time", *PRICES, "tickvol", "vol", "spread")
# Tick counts before real volume, which brokers leave at zero.
_MT5_VOLUMES = ("tickvol", "tick_volume", "volume", "vol")

_MT5_DAYS = ("%Y.%m.%d", "%Y-%m-%d")
_CLOCKS = ("%H:%M:%S", "%H:%M")
_DUKASCOPY_TIMES = ("%d.%m.%Y %H:%M:%S.%f", "%d.%m.%Y %H:%M:%S")
_MICROSECONDS = {"unix_s": 1_000_000, "unix_ms": 1_000}
_LARGEST_MICROSECONDS = 2.5e17  # the year 9892; beyond it dates end
_OFFSET_AT_END = r"\d[T ].*(?:Z|[+-]\d{2}(?::?\d{2})?)$"


@dataclass(frozen=True)
class Roles:
    """Names of the columns that hold each thing; `time` has one name, or two to be joined (date, time)."""

    time: tuple[str, ...]
    prices: tuple[str, str, str, str]
    volume: str | None
    spread: str | None
    symbol: str | None

    def names(self) -> list[str]:
        """Every column that is to be read."""
        return [*self.time, *self.prices, *(n for n in (self.volume, self.spread, self.symbol) if n)]


@dataclass(frozen=True)
class Times:
    """Printed times. `instants` is naive (the wall clock of the source) or UTC; NaT where a row cannot be read."""

    instants: pd.DatetimeIndex
    is_utc: bool


def refuse(path: Path, expected: str, found: object, next_step: str = "") -> NoReturn:
    """Raise the SourceFormatError of a file that is not what was declared."""
    raise SourceFormatError(
        f"The file {path} does not look as declared: expected {expected}; found {str(found)[:200]!r}.",
        next_step=next_step or "Correct the source's layout in sources.toml, or the file.",
    )


def describe(path: Path, source: FilesSource, first_lines: list[str]) -> Header:
    """The header of a text file from its first lines.

    Raises:
        SourceFormatError: it is not the declared layout's.
    """
    first = first_lines[0] if first_lines else ""
    if source.layout == "histdata_ascii_m1":
        if not _HISTDATA_ROW.fullmatch(first.strip()):
            refuse(path, "rows such as 20180101 170000;1.1;1.2;1.0;1.1;0 without a header (HistData ASCII M1)", first)
        return Header(_HISTDATA, ";", 0)
    delimiter = source.delimiter or max(DELIMITERS, key=first.count)
    names = tuple(cell.strip().strip('"') for cell in first.split(delimiter))
    if source.layout == "mt5" and first[:1].isdigit():
        if not 6 <= len(names) <= len(_MT5_WITHOUT_HEADER):
            refuse(path, "date, time, open, high, low, close and up to three more columns (MetaTrader)", first)
        return Header(_MT5_WITHOUT_HEADER[: len(names)], delimiter, 0)
    if len(set(names)) != len(names):
        refuse(path, "a header with a different name for each column", first)
    return Header(names, delimiter, 1)


def roles_of(path: Path, source: FilesSource, names: Sequence[str]) -> Roles:
    """Which column holds what.

    Raises:
        SourceFormatError: a column that is needed is missing.
    """
    plain = {name.strip("<>").lower(): name for name in names}

    def find(*candidates: str) -> str | None:
        return next((plain[c] for c in candidates if c in plain), None)

    def need(role: str, *candidates: str) -> str:
        name = find(*candidates)
        if name is None:
            refuse(path, f"a column {' or '.join(candidates)} ({role}) for layout {source.layout}", ", ".join(names))
        return name

    if source.layout == "dukascopy":
        time: tuple[str, ...] = (need("time", "gmt time", "local time"),)
        volume = find("volume")
    elif source.layout == "mt5":
        both = find("date"), find("time")
        time = (both[0], both[1]) if both[0] and both[1] else (need("time", "time", "date", "datetime"),)
        volume = find(*_MT5_VOLUMES)
    elif source.layout == "histdata_ascii_m1":
        time, volume = ("ts",), "volume"
    else:
        return _generic_roles(path, source, names)
    prices = tuple(need("price", name) for name in PRICES)
    return Roles(time, prices, volume, find("spread"), None)  # pyright: ignore[reportArgumentType]


def _generic_roles(path: Path, source: FilesSource, names: Sequence[str]) -> Roles:
    lower = {name.lower(): name for name in names}

    def find(role: str) -> str | None:
        declared = source.columns.get(role, role)
        name = declared if declared in names else lower.get(declared.lower())
        if name is None and (role in source.columns or role in ("ts", *PRICES)):
            refuse(path, f"a column {declared} ({role})", ", ".join(names), "Map it in the source's `columns`.")
        return name

    dated = "date" in source.columns
    time = (find("date"), find("time")) if dated and "time" in source.columns else (find("date" if dated else "ts"),)
    symbol = find("symbol") if "symbol" in source.columns or source.shared_file else None
    if source.shared_file and symbol is None:
        refuse(path, "a column symbol, because the path names neither {symbol} nor {spelling}", ", ".join(names))
    prices = tuple(find(name) for name in PRICES)
    return Roles(time, prices, find("volume"), find("spread"), symbol)  # pyright: ignore[reportArgumentType]


def clock_of(source: FilesSource, roles: Roles) -> str:
    """The declared time zone; a Dukascopy column "Gmt time" declares it itself, as does an offset in every row."""
    if source.layout == "dukascopy":
        return "UTC" if roles.time[0].lower() == "gmt time" else source.time_zone or "in_rows"
    return source.time_zone


def read_times(source: FilesSource, printed: pd.Series) -> Times:
    """Printed times, one per row: strings, numbers since 1970, or timestamps of a Parquet file.

    A row whose time is not printed like the others' is NaT: a bare date among hours is no time.
    """
    if isinstance(printed.dtype, pd.DatetimeTZDtype):
        return Times(pd.DatetimeIndex(printed).tz_convert("UTC").as_unit("us"), True)
    if pd.api.types.is_datetime64_dtype(printed.dtype):
        return Times(pd.DatetimeIndex(printed).as_unit("us"), False)
    if source.time_format in _MICROSECONDS:
        return Times(_since_1970(printed, _MICROSECONDS[source.time_format]), False)
    text = printed.astype("str")
    if source.layout == "generic" and not source.time_format:
        return _iso_times(source, text)
    formats = _formats(source)
    sample = text.iloc[:: max(1, len(text) // 50)]
    best = max(formats, key=lambda form: np.count_nonzero(_parse(sample, form).notna()))
    return Times(_parse(text, best), "%z" in best)


def _since_1970(printed: pd.Series, microseconds: int) -> pd.DatetimeIndex:
    numbers = np.asarray(pd.to_numeric(printed, errors="coerce"), dtype="float64") * microseconds
    readable = np.abs(numbers) < _LARGEST_MICROSECONDS
    instants = np.full(len(numbers), np.datetime64("NaT"), dtype="datetime64[us]")
    instants[readable] = np.round(numbers[readable]).astype("int64").astype("datetime64[us]")
    return pd.DatetimeIndex(instants)


def _formats(source: FilesSource) -> list[str]:
    if source.layout == "histdata_ascii_m1":
        return ["%Y%m%d %H%M%S"]
    if source.layout == "dukascopy":
        return [form + suffix for form in _DUKASCOPY_TIMES for suffix in ("", " GMT%z")]
    if source.layout == "mt5":
        # Daily exports print the date alone; in others a bare date is a defect.
        return list(_MT5_DAYS) * (source.timeframe == "1d") + [f"{d} {c}" for d in _MT5_DAYS for c in _CLOCKS]
    return [source.time_format]


def _parse(text: pd.Series, form: str) -> pd.DatetimeIndex:
    times = pd.to_datetime(text, format=form, errors="coerce", utc="%z" in form)
    return pd.DatetimeIndex(times).as_unit("us")


def _iso_times(source: FilesSource, text: pd.Series) -> Times:
    with_offset = np.asarray(text.str.contains(_OFFSET_AT_END, regex=True))
    is_utc = bool(with_offset.mean() > 0.5) if len(text) else False
    times = pd.DatetimeIndex(pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)).as_unit("us")
    odd = with_offset != is_utc
    if source.timeframe != "1d":
        odd |= np.asarray(text.str.len() <= len("2024-01-01"))
    kept = pd.DatetimeIndex(times.where(~odd))
    return Times(kept if is_utc else kept.tz_localize(None), is_utc)
