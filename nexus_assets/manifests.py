"""What a training set is and what it was made with, so that it can be made again and compared.

What belongs here: hashes of rows and columns, and the facts about code and machine. Bits are promised for one
processor architecture and one set of locked packages, so both are among the facts.
"""

import hashlib
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pyarrow as pa

from nexus_assets import trading_calendar
from nexus_assets.errors import SettingsError
from nexus_assets.indicator_table import INDICATORS_VERSION, WARMUP_BARS
from nexus_assets.instruments import instrument
from nexus_assets.settings import project_root
from nexus_assets.training_request import TimeSplit, TrainingRequest
from nexus_assets.transforms.correlations import CORRELATIONS_VERSION
from nexus_assets.transforms.labels import LABELS_VERSION
from nexus_assets.transforms.splits import SPLITS_VERSION
from nexus_assets.transforms.training_sets import MAX_AGE

FORMAT = 1
"""Version of the manifest and of what is hashed."""

_KEY = ("symbol", "ts")
_PACKAGES = ("nexus_assets", "ta-lib", "numpy", "numba", "pandas", "pyarrow")


@dataclass
class Contents:
    """Counts and hashes of rows that are added piece by piece, in their order."""

    rows: int = 0
    by_symbol: dict[str, dict[str, Any]] = field(default_factory=dict)
    newest_known_at: datetime | None = None
    columns: list[tuple[str, str, str]] = field(default_factory=list)
    _nulls: dict[str, Any] = field(default_factory=dict)
    _values: dict[str, Any] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Take up more rows of the same columns. How the rows are cut into pieces changes no hash."""
        if not self.columns:
            self.columns = [(f.name, str(f.type), (f.metadata or {}).get(b"unit", b"").decode()) for f in rows.schema]
            self._nulls = {name: hashlib.sha256() for name in rows.column_names}
            self._values = {name: hashlib.sha256() for name in rows.column_names}
        for name in rows.column_names:
            self._nulls[name].update(rows[name].is_null().to_numpy().astype(np.uint8).data)
            self._values[name].update(_values(rows[name]))
        self.rows += rows.num_rows
        for symbol in rows["symbol"].unique().to_pylist():
            self._count(symbol, rows)

    def _count(self, symbol: str, rows: pa.Table) -> None:
        mine = np.flatnonzero(rows["symbol"].to_numpy() == symbol)
        ts, known_at = rows["ts"].take(mine), rows["known_at"].take(mine)
        first, last = ts[0].as_py(), ts[-1].as_py()
        before = self.by_symbol.get(symbol)
        self.by_symbol[symbol] = {
            "rows": len(mine) + (before["rows"] if before else 0),
            "first_ts": before["first_ts"] if before else first.isoformat(),
            "last_ts": last.isoformat(),
        }
        newest = max(known_at.to_pylist()) if len(mine) < 1000 else known_at.to_pandas().max().to_pydatetime()
        self.newest_known_at = max(newest, self.newest_known_at or newest)

    def hashes(self) -> dict[str, Any]:
        """row_hash over the keys, content_hash over all columns with their names, and each column's own.

        A column's hash is the SHA-256 of two others: of one byte per row that says whether it is null, and of its
        values.
        """
        own = {
            name: hashlib.sha256(self._nulls[name].digest() + self._values[name].digest()).hexdigest()
            for name in self._nulls
        }
        return {
            "row_hash": _sha256("".join(own[name] for name in _KEY)) if own else _sha256(""),
            "content_hash": _sha256("".join(f"{name}={value};" for name, value in own.items())),
            "columns": own,
        }


def _values(column: pa.ChunkedArray) -> bytes | memoryview:
    """The column's values, little-endian, 0 where null; each text followed by a line feed."""
    if pa.types.is_string(column.type):
        texts = column.combine_chunks().fill_null("").dictionary_encode()
        words = [f"{word}\n".encode() for word in texts.dictionary.to_pylist()]
        return b"".join(words[i] for i in texts.indices.to_pylist())
    values = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    dense = values.fill_null(0).to_numpy()
    return np.ascontiguousarray(dense.astype(dense.dtype.newbyteorder("<"), copy=False)).data


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def manifest(asked: TrainingRequest, contents: Contents, dropped: Counter[str]) -> dict[str, Any]:
    """The facts about a training set, as JSON can hold them.

    `rebuild` holds everything that makes the same rows again: the request, the versions of the numbers, and the
    packages and architecture for which their bits are promised. The rows are equal if `hashes.content_hash` is.
    """
    return {
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": contents.rows,
        "by_symbol": contents.by_symbol,
        "left_out": dict(sorted(dropped.items())),
        "newest_known_at": contents.newest_known_at.isoformat() if contents.newest_known_at else None,
        "columns": [{"name": n, "type": t, "unit": u} for n, t, u in contents.columns],
        "hashes": contents.hashes(),
        "rebuild": {
            "query": query_of(asked),
            "code_version": {
                "indicators": INDICATORS_VERSION,
                "labels": LABELS_VERSION,
                "dataset_splits": SPLITS_VERSION,
                "correlation_matrix": CORRELATIONS_VERSION,
            },
            "warm_up_bars": WARMUP_BARS,
            "oldest_joined_value_days": MAX_AGE.days,
            "calendar": {
                symbol: trading_calendar.calendar_version(instrument(symbol).asset_class) for symbol in asked.symbols
            },
            **_environment(),
        },
    }


def query_of(asked: TrainingRequest) -> dict[str, Any]:
    """The request as JSON can hold it."""
    split = asked.split
    if isinstance(split, TimeSplit):
        own = {name: value if name == "part" else value.isoformat() for name, value in asdict(split).items()}
    else:
        own = split
    return {
        "symbols": list(asked.symbols),
        "start": asked.start.isoformat(),
        "end": asked.end.isoformat(),
        "timeframe": asked.timeframe,
        "features": [feature.name for feature in asked.features],
        "label": asked.label,
        "split": own,
        "as_known": asked.as_known.isoformat() if asked.as_known else None,
        "assume_published_seconds": None if asked.assume_published is None else asked.assume_published.total_seconds(),
        "as_served_seconds": None if asked.as_served is None else asked.as_served.total_seconds(),
    }


def _environment() -> Mapping[str, Any]:
    """Code, packages and machine; a fact that cannot be had here is None."""
    revision, clean = _git_revision()
    try:
        lock = hashlib.sha256((project_root() / "requirements.lock").read_bytes()).hexdigest()
    except (OSError, SettingsError):
        lock = None
    return {
        "git_revision": revision,
        "git_clean": clean,
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: _installed(name) for name in _PACKAGES},
        "requirements_lock_sha256": lock,
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def _git_revision() -> tuple[str | None, bool | None]:
    """The commit of the checkout this code runs from, and whether nothing in it was changed; None outside of one."""
    from nexus_assets import __file__ as module

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=str(module).rsplit("/", 1)[0], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain")
    return revision, None if changes is None else changes == ""
