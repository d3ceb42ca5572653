"""Yahoo Finance's chart API, version 8: last prices of currencies, futures and coins, without a key.

Yahoo publishes no documentation of it. What is used here was read on 2026-11-21 in:

- https://github.com/ranaroussi/yfinance/issues/2902 and /pull/2903 : how far back bars are kept (1m 30 days, 5m and 15m
  60 days, 1h 730 days), at most 8 days of minutes a request, and the error texts.
- https://cran.r-project.org/web/packages/yfhist/readme/README.html : GET /v8/finance/chart/{symbol} with period1,
  period2, interval.
- recorded answers of https://github.com/gadicc/node-yahoo-finance2 (tests/fixtures/http): times are seconds since 1970
  UTC; a range without bars has no `timestamp` at all; daily bars of currencies open at midnight in London.

Bars without a trade are printed as null and rejected with a count. While a market is open the last row is the latest
price at an odd second, not a bar, and is left out. `quote` is not adjusted for dividends; currencies, futures and coins
have no splits. Yahoo does not say whether prices of currencies are bid, ask or mid: they are declared `last`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote as url_quote

import orjson

from nexus_assets.errors import (
    PermanentProviderError,
    ProviderError,
    SourceFormatError,
    UnknownSymbolError,
)
from nexus_assets.providers.answers import (
    KEY_STATUSES,
    Subject,
    bar_values,
    check_symbol,
    failure,
    member,
    read_json,
    unix_time,
)
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.http_answers import error_class
from nexus_assets.providers.interface import Request
from nexus_assets.providers.pages import Kinds, Page, parts
from nexus_assets.providers.spellings import Spelling, spelling
from nexus_assets.providers.transport import Call

NAME = "yahoo"
URL = "https://query2.finance.yahoo.com"
INTERVALS: Mapping[str, str] = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "1h", "1d": "1d"}

REACH: Mapping[str, timedelta] = {
    "1m": timedelta(days=30),
    "5m": timedelta(days=60),
    "15m": timedelta(days=60),
    "1h": timedelta(days=730),
}
"""How long bars are kept; longer ones for ever."""
MINUTES_SPAN = timedelta(days=7)
"""Yahoo allows 8 days of minutes a request, and counts the days that are touched."""

NO_BARS = b'{"chart":{"result":[{"meta":{},"indicators":{"quote":[{}]}}],"error":null}}'
_COLUMNS = ("open", "high", "low", "close", "volume")


def requests_for(request: Request, now: datetime) -> list[Call]:
    """One request for the range; minutes a week at a time.

    Raises:
        UnknownSymbolError: Yahoo does not have the symbol.
        PermanentProviderError: the range begins before what Yahoo keeps.
    """
    reach = REACH.get(request.timeframe)
    if reach is not None and request.start < now - reach and request.start < request.end:
        raise failure(
            PermanentProviderError,
            NAME,
            request,
            f"Yahoo keeps {request.timeframe} bars for {reach.days} days, since {now - reach:%Y-%m-%dT%H:%MZ}",
            next_step="Ask for a later range, or another provider.",
        )
    path = f"/v8/finance/chart/{url_quote(spelling(NAME, request.symbol).text, safe='=')}"
    span = MINUTES_SPAN if request.timeframe == "1m" else max(request.end - request.start, timedelta(days=1))
    return [
        Call(
            path,
            {
                "period1": str(int(part.start.timestamp())),
                "period2": str(-int(-part.end.timestamp() // 1)),
                "interval": INTERVALS[request.timeframe],
                "includePrePost": "false",
            },
            part,
        )
        for part in parts(request, span, now)
    ]


def parse(body: bytes, request: Request, now: datetime) -> Page:
    """The rows of a chart.

    Raises:
        TransientProviderError: the body is no JSON, or a chart of another symbol.
        SourceFormatError: it is no chart, or one of another interval, or its columns differ in length.
    """
    chart = member(read_json(body, NAME, request), "chart", dict, NAME, request)
    result = member(member(chart, "result", list, NAME, request), 0, dict, NAME, request)
    _check_meta(result.get("meta"), request)
    times, columns = _columns(result, request)
    with_volume = spelling(NAME, request.symbol).instrument_kind == "future"
    page = Page(request, now)
    for number, row in enumerate(zip(times, *columns, strict=True)):
        _add(page, row, with_volume=with_volume, is_last=number == len(times) - 1)
    return page


def _check_meta(meta: Any, request: Request) -> None:
    if not isinstance(meta, dict):
        meta = {}
    check_symbol(NAME, request, meta.get("symbol"))
    granularity = meta.get("dataGranularity", INTERVALS[request.timeframe])
    if {"60m": "1h"}.get(str(granularity), granularity) != INTERVALS[request.timeframe]:
        raise failure(
            SourceFormatError,
            NAME,
            request,
            "Yahoo answered with bars of another length",
            granularity,
            next_step="It does so where a range is too long; ask for a shorter one.",
        )


def _columns(result: Any, request: Request) -> tuple[list[Any], list[list[Any]]]:
    indicators = member(result, "indicators", dict, NAME, request)
    prices = member(member(indicators, "quote", list, NAME, request), 0, dict, NAME, request)
    if result.get("timestamp") is None and not any(prices.get(name) for name in _COLUMNS):
        return [], [[] for _ in _COLUMNS]
    times = member(result, "timestamp", list, NAME, request)
    columns = [member(prices, name, list, NAME, request) for name in _COLUMNS]
    lengths = {name: len(column) for name, column in zip(("timestamp", *_COLUMNS), (times, *columns), strict=True)}
    if len(set(lengths.values())) != 1:
        raise failure(
            SourceFormatError,
            NAME,
            request,
            "the columns differ in length",
            lengths,
            next_step="Nothing says which rows belong together; ask again.",
        )
    return times, columns


def _add(page: Page, row: Sequence[Any], *, with_volume: bool, is_last: bool) -> None:
    time, open_, high, low, close, volume = row
    item = dict(zip(("timestamp", *_COLUMNS), row, strict=True))
    ts = None
    try:
        ts = unix_time(time)
        if open_ is None and high is None and low is None and close is None:
            page.reject(item, "Yahoo has no trade in this bar: every price is null", ts=ts)
            return
        values = bar_values(open_, high, low, close, volume if with_volume else None)
        # A bar opens on a full minute; the latest price carries the second in which it was made.
        page.add(ts, values, item, complete=not (is_last and ts % 60_000_000))
    except ValueError as error:
        page.reject(item, str(error), ts=ts)


def explanation(body: bytes) -> tuple[str, str] | None:
    """(code, description) of the error in an answer, None where there is none."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    for holder in ("chart", "finance"):
        try:
            error = answer[holder]["error"]
            return str(error["code"]), str(error["description"])
        except (KeyError, TypeError, IndexError):
            continue
    return None


