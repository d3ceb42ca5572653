"""OANDA v20 REST: candles, pricing and the instruments of an account.

Sources, read 2026-11-21:
- https://developer.oanda.com/rest-live-v20/instrument-ep/ (candles: parameters, defaults, at most 5,000)
- https://developer.oanda.com/rest-live-v20/pricing-ep/ and .../account-ep/
- https://developer.oanda.com/rest-live-v20/development-guide/ (120 requests a second, then 429)
- the errors' texts as users report them: github.com/happydasch/btoandav20/issues/28 (`count`),
  github.com/hootnot/oanda-api-v20/issues/144 (`Time is in the future`) and /issues/129 (authorization),
  github.com/hootnot/oandapyV20-examples/pull/21 (`instrument`)

Between `from` and `to` the API counts the candles that the range has room for, open market or not. With `count`, a
`from` in closed hours uses up one candle that is not there: ten from 2017-01-01 are nine
(https://notebook.community/hootnot/oanda-api-v20/jupyter/historical). H4 and D are rehearsed for the default
alignment only (17:00 New York).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pandas as pd

from nexus_assets.instruments import INSTRUMENTS
from nexus_assets.rehearsal.dialogue import Answer, Question, as_json, decimals, price_texts, whole_number
from nexus_assets.rehearsal.limits import RateLimit
from nexus_assets.timeframes import length

MOST_CANDLES = 5000
USUAL_CANDLES = 500

GRANULARITIES: Mapping[str, str] = {"M1": "1m", "M5": "5m", "M15": "15m", "H1": "1h", "H4": "4h", "D": "1d"}
_OTHER_GRANULARITIES = frozenset(
    ("S5", "S10", "S15", "S30", "M2", "M4", "M10", "M30", "H2", "H3", "H6", "H8", "H12", "W", "M")
)
_COMPONENTS = {"M": "mid", "B": "bid", "A": "ask"}
_DIGITS = {item.symbol: item.digits for item in INSTRUMENTS}
_CLASSES = {item.symbol: "CURRENCY" if item.asset_class == "fx" else "METAL" for item in INSTRUMENTS}
_ACCOUNT = r"(?P<account>[^/]+)"
_CANDLES = re.compile(rf"/v3(?:/accounts/{_ACCOUNT})?/instruments/(?P<instrument>[^/]+)/candles")
_ACCOUNT_PATH = re.compile(rf"/v3/accounts/{_ACCOUNT}/(?P<what>pricing|instruments)")
_ACCOUNT_NUMBER = re.compile(r"\d{3}-\d{3}-\d+-\d{3}")


class Oanda:
    """The API of one token."""

    name = "oanda"

    def __init__(self, names: Mapping[str, str], limits: tuple[RateLimit, ...] | None = None) -> None:
        """`names` holds the generic symbol of each of the API's names."""
        self._names = names
        self.limits = limits if limits is not None else (RateLimit(120, 1.0, "second"),)

    def refuse(self, question: Question, key: str) -> Answer | None:
        """401 unless the header says `Authorization: Bearer <token>`."""
        if question.headers.get("authorization") == f"Bearer {key}":
            return None
        return _error("Insufficient authorization to perform request.", 401)

    def key_place(self, question: Question) -> str:
        """Only the header is possible."""
        return "header" if "authorization" in question.headers else ""

    def cost(self, question: Question, limit: RateLimit) -> int:
        """Every request counts one."""
        return 1

    def limited(self, limit: RateLimit, wait: float, used: int) -> Answer:
        """429."""
        return as_json({"errorMessage": "Rate limit exceeded"}, 429, Retry_After=str(max(1, round(wait))))

    def answer(self, question: Question) -> Answer:
        """Candles, pricing, instruments; 404 for anything else."""
        if (found := _CANDLES.fullmatch(question.path)) is not None:
            return self._with_id(question, self._candles(question, found["instrument"]))
        if (found := _ACCOUNT_PATH.fullmatch(question.path)) is not None:
            if not _ACCOUNT_NUMBER.fullmatch(found["account"]):
                return _error("Invalid value specified for 'accountID'")
            answer = self._pricing if found["what"] == "pricing" else self._instruments
            return self._with_id(question, answer(question))
        return _error("Invalid request path", 404)

    @staticmethod
    def _with_id(question: Question, answer: Answer) -> Answer:
        answer.headers["RequestID"] = str(42_000_000_000 + question.number)
        return answer

    def _candles(self, question: Question, instrument: str) -> Answer:
        symbol = self._names.get(instrument)
        if symbol is None or symbol not in question.prices.symbols():
            return _error("Invalid value specified for 'instrument'")
        granularity = question.params.get("granularity", "S5")
        components = question.params.get("price", "M")
        if granularity not in GRANULARITIES and granularity not in _OTHER_GRANULARITIES:
            return _error("Invalid value specified for 'granularity'")
        if not components or set(components) - set(_COMPONENTS):
            return _error("Invalid value specified for 'price'")
        aligned = question.params.get("dailyAlignment", "17"), question.params.get("alignmentTimezone", _NEW_YORK)
        if granularity in ("H4", "D") and aligned != ("17", _NEW_YORK):
            return _error("Invalid value specified for 'dailyAlignment'")
        bars = self._chosen(question, symbol, granularity)
        if isinstance(bars, Answer):
            return bars
        return as_json(
            {
                "instrument": instrument,
                "granularity": granularity,
                "candles": _candles(bars, components, _DIGITS.get(symbol, 5), _writes_unix(question)),
            }
        )

    def _chosen(self, question: Question, symbol: str, granularity: str) -> pd.DataFrame | Answer:
        """The bars that count, from and to name, or the error."""
        params, prices = question.params, question.prices
        instants: dict[str, datetime | None] = {"from": None, "to": None}
        for name in instants:
            if name in params:
                instants[name] = _instant(params[name])
                if instants[name] is None:
                    return _error(f"Invalid value specified for '{name}'")
                if instants[name] > question.now:  # pyright: ignore[reportOptionalOperand]
                    return _error(f"Invalid value specified for '{name}'. Time is in the future")
        start, end = instants["from"], instants["to"]
        count = whole_number(params.get("count"), USUAL_CANDLES)
        if count is None or count < 1:
            return _error("Invalid value specified for 'count'")
        if count > MOST_CANDLES:
            return _error("Maximum value for 'count' exceeded", broke="page size")
        # A granularity that the book does not have yields no candle.
        timeframe = GRANULARITIES.get(granularity, "")
        if start is None:
            return prices.last_bars(symbol, timeframe or "1m", end or prices.now, count if timeframe else 0)
        if not timeframe:
            return prices.bars(symbol, "1m", start, start)
        start, covered = _first_open(question, symbol, timeframe, start)
        if end is None:
            return prices.first_bars(symbol, timeframe, start, count if covered else count - 1)
        if "count" in params:
            return _error("'count' cannot be specified when 'to' and 'from' parameters are set")
        if end < start:
            return _error("Invalid value specified for 'to'")
        if (end - start) / length(timeframe) > MOST_CANDLES:
            return _error("Maximum value for 'count' exceeded", broke="page size")
        return prices.bars(symbol, timeframe, start, end)

    def _pricing(self, question: Question) -> Answer:
        asked = question.params.get("instruments", "")
        found = []
        for instrument in asked.split(","):
            symbol = self._names.get(instrument)
            quote = question.prices.quote(symbol) if symbol else None
            if symbol is None or quote is None:
                return _error("Invalid value specified for 'instruments'")
            bid, ask = (
                decimals(round(v, d), d) for v, d in ((quote.bid, _DIGITS[symbol]), (quote.ask, _DIGITS[symbol]))
            )
            found.append(
                {
                    "type": "PRICE",
                    "time": _time(quote.time, _writes_unix(question)),
                    "bids": [{"price": bid, "liquidity": 10_000_000}],
                    "asks": [{"price": ask, "liquidity": 10_000_000}],
                    "closeoutBid": bid,
                    "closeoutAsk": ask,
                    "status": "tradeable" if quote.fresh else "non-tradeable",
                    "tradeable": quote.fresh,
                    "unitsAvailable": {
                        name: {"long": "77263", "short": "77263"} for name in ("default", "openOnly", "reduceFirst")
                    }
                    | {"reduceOnly": {"long": "0", "short": "0"}},
                    "quoteHomeConversionFactors": {"positiveUnits": "1.00000000", "negativeUnits": "1.00000000"},
                    "instrument": instrument,
                }
            )
        return as_json({"time": _time(question.now, _writes_unix(question)), "prices": found})

    def _instruments(self, question: Question) -> Answer:
        asked = [name for name in question.params.get("instruments", "").split(",") if name]
        known = set(question.prices.symbols())
        listed = [(n, s) for n, s in self._names.items() if s in known and (not asked or n in asked)]
        entries = [
            {
                "name": name,
                "type": _CLASSES.get(symbol, "CFD"),
                "displayName": name.replace("_", "/"),
                "pipLocation": 1 - _DIGITS.get(symbol, 5),
                "displayPrecision": _DIGITS.get(symbol, 5),
                "tradeUnitsPrecision": 0,
                "minimumTradeSize": "1",
                "maximumTrailingStopDistance": "1.00000",
                "minimumTrailingStopDistance": "0.00050",
                "maximumPositionSize": "0",
                "maximumOrderUnits": "100000000",
                "marginRate": "1",
                "tags": [{"type": "ASSET_CLASS", "name": _CLASSES.get(symbol, "CFD")}],
            }
            for name, symbol in listed
        ]
        return as_json({"instruments": entries, "lastTransactionID": "1"})


