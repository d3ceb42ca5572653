"""Twelve Data: mid prices of currencies, metals and coins, and last prices of cash indices.

Read 2026-11-21:

- https://support.twelvedata.com/en/articles/5214728-getting-historical-data : GET /time_series with start_date and
  end_date, at most 5,000 rows an answer; `outputsize` is left out where both dates are given.
- https://freelancedir.com/skills/twelvedata-api (not Twelve Data's own) : the key as `Authorization: apikey ...`;
  `timezone` chooses the clock of the printed times, which is the exchange's without it.
- https://support.twelvedata.com/en/articles/12520817-forex-api-v2 and
  https://support.twelvedata.com/en/articles/12528665-how-the-composite-currency-feed-works : prices of currencies are
  weighted midpoints of many sources, day and night, also on weekends.
- https://support.twelvedata.com/en/articles/5656039-how-to-get-historical-prices : minutes since 2020-02-10.
- https://support.twelvedata.com/en/articles/5615854-credits : a request costs a credit; without any left, code 429.

Errors come as {"status": "error", "code": ..., "message": ...}, also with status 200. UTC is asked for, which daily
bars ignore: they are printed as days of an exchange that currencies do not have, so they are not served. Prices of
currencies run through the weekend; so a part of a range is as long as 5,000 bars without a pause. Nothing is adjusted,
and there is no quote with bid and ask.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

import orjson
from pydantic import SecretStr

from nexus_assets.errors import (
    PermanentProviderError,
    ProviderError,
    SourceFormatError,
    TransientProviderError,
    UnknownSymbolError,
)
from nexus_assets.providers.answers import (
    Subject,
    bar_values,
    cell,
    check_symbol,
    failure,
    member,
    read_json,
    too_many_requests,
    utc_time,
)
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.http_answers import error_class
from nexus_assets.providers.interface import Request
from nexus_assets.providers.pages import Kinds, Page, parts
from nexus_assets.providers.spellings import Spelling, spelling
from nexus_assets.providers.transport import Call
from nexus_assets.timeframes import length

NAME = "twelve_data"
URL = "https://api.twelvedata.com"
PAGE_ROWS = 5_000
INTERVALS: Mapping[str, str] = {"1m": "1min", "5m": "5min", "15m": "15min", "1h": "1h", "4h": "4h"}
NO_BARS = b'{"meta":{},"values":[],"status":"ok"}'


def requests_for(request: Request, now: datetime) -> list[Call]:
    """The range in parts of at most 5,000 bars.

    Raises:
        UnknownSymbolError: Twelve Data does not have the symbol.
    """
    text = spelling(NAME, request.symbol).text
    return [
        Call(
            "/time_series",
            {
                "symbol": text,
                "interval": INTERVALS[request.timeframe],
                "start_date": f"{part.start:%Y-%m-%d %H:%M:%S}",
                # Both dates are included.
                "end_date": f"{part.end - timedelta(seconds=1):%Y-%m-%d %H:%M:%S}",
                "timezone": "UTC",
                "order": "asc",
            },
            part,
        )
        for part in parts(request, length(request.timeframe) * PAGE_ROWS, now)
    ]


def parse(body: bytes, request: Request, now: datetime) -> Page:
    """The rows of a time series, printed from old to new or from new to old.

    Raises:
        TransientProviderError: the body is no JSON, or about another symbol or interval.
        SourceFormatError: it is no time series.
    """
    answer = read_json(body, NAME, request)
    rows = member(answer, "values", list, NAME, request)
    meta = answer.get("meta") if isinstance(answer.get("meta"), dict) else {}
    interval = INTERVALS[request.timeframe]
    check_symbol(NAME, request, meta.get("symbol"), bars=meta.get("interval"), expected_bars=interval)
    page = Page(request, now)
    for row in reversed(rows) if _newest_first(rows) else rows:
        ts = None
        try:
            ts = _open_of(row)
            page.add(ts, bar_values(*_prices(row)), row)
        except ValueError as error:
            page.reject(row, str(error), ts=ts)
    return page


def _newest_first(rows: list[Any]) -> bool:
    times = [row["datetime"] for row in rows if isinstance(row, dict) and isinstance(row.get("datetime"), str)]
    return len(times) > 1 and times[0] > times[-1]


def _open_of(row: Any) -> int:
    time = cell(row, "datetime")
    if isinstance(time, str) and len(time) == len("2024-05-01"):
        raise ValueError(f"the time {time!r} is a day of an exchange, not an instant")
    return utc_time(time)


def _prices(row: Any) -> tuple[Any, Any, Any, Any]:
    return cell(row, "open"), cell(row, "high"), cell(row, "low"), cell(row, "close")


def explanation(body: bytes) -> tuple[int, str] | None:
    """(code, message) of the error in an answer, None where there is none."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict) or answer.get("status") != "error":
        return None
    code = answer.get("code")
    return (code if isinstance(code, int) else 0), str(answer.get("message"))


def refusal(status: int, body: bytes, subject: Subject) -> ProviderError | None:
    """The error that an answer holds, whatever its status; None where there is none."""
    error = explanation(body)
    if error is None:
        return None
    code, message = error
    if code == 429:
        hint = "Credits come back every minute, and at midnight UTC; wait, or use another plan."
        return too_many_requests(NAME, subject, message, next_step=hint)
    said = error_class(code) if code else None
    if status >= 500 or (said is not None and said.transient):
        fact = f"Twelve Data refuses it for now ({code})"
        return failure(TransientProviderError, NAME, subject, fact, message, next_step="Ask later.")
    if code == 404 or "symbol** not found" in message:
        return failure(
            UnknownSymbolError,
            NAME,
            subject,
            "Twelve Data does not know the symbol",
            message,
            next_step="Correct the table in nexus_assets/providers/spellings.py, or look at the plan.",
        )
    next_step = "Check TWELVEDATA_API_KEY and its plan." if code in (401, 403) else "Read the message."
    kind = PermanentProviderError if code else SourceFormatError
    return failure(kind, NAME, subject, f"Twelve Data refuses it ({code})", message, next_step=next_step)


def says_no_bars(body: bytes) -> bool:
    """Whether an answer only says that the range has no bars."""
    error = explanation(body)
    return error is not None and error[0] in (400, 404) and error[1].startswith("No data is available")


class TwelveDataProvider(ApiProvider):
    """Time series of Twelve Data."""

    name: str = NAME
    key_setting: ClassVar[str] = "TWELVEDATA_API_KEY"
    url: ClassVar[str] = URL
    timeframes: ClassVar[Mapping[str, str]] = INTERVALS

    def calls(self, request: Request, now: datetime) -> list[Call]:
        return requests_for(request, now)

    def parse(self, body: bytes, request: Request, now: datetime) -> Page:
        return parse(body, request, now)

    def kinds(self, row: Spelling) -> Kinds:
        return Kinds("last" if row.instrument_kind == "cash_index" else "mid", "none", row.instrument_kind)

    def refusal(self, status: int, body: bytes, subject: Subject) -> ProviderError | None:
        return refusal(status, body, subject)

    def no_data(self, status: int, body: bytes) -> bytes | None:
        return NO_BARS if says_no_bars(body) else None

    def authorisation(self) -> tuple[Mapping[str, SecretStr], Mapping[str, SecretStr]]:
        return {"Authorization": SecretStr(f"apikey {self.key_value()}")}, {}
