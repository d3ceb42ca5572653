"""Running an asset over its slices: one symbol and at most 31 days at a time, so that one bad slice sinks no other.

What belongs here: the loop, what it records of each partition, and how it ends. What a slice computes is in assets/.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg
import pandas as pd
from dagster._core.storage.tags import BACKFILL_ID_TAG

from nexus_assets.earlier_attempts import left_alone
from nexus_assets.errors import NexusError
from nexus_assets.materializations import attach_metadata, record_written
from nexus_assets.partitions import MONTHS, Grain, Slice, day_of_rows, grain_of, parse_key, slices_of

Metadata = Mapping[str, Any]
Work = Callable[[Slice], Mapping[date, Metadata]]

MAX_FAILURES_SHOWN = 10


PLOTS_TAG = "nexus/plots"
"""A run with this tag at "off" attaches no pictures. Hourly ones would soon be most of Dagster's database."""

PLOT_DAYS = 28
"""Days that a run of a backfill must hold to attach pictures. One launched in the UI may make a run of every day, and
three pictures take longer than the day's work; a partition that is materialised by itself has its picture."""


def wants_plots(context: dg.AssetExecutionContext) -> bool:
    """Whether this run attaches pictures to its materialisations."""
    if context.run.tags.get(PLOTS_TAG) == "off":
        return False
    if BACKFILL_ID_TAG not in context.run.tags or grain_of(context.asset_key) is MONTHS:
        return True
    return len({parse_key(key)[1] for key in context.partition_keys}) >= PLOT_DAYS


OF_THE_SLICE = frozenset({"columns_computed"})
"""Numbers that each day's metadata has of the whole slice."""


@dataclass
class SliceReport:
    """What a run wrote: metadata by partition key, and the slices that failed with their errors."""

    written: dict[str, Metadata] = field(default_factory=dict)
    failures: list[tuple[Slice, NexusError]] = field(default_factory=list)

    def describe_failures(self) -> str:
        """The failed slices and why, for people; at most ten of them."""
        shown = [f"{piece}: {error}" for piece, error in self.failures[:MAX_FAILURES_SHOWN]]
        if len(self.failures) > MAX_FAILURES_SHOWN:
            shown.append(f"and {len(self.failures) - MAX_FAILURES_SHOWN} more")
        return "\n".join(shown)


def materialise(context: dg.AssetExecutionContext, work: Work, *, made_from: date = date.min) -> SliceReport:
    """Do the work of every slice of this run and go on after an error of ours.

    `work` writes one slice in one transaction and returns the metadata of each of its days. Errors that are not
    ours are bugs: what was written so far is recorded, and they stop the step. Days before `made_from` are left as they
    are: they, or what they are made from, were dropped. So are slices that an earlier attempt of the run wrote; these
    are recorded with their rows.
    """
    report = SliceReport()
    grain = grain_of(context.asset_key)
    pieces = slices_of(context.partition_keys, grain, made_from=made_from)
    asked = sum(len(piece.days) for piece in slices_of(context.partition_keys, grain))
    if dropped := asked - sum(len(piece.days) for piece in pieces):
        context.log.warning(f"{dropped} days before {made_from} are left as they are: retention dropped their prices")
    left = left_alone(context, pieces)
    if left:
        context.log.info(f"{len(left)} of {len(pieces)} slices were written before and are left alone")
    try:
        for number, piece in enumerate(pieces, start=1):
            try:
                report.written |= by_partition(left.get(piece) or work(piece), piece, grain)
            except NexusError as error:
                context.log.error(f"{piece}: {error}")
                report.failures.append((piece, error))
            if number % 10 == 0 or number == len(pieces):
                context.log.info(f"{number} of {len(pieces)} slices, {len(report.written)} partitions written")
    except BaseException:
        record_written(context, report.written)
        raise
    return report


def by_partition(described: Mapping[date, Metadata], piece: Slice, grain: Grain) -> dict[str, Metadata]:
    """The metadata of a slice's days by partition key. A month has the sums of counts, the widest range of times, and
    of all else what its last day says; shares are left out, because those of days say nothing of a month's."""
    if grain is not MONTHS:
        return {grain.key(piece.symbol, day): metadata for day, metadata in described.items()}
    month: dict[str, Any] = {}
    for _, metadata in sorted(described.items()):
        for name, value in metadata.items():
            if name.startswith("first_"):
                month.setdefault(name, value)
            elif isinstance(value, int) and name not in OF_THE_SLICE:
                month[name] = month.get(name, 0) + value
            elif not isinstance(value, float):
                month[name] = value
    return {grain.key(piece.symbol, piece.first_day): month}


def finish(context: dg.AssetExecutionContext, report: SliceReport) -> dg.MaterializeResult:
    """End the step: with the metadata of each partition, or with a Failure that names the slices to run again.

    Raises:
        dagster.Failure: at least one slice failed; the partitions of the others are recorded all the same.
    """
    if report.failures:
        record_written(context, report.written)
        raise dg.Failure(
            description=f"{len(report.failures)} slices failed; {len(report.written)} partitions were written.\n"
            f"{report.describe_failures()}\nThe daily healing run repeats them; or materialise them again by hand.",
            metadata={"failed": dg.MetadataValue.md(report.describe_failures().replace("\n", "\n\n"))},
            allow_retries=any(getattr(error, "transient", False) for _, error in report.failures),
        )
    attach_metadata(context, report.written)
    return dg.MaterializeResult()


def rows_by_day(frame: pd.DataFrame, days: Iterable[date]) -> dict[date, dict[str, Any]]:
    """Row count and time range of each day of a frame with `timeframe` and `ts`; days without rows are there too."""
    counted: dict[date, dict[str, Any]] = {day: {"dagster/row_count": 0} for day in days}
    for day, ts in frame["ts"].groupby(day_of_rows(frame)):
        counted[day] = {  # pyright: ignore[reportArgumentType]
            "dagster/row_count": len(ts),
            "first_ts": ts.min().isoformat(),
            "last_ts": ts.max().isoformat(),
        }
    return counted
