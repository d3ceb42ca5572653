"""Corrected prices online and offline: four probes, here and in Feast with the same Redis server.

    .venv/bin/python benchmarks/point_in_time.py [--feast-python PYTHON] [--json]

(a) A correction with the same event time reaches the online store. (b) A late older row does not replace the newest.
(c) Training as known at an instant excludes what came later. (d) Training as corrected includes it.

Here the probes are four calls of the public API in one configuration, and raw prices are corrected: what follows from
them is computed on the way. Feast stores features that others compute, so it is handed the rows that this project
made, with the instant of each in `created_timestamp_column`. Every setting of Feast that could matter is tried: see
feast_probes.py. Feast's newest release is installed into a temporary virtual environment, unless another one's Python
is named.
"""

import argparse
import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from loaded_market import LoadedMarket, loaded_market
from rich.console import Console
from rich.table import Table

from nexus_assets.feature_store import FeatureStore
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.schemas import INDICATOR_ROWS

SYMBOL, DAYS = "BTCUSD", 40
ONE_HOUR, ONE_DAY = timedelta(hours=1), timedelta(days=1)
ASKED_BARS = 48
SHOWN = INDICATOR_NAMES[0]
FEAST_DATABASE = 11
REPEATS = 5


@dataclass
class Ours:
    """Verdicts and values of the four probes here."""

    a: bool
    b: bool
    c: int
    d: int
    of: int
    before: float | None
    wanted: float | None
    after: float | None
    late: float | None
    kept: float | None
    ms: float
    push_only_ms: float


def bits(values: Any) -> list[bytes | None]:
    """The numbers to the bit; missing ones alike."""
    return [None if value is None or pd.isna(value) else struct.pack("<d", value) for value in values]


def feature_rows(market: LoadedMarket) -> pd.DataFrame:
    """features.indicators by ts, with the end of each bar; those with a full warm-up."""
    today = datetime.now(UTC).date()
    rows = market.store.read_slice(
        INDICATOR_ROWS, symbol=SYMBOL, first_day=today - timedelta(days=DAYS), end_day=today + ONE_DAY
    )
    return rows[rows["slice_start"].notna()].assign(bar_end=rows["ts"] + ONE_HOUR).set_index("ts")


def features_of(rows: pd.DataFrame, ts: pd.Timestamp) -> list[float | None]:
    """The features of one bar."""
    return [float(value) for value in rows[list(INDICATOR_NAMES)].loc[ts].to_numpy()]


class Story:
    """The corrections, as they are told here; each leaves the feature rows that it changed, for Feast."""

    def __init__(self, market: LoadedMarket, features: FeatureStore) -> None:
        self.market, self.features = market, features
        self.state = feature_rows(market)
        self.stages = [self.state.assign(known_at=self.state["bar_end"] + timedelta(seconds=1))]
        self.newest = self.state.index[-1]

    def correct(self, ts: pd.Timestamp, factor: float) -> tuple[datetime, float]:
        """Push one bar anew; the instant at which it was learned, and milliseconds until it was served."""
        import nexus_assets

        rows = self.market.store.read_raw(SYMBOL, "1h", ts.to_pydatetime(), (ts + ONE_HOUR).to_pydatetime())
        rows[["open", "high", "low", "close"]] *= factor
        done = nexus_assets.push_bars(SYMBOL, rows, provider="synthetic", record=False)
        before, self.state = self.state, feature_rows(self.market)
        self.stages.append(self.state[self.state["known_at"] != before["known_at"]])
        return done.deliveries[0].known_at, done.served_after * 1000

    def served(self) -> tuple[pd.Timestamp, list[float | None]]:
        """ts and features of what Redis serves."""
        vector = self.features.latest([SYMBOL])[SYMBOL]
        return pd.Timestamp(vector.ts), [vector.features[name] for name in INDICATOR_NAMES]


