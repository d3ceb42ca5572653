"""Corrected bars: from the call to Redis, where that time goes, and a thousand at once beside a full rebuild.

    .venv/bin/python benchmarks/corrections.py [--symbols 20] [--json]

Starts the servers of this machine in a temporary folder and takes a year of hours of 20 symbols through the graph:
recorded ones with NEXUS_REAL_DATA, else invented. The goal is 2 s for 95 of 100 single corrections. Dagster's record
of what was done follows after Redis and is not part of it.
"""

import argparse
import cProfile
import json
import os
import platform
import pstats
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from loaded_market import LoadedMarket, loaded_market
from psycopg import sql
from rich.console import Console
from rich.table import Table

from nexus_assets.instruments import DEFAULT_SYMBOLS, in_catalogue_order
from nexus_assets.providers.interface import BAR_COLUMNS, Delivery, Request, empty_rejected
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, PAIR_RANKINGS

LOADED_FROM, FIRST_DAY, END_DAY = date(2020, 10, 1), date(2021, 1, 1), date(2022, 1, 1)
RECENT = timedelta(days=5)
ONE_HOUR = timedelta(hours=1)
DERIVED = (BARS, INDICATOR_ROWS, LABELS, CORRELATION_MATRIX, PAIR_RANKINGS)

STEPS = {
    "append_delivery": "store the revision",
    "pending": "find the days to make again",
    "remember_stale_analytics": "ledger: correlation days that were stale before",
    "_stale_features": "ledger: features that were stale, before and after",
    "bars": "make and write the bars",
    "_indicators": "make and write indicators",
    "_labels": "make and write labels",
    "analytics": "correlations, rankings, and their ledger",
    "_serve": "write to Redis",
}
"""Functions whose time is told, by what they do."""


def load(market: LoadedMarket, symbols: Sequence[str]) -> None:
    """A year of features, after the prices that their warm-up needs."""
    market.run(("market/raw_ohlc", "market/bars"), symbols, LOADED_FROM, END_DAY)
    derive(market, symbols)
    market.run_whole(("features/dataset_splits",))


def derive(market: LoadedMarket, symbols: Sequence[str]) -> None:
    """Everything that follows from bars."""
    market.run(("features/indicators", "features/labels"), symbols, FIRST_DAY, END_DAY)
    market.run_days(("analytics/correlation_matrix", "analytics/pair_rankings"), FIRST_DAY, END_DAY)


def chosen_bars(market: LoadedMarket, symbols: Sequence[str], count: int, seed: int) -> list[tuple[str, pd.Timestamp]]:
    """Random bars: every second one of the last days, the others of the whole year."""
    random = np.random.default_rng(seed)
    newest = datetime.combine(END_DAY, datetime.min.time(), UTC)
    found = []
    for number in range(count):
        symbol = symbols[int(random.integers(len(symbols)))]
        start = newest - RECENT if number % 2 else datetime.combine(FIRST_DAY, datetime.min.time(), UTC)
        opens = market.store.read_bars(symbol, "1h", start, newest)["ts"]
        found.append((symbol, opens.iloc[int(random.integers(len(opens)))]))
    return found


def push_one(market: LoadedMarket, symbol: str, ts: pd.Timestamp) -> tuple[float, float]:
    """Correct one bar; seconds until Redis holds what follows, and until splits are made again as well."""
    import nexus_assets

    rows = market.store.read_raw(symbol, "1h", ts.to_pydatetime(), ts.to_pydatetime() + ONE_HOUR)
    rows[["open", "high", "low", "close"]] *= 1.0001
    begun = time.monotonic()
    done = nexus_assets.push_bars(symbol, rows, provider=rows["provider"].iloc[0], record=False)
    assert done.deliveries[0].changed == 1, (symbol, ts)
    return done.served_after, time.monotonic() - begun


def steps_of(work: Callable[[], object], corrections: int) -> dict[str, float]:
    """Seconds of each step for each correction, slowed down by being watched."""
    profile = cProfile.Profile()
    profile.runcall(work)
    found: dict[str, float] = dict.fromkeys(STEPS.values(), 0.0)
    for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # pyright: ignore[reportAttributeAccessIssue]
        if name in STEPS and Path(file).stem in ("corrections", "deliveries"):
            found[STEPS[name]] += cumulative / corrections
    return found