_NEW_YORK = "America/New_York"


def _first_open(question: Question, symbol: str, timeframe: str, start: datetime) -> tuple[datetime, bool]:
    """(The open of the candle that covers `start`, or the instant after it where includeFirst is false; whether the
    first candle that is counted is there)."""
    without = question.params.get("includeFirst", "true").lower() == "false"
    around = question.prices.bars(symbol, timeframe, start - length(timeframe), start + timedelta(microseconds=1))
    covering = around.loc[(around["ts"] + length(timeframe) > start).to_numpy()]
    if len(covering) == 0:
        return start, without
    first = covering["ts"].iloc[-1].to_pydatetime()
    return first + timedelta(microseconds=1 if without else 0), True


def _candles(bars: pd.DataFrame, components: str, digits: int, unix: bool) -> list[dict[str, object]]:
    times = [_time(ts, unix) for ts in bars["ts"].dt.to_pydatetime()]
    sides = {}
    for component in dict.fromkeys(components):
        shift = {"M": 0.0, "B": -0.5, "A": 0.5}[component] * bars["spread"]
        columns = [bars[c] if component == "M" else (bars[c] + shift).round(digits) for c in _OHLC]
        texts = [price_texts(column.tolist(), digits) for column in columns]
        sides[_COMPONENTS[component]] = [
            {"o": o, "h": h, "l": low, "c": c} for o, h, low, c in zip(*texts, strict=True)
        ]
    volumes, complete = bars["volume"].fillna(0).astype("int64").tolist(), bars["complete"].tolist()
    return [
        {"complete": complete[n], "volume": volumes[n], "time": times[n], **{s: rows[n] for s, rows in sides.items()}}
        for n in range(len(times))
    ]


