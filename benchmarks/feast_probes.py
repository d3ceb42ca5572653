"""The four probes in Feast; started by point_in_time.py with the Python of a virtual environment that has Feast.

    python feast_probes.py <folder>

Reads story.json and stage_0.parquet to stage_4.parquet from the folder, and writes results.json to it. A stage holds
the feature rows that its correction changed, computed elsewhere and with the instant at which they were learned in
`created`: Feast is handed finished features. In stage 1 and 4 a bar in the middle was corrected, in stage 2 the newest
one, in stage 3 the one before it. `T` is the instant after stage 3.
"""

import json
import shutil
import statistics
import struct
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import feast  # pyright: ignore[reportMissingImports]
import pandas as pd
import redis
from feast.data_source import PushMode  # pyright: ignore[reportMissingImports]
from feast.types import Float64  # pyright: ignore[reportMissingImports]

KEPT = timedelta(days=90)
"""ttl of the views: longer than the history, so that nothing is missing for its age."""
DECIDED_AFTER = timedelta(seconds=2)
"""A decision is taken so long after the end of its bar; the first version of a bar is learned one second after it."""
REPEATS = 5


@dataclass(frozen=True)
class Delivery:
    """One way of bringing corrected rows to the online store.

    Attributes:
        name: What is done, and the settings that are not Feast's defaults.
        write: From the store, the rows, and the path of the offline rows.
        event_time: What is written as event timestamp: `bar end`, `learned` or `revision` (the bar's end, and the
            number of the revision in its microseconds).
        skip_dedup: The setting of Feast's Redis store.
    """

    name: str
    write: Callable[["Feast", pd.DataFrame], None]
    event_time: str = "bar end"
    skip_dedup: bool = False


