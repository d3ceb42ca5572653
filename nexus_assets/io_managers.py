"""Frames between assets and the database.

What belongs here: which slice a frame is for, and what the UI is told of it. The statements are in market_store.py.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

import dagster as dg
import pandas as pd

from nexus_assets.errors import PartitionError
from nexus_assets.market_store import MarketStore
from nexus_assets.materializations import READ_AT, attach_metadata
from nexus_assets.partitions import Grain, consecutive, day_of_rows, days_between, grain_of, parse_key
from nexus_assets.schemas import ASSET_TABLES, Table
from nexus_assets.settings import settings

MAX_DAYS = 3660
"""Days of a frame by day that one transaction replaces: such frames are small, and one write keeps a run whole."""


class TimescaleIOManager(dg.IOManager):
    """Stores a frame in the table that its asset key names, and loads it back.

    The frame must hold exactly the columns of its table, and only rows of the partitions that the run is for; each
    partition is replaced as a whole, an empty one is legal. One transaction for each stretch of consecutive days. An
    output with the metadata READ_AT is as new as what had been written by then; one without it, as its own writing.

    Raises:
        PartitionError: a row lies outside the run's partitions. Nothing is written.
        DatabaseError: the frame breaks the table's schema, or the database refused.
    """

    def __init__(self, store: MarketStore) -> None:
        self._store = store

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Write the frame, and attach row count and time range to the materialisation."""
        target = _table(context.asset_key)
        if context.has_asset_partitions:
            self._write_partitions(context, target, obj)
            attach_metadata(
                context.step_context,
                _by_partition(target, obj, context.asset_partition_keys, grain_of(context.asset_key)),
            )
        else:
            self._store.replace_all(target, obj, code_version=_code_version(context), read_at=_read_at(context))
            context.add_output_metadata({"dagster/row_count": len(obj), **_time_range(target, obj)})

    def _write_partitions(self, context: dg.OutputContext, target: Table, frame: pd.DataFrame) -> None:
        for symbol, ranges in _stretches(context.asset_partition_keys, grain_of(context.asset_key)).items():
            mine = frame if symbol is None else frame[frame["symbol"] == symbol]
            for first_day, end_day in ranges:
                rows = mine if len(ranges) == 1 else _within(target, mine, first_day, end_day)
                self._store.replace(
                    target,
                    rows,
                    symbol=symbol,
                    timeframes=settings().timeframes,
                    first_day=first_day,
                    end_day=end_day,
                    code_version=_code_version(context),
                    read_at=_read_at(context),
                )

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """The stored rows of the partitions that the run is for, or the whole table of an unpartitioned asset."""
        source = _table(context.asset_key)
        if not context.has_asset_partitions:
            return self._store.read_all(source)
        frames = [
            self._store.read_slice(source, symbol=symbol, first_day=first_day, end_day=end_day)
            for symbol, ranges in _stretches(context.asset_partition_keys, grain_of(context.asset_key)).items()
            for first_day, end_day in ranges
        ]
        filled = [frame for frame in frames if len(frame)]
        return pd.concat(filled, ignore_index=True) if filled else source.empty()


@dg.io_manager(required_resource_keys={"market_store"}, description="Frames in TimescaleDB tables, by exact slice.")
def timescale_io_manager(context: dg.InitResourceContext) -> TimescaleIOManager:
    """The IO manager over the run's database."""
    return TimescaleIOManager(context.resources.market_store)


def _table(key: dg.AssetKey) -> Table:
    grain = grain_of(key)
    for table in ASSET_TABLES:
        if grain.asset_key(table) == list(key.path):
            return table
    raise PartitionError(
        f"No table is declared for the asset {key.to_user_string()}.",
        next_step=f"Add {'.'.join(key.path)} to nexus_assets/schemas.py and a migration, or use another IO manager.",
    )


def _code_version(context: dg.OutputContext) -> int | None:
    version = context.asset_spec.code_version
    return int(version) if version and version.isdecimal() else None


def _read_at(context: dg.OutputContext) -> datetime | None:
    told = context.output_metadata.get(READ_AT)
    return datetime.fromisoformat(getattr(told, "value", told)) if told is not None else None


def _stretches(keys: Iterable[str], grain: Grain) -> dict[str | None, list[tuple[date, date]]]:
    days: dict[str | None, list[date]] = {}
    for key in keys:
        symbol, begin = parse_key(key) if "|" in key else (None, date.fromisoformat(key))
        days.setdefault(symbol, []).extend(days_between(*grain.span(begin)))
    return {symbol: list(consecutive(some, at_most=MAX_DAYS)) for symbol, some in days.items()}


def _within(target: Table, frame: pd.DataFrame, first_day: date, end_day: date) -> pd.DataFrame:
    days = frame["day"] if target.time_column == "day" else day_of_rows(frame)
    return frame[(days >= first_day) & (days < end_day)]


def _by_partition(target: Table, frame: pd.DataFrame, keys: Iterable[str], grain: Grain) -> dict[str, dict[str, Any]]:
    """Row count and time range of each partition; empty ones are there too."""
    days = frame["day"] if target.time_column == "day" else day_of_rows(frame)
    symbols = frame["symbol"] if "symbol" in frame.columns else [None] * len(frame)
    names = [grain.key(symbol, day) for symbol, day in zip(symbols, days, strict=True)]
    found: dict[str, dict[str, Any]] = {key: {"dagster/row_count": 0} for key in keys}
    for key, rows in frame.groupby(pd.Series(names, index=frame.index, dtype=object)):
        found[str(key)] = {"dagster/row_count": len(rows), **_time_range(target, rows)}
    return found


def _time_range(target: Table, frame: pd.DataFrame) -> dict[str, str]:
    if frame.empty or target.time_column is None:
        return {}
    column = frame[target.time_column]
    return {f"first_{target.time_column}": str(column.min()), f"last_{target.time_column}": str(column.max())}
