"""The provider `files`: price files of people's own, as sources.toml declares them."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import pandas as pd

from nexus_assets.errors import SourceFormatError, UnknownSymbolError
from nexus_assets.instruments import instrument
from nexus_assets.providers.file_reader import row_texts
from nexus_assets.providers.interface import (
    BAR_COLUMNS,
    Delivery,
    Request,
    empty_bars,
    empty_rejected,
    rejected_frame,
    settle_repeats,
)
from nexus_assets.providers.price_file import PriceFile, read_price_file
from nexus_assets.providers.source_declaration import FilesSource
from nexus_assets.timeframes import length

CACHE_BYTES = 256 * 2**20

WRONG_STEP = "fewer than half of the steps between the rows of this month are {step} long"


class _PriceFileCache:
    """Files that were read, by path, time of change, size and declaration; the least recently used leave first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: OrderedDict[tuple[object, ...], PriceFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, source: FilesSource, symbol: str) -> PriceFile:
        """The file as it is now. Raises SourceFormatError as read_price_file does."""
        try:
            status = path.stat()
        except OSError as error:
            raise SourceFormatError(f"The file {path} cannot be read: {error}.", next_step="Restore it.") from error
        key = (path, status.st_mtime_ns, status.st_size, source.model_dump_json(), symbol)
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        file = read_price_file(path, source, symbol)
        with self._lock:
            self._files[key] = file
            # The newest stays whatever its size: the next request is for its next days.
            while len(self._files) > 1 and sum(f.size for f in self._files.values()) > self._limit:
                self._files.popitem(last=False)
        return file


_CACHE = _PriceFileCache(CACHE_BYTES)


class FilesProvider:
    """The sources of one name, read together: of two rows of one ts, that of the earlier source or file stands."""

    def __init__(self, name: str, root: Path, sources: Iterable[FilesSource]) -> None:
        """`root` is the folder that the sources' paths start from."""
        self.name = name
        self._root = root
        self._sources = tuple(sources)

    def serves(self, symbol: str, timeframe: str) -> bool:
        """Whether a declared file of the symbol and timeframe exists."""
        return any(self._places(symbol, timeframe))

    def available(self, symbol: str, timeframe: str) -> tuple[datetime, datetime] | None:
        """From the first bar in the files to the end of the last; None where they hold no readable row.

        Raises:
            UnknownSymbolError: no declared file of the symbol and timeframe exists.
            SourceFormatError: a file is damaged or not what was declared.
        """
        files = [file.rows["ts"] for _, _, file in self._files(symbol, timeframe) if len(file.rows)]
        if not files:
            return None
        first, last = min(ts.iloc[0] for ts in files), max(ts.iloc[-1] for ts in files)
        return first.to_pydatetime(), (last + length(timeframe)).to_pydatetime()

    def places(self, symbol: str) -> str:
        """Where the symbol's files are looked for, for messages."""
        patterns = [
            f"{pattern} ({source.timeframe}{'' if symbol in source.symbols else ', not for this symbol'})"
            for source in self._sources
            for pattern in source.path
        ]
        return f"{', '.join(patterns)} in {self._root}"

    def fetch(self, request: Request) -> Delivery:
        """The rows of the files whose ts lies in the range; a row whose time cannot be read lies where the readable
        row before it lies.

        Raises:
            UnknownSymbolError: no declared file of the symbol and timeframe exists.
            SourceFormatError: a file is damaged or not what was declared.
        """
        kept, rejected = [empty_bars()], [empty_rejected()]
        files = self._files(request.symbol, request.timeframe)
        for number, (source, path, file) in enumerate(files):
            rows = _between(file.rows, request)
            unusable = file.unusable.loc[(file.unusable["ts"] >= request.start) & (file.unusable["ts"] < request.end)]
            rejected.append(self._rejected(path, unusable, "unusable_key"))
            wrong = rows.loc[rows["wrong_step"]]
            rejected.append(self._rejected(path, wrong, "granularity", WRONG_STEP.format(step=source.timeframe)))
            kept.append(rows.loc[~rows["wrong_step"]].assign(file=number))
        rows = pd.concat(kept, ignore_index=True).sort_values("ts", kind="stable", ignore_index=True)
        unique, conflicting, equal_repeats = settle_repeats(rows)
        for number, (_, path, _) in enumerate(files) if len(conflicting) else ():
            later = conflicting.loc[conflicting["file"] == number]
            rejected.append(self._rejected(path, later, "conflicting_repeat", "differs from the first row of its ts"))
        source = files[0][0]
        return Delivery(
            provider=self.name,
            request=request,
            bars=unique.loc[:, list(BAR_COLUMNS)].reset_index(drop=True),
            rejected=pd.concat(rejected, ignore_index=True).sort_values("ts", kind="stable", ignore_index=True),
            equal_repeats=equal_repeats,
            price_kind=source.price_kind,
            volume_kind=source.volume_kind,
            instrument_kind=source.instrument_kind or instrument(request.symbol).kind,
            source=", ".join(dict.fromkeys(self._shown(path) for _, path, _ in files)),
        )

    def _places(self, symbol: str, timeframe: str) -> Iterator[tuple[FilesSource, Path]]:
        for source in self._sources:
            if source.timeframe == timeframe:
                for path in source.files(self._root, symbol):
                    yield source, path

    def _files(self, symbol: str, timeframe: str) -> list[tuple[FilesSource, Path, PriceFile]]:
        places = list(self._places(symbol, timeframe))
        if not places:
            raise UnknownSymbolError(
                f"The provider {self.name} has no file for {symbol} {timeframe}: it looks for {self.places(symbol)}.",
                next_step="Add the file, or correct path, timeframe or symbols of the source in sources.toml.",
            )
        return [(source, path, _CACHE.get(path, source, symbol)) for source, path in places]

    def _shown(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _rejected(self, path: Path, rows: pd.DataFrame, rule: str, detail: str = "") -> pd.DataFrame:
        """Rows of one file in REJECTED_COLUMNS, with their text and place."""
        if rows.empty:
            return empty_rejected()
        lines = rows["line"].astype("int64").tolist()
        shown = self._shown(path)
        return rejected_frame(
            rows.assign(
                origin=pd.Series([f"{shown}:{line}" for line in lines], index=rows.index, dtype="str"),
                content=pd.Series(row_texts(path, lines), index=rows.index, dtype="str"),
            ),
            rule,
            detail=detail,
        )


def _between(rows: pd.DataFrame, request: Request) -> pd.DataFrame:
    """The rows of the range; `rows` ordered by ts."""
    ts = pd.DatetimeIndex(rows["ts"])
    return rows.iloc[ts.searchsorted(pd.Timestamp(request.start)) : ts.searchsorted(pd.Timestamp(request.end))]
