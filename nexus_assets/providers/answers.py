"""From an API's answer to a delivery: what all APIs have in common when JSON, numbers and times are read.

An answer is accepted or refused as a whole, and a row of it likewise:

- A body that is no JSON (cut off, a gateway's page) is a TransientProviderError, JSON of another shape than documented
  a SourceFormatError; nothing of such an answer is kept.
- A row whose time or numbers cannot be read is rejected as `unusable_key` with its text. A missing (null) price is not
  unreadable: the bar is delivered without it and judged later.
- A bar that is not over yet is left out; it comes again when it is. So is a row outside the asked range, which an API
  adds because it pages by count or by day.

Errors name the provider, the symbol, the range and the place in the answer.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import orjson
import pandas as pd

from nexus_assets.errors import PermanentProviderError, ProviderError, SourceFormatError, TransientProviderError
from nexus_assets.instruments import InstrumentKind, PriceKind, VolumeKind
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

EXCERPT_LENGTH = 160
EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2069, 1, 1, tzinfo=UTC)
"""Times outside are not believed; 0 and the largest integers are what broken clocks and programs print."""

FUTURE_TOLERANCE = timedelta(days=1)
"""A bar that opens later than this is a wrong time, not a clock that differs from ours."""

TRANSIENT_STATUSES = frozenset({408, 425, 429})
MISSING = math.nan

_SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = (round((t - _EPOCH).total_seconds()) * _SECOND for t in (EARLIEST, LATEST))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WALL_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d)?", re.ASCII)

Error = TypeVar("Error", bound=ProviderError)
Subject = Request | str
"""What was asked for: a request of bars, or words such as `the quote of EURUSD`."""


def failure(
    kind: type[Error], provider: str, subject: Subject, fact: str, excerpt: object = None, *, next_step: str = ""
) -> Error:
    """An error that says who was asked for what, and shows the offending piece of the answer."""
    shown = "" if excerpt is None else f": {excerpt_of(excerpt)}"
    return kind(f"{provider}, {subject}: {fact}{shown}.", next_step=next_step)


def excerpt_of(piece: object) -> str:
    """The beginning of a piece of an answer on one line, with unprintable characters written out."""
    if isinstance(piece, bytes):
        text = piece[: EXCERPT_LENGTH * 4].decode("utf-8", "replace")
    else:
        text = piece if isinstance(piece, str) else orjson.dumps(piece, default=str).decode()
    shown = ascii(text[:EXCERPT_LENGTH])[1:-1]
    return shown + ("…" if len(text) > EXCERPT_LENGTH else "")


# Reading


def read_json(body: bytes, provider: str, subject: Subject) -> Any:
    """The body as JSON.

    Raises:
        TransientProviderError: it is none.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise failure(
            TransientProviderError,
            provider,
            subject,
            f"an answer of {len(body):,} bytes is not JSON" if body else "the answer is empty",
            body or None,
            next_step="It was cut off, or a gateway answered; ask again.",
        ) from None


def member(holder: Any, name: str | int, kind: type, provider: str, subject: Subject) -> Any:
    """holder[name], which must be of a kind.

    Raises:
        SourceFormatError: the holder has no such member, or one of another kind.
    """
    try:
        value = holder[name]
    except (KeyError, IndexError, TypeError):
        value = None
    if not isinstance(value, kind):
        raise failure(
            SourceFormatError,
            provider,
            subject,
            f"the answer has no {kind.__name__} {name!r}",
            holder,
            next_step="The API has changed, or this is not its answer; compare it with the documentation.",
        )
    return value


def number(value: Any) -> float:
    """A number, also one printed as text; NaN for null.

    Raises:
        ValueError: it is none, or not finite.
    """
    if value is None:
        return MISSING
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value.strip()):
            raise ValueError(f"{excerpt_of(value)!r} is no number")
        found = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value)
    else:
        raise ValueError(f"{excerpt_of(value)} is no number")
    if not math.isfinite(found):
        raise ValueError(f"{excerpt_of(value)} is not finite")
    return found


