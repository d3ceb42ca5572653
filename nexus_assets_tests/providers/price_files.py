"""Price files written for tests: an hourly walk in every layout, and the sources that declare them."""

import gzip
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.providers.files import FilesProvider
from nexus_assets.providers.interface import Request
from nexus_assets.providers.registry import load_sources

START, END = datetime(2024, 3, 4, tzinfo=UTC), datetime(2024, 4, 15, tzinfo=UTC)


def utc(text: str) -> datetime:
    """An instant from ISO text without an offset."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def walk(timeframe: str, *, start: datetime = START, end: datetime = END, digits: int = 5) -> pd.DataFrame:
    """BAR_COLUMNS of every bar that EURUSD is expected to have, fixed by the range."""
    ts = trading_calendar.expected("fx", start, end, timeframe)
    random = np.random.default_rng(7)
    close = np.round(1.1 + np.cumsum(random.normal(0, 1e-4, len(ts))), digits)
    opened = np.append(1.1, close[:-1])
    high = np.round(np.maximum(opened, close) + random.integers(0, 20, len(ts)) * 1e-5, digits)
    low = np.round(np.minimum(opened, close) - random.integers(0, 20, len(ts)) * 1e-5, digits)
    volume = random.integers(1, 500, len(ts)).astype(float)
    spread = np.round(random.integers(1, 30, len(ts)) * 1e-5, digits)
    return pd.DataFrame(
        {"ts": ts, "open": opened, "high": high, "low": low, "close": close, "volume": volume, "spread": spread}
    )


def write(path: Path, text: str) -> Path:
    """Write text; gzipped for .gz, as the one .csv member for .zip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.with_suffix(".csv").name, text)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def files_provider(root: Path, declaration: str, name: str = "files") -> FilesProvider:
    """The provider of one name from the text of a sources file."""
    path = root / "sources.toml"
    path.write_text(declaration, encoding="utf-8")
    provider = next(p for p in load_sources(path, root).providers if p.name == name)
    assert isinstance(provider, FilesProvider)
    return provider


def generic(path: str, *, timeframe: str = "1h", more: str = "") -> str:
    """A source of the generic layout, in UTC and for every symbol unless `more` says otherwise."""
    return f"""
[[source]]
provider = "files"
path = "{path}"
timeframe = "{timeframe}"
price_kind = "mid"
volume_kind = "ticks"
{"" if "time_zone" in more else 'time_zone = "UTC"'}
{"" if "symbols" in more else 'symbols = "*"'}
{more}
"""


def request(
    symbol: str = "EURUSD", timeframe: str = "1h", start: str = "2000-01-01", end: str = "2040-01-01"
) -> Request:
    """A request; of everything by default."""
    return Request(symbol, timeframe, utc(start), utc(end))