_OHLC = ("open", "high", "low", "close")


def _error(message: str, status: int = 400, *, broke: str = "") -> Answer:
    return as_json({"errorMessage": message}, status, broke=broke)


def _writes_unix(question: Question) -> bool:
    return question.headers.get("accept-datetime-format", "RFC3339").upper() == "UNIX"


def _time(instant: datetime, unix: bool) -> str:
    """RFC 3339 with nanoseconds, or seconds since 1970 with nanoseconds."""
    if unix:
        seconds, rest = divmod((instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1), 1_000_000)
        return f"{seconds}.{rest * 1000:09d}"
    return f"{instant:%Y-%m-%dT%H:%M:%S}.{instant.microsecond * 1000:09d}Z"


def _instant(text: str) -> datetime | None:
    """RFC 3339 with any number of decimals, or seconds since 1970; whatever Accept-Datetime-Format says."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return datetime.fromtimestamp(float(text), UTC)
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d:\d\d)(\.\d+)?(Z|z|[+-]\d\d:\d\d)?)?", text)
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    offset = "+00:00" if zone in (None, "Z", "z") else zone
    try:
        return datetime.fromisoformat(f"{day}T{clock or '00:00:00'}{(fraction or '.0')[:7]:0<7}{offset}").astimezone(
            UTC
        )
    except ValueError:
        return None
