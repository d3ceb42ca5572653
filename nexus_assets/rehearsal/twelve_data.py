"""Twelve Data: time_series and quote.

Sources, read 2026-11-21:
- https://twelvedata.com/docs/llms/market-data/quote.md and .../time-series-cross.md (parameters, credits)
- https://support.twelvedata.com/en/articles/5214728-getting-historical-data (start_date, end_date, at most 5,000)
- github.com/twelvedata/twelvedata-python/issues/75 (pages: move end_date back)
- recorded responses (keys, order newest first) and errors; `You have run out of API credits` and `No data is available
  on the specified dates` as users report them

Errors are bodies with `status: error` and a `code`; users saw them with status 200 and with that code, so both can be
rehearsed. The zone of currencies is UTC unless another is asked for. end_date counts, except for days.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pandas as pd

from nexus_assets.instruments import INSTRUMENTS, Instrument
from nexus_assets.rehearsal.dialogue import Answer, Question, as_csv, as_json, decimals, price_texts, whole_number
from nexus_assets.rehearsal.limits import RateLimit
from nexus_assets.rehearsal.prices import trading_days

MOST_POINTS = 5000
USUAL_POINTS = 30
INTERVALS: Mapping[str, str] = {
    "1min": "1m", "5min": "5m", "15min": "15m", "1h": "1h", "4h": "4h", "1day": "1d",
}  # fmt: skip
_SUPPORTED = "1min, 5min, 15min, 30min, 45min, 1h, 2h, 4h, 8h, 1day, 1week, 1month"
_BY_SYMBOL: Mapping[str, Instrument] = {item.symbol: item for item in INSTRUMENTS}
_NO_KEY = (
    "**apikey** parameter is incorrect or not specified. You can get your free API Key instantly following this link: "
    "https://twelvedata.com/apikey. If you believe that everything is correct, you can email us at "
    "apikey@twelvedata.com"
)


class TwelveData:
    """The API of one key."""

    name = "twelve_data"

    def __init__(
        self,
        names: Mapping[str, str],
        limits: tuple[RateLimit, ...] | None = None,
        *,
        error_statuses: bool = False,
    ) -> None:
        """`names` holds the generic symbol of each of the API's names. With `error_statuses` an error comes with its
        code as HTTP status, else with 200."""
        self._names = names
        self._error_statuses = error_statuses
        self.limits = limits if limits is not None else (RateLimit(8, 60.0), RateLimit(800, 86_400.0, "day"))

    def refuse(self, question: Question, key: str) -> Answer | None:
        """401 in the body."""
        given = question.params.get("apikey") or question.headers.get("authorization", "").removeprefix("apikey ")
        return None if given == key else self._error(401, _NO_KEY)

    def key_place(self, question: Question) -> str:
        """The header `Authorization: apikey <key>` or the query."""
        return "query" if "apikey" in question.params else "header" if "authorization" in question.headers else ""

    def cost(self, question: Question, limit: RateLimit) -> int:
        """A credit for every symbol."""
        return len(question.params.get("symbol", "").split(","))

    def limited(self, limit: RateLimit, wait: float, used: int) -> Answer:
        """429 in the body."""
        text = (
            f"You have run out of API credits for the {_PERIODS.get(limit.name, limit.name)}. {used} API credits were "
            f"used, with the current limit being {limit.units}. Wait for the next {limit.name} or consider switching "
            "to a higher tier plan at https://twelvedata.com/pricing"
        )
        return self._error(429, text)

    def answer(self, question: Question) -> Answer:
        """A series or a quote per symbol: alone, or by name where several were asked for."""
        if question.path not in ("/time_series", "/quote"):
            return self._error(404, "The requested endpoint does not exist.")
        one = self._series if question.path == "/time_series" else self._quote
        asked = question.params.get("symbol", "").split(",")
        if len(asked) == 1:
            return one(question, asked[0])
        bodies = {name: one(question, name).body for name in asked}
        return Answer(b"{" + b",".join(b'"%s":%s' % (name.encode(), body) for name, body in bodies.items()) + b"}")

    def _error(self, code: int, message: str, meta: dict[str, str] | None = None, *, broke: str = "") -> Answer:
        body: dict[str, object] = {"code": code, "message": message, "status": "error"}
        if meta:
            body["meta"] = meta
        return as_json(body, code if self._error_statuses else 200, broke=broke)

    def _unknown(self, name: str) -> Answer:
        return self._error(
            404, f"**symbol** not found: {name}. Please specify it correctly according to API Documentation."
        )

    def _series(self, question: Question, name: str) -> Answer:
        params, symbol = question.params, self._names.get(name)
        if symbol is None or symbol not in question.prices.symbols():
            return self._unknown(name)
        interval = params.get("interval", "")
        meta = {"symbol": name, "interval": interval, "exchange": ""}
        if interval not in INTERVALS:
            text = f"Invalid **interval** provided: {interval}. Supported intervals: {_SUPPORTED}"
            return self._error(400, text, meta)
        dated = "start_date" in params or "end_date" in params
        points = whole_number(params.get("outputsize"), MOST_POINTS if dated else USUAL_POINTS)
        if points is None or not 1 <= points <= MOST_POINTS:
            text = f"Invalid **outputsize** provided: {params['outputsize']}. Supported range: from 1 to {MOST_POINTS}"
            return self._error(400, text, meta, broke="page size")
        zone = _zone(params.get("timezone", "Exchange"))
        if zone is None:
            return self._error(400, f"Invalid **timezone** provided: {params['timezone']}.", meta)
        bars = _chosen(question, symbol, INTERVALS[interval], zone, points)
        if bars is None:
            return self._error(400, "Invalid **start_date** or **end_date** provided.", meta)
        if len(bars) == 0:
            text = "No data is available on the specified dates. Try setting different start/end dates."
            return self._error(400, text, meta)
        return _written(question, name, _BY_SYMBOL[symbol], interval, zone, bars)

    def _quote(self, question: Question, name: str) -> Answer:
        symbol = self._names.get(name)
        quote = question.prices.quote(symbol) if symbol else None
        if symbol is None or quote is None:
            return self._unknown(name)
        item = _BY_SYMBOL[symbol]
        days = question.prices.last_bars(symbol, "1d", question.now + timedelta(seconds=1), 2)
        close = (quote.bid + quote.ask) / 2
        day = {n: float(days[n].iloc[-1]) if len(days) else close for n in ("open", "high", "low")}
        previous = float(days["close"].iloc[0]) if len(days) == 2 else close
        written = {n: decimals(round(v, item.digits), item.digits) for n, v in {**day, "close": close}.items()}
        return as_json(
            {
                "symbol": name,
                "name": item.description,
                "exchange": "Forex",
                "datetime": f"{quote.time:%Y-%m-%d}",
                "timestamp": int(quote.time.timestamp()),
                "last_quote_at": int(quote.time.timestamp()),
                **written,
                "previous_close": decimals(round(previous, item.digits), item.digits),
                "change": decimals(round(close - previous, item.digits), item.digits),
                "percent_change": f"{100 * (close - previous) / previous:.5f}",
                "is_market_open": quote.fresh,
                "fifty_two_week": {"low": written["low"], "high": written["high"]},
            }
        )


_PERIODS = {"minute": "current minute", "day": "day"}


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo("UTC" if name in ("Exchange", "UTC") else name)
    except (ZoneInfoNotFoundError, ValueError):
        return None


def _chosen(question: Question, symbol: str, timeframe: str, zone: ZoneInfo, points: int) -> pd.DataFrame | None:
    """The newest `points` bars of the dates; None where a date cannot be read."""
    prices, params = question.prices, question.params
    start, end = (_instant(params.get(name), zone) for name in ("start_date", "end_date"))
    if start is False or end is False:
        return None
    daily = timeframe == "1d"
    after = question.now + timedelta(seconds=1)
    if isinstance(end, datetime):
        # A day is called after its end, which is up to a day after its open.
        after = min(after, end if daily else end + timedelta(microseconds=1))
    if not isinstance(start, datetime):
        bars = prices.last_bars(symbol, timeframe, after, points)
    else:
        bars = prices.bars(symbol, timeframe, start - timedelta(days=2 if daily else 0), after)
    if daily:
        days = pd.Series(pd.DatetimeIndex(trading_days(bars["ts"])).tz_localize(zone), index=bars.index)
        keep = days >= pd.Timestamp(start) if isinstance(start, datetime) else days == days
        bars = bars.loc[(keep & (days < pd.Timestamp(end)) if isinstance(end, datetime) else keep).to_numpy()]
    return bars.iloc[max(0, len(bars) - points) :]


def _instant(text: str | None, zone: ZoneInfo) -> datetime | bool | None:
    """None where it is missing, False where it cannot be read."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)
    except ValueError:
        return False


