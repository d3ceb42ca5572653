"""Backfills beside what bounds them: the bare work, stock Dagster, bare COPY. All through a real daemon and webserver.

    .venv/bin/python benchmarks/backfill.py [--only hours ...] [--symbols 20] [--days 365] [--json]
    .venv/bin/python benchmarks/backfill.py --files-root ~/prices --from 2021-01-01     # your own hours

Starts the servers of this machine in temporary folders. Without --files-root prices are invented.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import database_speed
import hourly
import hours
import interface
import minutes

from nexus_assets import instruments

Measured = dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """What is loaded: hours of some symbols, and minutes of some. Days are counted from the first."""

    symbols: tuple[str, ...]
    first_day: date
    days: int
    files_root: Path | None
    minutes_symbols: tuple[str, ...]
    minutes_from: date
    minutes_days: int
    minutes_root: Path | None
    minutes_sources: Path | None
    years: int
    ui_symbols: int
    pictures: Path | None

    def variables(self) -> dict[str, str]:
        """Settings of an installation of hours."""
        return {"symbols": " ".join(self.symbols), "start_day": f"{self.first_day}", **_folder(self.files_root)}

    def minutes_variables(self) -> dict[str, str]:
        """Settings of an installation of minutes, but for the timeframes."""
        found = {"symbols": " ".join(self.minutes_symbols), "start_day": f"{self.minutes_from}"}
        if self.minutes_sources:
            found["sources"] = f"{self.minutes_sources.resolve()}"
        return found | _folder(self.minutes_root)


def _folder(root: Path | None) -> dict[str, str]:
    return {"files_root": f"{root.resolve()}"} if root else {}


MEASURES: dict[str, Callable[[Any], Measured]] = {
    "hours": hours.measure,
    "database": database_speed.measure,
    "minutes": minutes.measure,
    "hourly": hourly.measure,
    "interface": interface.measure,
}


def main() -> None:
    """Print sentences, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--from", dest="first_day", type=date.fromisoformat, default=date(2024, 1, 1))
    parser.add_argument("--files-root", type=Path, help="folder of SYMBOL.parquet or .csv files of hours")
    parser.add_argument("--minutes-symbols", nargs="+", default=list(instruments.DEFAULT_SYMBOLS[:12]))
    parser.add_argument("--minutes-days", type=int, default=365)
    parser.add_argument("--minutes-from", type=date.fromisoformat, default=date(2024, 1, 1))
    parser.add_argument("--minutes-root", type=Path, help="folder of price files of minutes; with --minutes-sources")
    parser.add_argument("--minutes-sources", type=Path, help="a sources.toml that declares them")
    parser.add_argument("--years", type=int, default=10, help="of the interface's partitions")
    parser.add_argument("--ui-symbols", type=int, default=27, help="of the interface's partitions")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the interface's pages")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    known = [item.symbol for item in instruments.INSTRUMENTS]
    if asked.files_root:
        known = [symbol for symbol in known if any(asked.files_root.glob(f"{symbol}.*"))]
    given = {name: value for name, value in vars(asked).items() if name not in ("only", "json")}
    given |= {"symbols": tuple(known[: asked.symbols]), "minutes_symbols": tuple(asked.minutes_symbols)}
    chosen = Chosen(**given)
    found: Measured = {"load_before": os.getloadavg()[0]}
    for name in asked.only:
        found[name] = MEASURES[name](chosen)
        if not asked.json:
            print(f"{name}:")
            for key, value in found[name].items():
                print(f"  {key.replace('_', ' ')}: {value:,.4g}" if isinstance(value, float) else f"  {key}: {value}")
    if asked.json:
        print(json.dumps(found, indent=2, default=str))


if __name__ == "__main__":
    main()
