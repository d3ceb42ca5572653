"""Damaged answers of every API: hand-made good ones, and what a broken server may make of them.

A test draws from `damaged`; whatever comes out, `outcome` must be a delivery that adds up or one of our errors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pandas as pd
from hypothesis import strategies as st

from nexus_assets.errors import ProviderError
from nexus_assets.providers.alpha_vantage import AlphaVantageProvider
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.eodhd import EodhdProvider
from nexus_assets.providers.interface import Delivery, Request
from nexus_assets.providers.oanda import OandaProvider
from nexus_assets.providers.polygon import PolygonProvider
from nexus_assets.providers.twelve_data import TwelveDataProvider
from nexus_assets.providers.yahoo import YahooProvider
from nexus_assets_tests.providers.scripted_transport import KEY, answering

START = datetime(2025, 2, 19, tzinfo=UTC)
NOW = START + timedelta(hours=36, minutes=30)
REQUEST = Request("EURUSD", "1h", START, START + timedelta(days=1))
OPENS = [START + timedelta(hours=n) for n in range(5)]
SECONDS = [int(ts.timestamp()) for ts in OPENS]


@dataclass(frozen=True)
class Api:
    """A provider, a good answer to REQUEST, and one that explains a refusal."""

    make: Callable[[Any], ApiProvider]
    good: Any
    refusal: Any

    def provider(self, body: bytes, status: int = 200) -> ApiProvider:
        return self.make(answering(body, status))


def _prices(*names: str) -> dict[str, str]:
    return dict(zip(names, ("1.04", "1.06", "1.03", "1.05"), strict=True))


_CANDLES = [
    {
        "time": f"{ts:%Y-%m-%dT%H:%M:%S}.000000000Z",
        "volume": 7,
        "complete": True,
        **{side: _prices("o", "h", "l", "c") for side in ("mid", "bid", "ask")},
    }
    for ts in OPENS
]
_BARS = [{"t": s * 1000, "o": 1.04, "h": 1.06, "l": 1.03, "c": 1.05, "v": 7, "n": 7} for s in SECONDS]
_NAMED = ("open", "high", "low", "close")

APIS: dict[str, Api] = {
    "oanda": Api(
        lambda t: OandaProvider(t, KEY, now=lambda: NOW),
        {"instrument": "EUR_USD", "granularity": "H1", "candles": _CANDLES},
        {"errorMessage": "Invalid value specified for 'instrument'"},
    ),
    "yahoo": Api(
        lambda t: YahooProvider(t, now=lambda: NOW),
        {
            "chart": {
                "result": [
                    {
                        "meta": {"symbol": "EURUSD=X", "dataGranularity": "1h", "gmtoffset": 0},
                        "timestamp": SECONDS,
                        "indicators": {"quote": [{name: [1.04] * 5 for name in (*_NAMED, "volume")}]},
                    }
                ],
                "error": None,
            }
        },
        {"chart": {"result": None, "error": {"code": "Not Found", "description": "No data found"}}},
    ),
    "polygon": Api(
        lambda t: PolygonProvider(t, KEY, now=lambda: NOW),
        {"ticker": "C:EURUSD", "status": "OK", "resultsCount": 5, "results": _BARS, "next_url": None},
        {"status": "ERROR", "error": "Unknown API Key"},
    ),
    "twelve_data": Api(
        lambda t: TwelveDataProvider(t, KEY, now=lambda: NOW),
        {
            "meta": {"symbol": "EUR/USD", "interval": "1h"},
            "values": [{"datetime": f"{ts:%Y-%m-%d %H:%M:%S}", **_prices(*_NAMED)} for ts in OPENS],
            "status": "ok",
        },
        {"code": 400, "message": "No data is available", "status": "error"},
    ),
    "alpha_vantage": Api(
        lambda t: AlphaVantageProvider(t, KEY, now=lambda: NOW),
        {
            "Meta Data": {
                "2. From Symbol": "EUR",
                "3. To Symbol": "USD",
                "5. Interval": "60min",
                "7. Time Zone": "UTC",
            },
            "Time Series FX (60min)": {
                f"{ts:%Y-%m-%d %H:%M:%S}": _prices("1. open", "2. high", "3. low", "4. close") for ts in OPENS
            },
        },
        {"Information": "Our rate limit is 25 requests per day"},
    ),
    "eodhd": Api(
        lambda t: EodhdProvider(t, KEY, now=lambda: NOW),
        [
            {"timestamp": s, "gmtoffset": 0, "datetime": f"{ts:%Y-%m-%d %H:%M:%S}", "volume": None}
            | dict(zip(_NAMED, (1.04, 1.06, 1.03, 1.05), strict=True))
            for s, ts in zip(SECONDS, OPENS, strict=True)
        ],
        {"errors": {"from": ["wrong"]}},
    ),
}

_AWKWARD = st.sampled_from(
    [
        *(
            None,
            True,
            False,
            "",
            "NaN",
            "-Infinity",
            "1e999",
            "0x10",
            "1_000",
            "\uff11",
            "\u0000",
            "\ud7ff",
            " 1.05 ",
            "-",
        ),
        *(0, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**64 - 1, 1e308, -1e308, 1.5, 1e18, 253402300800, "253402300800.0"),
        *("9999-12-31 23:59:59", "0000-00-00 00:00:00", "2025-02-30T00:00:00.000000000Z", "US/Eastern", "../etc"),
        *("2025-11-02 01:30:00", "1.05", 1.05, [], {}, [[]], {"o": "1"}, KEY.get_secret_value(), SECONDS[1]),
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_VALUES = _AWKWARD | _JSON


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found += _places(value, (*path, key))
    return found


def _with(node: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of the tree in which `change` was applied to the holder of the place and its key."""
    root = [orjson.loads(orjson.dumps(node))]
    holder, key = root, 0
    for step in path:
        holder, key = holder[key], step
    change(holder, key)
    return root[0] if root else None


