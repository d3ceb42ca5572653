"""Online and offline in one story: what Redis serves and what is trained on, before and after prices are corrected.

One database, one Redis, one configuration from the first bar to the last question. Bitcoin, whose market never closes,
so that the newest bar is an hour old whenever the tests are run.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
import redis

import nexus_assets
from nexus_assets import pushing
from nexus_assets.database import Database
from nexus_assets.feature_store import FeatureStore, Pushed, Vector
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import INDICATOR_ROWS
from nexus_assets.services import ServiceState
from nexus_assets.serving import push
from nexus_assets.settings import settings
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.graphs import Graph, graph

SYMBOL, DAYS, REDIS_DATABASE = "BTCUSD", 25, 10
ONE_HOUR, ONE_DAY = timedelta(hours=1), timedelta(days=1)


@dataclass
class Story:
    """What was seen on the way, in this order.

    Attributes:
        first: Served when the bars until the day before yesterday were there.
        corrected: Served after the newest of these bars had been corrected, at the instant `then`.
        trained_then: A training set of that time, as corrected.
        newest: Served when the bars until now had come.
        late: Served when the bar before the newest had been corrected, at `later`.
        missed: What became of the vector of that bar, of the newest, and of the newest with what was known of it
            before, when a writer who had missed all this pushed them once more.
        after_missed: Served as newest after that.
        trained_later: A training set of that time, as corrected.
        changed: Open of the bar that was corrected last; days of the training sets read it.
        again_then, again_later: Training sets after that, as known at `then` and at `later`.
        trained: One as corrected.
        served: Served as newest at the end.
        stored: The row of features.indicators behind it.
    """

    first: Vector
    corrected: Vector
    then: datetime
    trained_then: pa.Table
    newest: Vector
    late: Vector
    later: datetime
    missed: tuple[Pushed, ...]
    after_missed: Vector
    trained_later: pa.Table
    changed: datetime
    again_then: pa.Table
    again_later: pa.Table
    trained: pa.Table
    served: Vector
    stored: pd.Series


@pytest.fixture(scope="module")
def story(databases: DatabaseMaker, services: ServiceState) -> Iterator[Story]:
    """Three weeks of hours, a correction, two more days, a late one, and one of a bar that was trained on."""
    url, redis_url = databases.migrated(), f"{services.redis_url.rsplit('/', 1)[0]}/{REDIS_DATABASE}"
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    today, store, features = datetime.now(UTC).date(), MarketStore(Database(url)), FeatureStore(redis_url)
    start = str(today - timedelta(days=DAYS))
    with graph(store, url, redis_url, symbols=SYMBOL, start_day=start, feature_timeframes="1h") as made:
        pushing._market.cache_clear()
        yield tell(made, features, today)
        pushing._market.cache_clear()
    features.close()


def tell(made: Graph, features: FeatureStore, today: date) -> Story:
    start, tomorrow = today - timedelta(days=DAYS), today + ONE_DAY

    def load(first_day: date, end_day: date) -> Vector:
        made.run(("market/raw_ohlc", "market/bars"), (SYMBOL, SYMBOL), first_day, end_day)
        # Labels look 24 hours ahead: those of the day before can be made now.
        made.run(("features/indicators", "features/labels"), (SYMBOL, SYMBOL), max(first_day - ONE_DAY, start), end_day)
        push(made.store, features, settings())
        return served()

    def served() -> Vector:
        return features.latest([SYMBOL])[SYMBOL]

    def train(as_known: datetime | None = None) -> pa.Table:
        return nexus_assets.training_set([SYMBOL], start, tomorrow, as_known=as_known).arrow

    def correct(ts: datetime, factor: float) -> datetime:
        rows = made.store.read_raw(SYMBOL, "1h", ts, ts + ONE_HOUR)
        rows[["open", "high", "low", "close"]] *= factor
        return nexus_assets.push_bars(SYMBOL, rows, provider="synthetic", record=False).deliveries[0].known_at

    first = load(start, today - ONE_DAY)
    then = correct(first.ts, 1.01)
    corrected, trained_then = served(), train()
    newest = load(today - ONE_DAY, tomorrow)
    old_newest = made.store.newest_features([SYMBOL], "1h")
    later = correct(newest.ts - ONE_HOUR, 1.01)
    late = served()
    recent = made.store.read_slice(
        INDICATOR_ROWS, symbol=SYMBOL, first_day=newest.ts.date() - ONE_DAY, end_day=newest.ts.date() + ONE_DAY
    )
    missed = tuple(features.push_features(rows) for rows in (recent.iloc[-2:-1], recent.iloc[-1:], old_newest))
    after_missed, trained_later = served(), train()
    changed = first.ts - 5 * ONE_HOUR
    correct(changed, 0.99)
    stored = made.store.newest_features([SYMBOL], "1h").iloc[0]
    return Story(
        first, corrected, then, trained_then, newest, late, later, missed, after_missed, trained_later,
        changed, train(then), train(later), train(), served(), stored,
    )  # fmt: skip


def bits(values: Iterable[float | None]) -> list[bytes | None]:
    return [None if value is None or math.isnan(value) else struct.pack("<d", value) for value in values]


def features_of(training_set: pa.Table) -> dict[datetime, list[bytes | None]]:
    """The features of each bar in a training set, to the bit."""
    return {row["ts"]: bits(row[name] for name in INDICATOR_NAMES) for row in training_set.to_pylist()}


def test_a_correction_with_the_same_event_time_reaches_the_online_store(story: Story) -> None:
    assert story.corrected.ts == story.first.ts
    assert story.first.known_at < story.corrected.known_at == story.then
    assert story.corrected.features["sma_15"] == pytest.approx(story.first.features["sma_15"], rel=0.01)
    differing = [name for name in INDICATOR_NAMES if story.corrected.features[name] != story.first.features[name]]
    # All read the last bar; mfi_14 of a market whose volume is not counted in ticks may be missing before and after.
    assert len(differing) >= 30


def test_a_late_older_row_does_not_replace_the_newest(story: Story) -> None:
    assert story.newest.ts > story.corrected.ts
    assert story.late.ts == story.newest.ts
    assert story.late.known_at == story.later
    # The newest vector reads the late bar, so it is corrected too.
    assert story.late.features["sma_15"] != story.newest.features["sma_15"]
    late, newest, old_newest = story.missed
    assert (late.older, old_newest.older) == ([f"{SYMBOL} 1h"], [f"{SYMBOL} 1h"])
    assert (late.written, newest.written, old_newest.written) == ({}, {}, {})
    assert newest.unchanged == 1
    assert bits(story.after_missed.features.values()) == bits(story.late.features.values())


def test_training_as_known_at_an_instant_excludes_what_came_later(story: Story) -> None:
    assert story.again_then.equals(story.trained_then)
    assert story.again_later.equals(story.trained_later)
    assert max(story.again_then["known_at"].to_pylist()) <= story.then
    # Each hour that came in between ended a label's horizon.
    assert len(story.again_later) - len(story.again_then) == (story.newest.ts - story.first.ts) // ONE_HOUR >= 24


def test_training_as_corrected_includes_what_came_later(story: Story) -> None:
    assert story.trained["ts"].equals(story.trained_later["ts"])
    assert not story.trained["forward_return_24h"].equals(story.trained_later["forward_return_24h"])
    assert max(story.trained["known_at"].to_pylist()) > story.later
    before, after = features_of(story.trained_later), features_of(story.trained)
    assert [ts for ts in after if after[ts] != before[ts]] == [ts for ts in after if ts >= story.changed]
    # What is served was corrected as well: its slice holds the bar.
    assert bits(story.served.features.values()) != bits(story.late.features.values())


def test_what_was_served_is_what_is_trained_on_bit_for_bit(story: Story) -> None:
    trained = features_of(story.again_later)[story.corrected.ts]
    assert bits(story.corrected.features.values()) == trained != bits(story.first.features.values())
    assert story.served.ts == story.stored["ts"]
    assert bits(story.served.features.values()) == bits(story.stored[list(INDICATOR_NAMES)])
