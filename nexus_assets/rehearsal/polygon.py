"""Polygon: aggregates (v2) and the last quote of a currency pair.

Sources, read 2026-11-21:
- https://polygon.io/docs/stocks/get_v2_aggs_ticker__stocksticker__range__multiplier___timespan___from___to
  (`limit` counts base aggregates: default 5,000, at most 50,000)
- https://polygon.io/blog/aggs-api-updates/ (hours are made of minutes: 60 of them count; no partial bar is returned)
- https://massive.com/docs/rest/forex/quotes/last-quote.md
- github.com/polygon-io/issues/issues/303 (the form of next_url: the start moved, a cursor of `limit` and `sort`)
- recorded responses (keys; a ticker without results has no `results`); errors as users report them; 5 calls a minute
  on the free plan: https://github.com/massive-com/client-python/pull/601

The bar that is not over is returned without a mark. A ticker that does not exist has no results, and no error.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd

from nexus_assets.rehearsal.dialogue import Answer, Question, as_json, whole_number
from nexus_assets.rehearsal.limits import RateLimit
from nexus_assets.rehearsal.prices import no_bars, trading_days
from nexus_assets.timeframes import minutes

MOST_BASE_BARS = 50_000
USUAL_BASE_BARS = 5_000
SPANS: Mapping[tuple[int, str], str] = {
    (1, "minute"): "1m",
    (5, "minute"): "5m",
    (15, "minute"): "15m",
    (1, "hour"): "1h",
    (4, "hour"): "4h",
    (1, "day"): "1d",
}
_TIMESPANS = ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
_AGGREGATES = re.compile(r"/v2/aggs/ticker/([^/]+)/range/(\d+)/([^/]+)/([^/]+)/([^/]+)")
_LAST_QUOTE = re.compile(r"/v1/last_quote/currencies/([^/]+)/([^/]+)")


class Polygon:
    """The API of one key."""

    name = "polygon"

    def __init__(self, names: Mapping[str, str], limits: tuple[RateLimit, ...] | None = None) -> None:
        """`names` holds the generic symbol of each of the API's names."""
        self._names = names
        self.limits = limits if limits is not None else (RateLimit(5, 60.0),)

    def refuse(self, question: Question, key: str) -> Answer | None:
        """401."""
        given = question.params.get("apiKey") or question.headers.get("authorization", "").removeprefix("Bearer ")
        if given == key:
            return None
        return _error(question, 401, "Unknown API Key" if given else "API Key was not provided")

    def key_place(self, question: Question) -> str:
        """The header `Authorization: Bearer <key>` or the query."""
        return "query" if "apiKey" in question.params else "header" if "authorization" in question.headers else ""

    def cost(self, question: Question, limit: RateLimit) -> int:
        """Every request counts one, pages too."""
        return 1

    def limited(self, limit: RateLimit, wait: float, used: int) -> Answer:
        """429."""
        text = (
            "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue. "
            "https://polygon.io/pricing"
        )
        return as_json({"status": "ERROR", "request_id": "", "error": text}, 429, Retry_After=str(max(1, round(wait))))

    def answer(self, question: Question) -> Answer:
        """Aggregates or a quote; 404 for anything else."""
        if (found := _AGGREGATES.fullmatch(question.path)) is not None:
            return self._aggregates(question, found)
        if (found := _LAST_QUOTE.fullmatch(question.path)) is not None:
            return self._last_quote(question, *found.groups())
        return as_json({"status": "NOT_FOUND", "request_id": _request_id(question), "message": "Not found."}, 404)

    def _aggregates(self, question: Question, found: re.Match[str]) -> Answer:
        ticker, multiplier, timespan, first, last = found.groups()
        params = {**question.params, **_cursor(question)}
        limit = whole_number(params.get("limit"), USUAL_BASE_BARS)
        if limit is None or not 1 <= limit <= MOST_BASE_BARS:
            text = f"The parameter 'limit' must be a number from 1 to {MOST_BASE_BARS}."
            return _error(question, 400, text, broke="page size")
        start, end = _instant(first, end=False), _instant(last, end=True)
        if timespan not in _TIMESPANS or start is None or end is None or start >= end:
            return _error(question, 400, "Could not parse the time range or the timespan of the request.")
        timeframe = SPANS.get((int(multiplier), timespan))
        symbol = self._names.get(ticker)
        bars, stamps = no_bars(), np.empty(0, "int64")
        if timeframe and symbol in question.prices.symbols():
            bars, stamps = _in_range(question, str(symbol), timeframe, start, end)
        descending = params.get("sort", "asc") == "desc"
        base = 1 if timespan == "day" else minutes(timeframe or "1m")
        size = max(1, limit // base)
        order = np.arange(len(bars))[::-1] if descending else np.arange(len(bars))
        page = order[:size]
        body: dict[str, object] = {
            "ticker": ticker,
            "queryCount": len(page) * base,
            "resultsCount": len(page),
            "adjusted": params.get("adjusted", "true").lower() != "false",
        }
        if len(page):
            body["results"] = _results(bars.iloc[page], stamps[page], with_volume=not ticker.startswith("I:"))
        body |= {"status": "OK", "request_id": _request_id(question), "count": len(page)}
        if len(order) > size:
            cursor = f"limit={limit}&sort={'desc' if descending else 'asc'}"
            borders = (first, str(stamps[order[size]])) if descending else (str(stamps[order[size]]), last)
            body["next_url"] = _next_url(question, f"{ticker}/range/{multiplier}/{timespan}", borders, cursor)
        return as_json(body)

    def _last_quote(self, question: Question, base: str, other: str) -> Answer:
        symbol = self._names.get(f"C:{base}{other}")
        quote = question.prices.quote(symbol) if symbol else None
        if quote is None:
            payload = {"status": "NOT_FOUND", "request_id": _request_id(question), "message": "Data not found."}
            return as_json(payload, 404)
        last = {
            "ask": round(quote.ask, 8),
            "bid": round(quote.bid, 8),
            "exchange": 48,
            "timestamp": int(quote.time.timestamp() * 1000),
        }
        payload = {"last": last, "request_id": _request_id(question), "status": "success", "symbol": f"{base}/{other}"}
        return as_json(payload)


def _cursor(question: Question) -> dict[str, str]:
    """What a next_url carries in place of the parameters of the first request."""
    text = question.params.get("cursor", "")
    try:
        return dict(parse_qsl(base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()))
    except ValueError:
        return {}


def _next_url(question: Question, middle: str, borders: tuple[str, str], cursor: str) -> str:
    encoded = base64.b64encode(cursor.encode()).decode().rstrip("=")
    return f"{question.base_url}/v2/aggs/ticker/{middle}/{'/'.join(borders)}?cursor={encoded}"


def _in_range(
    question: Question, symbol: str, timeframe: str, start: datetime, end: datetime
) -> tuple[pd.DataFrame, np.ndarray]:
    """The bars, and what the API prints as the time of each, in milliseconds: a day at its midnight, UTC."""
    if timeframe != "1d":
        bars = question.prices.bars(symbol, timeframe, start, end)
        return bars, bars["ts"].astype("int64").to_numpy() // 1000
    bars = question.prices.bars(symbol, timeframe, start - timedelta(days=1), end)
    stamps = pd.DatetimeIndex(trading_days(bars["ts"])).tz_localize("UTC").as_unit("ms").asi8
    inside = (stamps >= start.timestamp() * 1000) & (stamps < end.timestamp() * 1000)
    return bars.loc[inside], stamps[inside]


def _results(bars: pd.DataFrame, stamps: np.ndarray, *, with_volume: bool) -> list[dict[str, object]]:
    opens, highs, lows, closes = (bars[name].tolist() for name in ("open", "high", "low", "close"))
    volumes = bars["volume"].fillna(0).astype("int64").tolist()
    rows = []
    for o, h, low, c, v, t in zip(opens, highs, lows, closes, volumes, stamps.tolist(), strict=True):
        prices = {"o": o, "c": c, "h": h, "l": low, "t": t}
        rows.append({"v": v, "vw": round((h + low + c) / 3, 4), **prices, "n": v} if with_volume else prices)
    return rows


def _instant(text: str, *, end: bool) -> datetime | None:
    """A day or milliseconds. As an end: the instant after it, because both ends count."""
    if re.fullmatch(r"\d{10,}", text):
        instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(text))
        return instant + timedelta(milliseconds=1) if end else instant
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1 if end else 0)


def _request_id(question: Question) -> str:
    return hashlib.blake2b(str(question.number).encode(), digest_size=16).hexdigest()


def _error(question: Question, status: int, message: str, *, broke: str = "") -> Answer:
    payload = {"status": "ERROR", "request_id": _request_id(question), "error": message}
    return as_json(payload, status, broke=broke)
