"""The sensor that keeps Redis at the database. It starts no run: it pushes by itself.

Materialisation events only wake it. Ids of events are taken before they are committed, so whoever follows them
loses some; what to push is decided in serving.py from the database and Redis. The cursor saves work, nothing more.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
import orjson

from nexus_assets import serving
from nexus_assets.feature_store import FeatureStore
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, PAIR_RANKINGS
from nexus_assets.settings import settings

LOOK_EVERY = 10
"""Of so many ticks, one compares the database with Redis whatever the events say. It also keeps prices alive, which
expire after 5 minutes."""

WATCHED = tuple(dg.AssetKey(table.asset_key) for table in (BARS, INDICATOR_ROWS, CORRELATION_MATRIX, PAIR_RANKINGS))

Marks = Mapping[str, int]
"""Storage id of the materialisation that each watched asset names as its last."""


@dataclass(frozen=True)
class Cursor:
    """Ticks counted, and the marks seen when the database was last compared with Redis."""

    tick: int
    marks: Marks

    @classmethod
    def parse(cls, text: str | None) -> "Cursor | None":
        """The cursor of the last tick; None for the first tick, and for a cursor that another version wrote."""
        try:
            content = orjson.loads(text or "")
            return cls(int(content["tick"]), {str(key): int(mark) for key, mark in content["marks"].items()})
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def dump(self) -> str:
        """As JSON."""
        return orjson.dumps({"tick": self.tick, "marks": dict(self.marks)}).decode()


def must_look(cursor: Cursor | None, marks: Marks) -> bool:
    """Whether to compare the database with Redis: on the first tick, on every tenth, and when a mark has changed.

    Changed, not grown: a slow batch that was committed behind a faster one has the smaller ids.
    """
    return cursor is None or (cursor.tick + 1) % LOOK_EVERY == 0 or dict(cursor.marks) != dict(marks)


def last_materialisations(instance: dg.DagsterInstance) -> dict[str, int]:
    """The marks of the watched assets, in one query; an asset that was never materialised has none."""
    marks = {}
    for record in instance.get_asset_records(WATCHED):
        mark = record.asset_entry.last_materialization_storage_id
        if mark is not None:
            marks[record.asset_entry.asset_key.to_user_string()] = mark
    return marks


@dg.sensor(
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING if settings().automation else dg.DefaultSensorStatus.STOPPED,
    description="Pushes fresh features, prices and correlations into Redis, as docs/redis.md says. Starts no run.",
)
def feature_store_sensor(
    context: dg.SensorEvaluationContext,
    market_store: dg.ResourceParam[MarketStore],
    feature_store: dg.ResourceParam[FeatureStore],
) -> dg.SensorResult:
    """One tick. A tick that fails keeps its cursor, so the next one looks again."""
    cursor = Cursor.parse(context.cursor)
    # Read before the database: what is committed in between wakes the next tick.
    marks = last_materialisations(context.instance)
    if must_look(cursor, marks):
        report = serving.push(market_store, feature_store, settings())
        report.raise_failures()
        said = report.sentence
    else:
        said = "Nothing was materialised since the last look."
    tick = cursor.tick + 1 if cursor else 0
    return dg.SensorResult(skip_reason=dg.SkipReason(said), cursor=Cursor(tick, marks).dump())
