"""Yahoo's chart API, version 8. It is not documented by its maker.

Sources, read 2026-11-21:
- recorded responses of https://query2.finance.yahoo.com/v8/finance/chart/... (keys; period2 is inclusive; no
  `timestamp` where there is no bar; volume of currencies is 0)
- the errors' texts as users report them: github.com/ranaroussi/yfinance/issues/636 (730 days), /issues/2902 (60 days),
  /pull/2903 (8 days of 1m a request), /issues/356 (1m within the last 30 days)

Where the market was shut the real API fills some times with nulls: here the first time after every gap has them. A
day that is not over is printed at the time of its last price, an unfinished shorter bar at its open.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from nexus_assets.rehearsal.dialogue import Answer, Question, as_json, as_text, whole_number
from nexus_assets.rehearsal.limits import RateLimit
from nexus_assets.rehearsal.prices import Quote, trading_days
from nexus_assets.timeframes import length

INTERVALS: Mapping[str, str] = {"1m": "1m", "5m": "5m", "15m": "15m", "60m": "1h", "1h": "1h", "4h": "4h", "1d": "1d"}
OLDEST: Mapping[str, int] = {"1m": 30, "5m": 60, "15m": 60, "1h": 730, "4h": 730}
"""Days back from now that bars of a timeframe can be asked for."""
MOST_MINUTE_DAYS = 8

_PATH = re.compile(r"/v8/finance/chart/([^/]+)")
_VALID = "1m, 2m, 5m, 15m, 30m, 60m, 90m, 1h, 4h, 1d, 5d, 1wk, 1mo, 3mo"
_RANGES = {"1d": 1, "5d": 5, "1mo": 31, "3mo": 92, "6mo": 183, "1y": 366, "2y": 731, "5y": 1827, "10y": 3653}
_KINDS = {"currency": ("CCY", "CURRENCY"), "future": ("CMX", "FUTURE"), "crypto": ("CCC", "CRYPTOCURRENCY")}
_KINDS["index"] = ("NIM", "INDEX")


class Yahoo:
    """The API. It needs no key."""

    name = "yahoo"

    def __init__(
        self,
        names: Mapping[str, str],
        limits: tuple[RateLimit, ...] | None = None,
        *,
        single_precision: bool = False,
    ) -> None:
        """`names` holds the generic symbol of each of the API's names. The real API keeps prices in single precision;
        `single_precision` does so too, at the price that they are no longer equal to those that went in."""
        self._names = names
        self._single = single_precision
        # Not published; users report some hundreds a minute before the first refusal.
        self.limits = limits if limits is not None else (RateLimit(200, 60.0),)

    def refuse(self, question: Question, key: str) -> Answer | None:
        """Everybody is served."""
        return None

    def key_place(self, question: Question) -> str:
        """There is no key."""
        return ""

    def cost(self, question: Question, limit: RateLimit) -> int:
        """Every request counts one."""
        return 1

    def limited(self, limit: RateLimit, wait: float, used: int) -> Answer:
        """429 with a line of text, and no word about when to come back."""
        return as_text("Too Many Requests\r\n", 429, "text/html")

    def answer(self, question: Question) -> Answer:
        """A chart; 404 for anything else."""
        found = _PATH.fullmatch(question.path)
        symbol = self._names.get(found[1]) if found else None
        if found is None or symbol is None or symbol not in question.prices.symbols():
            return _error(404, "Not Found", "No data found, symbol may be delisted")
        asked = question.params.get("interval", "1d")
        timeframe = INTERVALS.get(asked)
        if timeframe is None:
            message = f"Invalid input - interval={asked} is not supported. Valid intervals: [{_VALID}]"
            return _error(422, "Unprocessable Entity", message)
        span = _span(question)
        if span is None:
            return _error(422, "Unprocessable Entity", "Invalid input - start date or end date is not a number.")
        refused = _too_far(question, asked, timeframe, *span)
        return refused or self._chart(question, found[1], symbol, timeframe, span)

    def _chart(self, question: Question, name: str, symbol: str, timeframe: str, span: tuple[int, int]) -> Answer:
        zone = _zone(name)
        start, end = (datetime.fromtimestamp(second, UTC) for second in span)
        reach = timedelta(days=2) if timeframe == "1d" else timedelta(0)
        bars = question.prices.bars(symbol, timeframe, start - reach, end + timedelta(seconds=1))
        stamps = _stamps(bars, timeframe, zone, question.now)
        inside = (stamps >= span[0]) & (stamps <= span[1])
        stamps, bars = stamps[inside], bars.loc[inside]
        quote = question.prices.quote(symbol)
        meta = _meta(question, name, zone, timeframe, quote)
        indicators: dict[str, object] = {"quote": [{}]}
        result: dict[str, object] = {"meta": meta}
        if len(stamps):
            stamps, columns = _with_nulls(stamps, self._columns(bars, name), length(timeframe))
            result["timestamp"] = stamps
            indicators["quote"] = [columns]
            if timeframe == "1d":
                indicators["adjclose"] = [{"adjclose": columns["close"]}]
        return as_json({"chart": {"result": [{**result, "indicators": indicators}], "error": None}})

    def _columns(self, bars: pd.DataFrame, name: str) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        for key in ("open", "high", "low", "close"):
            values = bars[key].to_numpy(dtype="float64")
            columns[key] = (values.astype("float32").astype("float64") if self._single else values).tolist()
        volumes = bars["volume"].fillna(0).astype("int64").tolist()
        columns["volume"] = [0] * len(volumes) if name.endswith("=X") else volumes
        return columns


def _span(question: Question) -> tuple[int, int] | None:
    """First and last second; both count."""
    now = int(question.now.timestamp())
    if "period1" in question.params or "period2" in question.params:
        first, last = (whole_number(question.params.get(p), d) for p, d in (("period1", 0), ("period2", now)))
        return None if first is None or last is None else (first, last)
    days = _RANGES.get(question.params.get("range", "1d"), 366 * 40)
    return now - days * 86_400, now


def _too_far(question: Question, asked: str, timeframe: str, first: int, last: int) -> Answer | None:
    start = f"{asked} data not available for startTime={first} and endTime={last}."
    if timeframe == "1m" and last - first > MOST_MINUTE_DAYS * 86_400:
        more = f"Only {MOST_MINUTE_DAYS} days worth of 1m granularity data are allowed to be fetched per request."
        return _error(422, "Unprocessable Entity", f"{start} {more}", broke="range")
    days = OLDEST.get(timeframe)
    if days is not None and first < question.now.timestamp() - days * 86_400:
        more = f"The requested range must be within the last {days} days."
        return _error(422, "Unprocessable Entity", f"{start} {more}", broke="range")
    return None


def _zone(name: str) -> str:
    if name.endswith("=X"):
        return "Europe/London"
    return "America/New_York" if name.endswith("=F") or name.startswith("^") else "UTC"


def _stamps(bars: pd.DataFrame, timeframe: str, zone: str, now: datetime) -> np.ndarray:
    """What the API prints as the time of each bar, in seconds."""
    if timeframe != "1d":
        return bars["ts"].astype("int64").to_numpy() // 1_000_000
    midnights = pd.DatetimeIndex(trading_days(bars["ts"])).tz_localize(zone).tz_convert("UTC")
    stamps = midnights.as_unit("s").asi8.copy()
    if len(stamps) and not bars["complete"].iloc[-1]:
        stamps[-1] = int(now.timestamp())
    return stamps


def _with_nulls(
    stamps: np.ndarray, columns: dict[str, list[Any]], step: timedelta
) -> tuple[list[int], dict[str, list[Any]]]:
    """The first missing time of every gap, with nulls."""
    seconds = int(step.total_seconds())
    gaps = np.flatnonzero(np.diff(stamps) > 2 * seconds) + 1
    filled = np.insert(stamps, gaps, stamps[gaps - 1] + seconds).tolist()
    nulls = np.full(len(gaps), None)
    widened = {name: np.insert(np.array(values, dtype=object), gaps, nulls) for name, values in columns.items()}
    return filled, {name: values.tolist() for name, values in widened.items()}


def _meta(question: Question, name: str, zone: str, timeframe: str, quote: Quote | None) -> dict[str, object]:
    kind = "currency" if name.endswith("=X") else "future" if name.endswith("=F") else "crypto"
    exchange, instrument = _KINDS["index" if name.startswith("^") else kind]
    local = question.now.astimezone(ZoneInfo(zone))
    offset = int((local.utcoffset() or timedelta(0)).total_seconds())
    midnight = int(local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp())
    price = 0.0 if quote is None else (quote.bid + quote.ask) / 2
    times = {"pre": (midnight, midnight), "regular": (midnight, midnight + 86_340)}
    times["post"] = (midnight + 86_340, midnight + 86_340)
    short = local.tzname() or zone
    periods = {
        period: {"timezone": short, "start": start, "end": end, "gmtoffset": offset}
        for period, (start, end) in times.items()
    }
    meta: dict[str, object] = {
        "currency": "USD",
        "symbol": name,
        "exchangeName": exchange,
        "fullExchangeName": exchange,
        "instrumentType": instrument,
        "firstTradeDate": 1_070_236_800,
        "regularMarketTime": int((quote.time if quote else question.now).timestamp()),
        "hasPrePostMarketData": False,
        "gmtoffset": offset,
        "timezone": short,
        "exchangeTimezoneName": zone,
        "regularMarketPrice": price,
        "fiftyTwoWeekHigh": price,
        "fiftyTwoWeekLow": price,
        "regularMarketDayHigh": price,
        "regularMarketDayLow": price,
        "regularMarketVolume": 0,
        "longName": name,
        "shortName": name,
        "chartPreviousClose": price,
        "priceHint": 4 if kind == "currency" else 2,
        "currentTradingPeriod": periods,
        "dataGranularity": timeframe,
        "range": question.params.get("range", ""),
        "validRanges": [*_RANGES, "ytd", "max"],
    }
    return meta if timeframe == "1d" else {**meta, "previousClose": price, "scale": 3}


def _error(status: int, code: str, description: str, *, broke: str = "") -> Answer:
    return as_json(
        {"chart": {"result": None, "error": {"code": code, "description": description}}}, status, broke=broke
    )
