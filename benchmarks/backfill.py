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
import hours

from nexus_assets import instruments

Measured = dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """What is loaded."""

    symbols: tuple[str, ...]
    first_day: date
    days: int
    files_root: Path | None

    def variables(self) -> dict[str, str]:
        """Settings of an installation."""
        found = {"symbols": " ".join(self.symbols), "start_day": f"{self.first_day}"}
        return found | ({"files_root": f"{self.files_root.resolve()}"} if self.files_root else {})


MEASURES: dict[str, Callable[[Any], Measured]] = {"hours": hours.measure, "database": database_speed.measure}


def main() -> None:
    """Print sentences, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--from", dest="first_day", type=date.fromisoformat, default=date(2024, 1, 1))
    parser.add_argument("--files-root", type=Path, help="folder of SYMBOL.parquet or .csv files of hours")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    known = [item.symbol for item in instruments.INSTRUMENTS]
    if asked.files_root:
        known = [symbol for symbol in known if any(asked.files_root.glob(f"{symbol}.*"))]
    symbols = tuple(known[: asked.symbols])
    chosen = Chosen(symbols, asked.first_day, asked.days, asked.files_root)
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