def _written(
    question: Question, name: str, item: Instrument, interval: str, zone: ZoneInfo, bars: pd.DataFrame
) -> Answer:
    if interval == "1day":
        times = [day.isoformat() for day in trading_days(bars["ts"])]
    else:
        times = bars["ts"].dt.tz_convert(zone).dt.strftime("%Y-%m-%d %H:%M:%S").tolist()
    columns = [times, *(price_texts(bars[n].tolist(), item.digits) for n in ("open", "high", "low", "close"))]
    names = ["datetime", "open", "high", "low", "close"]
    if item.asset_class == "index":
        names.append("volume")
        columns.append([str(int(v)) for v in bars["volume"].fillna(0)])
    rows = list(zip(*columns, strict=True))
    if question.params.get("order", "desc").lower() != "asc":
        rows.reverse()
    if question.params.get("format", "JSON").upper() == "CSV":
        return as_csv(names, rows, question.params.get("delimiter", ";"))
    meta = {"symbol": name, "interval": interval}
    if item.asset_class == "index":
        meta |= {"currency": "USD", "exchange_timezone": "America/New_York", "exchange": "INDEX", "type": "Index"}
    else:
        base, quote = name.split("/")
        meta |= {"currency_base": base, "currency_quote": quote, "type": "Physical Currency"}
    values = [dict(zip(names, row, strict=True)) for row in rows]
    return as_json({"meta": meta, "values": values, "status": "ok"})