def correct_many(market: LoadedMarket, symbols: Sequence[str], count: int) -> None:
    """Deliver a year of each symbol anew, with `count` bars changed in all."""
    random = np.random.default_rng(11)
    start, end = (datetime.combine(day, datetime.min.time(), UTC) for day in (FIRST_DAY, END_DAY))
    for symbol, share in zip(symbols, np.full(len(symbols), count // len(symbols)), strict=True):
        rows = market.store.read_raw(symbol, "1h", start, end)
        factor = np.ones(len(rows))
        factor[random.choice(len(rows), share, replace=False)] += random.uniform(1e-5, 1e-3, share)
        rows[["open", "high", "low", "close"]] = rows[["open", "high", "low", "close"]].mul(factor, axis=0)
        kinds = (rows[name].iloc[0] for name in ("price_kind", "volume_kind", "instrument_kind"))
        request = Request(symbol, "1h", start, end)
        delivery = Delivery(
            rows["provider"].iloc[0], request, rows[list(BAR_COLUMNS)], empty_rejected(), 0, *kinds, source="benchmark"
        )
        market.store.append_delivery(delivery, run_id=None)


def rebuild(market: LoadedMarket, symbols: Sequence[str]) -> None:
    """Make every derived table again from the raw rows."""
    for table in DERIVED:
        name = sql.Identifier(table.schema, table.name)
        market.store.database.run(lambda c, name=name: c.execute(sql.SQL("TRUNCATE {}").format(name)))
    market.run(("market/bars",), symbols, LOADED_FROM, END_DAY)
    derive(market, symbols)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure(market: LoadedMarket, symbols: Sequence[str], single: int, console: Console) -> dict[str, Any]:
    """Every number."""
    from nexus_assets.corrections import pending, propagate
    from nexus_assets.resources import open_sources
    from nexus_assets.settings import settings

    console.print(f"Loading {len(symbols)} symbols")
    loaded = timed(lambda: load(market, symbols))
    console.print(f"{single} single corrections")
    for symbol, ts in chosen_bars(market, symbols, 2, seed=1):  # the first one imports and compiles
        push_one(market, symbol, ts)
    times = [push_one(market, symbol, ts) for symbol, ts in chosen_bars(market, symbols, single, seed=2)]
    watched = chosen_bars(market, symbols, max(single // 4, 4), seed=3)
    steps = steps_of(lambda: [push_one(market, symbol, ts) for symbol, ts in watched], len(watched))
    console.print("1,000 corrections at once, then a full rebuild")
    correct_many(market, symbols, 1000)
    cells = pending(market.store)
    sources = open_sources(settings())
    at_once = timed(lambda: propagate(market.store, sources, cells, write=True))
    whole = timed(lambda: rebuild(market, symbols))
    served = np.array([first for first, _ in times])
    return {
        "loaded_seconds": loaded,
        "served": {name: float(np.percentile(served, q)) for name, q in (("p50", 50), ("p95", 95), ("max", 100))},
        "recent_p95": float(np.percentile(served[1::2], 95)),
        "old_p95": float(np.percentile(served[0::2], 95)),
        "with_splits_p50": float(np.median([whole for _, whole in times])),
        "steps": dict(sorted(steps.items(), key=lambda item: -item[1])),
        "thousand_seconds": at_once,
        "rebuild_seconds": whole,
        "thousand_to_rebuild": at_once / whole,
        "load_average": os.getloadavg(),
    }


def main() -> None:
    """Print the numbers, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--single", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    console = Console(stderr=True)
    folder = os.environ.get("NEXUS_REAL_DATA")
    variables = {"start_day": str(LOADED_FROM)}
    symbols = DEFAULT_SYMBOLS
    if folder:
        variables["files_root"] = str(Path(folder) / "oanda_h1")
        symbols = in_catalogue_order(sorted(path.stem for path in (Path(folder) / "oanda_h1").glob("*.parquet")))
    symbols = symbols[: options.symbols]
    with loaded_market(symbols=" ".join(symbols), **variables) as market:
        found = measure(market, symbols, options.single, console)
    found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    found["prices"] = "recorded" if folder else "invented"
    if options.json:
        print(json.dumps(found, indent=2))
        return
    served = found["served"]
    table = Table("step of one correction", "ms, while watched", title=f"{found['machine']}; {found['prices']} prices")
    for name, seconds in found["steps"].items():
        table.add_row(name, f"{seconds * 1000:.0f}")
    Console(width=110).print(table)
    print(
        f"{options.single} single corrections, {len(symbols)} symbols, a year: served after {served['p50']:.2f} s at "
        f"the median, {served['p95']:.2f} s for 95 of 100 (goal 2; the last days {found['recent_p95']:.2f}, older "
        f"{found['old_p95']:.2f}), {served['max']:.2f} s at most; with the splits {found['with_splits_p50']:.2f} s.\n"
        f"1,000 corrections at once: {found['thousand_seconds']:.1f} s; full rebuild {found['rebuild_seconds']:.1f} s "
        f"(ratio {found['thousand_to_rebuild']:.2f}). Load average {found['load_average'][0]:.1f}."
    )


if __name__ == "__main__":
    main()
