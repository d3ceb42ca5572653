"""Alpha Vantage: FX_INTRADAY, FX_DAILY and CURRENCY_EXCHANGE_RATE.

Sources, read 2026-11-21:
- https://www.alphavantage.co/documentation/#fx (parameters; compact is the newest 100 points, full all of them)
- recorded responses of these three functions (keys, order newest first, times in UTC)
- its errors, all with status 200: github.com/finance-quote/finance-quote/pull/104 (`Note`, 5 a minute),
  github.com/beancount/beanprice/issues/124 (`Information`, 25 a day),
  github.com/RomelTorres/alpha_vantage/issues/289 (`Error Message`), and a recorded one of the demo key

How far back `full` reaches for intraday bars is not documented; here it is 30 days.
"""

from collections.abc import Mapping
from datetime import timedelta

import pandas as pd

from nexus_assets.instruments import INSTRUMENTS
from nexus_assets.rehearsal.dialogue import Answer, Question, as_csv, as_json, decimals, price_texts
from nexus_assets.rehearsal.limits import RateLimit
from nexus_assets.rehearsal.prices import trading_days

COMPACT = 100
FULL_INTRADAY = timedelta(days=30)
INTERVALS: Mapping[str, str] = {"1min": "1m", "5min": "5m", "15min": "15m", "60min": "1h"}
_DIGITS = {item.symbol: item.digits for item in INSTRUMENTS}
_DEMO = (
    "The **demo** API key is for demo purposes only. Please claim your free API key at "
    "(https://www.alphavantage.co/support/#api-key) to explore our full API offerings. It takes fewer than 20 seconds."
)
_NO_KEY = (
    "the parameter apikey is invalid or missing. Please claim your free API key on "
    "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."
)
_MINUTE = (
    "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and 500 calls per day. "
    "Please visit https://www.alphavantage.co/premium/ if you would like to target a higher API call frequency."
)
_DAY = (
    "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more sparingly. You may "
    "subscribe to any of the premium plans at https://www.alphavantage.co/premium/ to lift the free key rate limit "
    "(25 requests per day) and instantly unlock all premium endpoints"
)


