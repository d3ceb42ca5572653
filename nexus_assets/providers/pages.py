"""The pages of a request: which of their rows are bars of the range, and the delivery that they become.

A bar that is not over yet is left out; it comes again when it is. So is a row outside the asked range, which an API
adds because it pages by count or by day. Everything else is a bar or a rejected row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pandas as pd

from nexus_assets.errors import TransientProviderError
from nexus_assets.instruments import InstrumentKind, PriceKind, VolumeKind
from nexus_assets.providers.answers import datetime_of, failure, micros_of
from nexus_assets.providers.interface import (
    BAR_COLUMNS,
    TS_DTYPE,
    VALUE_COLUMNS,
    Delivery,
    Request,
    bar_frame,
    empty_rejected,
    rejected_frame,
    settle_repeats,
)
from nexus_assets.timeframes import length

EARLY_TOLERANCE = timedelta(days=1)
"""An answer to a part of a range begins at most so long before it: services align what they are asked to bars or days.
One that begins earlier is the answer to another request."""

FUTURE_TOLERANCE = timedelta(days=1)
"""A bar that opens later than this is a wrong time, not a clock that differs from ours."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that cannot be a bar: `near` is the open of the readable row before it, None without one."""

    near: int | None
    item: Any
    why: str


@dataclass
class Page:
    """What one answer held, in ascending order of time.

    Attributes:
        ts: Opens of the bars of the range that are over, microseconds since 1970 UTC.
        values: VALUE_COLUMNS of each.
        items: Each row as it was printed.
        unusable: Rows that cannot be bars.
        rows: Every row of the answer, whatever became of it.
        incomplete: Rows left out because their bar is not over.
        first_open: The earliest readable open, also outside of the range; None without one.
        last_open: The open of the last readable row, also outside of the range; None without one.
        next_page: What to ask for next, where the API says it.
    """

    request: Request
    now: datetime
    ts: list[int] = field(default_factory=list)
    values: list[tuple[float, ...]] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)
    rows: int = 0
    incomplete: int = 0
    first_open: int | None = None
    last_open: int | None = None
    next_page: str | None = None

    def __post_init__(self) -> None:
        self._start, self._end = micros_of(self.request.start), micros_of(self.request.end)
        self._last_over = micros_of(self.now) - length(self.request.timeframe) // timedelta(microseconds=1)
        self._furthest = micros_of(self.now + FUTURE_TOLERANCE)

    def add(self, ts: int, values: tuple[float, ...], item: Any, *, complete: bool = True) -> None:
        """A row that was read. `values` are VALUE_COLUMNS; `complete` is the API's word, the clock decides as well."""
        if ts > self._furthest:
            self.reject(item, f"its time, {datetime_of(ts):%Y-%m-%dT%H:%M:%SZ}, lies in the future")
            return
        self.rows += 1
        self.first_open = ts if self.first_open is None else min(self.first_open, ts)
        self.last_open = ts
        if not self._start <= ts < self._end:
            return
        if not complete or ts > self._last_over:
            self.incomplete += 1
            return
        self.ts.append(ts)
        self.values.append(values)
        self.items.append(item)

    def reject(self, item: Any, why: str, *, ts: int | None = None) -> None:
        """A row that was not; `ts` where at least its time could be read. It is left out where its bar is not over."""
        self.rows += 1
        near = self.last_open if ts is None else ts
        if ts is not None and self._last_over < ts < self._end:
            self.incomplete += 1
            return
        if near is None or self._start <= near < self._end:
            self.unusable.append(Unusable(near, item, why))


@dataclass(frozen=True, slots=True)
class Kinds:
    """What the numbers of a delivery are of."""

    price: PriceKind
    volume: VolumeKind
    instrument: InstrumentKind