@st.composite
def _damaged_tree(draw: st.DrawFn, tree: Any) -> bytes:
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(tree)))
        kind = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "rename"]))
        value = draw(_VALUES)

        def change(holder: Any, key: Any, kind: str = kind, value: Any = value) -> None:
            if kind == "remove" and len(holder) > 1:
                del holder[key]
            elif kind == "repeat" and isinstance(holder, list):
                holder.insert(key, holder[key])
            elif kind == "rename" and isinstance(holder, dict):
                holder[str(value)[:30]] = holder.pop(key)
            else:
                holder[key] = value

        tree = _with(tree, path, change)
    return orjson.dumps(tree)


@st.composite
def _damaged_bytes(draw: st.DrawFn, body: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 12)))
        body = body[:start] + draw(st.binary(max_size=6) | st.just(body[start:end] * 2)) + body[end:]
    return body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body


@st.composite
def damaged(draw: st.DrawFn, api: Api) -> tuple[int, bytes]:
    """A status and a body: a good answer or a refusal that was damaged, or something else altogether."""
    good, refusal = orjson.dumps(api.good), orjson.dumps(api.refusal)
    # Most of them nearly right: those go deepest into a parser.
    if draw(st.integers(0, 9)) < 7:
        return 200, draw(_damaged_tree(api.good))
    status = draw(st.sampled_from([200, 200, 200, 400, 401, 402, 404, 422, 429, 500, 999]))
    body = draw(
        _damaged_tree(api.refusal)
        | _damaged_bytes(good)
        | _damaged_bytes(refusal)
        | _JSON.map(orjson.dumps)
        | st.binary(max_size=40)
        | st.just(b"[" * 5000)
        | st.just(b"<html><h1>502 Bad Gateway</h1></html>")
    )
    return status, body


def outcome(api: Api, status: int, body: bytes) -> Delivery | ProviderError:
    """What becomes of an answer; any other exception is passed on."""
    try:
        return api.provider(body, status).fetch(REQUEST)
    except ProviderError as error:
        return error


def complaints(name: str, result: Delivery | ProviderError) -> list[str]:
    """What is wrong with an outcome."""
    # Yahoo has none, so nothing that looks like one is its.
    key = KEY.get_secret_value() if name != "yahoo" else "\0"
    if isinstance(result, ProviderError):
        text = f"{result} {result.fact} {result.next_step}"
        wrong = [part for part in (f"{name}, EURUSD 1h [", "2025-02-19T00:00Z, 2025-02-20T00:00Z)") if part not in text]
        return [f"{part!r} is missing" for part in wrong] + (["the key is told"] if key in text else [])
    bars, rejected = result.bars, result.rejected
    ts = bars["ts"]
    checks = {
        "bars outside the range": bool(((ts < pd.Timestamp(START)) | (ts >= pd.Timestamp(REQUEST.end))).any()),
        "bars not unique and ascending": not (ts.is_unique and ts.is_monotonic_increasing),
        "infinite numbers": any(math.isinf(x) for x in bars.drop(columns="ts").to_numpy().ravel()),
        "rejected rows without a time": bool(rejected["ts"].isna().any()),
        "rejected rows outside the range": bool(
            ((rejected["ts"] < pd.Timestamp(START)) | (rejected["ts"] >= pd.Timestamp(REQUEST.end))).any()
        ),
        "rejected rows without text or reason": not (
            (rejected["content"].str.len() > 0) & (rejected["detail"].str.len() > 0)
        ).all(),
        "an unknown rule": not set(rejected["rule"]) <= {"unusable_key", "conflicting_repeat"},
        "the key is told": key in rejected.to_csv() + result.source,
    }
    return [text for text, is_so in checks.items() if is_so]
