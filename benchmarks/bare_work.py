"""What a backfill's runs compute and write, without Dagster: the calls of the assets' bodies, slice by slice.

    .venv/bin/python benchmarks/bare_work.py EURUSD,GBPUSD 2024-01-01 2025-01-01

Reads the settings of its environment, and prints the seconds that it worked, warm as a run worker is.
benchmarks/backfill.py starts it, to tell orchestration from work.
"""

import sys
import time
from datetime import UTC, date, datetime

import nexus_assets.worker_imports  # noqa: F401 (kernels, calendars and schemas are ready before the clock starts)
from nexus_assets.assets import bars, indicators, labels
from nexus_assets.collecting import collect
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import Slice, consecutive, days_between
from nexus_assets.providers.registry import Sources
from nexus_assets.reading_ahead import ReadingAhead
from nexus_assets.resources import open_market_store, open_sources
from nexus_assets.schemas import BARS
from nexus_assets.settings import settings


def work(store: MarketStore, sources: Sources, pieces: list[Slice]) -> None:
    """raw_ohlc, bars, indicators and labels of these slices, each asset over all of them before the next."""
    now, ahead = datetime.now(UTC), ReadingAhead(pieces)
    for piece in pieces:
        collect(store, sources, piece, config=settings(), run_id="bare", now=now, ahead=ahead)
    for piece in pieces:
        made, _ = bars.make(store, sources, piece, now)
        bars.write(store, sources, piece, made, bars.gaps_of(store, sources, piece, made, now), now)
    for piece in pieces:
        indicators.write(store, piece, indicators.bring_up_to_date(store, piece)[0], _read_at(store, piece))
    for piece in pieces:
        computed = [labels.compute(store, piece, timeframe) for timeframe in settings().feature_timeframes]
        labels.write(store, piece, computed, _read_at(store, piece))


def _read_at(store: MarketStore, piece: Slice) -> datetime:
    return store.settled_until(BARS, piece.symbol)


def main() -> None:
    """Work on the symbols and days of the command line."""
    symbols, first, end = sys.argv[1].split(","), *map(date.fromisoformat, sys.argv[2:])
    config = settings()
    store, sources = open_market_store(config), open_sources(config)
    days = days_between(first, end)
    begun = time.perf_counter()
    work(store, sources, [Slice(symbol, *piece) for symbol in symbols for piece in consecutive(days)])
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