def deliver(provider: str, request: Request, pages: Sequence[Page], kinds: Kinds, *, source: str) -> Delivery:
    """The pages of a request, in the order in which they were answered, as one delivery.

    Args:
        source: What was asked, such as `oanda EUR_USD H1`. It must not change from request to request: rejected rows
            are told apart by it and by their text.
    """
    values = np.array([row for page in pages for row in page.values], dtype="float64").reshape(-1, len(VALUE_COLUMNS))
    ts = np.array([ts for page in pages for ts in page.ts], dtype="int64").astype("datetime64[us]")
    frame = bar_frame(pd.DatetimeIndex(ts).tz_localize("UTC"), values.T)
    frame["row"] = np.arange(len(frame))
    unique, conflicting, equal_repeats = settle_repeats(frame)
    bars = unique.sort_values("ts", kind="stable").loc[:, list(BAR_COLUMNS)].reset_index(drop=True)
    incomplete = sum(page.incomplete for page in pages)
    notes = [f"{len(pages)} request{'' if len(pages) == 1 else 's'}", "not adjusted"]
    if incomplete:
        notes.append(f"{incomplete} bar{'' if incomplete == 1 else 's'} not over yet left out")
    return Delivery(
        provider=provider,
        request=request,
        bars=bars,
        rejected=_rejected(request, pages, conflicting, source),
        equal_repeats=equal_repeats,
        price_kind=kinds.price,
        volume_kind=kinds.volume,
        instrument_kind=kinds.instrument,
        source=f"{source}, {', '.join(notes)}",
    )


def _rejected(request: Request, pages: Sequence[Page], conflicting: pd.DataFrame, source: str) -> pd.DataFrame:
    parts = []
    unusable = [row for page in pages for row in page.unusable]
    if unusable:
        start = micros_of(request.start)
        near = np.array([start if row.near is None else row.near for row in unusable], dtype="int64")
        rows = pd.DataFrame({"ts": pd.DatetimeIndex(near.astype("datetime64[us]")).tz_localize("UTC")})
        parts.append(_with_texts(rows, [row.item for row in unusable], source, [row.why for row in unusable]))
    if len(conflicting):
        items = [item for page in pages for item in page.items]
        wanted = [items[row] for row in conflicting["row"]]
        why = ["differs from the first row of its ts"] * len(wanted)
        parts.append(_with_texts(conflicting, wanted, source, why, rule="conflicting_repeat"))
    if not parts:
        return empty_rejected()
    return pd.concat(parts, ignore_index=True).sort_values("ts", kind="stable", ignore_index=True)


def _with_texts(
    rows: pd.DataFrame, items: Iterable[Any], source: str, why: list[str], rule: str = "unusable_key"
) -> pd.DataFrame:
    texts = [orjson.dumps(item, default=str).decode() for item in items]
    rows = rows.assign(
        ts=rows["ts"].astype(TS_DTYPE),
        origin=pd.Series(source, index=rows.index, dtype="str"),
        content=pd.Series(texts, index=rows.index, dtype="str"),
        detail=pd.Series(why, index=rows.index, dtype="str"),
    )
    return rejected_frame(rows, rule)


def parts(request: Request, span: timedelta, now: datetime) -> list[Request]:
    """The range in parts of at most `span`, ascending, without what has not begun yet."""
    end = min(request.end, now)
    found, start = [], request.start
    while start < end:
        found.append(replace(request, start=start, end=min(start + span, end)))
        start = found[-1].end
    return found


def check_part(provider: str, page: Page) -> None:
    """Refuse the answer to a part of a range that holds rows, but none of that part, or that begins long before it.

    Raises:
        TransientProviderError: so it is; to take what it lacks for "no bars" would lose some.
    """
    if page.first_open is None:
        return
    begins_early = page.first_open < micros_of(page.request.start - EARLY_TOLERANCE)
    if not begins_early and (page.ts or page.incomplete or page.unusable):
        return
    raise failure(
        TransientProviderError,
        provider,
        page.request,
        f"the answer holds {page.rows:,} rows from {datetime_of(page.first_open):%Y-%m-%dT%H:%MZ} on, and is not of "
        f"the range",
        next_step="It is stale, or the answer to another request; ask again.",
    )
