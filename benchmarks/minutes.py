"""Minutes: a year of one symbol from files to Redis, and many symbol-years, watching memory and cores.

The process that is watched for memory is the run worker; for cores, everything that the backfill starts, PostgreSQL
included.
"""

import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import psutil
import redis
from database_speed import MINUTES
from installation import BenchmarkError, Installation, installation

from nexus_assets.redis_contract import Slot, latest_key

if TYPE_CHECKING:
    from backfill import Chosen

YEAR = 365
SYMBOL_YEARS = 12


def measure(chosen: "Chosen") -> dict[str, Any]:
    """Seconds, megabytes, and cores that were busy."""
    found: dict[str, Any] = {}
    symbols = chosen.minutes_symbols[:SYMBOL_YEARS]
    with installation({**MINUTES, **chosen.minutes_variables()}) as house:
        days = min(YEAR, chosen.minutes_days)
        found |= {f"symbol_year_{n}": v for n, v in load(house, symbols[:1], chosen.minutes_from, days).items()}
        house.empty()
        found |= {f"symbol_years_{n}": v for n, v in load(house, symbols, chosen.minutes_from, days).items()}
        found["symbol_years"] = len(symbols) * days / YEAR
    return found


def load(house: Installation, symbols: tuple[str, ...], first_day: date, days: int) -> dict[str, Any]:
    """`nexus backfill` of prices and features, which ends when Redis serves them."""
    end = first_day + timedelta(days)
    ours = redis.Redis.from_url(house.servers.redis_url)
    ours.flushdb()
    watch = Watch(house)
    begun, since = time.perf_counter(), datetime.now(UTC)
    house.nexus(
        "backfill", "--symbols", ",".join(symbols), "--from", f"{first_day}", "--to", f"{end}",
        "--select", "prices", "--select", "features",
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    memory, cores = watch.end()
    count, _ = house.recorded(since)
    if count != 4 * days * len(symbols):
        raise BenchmarkError(f"{count} materialisations were recorded, not {4 * days * len(symbols)}.")
    served = sum(bool(ours.exists(latest_key(Slot(symbol, "1m"), "1m"))) for symbol in symbols)
    rows = house.market("SELECT count(*) FROM features.indicators WHERE timeframe = '1m'")[0][0]
    return {
        "seconds": seconds,
        "rows_of_minutes": rows,
        "vectors_in_redis": served,
        "run_worker_megabytes": memory / 1e6,
        "busy_cores": cores,
    }


class Watch:
    """The largest memory of a run worker [bytes], and the mean number of busy cores, until the end is asked for."""

    def __init__(self, house: Installation) -> None:
        self._memory = 0
        self._dagster = psutil.Process(house.pid)
        self._over = Event()
        self._began, self._busy = time.perf_counter(), busy_seconds()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            for process in self._dagster.children(recursive=True):
                with suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    if "multiprocessing" in line or "execute_run" in line:
                        self._memory = max(self._memory, process.memory_info().rss)

    def end(self) -> tuple[int, float]:
        self._over.set()
        self._thread.join()
        return self._memory, (busy_seconds() - self._busy) / (time.perf_counter() - self._began)


def busy_seconds() -> float:
    """Seconds that all cores have spent working since the machine started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
