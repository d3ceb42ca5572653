"""Bytes on disk to named columns of text, with the line of each row: CSV plain, .gz and .zip, and Parquet.

Nothing here knows what a column means. Every failure is a SourceFormatError that names the file.
"""

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as arrow_parquet

from nexus_assets.errors import SourceFormatError

DELIMITERS = (",", ";", "\t", "|")

_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError, pa.ArrowException)


@dataclass(frozen=True)
class Header:
    """How a text file begins: the names of its columns, and how many lines come before the first row."""

    names: tuple[str, ...]
    delimiter: str
    lines: int


@dataclass(frozen=True)
class Cells:
    """The wanted columns of a file.

    Attributes:
        columns: Arrow arrays of n cells; text files have strings only.
        lines: Number of each row's line (text, from 1) or row (Parquet, from 1), shape (n,).
        malformed: {line: why it has no cells}.
    """

    columns: dict[str, pa.Array]
    lines: np.ndarray
    malformed: dict[int, str]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises for a damaged file into a SourceFormatError that names it."""
    try:
        yield
    except _UNREADABLE as error:
        raise SourceFormatError(
            f"The file {path} cannot be read: {type(error).__name__}: {error}.",
            next_step="Replace it with an undamaged copy, or remove it.",
        ) from error


def is_parquet(path: Path) -> bool:
    """Whether the name says Parquet; everything else is text."""
    return path.suffix.lower() in (".parquet", ".pq")


def read_text(path: Path) -> str:
    """The text of a file; UTF-8, or UTF-16 with a byte order mark, as MetaTrader writes it.

    Raises:
        SourceFormatError: it cannot be read, or a .zip does not hold exactly one .csv (or, without one, one .txt).
    """
    with naming(path):
        suffix = path.suffix.lower()
        if suffix == ".zip":
            content = _only_member(path)
        elif suffix == ".gz":
            content = gzip.decompress(path.read_bytes())
        else:
            content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return content.decode(encoding)


def _only_member(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        for suffix in (".csv", ".txt"):
            # HistData puts a status report in .txt beside the rows in .csv.
            members = [name for name in names if name.lower().endswith(suffix)]
            if len(members) == 1:
                return archive.read(members[0])
            if members:
                break
    raise SourceFormatError(
        f"The file {path} holds {', '.join(names) or 'nothing'}; exactly one .csv was expected.",
        next_step="Unpack it, and point the source at the files inside.",
    )


@dataclass(frozen=True)
class TextFile:
    """A text file that was read, before its columns are."""

    path: Path
    header: Header
    lines: list[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in their order."""
        return self.header.names

    def cells(self, names: Iterable[str]) -> Cells:
        """The named columns as text. A row with more or fewer columns than the header is malformed.

        Raises:
            SourceFormatError: the rows cannot be parsed.
        """
        separators = len(self.header.names) - 1
        filled = [number for number, line in enumerate(self.lines, start=1) if line.strip()][self.header.lines :]
        kept, malformed = [], {}
        for number in filled:
            found = self.lines[number - 1].count(self.header.delimiter)
            if found == separators:
                kept.append(number)
            else:
                malformed[number] = f"{found + 1} columns where {separators + 1} were expected"
        with naming(self.path):
            columns = _parse([self.lines[number - 1] for number in kept], self.header, list(dict.fromkeys(names)))
        return Cells(columns, np.array(kept, dtype="int64"), malformed)


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file of which only the schema was read."""

    path: Path
    names: tuple[str, ...]

    def cells(self, names: Iterable[str]) -> Cells:
        """The named columns in their stored types.

        Raises:
            SourceFormatError: the file cannot be read.
        """
        wanted = list(dict.fromkeys(names))
        with naming(self.path), arrow_parquet.ParquetFile(self.path) as file:
            table = file.read(columns=wanted)
        columns = {name: table[name].combine_chunks() for name in wanted}
        return Cells(columns, np.arange(1, table.num_rows + 1), {})


def open_file(path: Path, describe: Callable[[list[str]], Header]) -> TextFile | ParquetFile:
    """Open a price file; `describe` makes the header of a text file from its first two non-empty lines.

    Raises:
        SourceFormatError: from `describe`, or the file cannot be read.
    """
    if is_parquet(path):
        with naming(path), arrow_parquet.ParquetFile(path) as file:
            return ParquetFile(path, tuple(file.schema_arrow.names))
    lines = read_text(path).splitlines()
    return TextFile(path, describe(list(islice(filter(str.strip, lines), 2))), lines)


def _parse(lines: list[str], header: Header, names: list[str]) -> dict[str, pa.Array]:
    if not lines:
        return {name: pa.array([], pa.string()) for name in names}
    table = arrow_csv.read_csv(
        io.BytesIO("\n".join(lines).encode()),
        read_options=arrow_csv.ReadOptions(column_names=list(header.names), use_threads=False),
        parse_options=arrow_csv.ParseOptions(delimiter=header.delimiter),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    trim = pc.utf8_trim_whitespace  # pyright: ignore[reportAttributeAccessIssue]
    return {name: trim(table[name].combine_chunks()) for name in names}


def row_texts(path: Path, lines: Iterable[int]) -> list[str]:
    """The rows of these lines as they stand in the file; rows of Parquet files as JSON.

    Raises:
        SourceFormatError: the file cannot be read.
    """
    wanted = list(lines)
    if not wanted:
        return []
    if not is_parquet(path):
        text = read_text(path).splitlines()
        return [text[line - 1] if line <= len(text) else "" for line in wanted]
    with naming(path), arrow_parquet.ParquetFile(path) as file:
        rows = file.read().take(pa.array([line - 1 for line in wanted])).to_pylist()
    return [orjson.dumps(row, default=str).decode() for row in rows]
