"""EODHD: intraday bars of currencies, metals, coins and cash indices.

Read 2026-11-21:

- https://eodhd.com/financial-apis/intraday-historical-data-api : GET /intraday/{ticker} with interval 1m, 5m or 1h,
  from and to in seconds since 1970 UTC, at most 120, 600 and 7,200 days a request; 1m of currencies since 2009, 5m and
  1h since October 2020; complete two to three hours after the market's close. All times are UTC.
- https://eodhd.com/financial-apis/api-limits : an intraday request costs 5 of 100,000 calls a day; 1,000 requests a
  minute. A token is a query parameter.
- recorded answers of https://github.com/thoran/eodhd.rb : `timestamp` is the open in UTC, `datetime` the same in the
  zone that is `gmtoffset` seconds away; the last bar of a session may have a null volume; a wrong token is answered
  with 401 and the text `Unauthenticated`.

Whether prices of currencies are bid, ask or mid is not documented: they are declared `last`. Their volume is always 0
and that of indices is not of the index: none is declared. Daily bars (/eod) carry a date without a zone and are not
served. Intraday bars are not adjusted. The live endpoint tells no bid and ask, so there is no quote.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from pydantic import SecretStr

from nexus_assets.errors import (
    PermanentProviderError,
    ProviderError,
    SourceFormatError,
    UnknownSymbolError,
)
from nexus_assets.providers.answers import (
    Subject,
    bar_values,
    cell,
    failure,
    micros_of,
    number,
    read_json,
    too_many_requests,
    unix_time,
    wall_time,
)
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.interface import Request
from nexus_assets.providers.pages import Kinds, Page, parts
from nexus_assets.providers.spellings import Spelling, spelling
from nexus_assets.providers.transport import Call

NAME = "eodhd"
URL = "https://eodhd.com/api"
INTERVALS: Mapping[str, str] = {"1m": "1m", "5m": "5m", "1h": "1h"}
SPANS: Mapping[str, timedelta] = {
    "1m": timedelta(days=120),
    "5m": timedelta(days=600),
    "1h": timedelta(days=7200),
}

_SECOND = 1_000_000


def requests_for(request: Request, now: datetime) -> list[Call]:
    """The range in parts of what one request may span.

    Raises:
        UnknownSymbolError: EODHD does not have the symbol.
    """
    path = f"/intraday/{spelling(NAME, request.symbol).text}"
    return [
        Call(
            path,
            {
                "interval": INTERVALS[request.timeframe],
                "from": str(-(-micros_of(part.start) // _SECOND)),
                # Both ends are included.
                "to": str((micros_of(part.end) - 1) // _SECOND),
                "fmt": "json",
            },
            part,
        )
        for part in parts(request, SPANS[request.timeframe], now)
    ]


def parse(body: bytes, request: Request, now: datetime) -> Page:
    """The rows of an answer.

    Raises:
        TransientProviderError: the body is no JSON.
        SourceFormatError: it is not a list.
    """
    rows = read_json(body, NAME, request)
    if not isinstance(rows, list):
        raise failure(
            SourceFormatError,
            NAME,
            request,
            "the answer is not a list of bars",
            rows,
            next_step="Read it; EODHD explains some refusals so.",
        )
    page = Page(request, now)
    for row in rows:
        ts = None
        try:
            ts = unix_time(cell(row, "timestamp"))
            _check_clock(row, ts)
            open_, high, low, close = (cell(row, name) for name in ("open", "high", "low", "close"))
            page.add(ts, bar_values(open_, high, low, close), row)
        except ValueError as error:
            page.reject(row, str(error), ts=ts)
    return page


def _check_clock(row: Any, ts: int) -> None:
    """Raise ValueError where the printed wall time is neither that of UTC nor of the row's offset."""
    if row.get("datetime") is None:
        return
    wall = micros_of(wall_time(row["datetime"]).replace(tzinfo=UTC))
    if wall - ts not in (0, number(row.get("gmtoffset") or 0) * _SECOND):
        raise ValueError("the row's timestamp and datetime are different times")


def refusal(status: int, body: bytes, subject: Subject) -> ProviderError | None:
    """The error that EODHD's own statuses mean; None where the status says enough, or there is no error."""
    if status == 404:
        return failure(
            UnknownSymbolError,
            NAME,
            subject,
            "EODHD does not know the ticker",
            body,
            next_step="Correct the table in nexus_assets/providers/spellings.py.",
        )
    if status != 402:
        return None
    if b"limit" in body.lower():
        text = body.decode("utf-8", "replace")
        return too_many_requests(NAME, subject, text, next_step="The calls of the day come back at midnight GMT.")
    return failure(
        PermanentProviderError,
        NAME,
        subject,
        "the plan does not include this",
        body,
        next_step="Check EODHD_API_TOKEN and its plan.",
    )


class EodhdProvider(ApiProvider):
    """Intraday bars of EODHD."""

    name: str = NAME
    key_setting: ClassVar[str] = "EODHD_API_TOKEN"
    url: ClassVar[str] = URL
    timeframes: ClassVar[Mapping[str, str]] = INTERVALS
    lag: ClassVar[timedelta] = timedelta(hours=3)

    def calls(self, request: Request, now: datetime) -> list[Call]:
        return requests_for(request, now)

    def parse(self, body: bytes, request: Request, now: datetime) -> Page:
        return parse(body, request, now)

    def kinds(self, row: Spelling) -> Kinds:
        return Kinds("last", "none", row.instrument_kind)

    def refusal(self, status: int, body: bytes, subject: Subject) -> ProviderError | None:
        return refusal(status, body, subject)

    def authorisation(self) -> tuple[Mapping[str, SecretStr], Mapping[str, SecretStr]]:
        return {}, {"api_token": SecretStr(self.key_value())}
