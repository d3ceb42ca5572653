"""A training set of a million rows and 40 features, read from a database of its own and joined.

    .venv/bin/python benchmarks/training_sets.py [--json]

Starts the servers of this machine in a temporary folder, fills them with a year of invented minutes of three symbols,
and measures beside the bare reading of the same columns. The goal is 10 s and 2 GB.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

from rich.console import Console

from nexus_assets import migrations
from nexus_assets.database import Database
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.instruments import instrument
from nexus_assets.market_store import MarketStore
from nexus_assets.providers.interface import Request
from nexus_assets.providers.synthetic import SyntheticProvider
from nexus_assets.schemas import INDICATOR_ROWS, LABELS
from nexus_assets.services import down, ensure_up
from nexus_assets.settings import Settings, load_settings, project_root
from nexus_assets.trading_calendar import bar_end
from nexus_assets.training_request import request
from nexus_assets.training_sets import assemble
from nexus_assets.transforms import indicators, labels

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY")
START, END = datetime(2023, 1, 1, tzinfo=UTC), datetime(2023, 12, 24, tzinfo=UTC)
FEATURES = [*INDICATOR_NAMES, *(f"{name}@1h" for name in INDICATOR_NAMES[:8])]


def fill(store: MarketStore) -> None:
    """Indicators and labels of the minutes and hours of a year."""
    for symbol in SYMBOLS:
        for timeframe in ("1m", "1h"):
            asked = Request(symbol, timeframe, datetime(2022, 12, 1, tzinfo=UTC), END)
            bars = SyntheticProvider().fetch(asked).bars
            bars = bars.assign(known_at=bar_end(bars["ts"], timeframe), volume_kind="ticks", price_kind="mid")
            for month in range(1, 13):
                first = date(2023, month, 1)
                end = min(END.date(), date(2023 + month // 12, month % 12 + 1, 1))
                item = instrument(symbol)
                made = {
                    INDICATOR_ROWS: indicators.compute(
                        bars, instrument=item, timeframe=timeframe, first_day=first, end_day=end
                    ),
                    LABELS: labels.compute(
                        bars, instrument=item, timeframe=timeframe, first_day=first, end_day=end
                    ).labels,
                }
                for table, frame in made.items():
                    store.replace(table, frame, symbol=symbol, timeframes=[timeframe], first_day=first, end_day=end)


def measure(store: MarketStore, config: Settings) -> dict[str, float]:
    """Seconds, rows and memory, each time the shorter of two."""
    asked = request(SYMBOLS, START, END, FEATURES, "forward_return_24h", None, "1m", None, config=config)

    def bare() -> None:
        for symbol in SYMBOLS:
            store.read_columns(INDICATOR_ROWS, [*INDICATOR_NAMES, "known_at"], symbol, "1m", START, END)

    read = min(timed(bare) for _ in range(2))
    begun = time.perf_counter()
    made = assemble(store, asked, config)
    first = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    again = timed(lambda: assemble(store, asked, config))
    return {
        "rows": len(made),
        "features": len(FEATURES),
        "seconds": min(first, again),
        "peak_gb": peak,
        "bare_read_seconds": read,
        "ratio": min(first, again) / read,
        "manifest_seconds": timed(made.manifest),
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Print a sentence, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    console = Console(stderr=True)
    config = load_settings(
        base_timeframe="1m", rolled_up_timeframes="1h 4h", feature_timeframes="1m 1h", serving_timeframe="1m"
    )
    with tempfile.TemporaryDirectory(prefix="nexus-benchmark-") as folder:
        home, root = Path(folder) / "home", Path(folder) / "root"
        root.mkdir()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXUS_") or k == "NEXUS_CACHE"}
        console.print("Starting servers and filling them (about a minute)")
        state = ensure_up(
            home, root, database_url=None, redis_url=None, progress=lambda _: None, environment=environment
        )
        try:
            store = MarketStore(Database(state.database_url))
            migrations.migrate(store.database, project_root(), config)
            fill(store)
            found = measure(store, config)
        finally:
            down(home, purge=True)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print(
            f"{found['rows']:,} rows x {found['features']} features: {found['seconds']:.2f} s (goal 10), "
            f"{found['peak_gb']:.2f} GB at most (goal 2), {found['ratio']:.2f} times the bare reading of the columns; "
            f"manifest with hashes {found['manifest_seconds']:.2f} s"
        )


if __name__ == "__main__":
    main()
