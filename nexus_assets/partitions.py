"""Partitions: symbol x day and day, the same by month for old history, and the slices that a run writes.

What belongs here: slicing, and nothing that reads or writes. A row belongs to the UTC day in which its bar ends.
Keys read `2024-01-04|EURUSD`. The symbol dimension follows the order of instruments.py, so that a range of
partitions means the same for everyone; the day dimension starts on NEXUS_START_DAY and ends with today.

Days from NEXUS_HISTORY_START to NEXUS_START_DAY are the history: the same tables, in assets of their own with a
partition for each month, `2012-03-01|EURUSD`. Tables, and what is known of them (nexus.slices), are by day in both, so
either setting can be moved without touching a row. A month, because it is what one transaction writes: a failure or a
repeat costs no more than it does by day, and 30 symbols over 20 years are 7,200 partitions.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import dagster as dg
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.errors import PartitionError
from nexus_assets.schemas import Table
from nexus_assets.settings import Settings, settings

MAX_SLICE_DAYS = 31
"""Days of one symbol that are computed and written together: bounds memory and the length of a transaction."""

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"


HISTORY = "history"
"""First part of the keys of assets by month, and their group."""


@dataclass(frozen=True)
class Grain:
    """How days are put together to partitions: DAYS or MONTHS."""

    dimension: str

    def bounds(self, config: Settings | None = None) -> tuple[date, date]:
        """The days [first, end) that have such partitions; an empty range where there is no history."""
        config = config or settings()
        return (config.first_day, config.start_day) if self is MONTHS else (config.start_day, date.max)

    def asset_key(self, table: Table) -> list[str]:
        """The key of a table's asset: market/bars or history/bars."""
        return [HISTORY, table.name] if self is MONTHS else table.asset_key

    def begin(self, day: date) -> date:
        """The day that names the partition of a day."""
        return day.replace(day=1) if self is MONTHS else day

    def span(self, begin: date, config: Settings | None = None) -> tuple[date, date]:
        """The days [first, end) of the partition that this day names; of a month those of the history only."""
        if self is DAYS:
            return begin, begin + timedelta(days=1)
        first, end = self.bounds(config)
        return max(begin, first), min(next_month(begin), end)

    def key(self, symbol: str | None, day: date) -> str:
        """The key of the partition that holds a day; without a symbol, of an asset that is not by symbol."""
        begin = self.begin(day)
        return partition_key(symbol, begin) if symbol else begin.isoformat()

    def definition(self, *, by_symbol: bool) -> dg.PartitionsDefinition:
        """What Dagster is told."""
        times = days_partitions() if self is DAYS else history_partitions()
        if not by_symbol:
            return times
        return dg.MultiPartitionsDefinition(
            {self.dimension: times, "symbol": dg.StaticPartitionsDefinition(list(settings().symbols))}
        )


DAYS = Grain("day")
MONTHS = Grain("month")


def grains(config: Settings | None = None) -> tuple[Grain, ...]:
    """The grains in use, in the order in which days are loaded."""
    return (MONTHS, DAYS) if (config or settings()).has_history else (DAYS,)


def grain_at(day: date, config: Settings | None = None) -> Grain:
    """The grain of a day's partitions."""
    return MONTHS if day < (config or settings()).start_day else DAYS


def grain_of(asset_key: dg.AssetKey) -> Grain:
    """The grain of an asset."""
    return MONTHS if asset_key.path[0] == HISTORY else DAYS


def next_month(day: date) -> date:
    """The first day of the month after that of a day."""
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


def days_partitions() -> dg.DailyPartitionsDefinition:
    """Every UTC day from NEXUS_START_DAY to today, which is still open."""
    return dg.DailyPartitionsDefinition(start_date=settings().start_day.isoformat(), timezone="UTC", end_offset=1)


def history_partitions() -> dg.MonthlyPartitionsDefinition:
    """Every month with a day of the history, the last one even where it is not over. Keys read `2012-03-01`."""
    first, end = MONTHS.bounds()
    return dg.MonthlyPartitionsDefinition(
        start_date=first.replace(day=1).isoformat(),
        end_date=next_month(end - timedelta(days=1)).isoformat(),
        timezone="UTC",
        end_offset=1,
    )