def says_no_bars(body: bytes) -> bool:
    """Whether an answer only says that the range has no bars."""
    error = explanation(body)
    return error is not None and error[1].startswith(("Data doesn't exist", "No data found for this date range"))


def refusal(status: int, body: bytes, subject: Subject) -> ProviderError | None:
    """The error that Yahoo explains, whatever the status; None where there is none."""
    error = explanation(body)
    said = error_class(status)
    if error is None or status in KEY_STATUSES or (said is not None and said.transient):
        return None
    code, description = error
    if code == "Not Found" or description.startswith("No data found"):
        return failure(
            UnknownSymbolError,
            NAME,
            subject,
            "Yahoo does not know the symbol",
            description,
            next_step="Correct the table in nexus_assets/providers/spellings.py.",
        )
    return failure(
        PermanentProviderError,
        NAME,
        subject,
        f"Yahoo refuses it as {code}",
        description,
        next_step="Ask for another range, or another provider.",
    )


class YahooProvider(ApiProvider):
    """Charts of Yahoo Finance. There is no key and no quote with bid and ask."""

    name: str = NAME
    key_setting: ClassVar[str] = ""
    url: ClassVar[str] = URL
    timeframes: ClassVar[Mapping[str, str]] = INTERVALS

    def places(self, row: Spelling, timeframe: str) -> bool:
        """Daily bars of futures and indices are stamped with the day of their session, which opens earlier or later."""
        return timeframe != "1d" or row.instrument_kind == "spot"

    def available(self, symbol: str, timeframe: str) -> tuple[datetime, datetime] | None:
        """What Yahoo keeps of shorter bars; None for daily ones.

        Raises:
            UnknownSymbolError: Yahoo does not have the symbol or the timeframe.
        """
        self.spelled(symbol, timeframe)
        now = self._now()
        return (now - REACH[timeframe], now) if timeframe in REACH else None

    def calls(self, request: Request, now: datetime) -> list[Call]:
        return requests_for(request, now)

    def parse(self, body: bytes, request: Request, now: datetime) -> Page:
        return parse(body, request, now)

    def kinds(self, row: Spelling) -> Kinds:
        return Kinds("last", "contracts" if row.instrument_kind == "future" else "none", row.instrument_kind)

    def refusal(self, status: int, body: bytes, subject: Subject) -> ProviderError | None:
        return refusal(status, body, subject) if b'"error"' in body else None

    def no_data(self, status: int, body: bytes) -> bytes | None:
        return NO_BARS if says_no_bars(body) else None