class AlphaVantage:
    """The API of one key."""

    name = "alpha_vantage"

    def __init__(self, names: Mapping[str, str], limits: tuple[RateLimit, ...] | None = None) -> None:
        """`names` holds the generic symbol of each pair, written `EUR/USD`."""
        self._names = names
        self.limits = limits if limits is not None else (RateLimit(5, 60.0), RateLimit(25, 86_400.0, "day"))

    def refuse(self, question: Question, key: str) -> Answer | None:
        """Status 200 all the same."""
        given = question.params.get("apikey")
        if given == key:
            return None
        return as_json({"Information": _DEMO} if given == "demo" else {"Error Message": _NO_KEY})

    def key_place(self, question: Question) -> str:
        """Only the query is possible."""
        return "query" if "apikey" in question.params else ""

    def cost(self, question: Question, limit: RateLimit) -> int:
        """Every request counts one."""
        return 1

    def limited(self, limit: RateLimit, wait: float, used: int) -> Answer:
        """Status 200: a Note for the minute, an Information for the day."""
        return as_json({"Information": _DAY} if limit.name == "day" else {"Note": _MINUTE})

    def answer(self, question: Question) -> Answer:
        """What the parameter `function` names."""
        function = question.params.get("function", "")
        answers = {
            "FX_INTRADAY": self._intraday,
            "FX_DAILY": self._daily,
            "CURRENCY_EXCHANGE_RATE": self._exchange_rate,
        }
        if question.path != "/query" or function not in answers:
            message = f"This API function ({function}) does not exist."
            return as_json({"Error Message": message}, 200 if question.path == "/query" else 404)
        return answers[function](question) or _invalid(function)

    def _symbol(self, question: Question, base: str, quote: str) -> str | None:
        symbol = self._names.get(f"{question.params.get(base, '')}/{question.params.get(quote, '')}")
        return symbol if symbol in question.prices.symbols() else None

    def _intraday(self, question: Question) -> Answer | None:
        symbol = self._symbol(question, "from_symbol", "to_symbol")
        interval = question.params.get("interval", "")
        if symbol is None or interval not in INTERVALS:
            return None
        now = question.now + timedelta(seconds=1)
        if _compact(question):
            bars = question.prices.last_bars(symbol, INTERVALS[interval], now, COMPACT)
        else:
            bars = question.prices.bars(symbol, INTERVALS[interval], now - FULL_INTRADAY, now)
        times = bars["ts"].dt.strftime("%Y-%m-%d %H:%M:%S").tolist()
        meta = {
            "1. Information": f"FX Intraday ({interval}) Time Series",
            "2. From Symbol": question.params["from_symbol"],
            "3. To Symbol": question.params["to_symbol"],
            "4. Last Refreshed": times[-1] if times else "",
            "5. Interval": interval,
            "6. Output Size": _size(question),
            "7. Time Zone": "UTC",
        }
        return _series(question, meta, f"Time Series FX ({interval})", times, bars, _DIGITS[symbol])

    def _daily(self, question: Question) -> Answer | None:
        symbol = self._symbol(question, "from_symbol", "to_symbol")
        if symbol is None:
            return None
        count = COMPACT if _compact(question) else 20 * 366
        bars = question.prices.last_bars(symbol, "1d", question.now + timedelta(seconds=1), count)
        meta = {
            "1. Information": "Forex Daily Prices (open, high, low, close)",
            "2. From Symbol": question.params["from_symbol"],
            "3. To Symbol": question.params["to_symbol"],
            "4. Output Size": _size(question),
            "5. Last Refreshed": f"{question.now:%Y-%m-%d %H:%M:%S}",
            "6. Time Zone": "UTC",
        }
        days = [day.isoformat() for day in trading_days(bars["ts"])]
        return _series(question, meta, "Time Series FX (Daily)", days, bars, _DIGITS[symbol])

    def _exchange_rate(self, question: Question) -> Answer | None:
        symbol = self._symbol(question, "from_currency", "to_currency")
        quote = question.prices.quote(symbol) if symbol else None
        if quote is None:
            return None
        rate = {
            "1. From_Currency Code": question.params["from_currency"],
            "2. From_Currency Name": question.params["from_currency"],
            "3. To_Currency Code": question.params["to_currency"],
            "4. To_Currency Name": question.params["to_currency"],
            "5. Exchange Rate": decimals(round((quote.bid + quote.ask) / 2, 8), 8),
            "6. Last Refreshed": f"{quote.time:%Y-%m-%d %H:%M:%S}",
            "7. Time Zone": "UTC",
            "8. Bid Price": decimals(round(quote.bid, 8), 8),
            "9. Ask Price": decimals(round(quote.ask, 8), 8),
        }
        return as_json({"Realtime Currency Exchange Rate": rate})


def _compact(question: Question) -> bool:
    return question.params.get("outputsize", "compact") != "full"


def _size(question: Question) -> str:
    return "Compact" if _compact(question) else "Full size"


def _series(
    question: Question, meta: dict[str, str], title: str, times: list[str], bars: pd.DataFrame, digits: int
) -> Answer:
    """The newest first."""
    texts = [price_texts(bars[name].tolist(), digits)[::-1] for name in ("open", "high", "low", "close")]
    times = times[::-1]
    if question.params.get("datatype") == "csv":
        return as_csv(("timestamp", "open", "high", "low", "close"), list(zip(times, *texts, strict=True)))
    names = ("1. open", "2. high", "3. low", "4. close")
    rows = (dict(zip(names, values, strict=True)) for values in zip(*texts, strict=True))
    return as_json({"Meta Data": meta, title: dict(zip(times, rows, strict=True))})


def _invalid(function: str) -> Answer:
    text = (
        "Invalid API call. Please retry or visit the documentation (https://www.alphavantage.co/documentation/) for "
        f"{function}."
    )
    return as_json({"Error Message": text})