def months_partitions() -> dg.MonthlyPartitionsDefinition:
    """Every month that is over, from that of the first day, history included, on. Keys read `2024-01-01`."""
    return dg.MonthlyPartitionsDefinition(start_date=settings().first_day.replace(day=1).isoformat(), timezone="UTC")


def partition_key(symbol: str, day: date) -> str:
    """The key of one slice, as Dagster writes it: `2024-01-04|EURUSD`. Of a partition by any grain: Grain.key."""
    return f"{day.isoformat()}|{symbol}"


def parse_key(key: str) -> tuple[str, date]:
    """The symbol and the day of a key.

    Raises:
        PartitionError: the key is not of this form.
    """
    day, _, symbol = str(key).partition("|")
    try:
        return symbol, date.fromisoformat(day)
    except ValueError:
        raise PartitionError(
            f"{key!r} is no partition of symbol and day.", next_step="Write it as 2024-01-04|EURUSD."
        ) from None


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive days [first_day, end_day) of one symbol."""

    symbol: str
    first_day: date
    end_day: date

    @property
    def days(self) -> tuple[date, ...]:
        """The days, ascending."""
        return days_between(self.first_day, self.end_day)

    @property
    def keys(self) -> tuple[str, ...]:
        """The partition keys, ascending by day."""
        return tuple(partition_key(self.symbol, day) for day in self.days)

    def __str__(self) -> str:
        last = self.end_day - timedelta(days=1)
        return f"{self.symbol} {self.first_day}" + (f" to {last}" if last > self.first_day else "")


def days_between(first_day: date, end_day: date) -> tuple[date, ...]:
    """The days of [first_day, end_day)."""
    return tuple(first_day + timedelta(days=n) for n in range((end_day - first_day).days))


def consecutive(days: Iterable[date], *, at_most: int = MAX_SLICE_DAYS) -> Iterator[tuple[date, date]]:
    """Half-open ranges that cover exactly these days, ascending, none longer than `at_most` days."""
    first = end = None
    for day in sorted(set(days)):
        if first is not None and (day != end or (day - first).days >= at_most):
            yield first, end  # pyright: ignore[reportReturnType]
            first = None
        first = first or day
        end = day + timedelta(days=1)
    if first is not None and end is not None:
        yield first, end


def slices_of(keys: Iterable[str], grain: Grain = DAYS, *, made_from: date = date.min) -> list[Slice]:
    """The slices that cover exactly these partition keys, by symbol in the catalogue's order and then by day.

    Dagster hands the keys of a run over in no particular order, and what people select may be ragged. A month is a
    slice of its own, so that its partition is written whole or not at all.

    Args:
        made_from: Days before this one are left out.
    """
    spans: dict[str, list[tuple[date, date]]] = defaultdict(list)
    for key in keys:
        symbol, begin = parse_key(key)
        first, end = grain.span(begin)
        if max(first, made_from) < end:
            spans[symbol].append((max(first, made_from), end))
    known = {symbol: position for position, symbol in enumerate(settings().symbols)}
    return [
        Slice(symbol, first, end)
        for symbol in sorted(spans, key=lambda s: (known.get(s, len(known)), s))
        for first, end in (
            consecutive(first for first, _ in spans[symbol]) if grain is DAYS else sorted(set(spans[symbol]))
        )
    ]


def days_of(keys: Iterable[str], grain: Grain = DAYS) -> list[date]:
    """The days of these keys of an asset that is not by symbol, ascending."""
    return sorted(day for key in keys for day in days_between(*grain.span(date.fromisoformat(key))))


def day_of_rows(frame: pd.DataFrame) -> pd.Series:
    """The day partition of each row of a frame with `timeframe` and `ts`: the UTC day in which the bar ends."""
    days = pd.Series(index=frame.index, dtype=object)
    for timeframe, rows in frame.groupby("timeframe", sort=False):
        ends = pd.DatetimeIndex(trading_calendar.bar_end(pd.DatetimeIndex(rows["ts"]), str(timeframe)))
        days.loc[rows.index] = (ends - pd.Timedelta(microseconds=1)).date
    return days
