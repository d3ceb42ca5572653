"""EODHD: end-of-day, intraday and real-time prices.

Sources, read 2026-11-21:
- https://eodhd.com/financial-apis/intraday-historical-data-api (UTC; 1m, 5m, 1h; 120, 600 and 7,200 days a request)
- https://eodhd.com/financial-apis/api-for-historical-data-and-volumes and .../live-realtime-stocks-api
- https://eodhd.com/financial-apis/api-limits (1,000 requests a minute, 100,000 calls a day, intraday costs 5)
- the texts of its errors: `Unauthenticated` is recorded; `Ticker Not Found`, `You exceeded your daily API requests
  limit` as users report them. The shape of the answer to a range that is too long is not documented.

Bars of FX have no volume. Intraday data are printed without a word about whether the last bar is over.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

from nexus_assets.rehearsal.dialogue import Answer, Question, as_csv, as_json, as_text, whole_number
from nexus_assets.rehearsal.limits import RateLimit
from nexus_assets.rehearsal.prices import trading_days

LONGEST_RANGES: Mapping[str, timedelta] = {
    "1m": timedelta(days=120),
    "5m": timedelta(days=600),
    "1h": timedelta(days=7200),
}
_PATH = re.compile(r"(?:/api)?/(eod|intraday|real-time)/([^/]+)")
_INTRADAY_COST = 5


class Eodhd:
    """The API of one token."""

    name = "eodhd"

    def __init__(self, names: Mapping[str, str], limits: tuple[RateLimit, ...] | None = None) -> None:
        """`names` holds the generic symbol of each of the API's names."""
        self._names = names
        self.limits = limits if limits is not None else (RateLimit(1000, 60.0), RateLimit(100_000, 86_400.0, "day"))

    def refuse(self, question: Question, key: str) -> Answer | None:
        """401 and a word of text."""
        return None if question.params.get("api_token") == key else as_text("Unauthenticated", 401)

    def key_place(self, question: Question) -> str:
        """Only the query is possible."""
        return "query" if "api_token" in question.params else ""

    def cost(self, question: Question, limit: RateLimit) -> int:
        """The daily limit counts calls, of which a request for intraday bars costs five."""
        found = _PATH.fullmatch(question.path)
        return _INTRADAY_COST if limit.name == "day" and found and found[1] == "intraday" else 1

    def limited(self, limit: RateLimit, wait: float, used: int) -> Answer:
        """402 for the day, 429 for the minute."""
        if limit.name == "day":
            text = "You exceeded your daily API requests limit.  Please contact support@eodhistoricaldata.com"
            return as_text(text, 402)
        answer = as_text("Too Many Requests", 429)
        answer.headers |= {
            "Retry-After": str(max(1, round(wait))),
            "X-RateLimit-Limit": str(limit.units),
            "X-RateLimit-Remaining": "0",
        }
        return answer

    def answer(self, question: Question) -> Answer:
        """Bars or a price; 404 for anything else."""
        found = _PATH.fullmatch(question.path)
        if found is None:
            return as_text("Not Found", 404)
        what, name = found.groups()
        if what == "real-time":
            return self._real_time(question, name)
        symbol = self._names.get(name)
        if symbol is None or symbol not in question.prices.symbols():
            return as_text("Ticker Not Found.", 404)
        return self._intraday(question, symbol) if what == "intraday" else self._end_of_day(question, symbol)

    def _intraday(self, question: Question, symbol: str) -> Answer:
        interval = question.params.get("interval", "5m")
        if interval not in LONGEST_RANGES:
            return _invalid("interval", "The selected interval is invalid.")
        now = int(question.now.timestamp())
        last = whole_number(question.params.get("to"), now)
        first = whole_number(question.params.get("from"), (last or now) - 120 * 86_400)
        if first is None or last is None:
            return _invalid("from" if first is None else "to", "The value must be an integer.")
        if timedelta(seconds=last - first) > LONGEST_RANGES[interval]:
            days = LONGEST_RANGES[interval].days
            return _invalid("from", f"The maximum period for {interval} is {days} days.", broke="range")
        start, end = datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last + 1, UTC)
        bars = question.prices.bars(symbol, interval, start, end)
        stamps = _seconds(bars["ts"])
        rows = [
            (stamp, 0, f"{datetime.fromtimestamp(stamp, UTC):%Y-%m-%d %H:%M:%S}", *values)
            for stamp, values in zip(stamps, _values(bars), strict=True)
        ]
        names = ("timestamp", "gmtoffset", "datetime", "open", "high", "low", "close", "volume")
        return _written(question, names, rows)

    def _end_of_day(self, question: Question, symbol: str) -> Answer:
        if question.params.get("period", "d") != "d":
            return _invalid("period", "Only the period d is rehearsed.")
        first, last = _day(question.params.get("from"), date(1990, 1, 1)), _day(question.params.get("to"), date.max)
        if first is None or last is None:
            return _invalid("from" if first is None else "to", "The value does not match the format Y-m-d.")
        start = datetime(first.year, first.month, first.day, tzinfo=UTC) - timedelta(days=1)
        bars = question.prices.bars(symbol, "1d", start, question.now + timedelta(days=1))
        days = trading_days(bars["ts"])
        inside = ((days >= first) & (days <= last)).to_numpy()
        rows = [
            (day.isoformat(), *values[:4], values[3], values[4])
            for day, values in zip(days[inside], _values(bars.loc[inside]), strict=True)
        ]
        if question.params.get("order", "a") == "d":
            rows.reverse()
        return _written(question, ("date", "open", "high", "low", "close", "adjusted_close", "volume"), rows)

    def _real_time(self, question: Question, name: str) -> Answer:
        asked = [name, *(extra for extra in question.params.get("s", "").split(",") if extra)]
        found = [self._price(question, one) for one in asked]
        if question.params.get("fmt") == "json":
            return as_json(found if len(found) > 1 else found[0])
        return as_csv(tuple(found[0]), [tuple(one.values()) for one in found])

    def _price(self, question: Question, name: str) -> dict[str, object]:
        """A symbol that is not known is answered with `NA` throughout."""
        symbol = self._names.get(name)
        names = ("open", "high", "low", "close", "volume", "previousClose", "change", "change_p")
        quote = question.prices.quote(symbol) if symbol else None
        if symbol is None or quote is None:
            return {"code": name, "timestamp": "NA", "gmtoffset": 0, **dict.fromkeys(names, "NA")}
        days = question.prices.last_bars(symbol, "1d", question.now + timedelta(seconds=1), 2)
        close = (quote.bid + quote.ask) / 2
        day = days.iloc[-1] if len(days) else {"open": close, "high": close, "low": close}
        previous = float(days["close"].iloc[0]) if len(days) == 2 else close
        change = round(close - previous, 6)
        values = (*(float(day[c]) for c in names[:3]), close, 0, previous, change, round(100 * change / previous, 4))
        stamp = int(quote.time.timestamp())
        return {"code": name, "timestamp": stamp, "gmtoffset": 0, **dict(zip(names, values, strict=True))}


def _seconds(ts: pd.Series) -> list[int]:
    return (ts.astype("int64") // 1_000_000).tolist()


def _values(bars: pd.DataFrame) -> list[tuple[object, ...]]:
    """Prices as numbers, volume as an integer or None."""
    prices = [bars[name].tolist() for name in ("open", "high", "low", "close")]
    volumes = [None if np.isnan(v) else int(v) for v in bars["volume"]]
    return list(zip(*prices, volumes, strict=True))


def _written(question: Question, names: tuple[str, ...], rows: list[tuple[object, ...]]) -> Answer:
    if question.params.get("fmt", "csv") == "json":
        return as_json([dict(zip(names, row, strict=True)) for row in rows])
    return as_csv([name.capitalize() for name in names], rows)


def _invalid(name: str, message: str, *, broke: str = "") -> Answer:
    return as_json({"message": message, "errors": {name: [message]}}, 422, broke=broke)


def _day(text: str | None, default: date) -> date | None:
    if not text:
        return default
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
