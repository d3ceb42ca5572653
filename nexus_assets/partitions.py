"""Partitions: symbol x day and day, and the slices that a run writes.

What belongs here: slicing, and nothing that reads or writes. A row belongs to the UTC day in which its bar ends.
Keys read `2024-01-04|EURUSD`. The symbol dimension follows the order of instruments.py, so that a range of
partitions means the same for everyone; the day dimension starts on NEXUS_START_DAY and ends with today.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import dagster as dg
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.errors import PartitionError
from nexus_assets.settings import settings

MAX_SLICE_DAYS = 31
"""Days of one symbol that are computed and written together: bounds memory and the length of a transaction."""

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"


def days_partitions() -> dg.DailyPartitionsDefinition:
    """Every UTC day from NEXUS_START_DAY to today, which is still open."""
    return dg.DailyPartitionsDefinition(start_date=settings().start_day.isoformat(), timezone="UTC", end_offset=1)


def symbol_day_partitions() -> dg.MultiPartitionsDefinition:
    """Every selected symbol on every day."""
    return dg.MultiPartitionsDefinition(
        {"day": days_partitions(), "symbol": dg.StaticPartitionsDefinition(list(settings().symbols))}
    )


def months_partitions() -> dg.MonthlyPartitionsDefinition:
    """Every month that is over, from that of NEXUS_START_DAY on. Keys read `2024-01-01`."""
    return dg.MonthlyPartitionsDefinition(start_date=settings().start_day.replace(day=1).isoformat(), timezone="UTC")


def partition_key(symbol: str, day: date) -> str:
    """The key of one slice, as Dagster writes it: `2024-01-04|EURUSD`."""
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


def slices_of(keys: Sequence[str]) -> list[Slice]:
    """The slices that cover exactly these partition keys, by symbol in the catalogue's order and then by day.

    Dagster hands the keys of a run over in no particular order, and what people select may be ragged.
    """
    days: dict[str, list[date]] = defaultdict(list)
    for key in keys:
        symbol, day = parse_key(key)
        days[symbol].append(day)
    known = {symbol: position for position, symbol in enumerate(settings().symbols)}
    return [
        Slice(symbol, first, end)
        for symbol in sorted(days, key=lambda s: (known.get(s, len(known)), s))
        for first, end in consecutive(days[symbol])
    ]


def day_of_rows(frame: pd.DataFrame) -> pd.Series:
    """The day partition of each row of a frame with `timeframe` and `ts`: the UTC day in which the bar ends."""
    days = pd.Series(index=frame.index, dtype=object)
    for timeframe, rows in frame.groupby("timeframe", sort=False):
        ends = pd.DatetimeIndex(trading_calendar.bar_end(pd.DatetimeIndex(rows["ts"]), str(timeframe)))
        days.loc[rows.index] = (ends - pd.Timedelta(microseconds=1)).date
    return days