def told(market: LoadedMarket, folder: Path) -> Ours:
    """Run the probes here, and leave the story for Feast in the folder."""
    import nexus_assets
    from nexus_assets.resources import open_feature_store
    from nexus_assets.serving import push
    from nexus_assets.settings import settings

    features = open_feature_store(settings())
    push(market.store, features, settings())
    story = Story(market, features)
    middle = story.newest - 40 * ONE_HOUR
    story.correct(middle, 1.01)
    before = story.served()
    story.correct(story.newest, 1.01)
    after, wanted = story.served(), features_of(story.state, story.newest)
    T, _ = story.correct(story.newest - ONE_HOUR, 1.01)
    kept, at_t = story.served(), story.state
    story.correct(middle, 0.99)

    def train(as_known: datetime | None) -> pd.DataFrame:
        start = story.newest - timedelta(days=6)
        return nexus_assets.training_set([SYMBOL], start, story.newest, as_known=as_known).pandas().set_index("ts")

    known, corrected = train(T), train(None)
    asked = corrected.index[-ASKED_BARS:]
    equal = [
        sum(bits(features_of(got, ts)) == bits(features_of(want, ts)) for ts in asked)
        for got, want in ((known, at_t), (corrected, story.state))
    ]
    late = features_of(at_t, story.newest - ONE_HOUR)[0]
    hand_over(story, asked, at_t, T, folder)
    times = [story.correct(story.newest, 1.0 + number / 1000)[1] for number in range(1, REPEATS + 1)]
    return Ours(
        a=after[0] == story.newest and bits(after[1]) == bits(wanted), b=kept[0] == story.newest, c=equal[0],
        d=equal[1], of=len(asked), before=before[1][0], wanted=wanted[0], after=after[1][0], late=late,
        kept=kept[1][0], ms=statistics.median(times), push_only_ms=push_only(story),
    )  # fmt: skip


def push_only(story: Story) -> float:
    """Median milliseconds of serving one finished row of features and reading it back: what Feast is measured at."""
    row, times = story.state.iloc[-1:].reset_index(), []
    for _ in range(REPEATS):
        row["known_at"] += timedelta(microseconds=1)
        begun = time.perf_counter()
        assert story.features.push_features(row).written
        story.served()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def hand_over(story: Story, asked: pd.Index, at_t: pd.DataFrame, T: datetime, folder: Path) -> None:
    """Write what feast_probes.py reads."""

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        bar, ends = frame["bar_end"].dt.strftime("until %Y-%m-%dT%H:%MZ"), frame["bar_end"].dt.as_unit("us")
        given = {"symbol": SYMBOL, "bar": bar, "event_timestamp": ends, "created": frame["known_at"]}
        return frame[list(INDICATOR_NAMES)].assign(**given).reset_index(drop=True)

    for number, stage in enumerate(story.stages):
        rows(stage).to_parquet(folder / f"stage_{number}.parquet")
    rows(at_t.loc[asked]).to_parquet(folder / "wanted_at_T.parquet")
    rows(story.state.loc[asked]).to_parquet(folder / "wanted_corrected.parquet")
    url = urlsplit(story.market.servers.redis_url)
    redis = {"host": url.hostname, "port": url.port, "password": url.password, "db": FEAST_DATABASE}
    content = {"symbol": SYMBOL, "T": T.isoformat(), "features": INDICATOR_NAMES, "redis": redis}
    (folder / "story.json").write_text(json.dumps(content))


def feast_python(folder: Path, console: Console) -> Path:
    """The Python of a new virtual environment with Feast's newest release."""
    console.print("Installing Feast into a virtual environment of its own (0.7 GB, about a minute)")
    subprocess.run([sys.executable, "-m", "venv", folder / "feast"], check=True)
    python = folder / "feast" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "feast[redis,duckdb]"], check=True, capture_output=True)
    return python