def instant(micros: int) -> int:
    """Microseconds since 1970 UTC.

    Raises:
        ValueError: not between EARLIEST and LATEST.
    """
    if not _EARLIEST <= micros < _LATEST:
        raise ValueError(f"the time {micros / _SECOND:.0f} (seconds since 1970) is not believable")
    return micros


def unix_time(value: Any, *, per_second: int = 1) -> int:
    """A whole number of seconds (or of 1/per_second) since 1970 as microseconds.

    Raises:
        ValueError: it is no whole number, or not believable.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the time {excerpt_of(value)} is no number")
    if not abs(value) < 1e18 or value != int(value):
        raise ValueError(f"the time {excerpt_of(value)} is no whole number of a believable size")
    return instant(int(value) * _SECOND // per_second)


def wall_time(value: Any) -> datetime:
    """`2024-05-01 13:30:00`, `2024-05-01T13:30:00` or `2024-05-01`, without a zone.

    Raises:
        ValueError: it is none of these.
    """
    if not isinstance(value, str) or not _WALL_TIME.fullmatch(value):
        raise ValueError(f"the time {excerpt_of(value)} is none")
    return datetime.fromisoformat(value)


def utc_time(value: Any) -> int:
    """A wall time of UTC as microseconds. Raises ValueError as wall_time and instant do."""
    return instant(micros_of(wall_time(value).replace(tzinfo=UTC)))


def micros_of(moment: datetime) -> int:
    """Microseconds since 1970 UTC of a tz-aware instant."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def datetime_of(micros: int) -> datetime:
    """The tz-aware instant of microseconds since 1970 UTC."""
    return _EPOCH + timedelta(microseconds=micros)


# Pages


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


def bar_values(
    open_: Any, high: Any, low: Any, close: Any, volume: Any = None, spread: float = MISSING
) -> tuple[float, ...]:
    """VALUE_COLUMNS of one row.

    Raises:
        ValueError: a number cannot be read, or the volume is negative.
    """
    traded = number(volume)
    if traded < 0:
        raise ValueError(f"the volume {excerpt_of(volume)} is negative")
    return (number(open_), number(high), number(low), number(close), traded, spread)


# Deliveries


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


def refused(status: int, body: bytes, provider: str, subject: Subject, *, key_setting: str) -> ProviderError:
    """The error of an answer whose status is not a success and whose body the provider does not explain."""
    if status in TRANSIENT_STATUSES or status >= 500:
        return failure(
            TransientProviderError, provider, subject, f"the server answered {status}", body, next_step="Ask later."
        )
    next_step = "Read the answer; the same request will be refused again."
    if status in (401, 403):
        next_step = f"Check {key_setting or 'whether the service allows this use'}: the key is wrong, or its plan "
        next_step += "does not include this."
    return failure(
        PermanentProviderError, provider, subject, f"the server answered {status}", body, next_step=next_step
    )


def parts(request: Request, span: timedelta, now: datetime) -> list[Request]:
    """The range in parts of at most `span`, ascending, without what has not begun yet."""
    end = min(request.end, now)
    found, start = [], request.start
    while start < end:
        found.append(replace(request, start=start, end=min(start + span, end)))
        start = found[-1].end
    return found


def check_part(provider: str, page: Page) -> None:
    """Refuse the answer to a part of a range that holds rows, but none of that part.

    Raises:
        TransientProviderError: so it is; to take it for "no bars" would lose some.
    """
    if page.first_open is None or page.ts or page.incomplete or page.unusable:
        return
    raise failure(
        TransientProviderError,
        provider,
        page.request,
        f"the answer holds {page.rows:,} rows from {datetime_of(page.first_open):%Y-%m-%dT%H:%MZ}, none of the range",
        next_step="It is stale, or the answer to another request; ask again.",
    )
