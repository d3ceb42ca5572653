"""Dagster's interface and daemon over ten years of 27 symbols: page loads in Chromium, ticks, a backfill's iterations.

Dagster's advice is at most 100,000 partitions of an asset; this is the largest installation that settings allow.
The database is filled as ten_years.py says.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import chromium
import psutil
import ten_years
from installation import LAUNCH, STATE, BenchmarkError, Installation, installation

from nexus_assets import instruments, launcher
from nexus_assets.dagster_files import dagster_files
from nexus_assets.partitions import days_between, partition_key
from nexus_assets.settings import settings

if TYPE_CHECKING:
    from backfill import Chosen

ASSETS = ("market/raw_ohlc", "market/bars", "features/indicators", "features/labels")
SYMBOL = "EURUSD"
IDLE_SECONDS = 60.0
ITERATIONS = 3
REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "nexus_assets"}

CANCEL = "mutation ($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"
TICKS = """query ($repository: RepositorySelector!) { sensorsOrError(repositorySelector: $repository) {
  ... on Sensors { results { name sensorState { ticks(limit: 100) { status timestamp endTimestamp } } } } } }"""
TRY_SCHEDULE = """mutation ($schedule: ScheduleSelector!, $at: Float) {
  scheduleDryRun(selectorData: $schedule, timestamp: $at) { __typename
    ... on DryRunInstigationTick { evaluationResult { skipReason error { message } runRequests { runKey } } } } }"""


def measure(chosen: "Chosen") -> dict[str, Any]:
    """Seconds, counts and megabytes. What needs Chromium is left out, with the reason, where there is none."""
    symbols = tuple(item.symbol for item in instruments.INSTRUMENTS[: chosen.ui_symbols])
    today = datetime.now(UTC).date()
    first_day = today - timedelta(round(chosen.years * 365.25))
    with installation({"symbols": " ".join(symbols), "start_day": f"{first_day}"}, dagster=False) as house:
        found: dict[str, Any] = ten_years.fill(house, symbols, first_day, today + timedelta(1))
        found["load_average"] = os.getloadavg()[0]
        pages = _Pages(len(symbols) * ((today - first_day).days + 1), today, chosen.pictures)
        program = chromium.installed()
        if program is None:
            found["pages"] = f"not measured: none of {', '.join(chromium.NAMES)} is installed"
        else:
            # Dagster counts the partitions of an asset when somebody looks for the first time, and remembers.
            with serving(house) as ours, browser(program) as tab:
                found |= pages.load(tab, ours.url, "first_look")
            with serving(house) as ours, browser(program) as tab:
                found |= pages.load(tab, ours.url, "cold")
                found |= pages.load(tab, ours.url, "warm")
        with serving(house, automation="on") as ours:
            found |= at_rest(ours)
            found |= sensor_ticks(ours) | schedules(ours)
            found |= backfill_of_a_symbol(ours, first_day, today, program, pages)
            found["load_average_after"] = os.getloadavg()[0]
    return found


@contextmanager
def serving(house: Installation, *, automation: str = "off") -> Iterator[Installation]:
    """The installation with Dagster just started, its sensors and schedules running or not."""
    os.environ["NEXUS_AUTOMATION"] = automation
    settings.cache_clear()
    with launcher.serve(settings(), house.root, 3000, lambda _: None) as running:
        yield replace(house, url=running.url, pid=running.pid)


@contextmanager
def browser(program: str) -> Iterator[chromium.Tab]:
    """A tab with an empty cache."""
    temporary = tempfile.TemporaryDirectory(prefix="nexus-browser-", ignore_cleanup_errors=True)
    with temporary as folder, chromium.tab(program, Path(folder) / "profile") as tab:
        yield tab


class _Pages:
    """The pages that people use, and what must stand there."""

    def __init__(self, partitions: int, today: date, pictures: Path | None) -> None:
        newest, every = f"{today}|", f"{partitions:,} partitions"
        self._pictures = pictures
        self._every = every
        self._pages = {
            "asset": ("/assets/market/bars", ("Latest materialization", "Row count", "Columns", "timeframe")),
            "partitions": (
                "/assets/market/bars?view=partitions",
                (f"{partitions:,} Partitions Selected", f"Materialized ({partitions})", f"{today}", SYMBOL),
            ),
            "partition": (
                f"/assets/market/bars?view=partitions&partition={newest}{SYMBOL}",
                (f"{newest}{SYMBOL}", "gaps_missing", f"Materialized ({partitions})"),
            ),
            "lineage_of_group": ("/locations/nexus_assets/asset-groups/features/lineage", (every, "100% filled")),
            "lineage": ("/asset-groups", ("market", "features", "analytics", "Materialize all")),
            "runs": ("/runs", ("market_update", "Success", "nexus/rectangle")),
            "backfills": ("/runs?view=backfills", ("Backfills", "Created at")),
            "catalog": ("/assets", (every, "market / bars")),
        }

    def load(self, tab: chromium.Tab, url: str, name: str, only: Sequence[str] = ()) -> dict[str, Any]:
        """Each page, and the dialog that materializes, on the Partitions tab."""
        found: dict[str, Any] = {}
        for page, (path, expected) in self._pages.items():
            if only and page not in only:
                continue
            load = tab.open(f"{url}{path}", _shows(*expected))
            found |= load.as_dict(f"{page}_{name}")
            print(f"{page}, {name}: {load}", file=sys.stderr, flush=True)
            self._draw(tab, f"{page}_{name}")
        return found | (self.dialog(tab, url, name) if not only else {})

    def dialog(self, tab: chromium.Tab, url: str, name: str) -> dict[str, Any]:
        """Open the dialog and choose every partition in it."""
        path, expected = self._pages["partitions"]
        tab.open(f"{url}{path}", _shows(*expected))
        opened = tab.act(_click("document", "Materialize…"), _shows("Partition selection", "Tags", "Cancel"))
        self._draw(tab, f"dialog_{name}")
        dialog = "document.querySelector('[role=dialog], .dagster-dialog')"
        chose = tab.act(_click(dialog, "All"), _shows(self._every))
        self._draw(tab, f"dialog_of_all_{name}")
        return opened.as_dict(f"dialog_{name}") | chose.as_dict(f"dialog_of_all_{name}")

    def _draw(self, tab: chromium.Tab, name: str) -> None:
        if self._pictures:
            self._pictures.mkdir(parents=True, exist_ok=True)
            tab.picture(self._pictures / f"{name}.png")


def _shows(*texts: str) -> str:
    """True when all of these stand on the page."""
    return f"{list(texts)!r}.every(text => document.body.innerText.includes(text))"


def _click(inside: str, text: str) -> str:
    """Click every button with this text."""
    return (
        f"[...{inside}.querySelectorAll('button')].filter(b => b.innerText.trim() === {text!r}).forEach(b => b.click())"
    )


def at_rest(ours: Installation) -> dict[str, float]:
    """Memory of each process, and its share of a core, while nobody looks and only sensors tick."""
    time.sleep(15)
    family = _family(ours)
    before = {process: sum(process.cpu_times()[:2]) for process in family}
    time.sleep(IDLE_SECONDS)
    found: dict[str, float] = {}
    for process, kind in family.items():
        if kind and process.is_running():
            used = (sum(process.cpu_times()[:2]) - before[process]) / IDLE_SECONDS
            found[f"{kind}_cpu_share"] = found.get(f"{kind}_cpu_share", 0) + used
    return found | memory(ours, "mb")


def memory(ours: Installation, name: str) -> dict[str, float]:
    """Megabytes of webserver, daemon and code server; several processes of a kind are added."""
    found: dict[str, float] = {}
    for process, kind in _family(ours).items():
        if kind and process.is_running():
            found[f"{kind}_{name}"] = found.get(f"{kind}_{name}", 0) + process.memory_info().rss / 1e6
    return found


def _family(ours: Installation) -> dict[psutil.Process, str]:
    return {process: _kind(process) for process in psutil.Process(ours.pid).children(recursive=True)}


def _kind(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    kinds = {"dagster._daemon": "daemon", "dagster_webserver": "webserver", "grpc": "code_server"}
    return next((kind for part, kind in kinds.items() if part in line), "")


def sensor_ticks(ours: Installation) -> dict[str, float]:
    """Seconds of each sensor's ticks, as the daemon recorded them.

    Raises:
        BenchmarkError: a sensor did not tick, or failed.
    """
    found: dict[str, float] = {}
    for sensor in ours.graphql(TICKS, {"repository": REPOSITORY})["sensorsOrError"]["results"]:
        ticks = [tick for tick in sensor["sensorState"]["ticks"] if tick["endTimestamp"]]
        if not ticks or any(tick["status"] == "FAILURE" for tick in ticks):
            raise BenchmarkError(f"{sensor['name']}: {[tick['status'] for tick in ticks]}")
        seconds = [tick["endTimestamp"] - tick["timestamp"] for tick in ticks]
        found[f"{sensor['name']}_ticks"] = len(seconds)
        found[f"{sensor['name']}_median_seconds"] = median(seconds)
        found[f"{sensor['name']}_longest_seconds"] = max(seconds)
    return found


def schedules(ours: Installation) -> dict[str, float]:
    """Seconds in which the code server answers what each schedule would start at 00:40 today.

    Raises:
        BenchmarkError: it failed.
    """
    found: dict[str, float] = {}
    for name in ("hourly_update", "daily_healing", "daily_correlation_schedule"):
        at = datetime.now(UTC).replace(hour=0, minute=40, second=0, microsecond=0)
        begun = time.perf_counter()
        tried = ours.graphql(TRY_SCHEDULE, {"schedule": {**REPOSITORY, "scheduleName": name}, "at": at.timestamp()})[
            "scheduleDryRun"
        ]
        found[f"{name}_seconds"] = time.perf_counter() - begun
        if tried.get("evaluationResult") is None or tried["evaluationResult"]["error"]:
            raise BenchmarkError(f"{name}: {tried}")
    return found


def backfill_of_a_symbol(
    ours: Installation, first_day: date, today: date, program: str | None, pages: _Pages
) -> dict[str, Any]:
    """A backfill of all days of one symbol, launched as the UI does: how long until its first run exists and works, the
    daemon's iterations, and pages while it is under way. It is cancelled then, if it is not over.

    Raises:
        BenchmarkError: it ended otherwise, or made no run.
    """
    keys = [partition_key(SYMBOL, day) for day in days_between(first_day, today + timedelta(1))]
    selection = [{"path": asset.split("/")} for asset in ASSETS]
    submitted, begun = datetime.now(UTC), time.perf_counter()
    launched = ours.graphql(LAUNCH, {"backfill": {"partitionNames": keys, "assetSelection": selection, "tags": []}})[
        "launchPartitionBackfill"
    ]
    if "backfillId" not in launched:
        raise BenchmarkError(f"launchPartitionBackfill: {launched}")
    backfill = launched["backfillId"]
    found: dict[str, Any] = {
        "backfill_materialisations": len(ASSETS) * len(keys),
        "backfill_launch_seconds": time.perf_counter() - begun,
        **_first_run(ours, backfill, submitted),
    }
    if program is not None:
        with browser(program) as tab:
            found |= pages.load(tab, ours.url, "during_backfill", ("asset", "backfills", "runs"))
        found |= memory(ours, "mb_after_pages")
    log = dagster_files(settings()) / "dagster.log"
    _until(
        lambda: len(iterations(log.read_text(), backfill)) >= ITERATIONS or _status(ours, backfill) != "REQUESTED",
        f"{ITERATIONS} iterations of {backfill}",
    )
    if _status(ours, backfill) == "REQUESTED":
        ours.graphql(CANCEL, {"id": backfill})
        _until(lambda: _status(ours, backfill) not in ("REQUESTED", "CANCELING"), f"the end of {backfill}")
    if _status(ours, backfill) not in ("CANCELED", "COMPLETED_SUCCESS"):
        raise BenchmarkError(f"Backfill {backfill} ended {_status(ours, backfill)}.")
    lasted = iterations(log.read_text(), backfill)
    return found | {
        "backfill_first_iteration_seconds": lasted[0],
        "backfill_longest_later_iteration_seconds": max(lasted[1:]),
    }


def _first_run(ours: Installation, backfill: str, submitted: datetime) -> dict[str, float]:
    query = "SELECT min(create_timestamp), min(start_time) FROM runs WHERE backfill_id = %s"
    _until(lambda: ours.dagster(query, (backfill,))[0][1] is not None, f"the first run of {backfill}")
    created, started = ours.dagster(query, (backfill,))[0]
    return {
        "backfill_to_first_run_seconds": (created.replace(tzinfo=UTC) - submitted).total_seconds(),
        "backfill_to_first_step_seconds": started - submitted.timestamp(),
    }


def iterations(log: str, backfill: str) -> list[float]:
    """Seconds of each iteration of the backfill daemon over this backfill; the log's clock shows whole seconds."""
    pattern = (
        rf"(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d) .*(Evaluating asset backfill {backfill}|backfill {backfill} completed)"
    )
    found, begun = [], None
    for at, what in re.findall(pattern, log):
        instant = datetime.fromisoformat(at)
        if what.startswith("Evaluating"):
            begun = instant
        elif begun is not None:
            found.append((instant - begun).total_seconds())
            begun = None
    return found


def _status(ours: Installation, backfill: str) -> str:
    return ours.graphql(STATE, {"id": backfill})["partitionBackfillOrError"]["status"]


def _until(happened: Any, what: str, timeout: float = 300) -> None:
    until = time.monotonic() + timeout
    while not happened():
        if time.monotonic() > until:
            raise BenchmarkError(f"Waited {timeout:.0f} s for {what}.")
        time.sleep(0.2)
