"""Reading an API's answer: JSON, numbers and times, and errors that say where something is wrong.

An answer is accepted or refused as a whole, and a row of it likewise:

- A body that is no JSON (cut off, a gateway's page) is a TransientProviderError, JSON of another shape than documented
  a SourceFormatError; nothing of such an answer is kept.
- A row whose time or numbers cannot be read is rejected as `unusable_key` with its text. A missing (null) price is not
  unreadable: the bar is delivered without it and judged later.

Errors name the provider, the symbol, the range and the place in the answer.
"""

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import orjson

from nexus_assets.errors import (
    PermanentProviderError,
    ProviderError,
    RateLimitedError,
    SourceFormatError,
    TransientProviderError,
    UnknownSymbolError,
)
from nexus_assets.providers.http_answers import error_class
from nexus_assets.providers.interface import Request
from nexus_assets.providers.spellings import recognise

EXCERPT_LENGTH = 160
EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2069, 1, 1, tzinfo=UTC)
"""Times outside are not believed; 0 and the largest integers are what broken clocks and programs print."""

MISSING = math.nan

KEY_STATUSES = frozenset({401, 403})
"""The key is wrong, or its plan does not include what was asked for."""

_PAUSES = {"second": 1.0, "minute": 60.0, "day": 3600.0, "daily": 3600.0}
"""Seconds to leave an API alone that says which of its limits is used up, the shortest one first. A day's limit may
end at any hour, so it is tried every hour."""

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


def cell(row: Any, name: str) -> Any:
    """row[name] of one row.

    Raises:
        ValueError: the row is no object, or has no such member.
    """
    if not isinstance(row, dict) or name not in row:
        raise ValueError(f"there is no {name!r}")
    return row[name]


def check_symbol(provider: str, request: Request, text: Any, *, bars: Any = None, expected_bars: Any = None) -> None:
    """Refuse an answer about another symbol, or bars of another length, as a cache or a proxy may give.

    Args:
        text: The provider's spelling in the answer, None where it names none.
        bars, expected_bars: The length of the bars in the answer, None where it tells none, and the one asked for.

    Raises:
        TransientProviderError: it is about something else.
    """
    try:
        symbol = request.symbol if text is None else recognise(provider, str(text)).symbol
    except UnknownSymbolError:
        symbol = ""
    if symbol != request.symbol or (bars is not None and bars != expected_bars):
        told = [excerpt_of(part) for part in (text, bars) if part is not None]
        raise failure(
            TransientProviderError,
            provider,
            request,
            "the answer is about something else",
            " ".join(told),
            next_step="Ask again.",
        )


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


def too_many_requests(provider: str, subject: Subject, text: str, *, next_step: str) -> RateLimitedError:
    """The error of an answer that says so in its body, whatever its status. It asks everybody to wait until the limit
    that the text names may be over; a minute where it names none."""
    error = failure(RateLimitedError, provider, subject, "too many requests", text, next_step=next_step)
    error.retry_after = next((pause for word, pause in _PAUSES.items() if word in text.lower()), 60.0)
    return error


def refused(status: int, body: bytes, provider: str, subject: Subject, *, key_setting: str) -> ProviderError:
    """The error of an answer whose status is not a success and whose body the provider does not explain."""
    kind = error_class(status) or PermanentProviderError
    next_step = "Ask later." if kind.transient else "Read the answer; the same request will be refused again."
    if status in KEY_STATUSES:
        next_step = f"Check {key_setting or 'whether the service allows this use'}: the key is wrong, or its plan "
        next_step += "does not include this."
    return failure(kind, provider, subject, f"the server answered {status}", body, next_step=next_step)