class Feast:
    """A feature repository over one file of rows and one Redis database.

    Two views of the same rows: by symbol, which is served, and by symbol and bar, to ask for one bar at any instant.
    """

    def __init__(self, folder: Path, story: dict[str, Any], offline: str, delivery: Delivery) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.story, self.delivery, self.path = story, delivery, folder / "rows.parquet"
        address = story["redis"]
        self.redis = redis.Redis(**address)
        self.redis.flushdb()
        password = f",password={address['password']}" if address["password"] else ""
        self.store = feast.FeatureStore(
            config=feast.RepoConfig(
                project="probes", provider="local", registry=str(folder / "registry.db"),
                online_store={
                    "type": "redis", "skip_dedup": delivery.skip_dedup,
                    "connection_string": f"{address['host']}:{address['port']},db={address['db']}{password}",
                },
                offline_store={"type": offline}, entity_key_serialization_version=3,
            )
        )  # fmt: skip
        self.revisions: dict[str, int] = {}
        self.apply()

    def apply(self) -> None:
        """Declare the source, the entities and the two views."""
        source = feast.FileSource(
            name="rows", path=str(self.path), timestamp_field="event_timestamp", created_timestamp_column="created"
        )
        pushed = feast.PushSource(name="corrections", batch_source=source)
        symbol = feast.Entity(name="symbol", join_keys=["symbol"], value_type=feast.ValueType.STRING)
        bar = feast.Entity(name="bar", join_keys=["bar"], value_type=feast.ValueType.STRING)
        schema = [feast.Field(name=name, dtype=Float64) for name in self.story["features"]]
        served = feast.FeatureView(name="served", entities=[symbol], ttl=KEPT, schema=schema, source=pushed)
        by_bar = feast.FeatureView(
            name="by_bar", entities=[symbol, bar], ttl=KEPT, schema=schema, source=source, online=False
        )
        self.objects = [symbol, bar, served, by_bar]
        self.store.apply(self.objects)

    def stamped(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows with the event timestamp of this delivery; every call is another revision of its bars."""
        rows = rows.copy()
        for bar in rows["bar"]:
            self.revisions[bar] = self.revisions.get(bar, -1) + 1
        if self.delivery.event_time == "learned":
            rows["event_timestamp"] = rows["created"]
        elif self.delivery.event_time == "revision":
            rows["event_timestamp"] += pd.to_timedelta([self.revisions[bar] for bar in rows["bar"]], unit="us")
        return rows.astype({"event_timestamp": "datetime64[us, UTC]", "created": "datetime64[us, UTC]"})

    def append(self, rows: pd.DataFrame) -> None:
        """Add rows to the offline store."""
        pd.concat([pd.read_parquet(self.path), rows], ignore_index=True).to_parquet(self.path)

    def deliver(self, rows: pd.DataFrame) -> None:
        """Bring changed rows to both stores."""
        self.delivery.write(self, self.stamped(rows))

    def online(self) -> tuple[float, list[float | None]]:
        """Event time (seconds since 1970) and features of what is served."""
        names = [f"served:{name}" for name in self.story["features"]]
        answer = self.store.get_online_features(names, [{"symbol": self.story["symbol"]}])
        found = answer.to_dict(include_event_timestamps=True)
        first = self.story["features"][0]
        return found[f"{first}__ts"][0], [found[name][0] for name in self.story["features"]]

    def history(self, view: str, bars: pd.DataFrame, asked_at: pd.Series, known: bool) -> dict[str, list[bytes | None]]:
        """Features of these bars, asked at an instant each."""
        entities = bars[["symbol", "bar"]].assign(event_timestamp=asked_at)
        names = [f"{view}:{name}" for name in self.story["features"]]
        job = self.store.get_historical_features(entities, names, filter_by_created_timestamp=known)
        rows = job.to_df().set_index("bar")
        return {bar: bits(rows.loc[bar, self.story["features"]]) for bar in rows.index}


def bits(values: Any) -> list[bytes | None]:
    """The numbers to the bit; missing ones alike."""
    return [None if pd.isna(value) else struct.pack("<d", value) for value in values]


def now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def push(repository: Feast, rows: pd.DataFrame) -> None:
    """Through the push source, to both stores."""
    repository.store.push("corrections", rows, to=PushMode.ONLINE_AND_OFFLINE)


def write_online(repository: Feast, rows: pd.DataFrame) -> None:
    """Rows handed to the online store directly."""
    repository.append(rows)
    repository.store.write_to_online_store("served", df=rows)


def incremental(repository: Feast, rows: pd.DataFrame) -> None:
    """Rows appended offline, then what came since the last time."""
    repository.append(rows)
    repository.store.materialize_incremental(now(), feature_views=["served"])


def whole(repository: Feast, rows: pd.DataFrame) -> None:
    """Rows appended offline, then the whole history."""
    repository.append(rows)
    repository.store.materialize(now() - KEPT, now(), feature_views=["served"])


def own_days(repository: Feast, rows: pd.DataFrame) -> None:
    """Rows appended offline, then the hours that they are of: how a stretch of history is loaded again."""
    repository.append(rows)
    first, last = rows["event_timestamp"].min(), rows["event_timestamp"].max()
    second = timedelta(seconds=1)
    repository.store.materialize(first.to_pydatetime() - second, last.to_pydatetime() + second, ["served"])


def teardown(repository: Feast, rows: pd.DataFrame) -> None:
    """The online store emptied and filled anew."""
    repository.append(rows)
    repository.store.teardown()
    repository.apply()
    repository.store.materialize(now() - KEPT, now(), feature_views=["served"])


DELIVERIES = (
    Delivery("push, as documented", push),
    Delivery("write_to_online_store", write_online),
    Delivery("materialize_incremental", incremental),
    Delivery("materialize, whole history", whole),
    Delivery("teardown, apply, materialize", teardown),
    Delivery("push; skip_dedup", push, skip_dedup=True),
    Delivery("materialize_incremental; skip_dedup", incremental, skip_dedup=True),
    Delivery("materialize, the rows' own hours; skip_dedup", own_days, skip_dedup=True),
    Delivery("materialize, whole history; skip_dedup", whole, skip_dedup=True),
    Delivery("push; event time = when it was learned", push, event_time="learned"),
    Delivery("push; revision number in the microseconds of event time", push, event_time="revision"),
)


def online_probes(repository: Feast, stages: list[pd.DataFrame]) -> dict[str, Any]:
    """Probe (a) and (b), and how long a delivery takes until its value can be read."""
    story, newest = repository.story, stages[2]
    repository.deliver(stages[1])
    before = repository.online()
    repository.deliver(newest)
    after = repository.online()
    reached = bits(after[1]) == bits(newest.iloc[-1][story["features"]])
    late = stages[3].iloc[:-1]
    repository.deliver(late)
    kept = repository.online()
    not_replaced = bits(kept[1]) == bits(after[1])
    result = {
        "a": reached, "b": not_replaced,
        "before": before[1][0], "wanted": float(newest.iloc[-1][story["features"][0]]), "after": after[1][0],
        "late": float(late.iloc[-1][story["features"][0]]), "kept": kept[1][0],
        "late_event_time_served": kept[0] < after[0],
    }  # fmt: skip
    repository.deliver(stages[3].iloc[-1:])
    repository.deliver(stages[4])
    return result


def milliseconds(repository: Feast, row: pd.DataFrame) -> float:
    """Median time of delivering one corrected row and reading the online store."""
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        repository.deliver(row)
        repository.online()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def training_probes(repository: Feast, bars: pd.DataFrame, folder: Path) -> list[dict[str, Any]]:
    """Probe (c) and (d): for each way of asking, of how many bars it gives what was known at T, and the newest."""
    story = repository.story
    decided = bars["event_timestamp"] + DECIDED_AFTER
    at_t = pd.Series(pd.Timestamp(story["T"]), index=bars.index)
    wanted = {
        name: {row["bar"]: bits(row[story["features"]]) for _, row in pd.read_parquet(folder / file).iterrows()}
        for name, file in (("c", "wanted_at_T.parquet"), ("d", "wanted_corrected.parquet"))
    }
    ways = (
        ("by symbol, at the decision", "served", decided, False),
        ("by symbol, at the decision; filter_by_created_timestamp", "served", decided, True),
        ("by symbol, at T; filter_by_created_timestamp", "served", at_t, True),
        ("by bar, at T", "by_bar", at_t, False),
        ("by bar, at T; filter_by_created_timestamp", "by_bar", at_t, True),
        ("by bar, now", "by_bar", pd.Series(pd.Timestamp(now()), index=bars.index), False),
    )
    found = []
    for name, view, asked_at, known in ways:
        got = repository.history(view, bars, asked_at, known)
        equal = {probe: sum(got.get(bar) == values for bar, values in w.items()) for probe, w in wanted.items()}
        found.append({"way": name, "event_time": repository.delivery.event_time, **equal, "of": len(bars)})
    return found


def main() -> None:
    """Run everything."""
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    story = json.loads((folder / "story.json").read_text())
    stages = [pd.read_parquet(folder / f"stage_{number}.parquet") for number in range(5)]
    bars = pd.read_parquet(folder / "wanted_at_T.parquet")[["symbol", "bar", "event_timestamp"]]
    results: dict[str, Any] = {"version": feast.__version__, "online": [], "training": []}
    asked = set()
    for offline in ("duckdb", "dask"):
        for delivery in DELIVERIES:
            if (offline, delivery.event_time) in asked and offline != "duckdb":
                continue
            with redirect_stdout(StringIO()):
                repository = Feast(folder / "repository", story, offline, delivery)
                repository.stamped(stages[0]).to_parquet(repository.path)
                repository.store.materialize_incremental(now(), feature_views=["served"])
                found = online_probes(repository, stages)
                if (offline, delivery.event_time) not in asked:
                    asked.add((offline, delivery.event_time))
                    answers = training_probes(repository, bars, folder)
                    results["training"] += [{"offline": offline, **answer} for answer in answers]
                if offline == "duckdb":
                    found["ms"] = milliseconds(repository, stages[3].iloc[-1:])
                    results["online"].append(
                        {"delivery": delivery.name, "event_time": delivery.event_time, **found}
                    )  # fmt: skip
            repository.redis.flushdb()
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
