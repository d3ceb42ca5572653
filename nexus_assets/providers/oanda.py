"""OANDA's v20 REST API: mid, bid and ask candles of currencies, metals and index CFDs.

Read 2026-11-21:

- https://developer.oanda.com/rest-live-v20/instrument-ep/ : GET /v3/instruments/{instrument}/candles with price,
  granularity, from, count (default 500, at most 5,000), includeFirst, dailyAlignment, alignmentTimezone.
- https://developer.oanda.com/rest-live-v20/instrument-df : a candle's `time` is its start, `volume` the number of
  prices in it, `complete` false while its end lies in the future. Candles without a price are not printed.
- https://developer.oanda.com/rest-live-v20/pricing-ep : GET /v3/accounts/{accountID}/pricing.
- https://developer.oanda.com/rest-live-v20/best-practices : at most 2 new connections and 100 requests a second.
- https://github.com/happydasch/btoandav20/issues/28 : `from` with `to` is refused where the range is longer than 5,000
  candles, closed hours included; so pages go by `from` and `count`, which only open hours use up.
- https://notebook.community/hootnot/oanda-api-v20/jupyter/historical : a page that starts in closed hours may be one
  candle shorter than `count` without being the last.

Times are printed as RFC 3339 or, where the client asks for it, as text of seconds since 1970; numbers are text. Prices
are never adjusted. The key goes into the Authorization header.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from pydantic import SecretStr

from nexus_assets import trading_calendar
from nexus_assets.errors import (
    PermanentProviderError,
    ProviderError,
    SourceFormatError,
    TransientProviderError,
    UnknownSymbolError,
)
from nexus_assets.instruments import PriceKind, instrument
from nexus_assets.providers.answers import (
    MISSING,
    Subject,
    bar_values,
    cell,
    check_symbol,
    datetime_of,
    failure,
    instant,
    member,
    number,
    read_json,
    utc_time,
)
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.interface import Request
from nexus_assets.providers.pages import Kinds, Page
from nexus_assets.providers.quotes import Quote
from nexus_assets.providers.spellings import Spelling, spelling
from nexus_assets.providers.transport import Call, Transport
from nexus_assets.timeframes import length

NAME = "oanda"
PRACTICE_URL = "https://api-fxpractice.oanda.com"
LIVE_URL = "https://api-fxtrade.oanda.com"
PAGE_CANDLES = 5_000
GRANULARITIES: Mapping[str, str] = {"1m": "M1", "5m": "M5", "15m": "M15", "1h": "H1", "4h": "H4", "1d": "D"}

_COMPONENTS: Mapping[str, str] = {"mid": "M", "bid": "B", "ask": "A"}
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)
_UNIX = re.compile(r"(-?\d{1,18})(?:\.(\d{1,9}))?", re.ASCII)


def requests_for(
    request: Request, now: datetime, pages: Sequence[Page] = (), *, price_kind: PriceKind = "mid"
) -> Call | None:
    """The next page of candles: the first without `pages`, None when the range is complete.

    A page begins after the last candle of the one before, and asks for as many as can still fit into the range, so
    that closed hours cost nothing. The last page is recognised by its end, by a page that is more than one candle
    short, or because the market is shut for the rest of the range.

    Raises:
        UnknownSymbolError: OANDA does not have the symbol.
    """
    end = min(request.end, now)
    start = _next_start(request, pages, end)
    if start is None or start >= end:
        return None
    granularity = GRANULARITIES[request.timeframe]
    params = {
        "price": "MBA" if price_kind == "mid" else _COMPONENTS[price_kind],
        "granularity": granularity,
        "from": f"{start:%Y-%m-%dT%H:%M:%S}.000000000Z",
        "count": str(_candles_between(request, start, end)),
    }
    if granularity in ("H4", "D"):
        params |= {"dailyAlignment": "17", "alignmentTimezone": "America/New_York"}
    return Call(f"/v3/instruments/{spelling(NAME, request.symbol).text}/candles", params)


def _candles_between(request: Request, start: datetime, end: datetime) -> int:
    return max(1, min(PAGE_CANDLES, -((start - end) // length(request.timeframe))))


def _next_start(request: Request, pages: Sequence[Page], end: datetime) -> datetime | None:
    if not pages:
        return request.start
    if not pages[-1].rows:
        return None
    start, asked_from = _reached(request, pages), _reached(request, pages[:-1])
    if start >= end or pages[-1].rows < _candles_between(request, asked_from, end) - 1:
        return None
    asset_class = instrument(request.symbol).asset_class
    opens = trading_calendar.bar_opens(request.timeframe, start, end)
    return start if trading_calendar.allowed(asset_class, opens, request.timeframe, NAME).any() else None


def _reached(request: Request, pages: Sequence[Page]) -> datetime:
    """The end of the last candle, the start of the range without one."""
    last_open = pages[-1].last_open if pages else None
    if last_open is None:
        return request.start
    return trading_calendar.bar_end(datetime_of(last_open), request.timeframe)[0].to_pydatetime()


def check_further(request: Request, pages: Sequence[Page]) -> None:
    """Refuse a page that would end the range too early, because it is an old one or its times cannot be read.

    Raises:
        TransientProviderError: its candles end before those that were asked for begin.
        SourceFormatError: the time of none of its candles can be read.
    """
    page, asked_from = pages[-1], _reached(request, pages[:-1])
    if page.rows and page.last_open is None:
        raise failure(
            SourceFormatError,
            NAME,
            request,
            f"the time of none of {page.rows:,} candles can be read",
            page.unusable[0].item if page.unusable else None,
            next_step="The API has changed; compare it with the documentation.",
        )
    if page.rows and _reached(request, pages) <= asked_from:
        raise failure(
            TransientProviderError,
            NAME,
            request,
            f"the answer from {asked_from:%Y-%m-%dT%H:%MZ} holds only earlier candles",
            page.items[-1] if page.items else None,
            next_step="A page was delivered twice, or a stale one; ask again.",
        )


def parse(body: bytes, request: Request, now: datetime, *, price_kind: PriceKind = "mid") -> Page:
    """The candles of an answer. The spread is that of the closes, where bid and ask are both printed.

    Raises:
        TransientProviderError: the body is no JSON, or an answer about another instrument or granularity.
        SourceFormatError: it is not a list of candles.
    """
    answer = read_json(body, NAME, request)
    candles = member(answer, "candles", list, NAME, request)
    # Some answers print DE30/EUR for DE30_EUR.
    name = answer.get("instrument")
    name = name.replace("/", "_") if isinstance(name, str) else name
    granularity = GRANULARITIES[request.timeframe]
    check_symbol(NAME, request, name, bars=answer.get("granularity"), expected_bars=granularity)
    page = Page(request, now)
    for candle in candles:
        ts = None
        try:
            ts = candle_time(cell(candle, "time"))
            page.add(ts, _values(candle, price_kind), candle, complete=_flag(cell(candle, "complete")))
        except ValueError as error:
            page.reject(candle, str(error), ts=ts)
    return page


def candle_time(value: Any) -> int:
    """`2016-10-17T19:35:00.000000000Z` or `1509126185.000000000` as microseconds since 1970 UTC.

    Raises:
        ValueError: it is neither, or not believable.
    """
    if isinstance(value, str):
        if match := _RFC3339.fullmatch(value):
            return utc_time(match[1]) + _micros(match[2])
        if match := _UNIX.fullmatch(value):
            return instant(int(match[1]) * 1_000_000 + _micros(match[2]))
    raise ValueError(f"the time {str(value)[:40]!r} cannot be read")


def _micros(fraction: str | None) -> int:
    return int((fraction or "0").ljust(6, "0")[:6])


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("'complete' is neither true nor false")
    return value


def _values(candle: Any, price_kind: PriceKind) -> tuple[float, ...]:
    prices = cell(candle, price_kind)
    spread = MISSING
    if "bid" in candle and "ask" in candle:
        # Rounded because the difference of two decimal fractions is not one.
        spread = number(round(number(cell(candle["ask"], "c")) - number(cell(candle["bid"], "c")), 9))
    open_, high, low, close = (cell(prices, letter) for letter in "ohlc")
    return bar_values(open_, high, low, close, candle.get("volume"), spread)


def parse_quote(body: bytes, symbol: str) -> Quote:
    """The best bid and ask of an answer to /pricing.

    Raises:
        TransientProviderError: the body is no JSON, or there is no price now.
        SourceFormatError: it is not a list of prices, or they are crossed.
    """
    subject = f"the quote of {symbol}"
    text = spelling(NAME, symbol).text
    for price in member(read_json(body, NAME, subject), "prices", list, NAME, subject):
        if member(price, "instrument", str, NAME, subject) != text:
            continue
        sides = [member(price, side, list, NAME, subject) for side in ("bids", "asks")]
        if not all(sides):
            raise failure(TransientProviderError, NAME, subject, "there is no bid or no ask now", price)
        try:
            # The first of each side is the best one.
            bid, ask = (number(cell(side[0], "price")) for side in sides)
            time = datetime_of(candle_time(cell(price, "time")))
        except ValueError as error:
            raise failure(SourceFormatError, NAME, subject, str(error), price) from None
        return Quote(symbol, bid, ask, (bid + ask) / 2, time)
    raise failure(TransientProviderError, NAME, subject, f"the answer has no price of {text}", body)


def refusal(status: int, body: bytes, subject: Subject) -> ProviderError | None:
    """The error that OANDA explains in `errorMessage`, None where it is left to the status."""
    if 200 <= status < 300 or b"instrument" not in body or status not in (400, 404):
        return None
    message = read_json(body, NAME, subject)
    text = message.get("errorMessage") if isinstance(message, dict) else None
    if not isinstance(text, str) or "instrument" not in text:
        return None
    return failure(
        UnknownSymbolError,
        NAME,
        subject,
        "OANDA does not know the instrument",
        text,
        next_step="The account's division may not offer it; take the symbol from another provider.",
    )


class OandaProvider(ApiProvider):
    """Candles and quotes of an account at OANDA, practice or live."""

    name: str = NAME
    key_setting: ClassVar[str] = "OANDA_API_KEY"
    url: ClassVar[str] = PRACTICE_URL
    timeframes: ClassVar[Mapping[str, str]] = GRANULARITIES

    def __init__(
        self,
        transport: Transport,
        key: SecretStr | None = None,
        *,
        account_id: SecretStr | None = None,
        price_kind: PriceKind = "mid",
        base_url: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`account_id` is needed for quotes only; `price_kind` is mid, bid or ask.

        Raises:
            PermanentProviderError: OANDA has no prices of that kind.
        """
        super().__init__(transport, key, base_url=base_url, now=now)
        if price_kind not in _COMPONENTS:
            raise PermanentProviderError(
                f"{NAME} has no {price_kind!r} prices.", next_step=f"Use one of {', '.join(_COMPONENTS)}."
            )
        self._price_kind: PriceKind = price_kind
        self._account_id = account_id

    def next_call(self, request: Request, now: datetime, pages: Sequence[Page]) -> Call | None:
        return requests_for(request, now, pages, price_kind=self._price_kind)

    def parse(self, body: bytes, request: Request, now: datetime) -> Page:
        return parse(body, request, now, price_kind=self._price_kind)

    def kinds(self, row: Spelling) -> Kinds:
        return Kinds(self._price_kind, "ticks", row.instrument_kind)

    def refusal(self, status: int, body: bytes, subject: Subject) -> ProviderError | None:
        return refusal(status, body, subject)

    def check_further(self, request: Request, pages: Sequence[Page]) -> None:
        check_further(request, pages)

    def authorisation(self) -> tuple[Mapping[str, SecretStr], Mapping[str, SecretStr]]:
        return {"Authorization": SecretStr(f"Bearer {self.key_value()}")}, {}

    def quote(self, symbol: str) -> Quote:
        """The latest bid and ask that the account sees.

        Raises:
            UnknownSymbolError: OANDA does not have the symbol.
            ProviderError: as for fetch; a PermanentProviderError without an account.
        """
        text = spelling(NAME, symbol).text
        if self._account_id is None:
            raise PermanentProviderError(
                f"{NAME} tells the quote of {symbol} only to an account.", next_step="Set OANDA_ACCOUNT_ID in .env."
            )
        path = f"/v3/accounts/{self._account_id.get_secret_value()}/pricing"
        call = Call(path, {"instruments": text})
        return self.ask(call, f"the quote of {symbol}", lambda body: parse_quote(body, symbol))
