"""Alpha Vantage: bars and quotes of currencies.

Read 2026-11-21:

- https://www.alphavantage.co/documentation/ : GET /query with function FX_INTRADAY (1min to 60min) or FX_DAILY,
  from_symbol, to_symbol, outputsize (compact: the latest 100 bars; full: all that is kept); CURRENCY_EXCHANGE_RATE.
  There is no start, no end and no header for the key.
- https://www.fintut.com/alpha-vantage-api-limits/ (not Alpha Vantage's own) : too many requests are answered with
  status 200 and a `Note`; newer answers use `Information`, also for premium functions. Wrong calls and unknown pairs
  share one `Error Message`.
- recorded answers of https://github.com/twopirllc/AlphaVantageAPI and https://github.com/portfoliotree/alphavantage :
  times are those of the zone that `Meta Data` names, UTC for currencies and US/Eastern for shares; newest first.

Some messages repeat the key. Whether prices are bid, ask or mid is not documented: they are declared `last`. How far
`full` reaches back is not documented either: where bars are missing between the start of the range and the first row
of the answer, the range is refused instead of being called empty. Nothing is adjusted; there is no volume.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import numpy as np
import orjson
import pandas as pd
from pydantic import SecretStr

from nexus_assets import trading_calendar
from nexus_assets.errors import (
    PermanentProviderError,
    ProviderError,
    SettingsError,
    SourceFormatError,
    TransientProviderError,
    UnknownSymbolError,
)
from nexus_assets.instruments import instrument
from nexus_assets.providers.answers import (
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
    too_many_requests,
    wall_time,
)
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.interface import Request
from nexus_assets.providers.pages import Kinds, Page
from nexus_assets.providers.quotes import Quote
from nexus_assets.providers.spellings import Spelling, spelling
from nexus_assets.providers.time_zones import zone
from nexus_assets.providers.transport import Call
from nexus_assets.timeframes import length

NAME = "alpha_vantage"
URL = "https://www.alphavantage.co"
COMPACT_BARS = 100
INTERVALS: Mapping[str, str] = {"1m": "1min", "5m": "5min", "15m": "15min", "1h": "60min", "1d": "Daily"}

_PRICES = ("1. open", "2. high", "3. low", "4. close")
_BUSY = ("rate limit", "call frequency", "requests per day", "requests per minute", "per second", "call volume")
_READ_WHOLE_DAYS = 24
"""Hours of open market that must be missing before a missing day is noticed: days begin and end inside weekends."""


def requests_for(request: Request, now: datetime) -> list[Call]:
    """One request, as there is no choice of a range; none for a range that is empty or in the future.

    Raises:
        UnknownSymbolError: Alpha Vantage does not have the symbol.
    """
    base, quote = spelling(NAME, request.symbol).text.split("/")
    if request.start >= min(request.end, now):
        return []
    pair = {"from_symbol": base, "to_symbol": quote}
    # Weekends only make fewer bars.
    is_recent = now - request.start < COMPACT_BARS * length(request.timeframe)
    size = {"outputsize": "compact" if is_recent else "full"}
    if request.timeframe == "1d":
        return [Call("/query", {"function": "FX_DAILY", **pair, **size})]
    interval = {"interval": INTERVALS[request.timeframe]}
    return [Call("/query", {"function": "FX_INTRADAY", **pair, **interval, **size})]


def parse(body: bytes, request: Request, now: datetime) -> Page:
    """The rows of a time series.

    Raises:
        TransientProviderError: the body is no JSON, has nothing in it, or is about another pair or interval.
        SourceFormatError: it is no time series, or its zone is unknown.
    """
    answer = read_json(body, NAME, request)
    if answer == {}:
        raise failure(TransientProviderError, NAME, request, "the answer has nothing in it", body)
    meta = member(answer, "Meta Data", dict, NAME, request)
    _check_meta(meta, request)
    rows = member(answer, f"Time Series FX ({INTERVALS[request.timeframe]})", dict, NAME, request)
    texts = list(rows)
    if len(texts) > 1 and texts[0] > texts[-1]:
        texts.reverse()
    page = Page(request, now)
    for text, (ts, why) in zip(texts, _utc(texts, _tagged(meta, "Time Zone"), request), strict=True):
        item = {"time": text, "row": rows[text]}
        if why:
            page.reject(item, why)
            continue
        try:
            open_, high, low, close = (cell(rows[text], name) for name in _PRICES)
            page.add(instant(ts), bar_values(open_, high, low, close), item)
        except ValueError as error:
            page.reject(item, str(error))
    return page


def _utc(texts: Sequence[str], zone_text: Any, subject: Subject) -> list[tuple[int, str]]:
    """(microseconds since 1970 UTC, why it cannot be told or nothing) of each wall time, in ascending order."""
    try:
        clock = zone(zone_text if isinstance(zone_text, str) else "")
    except SettingsError:
        raise failure(
            SourceFormatError,
            NAME,
            subject,
            "the zone of the answer's times is unknown",
            zone_text,
            next_step="Without it no row can be placed in time.",
        ) from None
    walls, reasons = [], []
    for text in texts:
        try:
            walls.append(np.datetime64(wall_time(text), "us"))
            reasons.append("")
        except ValueError as error:
            walls.append(np.datetime64("NaT", "us"))
            reasons.append(str(error))
    index, unclear = clock.to_utc(pd.DatetimeIndex(np.array(walls, dtype="datetime64[us]")))
    reasons = [mine or theirs for mine, theirs in zip(reasons, unclear, strict=True)]
    return list(zip(index.as_unit("us").asi8.tolist(), reasons, strict=True))


def _tagged(meta: Any, tag: str) -> Any:
    """The value of `7. Time Zone`, whose number differs between functions."""
    return next((value for name, value in meta.items() if name.partition(". ")[2] == tag), None)


def _check_meta(meta: Any, request: Request) -> None:
    pair = f"{_tagged(meta, 'From Symbol')}/{_tagged(meta, 'To Symbol')}"
    interval = _tagged(meta, "Interval") or INTERVALS["1d"]
    check_symbol(NAME, request, pair, bars=interval, expected_bars=INTERVALS[request.timeframe])


def parse_quote(body: bytes, symbol: str) -> Quote:
    """The bid and ask of an answer to CURRENCY_EXCHANGE_RATE.

    Raises:
        TransientProviderError: the body is no JSON, or about another pair.
        SourceFormatError: it is no quote, or a crossed one.
    """
    subject = f"the quote of {symbol}"
    rate = member(read_json(body, NAME, subject), "Realtime Currency Exchange Rate", dict, NAME, subject)
    pair = f"{_tagged(rate, 'From_Currency Code')}/{_tagged(rate, 'To_Currency Code')}"
    if pair != spelling(NAME, symbol).text:
        raise failure(TransientProviderError, NAME, subject, "the answer is about something else", pair)
    ((ts, why),) = _utc([str(_tagged(rate, "Last Refreshed"))], _tagged(rate, "Time Zone"), subject)
    try:
        bid, ask = number(_tagged(rate, "Bid Price")), number(_tagged(rate, "Ask Price"))
    except ValueError as error:
        raise failure(SourceFormatError, NAME, subject, str(error), rate) from None
    if why:
        raise failure(SourceFormatError, NAME, subject, why, rate)
    return Quote(symbol, bid, ask, (bid + ask) / 2, datetime_of(ts))


def refusal(status: int, body: bytes, subject: Subject) -> ProviderError | None:
    """The error that an answer with status 200 holds; None where there is none."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict):
        return None
    if "Note" in answer or "Information" in answer:
        text = str(answer.get("Note") or answer.get("Information"))
        if "Note" in answer or any(word in text.lower() for word in _BUSY):
            return too_many_requests(NAME, subject, text, next_step="Wait, or use another plan.")
        return failure(
            PermanentProviderError,
            NAME,
            subject,
            "the key does not allow it",
            text,
            next_step="Check ALPHAVANTAGE_API_KEY and its plan.",
        )
    if "Error Message" not in answer:
        return None
    text = str(answer["Error Message"])
    if "apikey" in text:
        return failure(
            PermanentProviderError, NAME, subject, "the key is wrong", text, next_step="Check ALPHAVANTAGE_API_KEY."
        )
    return failure(
        UnknownSymbolError,
        NAME,
        subject,
        "Alpha Vantage does not know the pair",
        text,
        next_step="Take it from another provider.",
    )