def run_feast(python: Path, folder: Path) -> dict[str, Any]:
    """The probes in Feast."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = Path(__file__).with_name("feast_probes.py")
    subprocess.run(
        [python, script, folder], check=True, env={**environment, "FEAST_USAGE": "False"}, stderr=subprocess.DEVNULL
    )
    return json.loads((folder / "results.json").read_text())


def all_four(results: dict[str, Any]) -> list[str]:
    """Deliveries of Feast under which every probe passes, with the ways of asking."""
    found = []
    for line in results["online"]:
        ways = {
            probe: [
                answer["way"] for answer in results["training"]
                if answer["offline"] == "duckdb" and answer["event_time"] == line["event_time"]
                and answer[probe] == answer["of"]
            ] for probe in ("c", "d")
        }  # fmt: skip
        if line["a"] and line["b"] and ways["c"] and ways["d"]:
            found.append(f"{line['delivery']}; (c) {ways['c'][0]}; (d) {ways['d'][0]}")
    return found


def verdict(passed: bool) -> str:
    """A word."""
    return "pass" if passed else "FAIL"


def show(ours: Ours, results: dict[str, Any], console: Console) -> None:
    """Two tables and the conclusions."""
    name = f"Feast {results['version']}"
    online = Table(title=f"Online: {SHOWN} of the newest bar; each column of values as read from Redis")
    for column in ("delivery", "(a)", "before", "corrected to", "served", "(b)", "late row", "served then", "ms", "x"):
        online.add_column(column, overflow="fold")

    def add(what: str, line: dict[str, Any]) -> None:
        values = [f"{line[key]:.2f}" for key in ("before", "wanted", "after", "late", "kept")]
        online.add_row(
            what, verdict(line["a"]), *values[:3], verdict(line["b"]), *values[3:],
            f"{line['ms']:.1f}", f"{line['ms'] / ours.push_only_ms:.1f}",
        )  # fmt: skip

    add("nexus_assets, push_bars: raw bar to Redis", asdict(ours))
    add("nexus_assets, finished features to Redis", {**asdict(ours), "ms": ours.push_only_ms})
    for line in results["online"]:
        add(f"{name}, {line['delivery']}", line)
    console.print(online)
    training = Table(title=f"Training: bars of {ours.of} that are what was known at T (c), and the newest (d)")
    for column in ("asked", "event time", "offline store", "(c)", "(d)"):
        training.add_column(column, overflow="fold")
    training.add_row("nexus_assets, training_set(as_known=T)", "", "PostgreSQL", verdict(ours.c == ours.of), "")
    training.add_row("nexus_assets, training_set()", "", "PostgreSQL", "", verdict(ours.d == ours.of))
    for line in results["training"]:
        counts = [f"{verdict(line[probe] == line['of'])} {line[probe]}" for probe in ("c", "d")]
        training.add_row(f"{name}, {line['way']}", line["event_time"], line["offline"], *counts)
    console.print(training)
    mine = ours.a and ours.b and ours.c == ours.d == ours.of
    console.print(f"One configuration, all four probes: nexus_assets {verdict(mine)}; {name}:")
    for text in all_four(results) or ["none"]:
        console.print(f"  {text}")
    console.print(
        "Only by rule, not by the store: with skip_dedup a push, or materialize of an older range, brings an older row "
        "(above); teardown serves nothing until it is done; the microseconds are counted by whoever writes the rows."
    )


def main() -> None:
    """Run both and print, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--feast-python", type=Path, help="of an environment that has feast[redis,duckdb]")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    progress = Console(stderr=True)
    today = datetime.now(UTC).date()
    start = today - timedelta(days=DAYS)
    with loaded_market(symbols=SYMBOL, start_day=str(start), feature_timeframes="1h") as market:
        progress.print("Loading, and the probes here")
        prices, derived = ("market/raw_ohlc", "market/bars"), ("features/indicators", "features/labels")
        for assets in (prices, derived):
            market.run(assets, (SYMBOL,), start, today + ONE_DAY)
        folder = market.folder / "probes"
        folder.mkdir()
        ours = told(market, folder)
        python = options.feast_python or feast_python(market.folder, progress)
        progress.print("The probes in Feast")
        results = run_feast(python, folder)
    if options.json:
        print(json.dumps({"nexus_assets": asdict(ours), "feast": results, "all_four": all_four(results)}, indent=2))
        return
    show(ours, results, Console(width=170))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load average "
        f"{os.getloadavg()[0]:.1f}. ms: median of {REPEATS}, from the corrected row to its value read; x: of serving "
        "finished features here. Feast's history here is one symbol of 40 days."
    )


if __name__ == "__main__":
    main()
