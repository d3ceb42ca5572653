"""Polygon.io (since October 2025 Massive): aggregate bars of currencies, metals, indices and coins, and last quotes.

Read 2026-11-21:

- https://polygon.io/docs/forex/get_v1_indicators_macd__fxticker (the page of the whole forex API) : GET
  /v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{from}/{to}, from and to in milliseconds and inclusive; the key
  as `Authorization: Bearer`.
- https://polygon.io/blog/aggs-api-updates/ : `limit` (at most 50,000) counts the minutes or days that bars are made of;
  a bar that the limit cuts is left to the next page. `next_url` leads there.
- https://polygon.io/docs/forex/ws_forex_cas : bars of currencies are made of best bids and offers, not of trades, and
  where nothing was quoted there is no bar. Which side is not said, so they are declared `last`.
- https://polygon.io/docs/forex/get_v1_last_quote_currencies__from___to : bid, ask, milliseconds.
- https://aifinhub.io/articles/polygon-io-free-tier-limits-2026/ (not Polygon's own) : the new name; host and keys stay.

A recorded answer shows days of currencies opening at 00:00 UTC, and `v` equal to `n`: the volume counts ticks.
`adjusted=false` is asked for. A ticker that does not exist is answered like a range without bars.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

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
    datetime_of,
    failure,
    member,
    micros_of,
    number,
    read_json,
    too_many_requests,
    unix_time,
)
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.interface import Request
from nexus_assets.providers.pages import Kinds, Page, check_part
from nexus_assets.providers.quotes import Quote
from nexus_assets.providers.spellings import Spelling, spelling
from nexus_assets.providers.transport import Call

NAME = "polygon"
URL = "https://api.polygon.io"
LIMIT = 50_000
RANGES: Mapping[str, str] = {"1m": "1/minute", "5m": "5/minute", "15m": "15/minute", "1h": "1/hour", "1d": "1/day"}

_REFUSED = ("ERROR", "NOT_AUTHORIZED", "NOT_FOUND", "AUTH_ERROR")


def requests_for(request: Request, now: datetime, pages: Sequence[Page] = ()) -> Call | None:
    """The first page without `pages`, else the one that the last page leads to; None when it leads nowhere.

    Raises:
        UnknownSymbolError: Polygon does not have the symbol.
    """
    end = min(request.end, now)
    if not pages:
        if request.start >= end:
            return None
        # Bars that open in the last millisecond before the end are the last ones wanted.
        edges = f"{micros_of(request.start) // 1000}/{(micros_of(end) - 1) // 1000}"
        text = spelling(NAME, request.symbol).text
        return Call(
            f"/v2/aggs/ticker/{text}/range/{RANGES[request.timeframe]}/{edges}",
            {"adjusted": "false", "sort": "asc", "limit": str(LIMIT)},
        )
    page = pages[-1]
    if page.next_page is None:
        return None
    # The host of the link is ignored: the key goes where the settings say, and nowhere else.
    link = urlsplit(page.next_page)
    return Call(link.path, dict(parse_qsl(link.query)))


def check_further(request: Request, pages: Sequence[Page]) -> None:
    """Refuse a page that was delivered before, which would lead round in a circle or end the range too early.

    Raises:
        TransientProviderError: the last page leads where an earlier one led, its last bar is no later, or it holds
            bars of another range only.
    """
    check_part(NAME, pages[-1])
    seen = [page.next_page for page in pages if page.next_page is not None]
    opens = [page.last_open for page in pages if page.last_open is not None]
    if len(set(seen)) < len(seen) or any(later <= earlier for earlier, later in pairwise(opens)):
        raise failure(
            TransientProviderError,
            NAME,
            request,
            "a page of the answer repeats an earlier one",
            pages[-1].next_page,
            next_step="It was delivered twice, or is a stale one; ask again.",
        )


def parse(body: bytes, request: Request, now: datetime) -> Page:
    """The bars of a page.

    Raises:
        TransientProviderError: the body is no JSON, or about another ticker.
        SourceFormatError: it is no page of bars.
    """
    answer = read_json(body, NAME, request)
    status = member(answer, "status", str, NAME, request)
    check_symbol(NAME, request, answer.get("ticker"))
    page = Page(request, now)
    if answer.get("results") is None:
        if answer.get("resultsCount"):
            raise failure(SourceFormatError, NAME, request, f"the answer ({status}) counts bars but has none", answer)
        return page
    for bar in member(answer, "results", list, NAME, request):
        ts = None
        try:
            ts = unix_time(cell(bar, "t"), per_second=1000)
            open_, high, low, close = (cell(bar, letter) for letter in "ohlc")
            page.add(ts, bar_values(open_, high, low, close, _ticks(bar, request)), bar)
        except ValueError as error:
            page.reject(bar, str(error), ts=ts)
    link = answer.get("next_url")
    page.next_page = _link(link, request) if link is not None else None
    return page


def _link(link: Any, request: Request) -> str:
    try:
        parts = urlsplit(link) if isinstance(link, str) else None
    except ValueError:
        parts = None
    if parts is None or not parts.path.startswith("/v2/aggs/"):
        raise failure(
            SourceFormatError, NAME, request, "the link to the next page leads elsewhere", link, next_step="Ask again."
        )
    return f"{parts.path}?{parts.query}"


def _ticks(bar: Any, request: Request) -> Any:
    return bar.get("v") if spelling(NAME, request.symbol).text.startswith("C:") else None


def parse_quote(body: bytes, symbol: str) -> Quote:
    """The last bid and ask of a pair.

    Raises:
        TransientProviderError: the body is no JSON, or about another pair.
        SourceFormatError: it is no quote, or a crossed one.
    """
    subject = f"the quote of {symbol}"
    answer = read_json(body, NAME, subject)
    last = member(answer, "last", dict, NAME, subject)
    if answer.get("symbol", _pair(symbol)) != _pair(symbol):
        raise failure(TransientProviderError, NAME, subject, "the answer is about something else", answer)
    try:
        bid, ask = number(cell(last, "bid")), number(cell(last, "ask"))
        time = datetime_of(unix_time(cell(last, "timestamp"), per_second=1000))
    except ValueError as error:
        raise failure(SourceFormatError, NAME, subject, str(error), last) from None
    return Quote(symbol, bid, ask, (bid + ask) / 2, time)


def _pair(symbol: str) -> str:
    return f"{symbol[:3]}/{symbol[3:]}"


def refusal(status: int, body: bytes, subject: Subject) -> ProviderError | None:
    """The error that an answer with status 200 holds; None where there is none, or where the status says enough."""
    if status != 200:
        return None
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict) or answer.get("status") not in _REFUSED:
        return None
    text = str(answer.get("error") or answer.get("message") or answer)
    if "exceeded" in text:
        return too_many_requests(NAME, subject, text, next_step="Wait a minute.")
    fact = f"Polygon refuses it as {answer['status']}"
    hint = "Check POLYGON_API_KEY and its plan."
    return failure(PermanentProviderError, NAME, subject, fact, text, next_step=hint)


class PolygonProvider(ApiProvider):
    """Aggregates and last quotes of Polygon.io."""

    name: str = NAME
    key_setting: ClassVar[str] = "POLYGON_API_KEY"
    url: ClassVar[str] = URL
    timeframes: ClassVar[Mapping[str, str]] = RANGES

    def places(self, row: Spelling, timeframe: str) -> bool:
        """Daily bars of indices are stamped with midnight in New York, which is not when they open."""
        return timeframe != "1d" or row.instrument_kind == "spot"

    def next_call(self, request: Request, now: datetime, pages: Sequence[Page]) -> Call | None:
        return requests_for(request, now, pages)

    def parse(self, body: bytes, request: Request, now: datetime) -> Page:
        return parse(body, request, now)

    def kinds(self, row: Spelling) -> Kinds:
        return Kinds("last", "ticks" if row.text.startswith("C:") else "none", row.instrument_kind)

    def refusal(self, status: int, body: bytes, subject: Subject) -> ProviderError | None:
        return refusal(status, body, subject)

    def check_further(self, request: Request, pages: Sequence[Page]) -> None:
        check_further(request, pages)

    def authorisation(self) -> tuple[Mapping[str, SecretStr], Mapping[str, SecretStr]]:
        return {"Authorization": SecretStr(f"Bearer {self.key_value()}")}, {}

    def quote(self, symbol: str) -> Quote:
        """The last bid and ask of a pair of currencies or a metal.

        Raises:
            UnknownSymbolError: Polygon does not have the symbol, or has no quotes of it.
            ProviderError: as for fetch.
        """
        if not spelling(NAME, symbol).text.startswith("C:"):
            raise UnknownSymbolError(
                f"{NAME} has quotes of currencies and metals only, not of {symbol}.", next_step="Ask oanda for it."
            )
        call = Call(f"/v1/last_quote/currencies/{_pair(symbol)}")
        return self.ask(call, f"the quote of {symbol}", lambda body: parse_quote(body, symbol))