def check_reach(request: Request, pages: Sequence[Page]) -> None:
    """Refuse a range that begins before the answer does, unless the market was shut in between.

    Raises:
        PermanentProviderError: the answer does not reach back to the start of the range.
    """
    firsts = [page.first_open for page in pages if page.first_open is not None]
    if not firsts:
        return
    first = datetime_of(min(firsts))
    if first <= request.start:
        return
    step, fewest = ("1h", _READ_WHOLE_DAYS) if request.timeframe == "1d" else (request.timeframe, 1)
    asset_class = instrument(request.symbol).asset_class
    missing = trading_calendar.expected(asset_class, request.start, min(first, request.end), step)
    if len(missing) >= fewest:
        raise failure(
            PermanentProviderError,
            NAME,
            request,
            f"its answer begins at {first:%Y-%m-%dT%H:%MZ} and does not reach back to the start",
            next_step="Ask for a later range, or another provider.",
        )


class AlphaVantageProvider(ApiProvider):
    """Currencies of Alpha Vantage."""

    name: str = NAME
    key_setting: ClassVar[str] = "ALPHAVANTAGE_API_KEY"
    url: ClassVar[str] = URL
    timeframes: ClassVar[Mapping[str, str]] = INTERVALS

    def calls(self, request: Request, now: datetime) -> list[Call]:
        return requests_for(request, now)

    def parse(self, body: bytes, request: Request, now: datetime) -> Page:
        return parse(body, request, now)

    def kinds(self, row: Spelling) -> Kinds:
        return Kinds("last", "none", row.instrument_kind)

    def refusal(self, status: int, body: bytes, subject: Subject) -> ProviderError | None:
        return refusal(status, body, subject) if 200 <= status < 300 else None

    def check_reach(self, request: Request, now: datetime, pages: Sequence[Page]) -> None:
        check_reach(request, pages)

    def authorisation(self) -> tuple[Mapping[str, SecretStr], Mapping[str, SecretStr]]:
        return {}, {"apikey": SecretStr(self.key_value())}

    def quote(self, symbol: str) -> Quote:
        """The latest bid and ask.

        Raises:
            UnknownSymbolError: Alpha Vantage does not have the symbol.
            ProviderError: as for fetch.
        """
        base, quote = spelling(NAME, symbol).text.split("/")
        call = Call("/query", {"function": "CURRENCY_EXCHANGE_RATE", "from_currency": base, "to_currency": quote})
        return self.ask(call, f"the quote of {symbol}", lambda body: parse_quote(body, symbol))
