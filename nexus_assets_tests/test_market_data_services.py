"""Market-data services through the registry and the graph, against the rehearsal: a year of twenty symbols, failing
over and back, and what a failing run writes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import redis
from pydantic import SecretStr

from nexus_assets import trading_calendar
from nexus_assets.collecting import collect
from nexus_assets.database import Database
from nexus_assets.instruments import instrument
from nexus_assets.market_store import MarketStore
from nexus_assets.overview import Overview, data_age
from nexus_assets.partitions import Slice
from nexus_assets.planning import worth_asking
from nexus_assets.providers import http
from nexus_assets.providers.connections import Access, Connections, forget_clients
from nexus_assets.providers.http import HttpLimits
from nexus_assets.providers.registry import Sources, load_sources
from nexus_assets.providers.service_state import service_states
from nexus_assets.providers.source_declaration import DEFAULT_ORDER
from nexus_assets.rehearsal import Fault, FrameBook, Rehearsal
from nexus_assets.resources import open_sources
from nexus_assets.settings import load_settings, settings
from nexus_assets_tests.conftest import ROOT, DatabaseMaker
from nexus_assets_tests.graphs import graph
from nexus_assets_tests.rehearsal.market import FRAMES, NOW, instant
from nexus_assets_tests.rehearsal.test_backfill import real_hours

QUICK = HttpLimits(connect_s=2, read_s=5, deadline_s=2, budget_s=0.5, backoff_s=0.01, longest_backoff_s=0.05)
YEAR = date(2020, 1, 1), date(2021, 1, 1)
PAIRS = [
    "EURUSD",
    "GBPUSD",
    "USDJPY",
    "USDCHF",
    "AUDUSD",
    "USDCAD",
    "NZDUSD",
    "EURGBP",
    "EURJPY",
    "GBPJPY",
    "EURCHF",
    "EURAUD",
    "EURCAD",
    "EURNZD",
    "GBPCHF",
    "GBPAUD",
    "GBPCAD",
    "GBPNZD",
    "AUDJPY",
    "CADJPY",
]
VALUES = ("open", "high", "low", "close", "volume")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients that do not say otherwise retry quickly; and nobody knows what earlier tests did."""
    monkeypatch.setattr(http, "HttpLimits", lambda: QUICK)
    forget_clients()
    yield
    forget_clients()


def hours(symbol: str, first: date, end: date) -> pd.DataFrame:
    """A random walk over the hours in which OANDA quotes a symbol."""
    item = instrument(symbol)
    ts = trading_calendar.expected(item.asset_class, *trading_calendar.day_range(first, end), "1h", "oanda")
    generator = np.random.default_rng(sum(symbol.encode()))
    middle = float(np.sqrt(item.price_band[0] * item.price_band[1]))
    closes = np.round(middle * np.exp(np.cumsum(generator.normal(0, 1e-4, len(ts)))), item.digits)
    opens = np.round(np.r_[middle, closes[:-1]], item.digits)
    tick = 10.0**-item.digits
    highs, lows = np.maximum(opens, closes) + 3 * tick, np.minimum(opens, closes) - 3 * tick
    volume = generator.integers(100, 5000, len(ts)).astype(float)
    return pd.DataFrame(
        {
            "ts": ts, "open": opens, "high": highs.round(item.digits), "low": lows.round(item.digits),
            "close": closes, "volume": volume, "spread": 2 * tick,
        }
    )  # fmt: skip


@pytest.fixture(params=["made", "real"])
def year(request: pytest.FixtureRequest) -> dict[tuple[str, str], pd.DataFrame]:
    """A year of hours: of two symbols made up, and of twenty as OANDA delivered them."""
    if request.param == "real":
        found = real_hours(request.getfixturevalue("real_data"))
        return dict(list(found.items())[:20])
    return {(symbol, "1h"): hours(symbol, *YEAR) for symbol in ("EURUSD", "NAS100")}


def test_a_year_comes_whole_with_the_fewest_requests(
    year: dict[tuple[str, str], pd.DataFrame], databases: DatabaseMaker, redis_url: str
) -> None:
    url = databases.migrated()
    store = MarketStore(Database(url))
    symbols = [symbol for symbol, _ in year]
    with Rehearsal(FrameBook(year), now=lambda: instant("2021-01-01")) as server:
        with graph(
            store, url, redis_url, symbols=" ".join(symbols), start_day="2020-01-01",
            oanda_api_key=server.keys["oanda"], oanda_url=server.urls["oanda"],
        ) as loaded:  # fmt: skip
            order = settings().symbols
            loaded.run(("market/raw_ohlc",), (order[0], order[-1]), *YEAR)
        # Between 5,000 and 10,000 hours a year.
        assert len(server.calls) == 2 * len(year)
        assert {call.status for call in server.calls} == {200}
        assert server.violations == []
    for (symbol, _), frame in year.items():
        raw = store.read_raw(symbol, "1h", instant("2019-12-01"), instant("2021-02-01"))
        assert raw["ts"].tolist() == frame["ts"].tolist()
        assert set(raw["provider"]) == {"oanda"}
        for name in VALUES:
            assert raw[name].tolist() == frame[name].tolist()
    counted = store.database.rows("SELECT sum(new) AS new, sum(delivered) AS delivered FROM market.deliveries")[0]
    assert counted["new"] == counted["delivered"] == sum(len(frame) for frame in year.values())


# Failing over, one slice at a time

PIECE = Slice("EURUSD", date(2024, 3, 4), date(2024, 3, 6))
IN_ORDER = '[[source]]\nprovider = "oanda"\n[[source]]\nprovider = "twelve_data"\n[[source]]\nprovider = "polygon"\n'


def connected(tmp_path: Path, urls: dict[str, str], redis_url: str | None, **budgets: str) -> Sources:
    """OANDA, then Twelve Data, then Polygon, at these addresses."""
    path = tmp_path / "sources.toml"
    path.write_text(IN_ORDER, encoding="utf-8")
    access = {
        name: Access(SecretStr(f"rehearsal-{name}"), None, url, budgets.get(name, "unlimited"))
        for name, url in urls.items()
    }
    secret = SecretStr(redis_url) if redis_url else None
    return load_sources(path, None, Connections(access, secret, limits=QUICK, now=lambda: NOW))


def providers_of(store: MarketStore) -> dict[str, int]:
    rows = store.database.rows("SELECT provider, count(*) AS rows FROM market.raw_ohlc GROUP BY 1")
    return {row["provider"]: row["rows"] for row in rows}


def failures_of(store: MarketStore) -> list[tuple[str, datetime, str]]:
    rows = store.database.rows("SELECT provider, range_start, message FROM market.failed_requests ORDER BY failed_at")
    return [(row["provider"], row["range_start"], row["message"]) for row in rows]


def collected(store: MarketStore, sources: Sources) -> None:
    collect(store, sources, PIECE, config=load_settings(), run_id=None, now=NOW)


BARS_OVER = 34
"""Hours of EURUSD from Monday until NOW."""


def test_stale_bars_are_taken_from_the_next_provider_and_the_stale_one_is_noted(
    fresh_store: MarketStore, tmp_path: Path
) -> None:
    faults = [Fault("stale", "oanda", bars=6)]
    with Rehearsal(FrameBook(FRAMES), faults=faults, now=lambda: NOW) as server:
        collected(fresh_store, connected(tmp_path, server.urls, None))
        asked = [call.provider for call in server.calls]
    assert asked == ["oanda", "twelve_data"]
    assert providers_of(fresh_store) == {"oanda": BARS_OVER - 5, "twelve_data": 10}
    ((provider, start, message),) = failures_of(fresh_store)
    assert (provider, start) == ("oanda", instant("2024-03-05T05:00"))
    assert "newest 5 expected bars are missing" in message


def test_two_late_bars_are_filled_but_not_called_stale(fresh_store: MarketStore, tmp_path: Path) -> None:
    faults = [Fault("stale", "oanda", bars=3)]
    with Rehearsal(FrameBook(FRAMES), faults=faults, now=lambda: NOW) as server:
        collected(fresh_store, connected(tmp_path, server.urls, None))
    assert failures_of(fresh_store) == []
    assert providers_of(fresh_store) == {"oanda": BARS_OVER - 2, "twelve_data": 10}


def test_implausible_bars_are_kept_in_raw_and_asked_of_the_next_provider(
    fresh_store: MarketStore, tmp_path: Path
) -> None:
    wrong = FRAMES["EURUSD", "1h"].assign(**{name: FRAMES["EURUSD", "1h"][name] * 1e5 for name in VALUES[:4]})
    good, bad = FrameBook(FRAMES), FrameBook({("EURUSD", "1h"): wrong})
    with Rehearsal(good, now=lambda: NOW) as server, Rehearsal(bad, now=lambda: NOW) as broken:
        collected(fresh_store, connected(tmp_path, {**server.urls, "oanda": broken.urls["oanda"]}, None))
    assert providers_of(fresh_store) == {"oanda": BARS_OVER, "twelve_data": BARS_OVER}
    ((provider, _, message),) = failures_of(fresh_store)
    assert provider == "oanda"
    assert f"{BARS_OVER} of {BARS_OVER} rows are implausible ({BARS_OVER} price_band)" in message


def test_a_service_whose_budget_is_used_up_or_that_does_not_answer_in_time_is_passed_over(
    fresh_store: MarketStore, tmp_path: Path, redis_url: str
) -> None:
    faults = [Fault("latency", "oanda", seconds=20)]
    with Rehearsal(FrameBook(FRAMES), faults=faults, now=lambda: NOW) as server:
        sources = connected(tmp_path, server.urls, redis_url, twelve_data="1/minute")
        collected(fresh_store, sources)
        collected(fresh_store, connected(tmp_path, server.urls, redis_url, twelve_data="1/minute"))
        asked = [call.provider for call in server.calls if call.provider != "oanda"]
    assert asked == ["twelve_data", "polygon"]
    assert providers_of(fresh_store) == {"twelve_data": BARS_OVER, "polygon": BARS_OVER}
    told = failures_of(fresh_store)
    assert [provider for provider, _, _ in told] == ["oanda", "oanda", "twelve_data"]
    assert "nothing before the deadline" in told[0][2]
    assert "budget of 1 a minute is used up" in told[2][2]
    state = {one.service: one for one in service_states(sources)}
    assert state["twelve_data"].remaining == {"1 a minute": 0}
    assert (state["polygon"].calls, state["polygon"].failures, state["polygon"].breaker) == (1, 0, "closed")
    assert state["oanda"].failures == state["oanda"].calls > 0


# Failing over and back, in the graph

SYMBOLS = ("EURUSD", "GBPUSD")
DAYS = date(2024, 3, 5), date(2024, 3, 7)
ASSETS = ("market/raw_ohlc", "market/bars")


def command(server: Rehearsal, database_url: str, redis_url: str, *arguments: str) -> str:
    """What `nexus` prints in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "DAGSTER_"))}
    environment = {
        **kept, **server.environment(), "NEXUS_DATABASE_URL": database_url, "NEXUS_REDIS_URL": redis_url,
        "NEXUS_ROOT": str(ROOT), "PYTHONPATH": str(ROOT), "COLUMNS": "250",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "nexus_assets", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def metadata_of(result: dg.ExecuteInProcessResult, symbol: str) -> dict[str, Any]:
    events = result.asset_materializations_for_node("market__raw_ohlc")
    newest = max((e for e in events if str(e.partition).endswith(symbol)), key=lambda e: str(e.partition))
    return {name: value.value for name, value in newest.metadata.items()}


def test_an_outage_opens_the_circuit_for_all_processes_and_its_end_is_a_correction(
    databases: DatabaseMaker, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = databases.migrated()
    store = MarketStore(Database(url))
    book = FrameBook({(symbol, "1h"): hours(symbol, date(2024, 3, 1), date(2024, 3, 9)) for symbol in SYMBOLS})
    # Four attempts for the first symbol and one for the second: the fifth failure opens the circuit.
    faults = [Fault("status", "oanda", calls=(1, 2, 3, 4, 5), status=503)]
    with Rehearsal(book, faults=faults) as server:
        addresses = {f"{name}_url": address for name, address in server.urls.items()}
        keys = {"oanda_api_key": server.keys["oanda"], "twelvedata_api_key": server.keys["twelve_data"]}
        variables = {"symbols": " ".join(SYMBOLS), "start_day": "2024-03-01", "feature_timeframes": "1h"}
        with graph(store, url, redis_url, folder=None, **variables, **addresses, **keys) as loaded:
            first = loaded.run(ASSETS, SYMBOLS, *DAYS)
            assert stood_for(store) == {"twelve_data": 96}
            told = metadata_of(first, "GBPUSD")
            oanda = told["services"]["oanda"]
            assert (oanda["breaker"], oanda["calls"], oanda["failures"]) == ("open", 5, 5)
            assert oanda["p50_s"] > 0
            assert told["services"]["twelve_data"]["remaining"] == {"8 a minute": 6, "800 a day": 798}
            assert "oanda" in told["provider_failures"]
            asked = len(server.calls_of("oanda"))
            shown = command(server, url, redis_url, "providers", "test", "EURUSD")
            assert "oanda is not asked for another" in shown
            assert len(server.calls_of("oanda")) == asked == 5
            sources = open_sources(settings())
            asking = worth_asking(store, sources, SYMBOLS, *DAYS, config=settings())
            assert asking == {(symbol, day) for symbol in SYMBOLS for day in (date(2024, 3, 5), date(2024, 3, 6))}
            a_minute_later(redis_url)
            second = loaded.run(ASSETS, SYMBOLS, *DAYS)
            assert stood_for(store) == {"oanda": 96}
            assert metadata_of(second, "GBPUSD")["services"]["oanda"]["breaker"] == "closed"
            assert worth_asking(store, sources, SYMBOLS, *DAYS, config=settings()) == set()
            ages = data_age(store, settings())
            overview = Overview([], market_data=service_states(sources), data_age=ages)
            overview.print()
            shown = capsys.readouterr().out
            assert "Market-data services" in shown
            assert "Data age" in shown
            listed = json.loads(json.dumps(overview.as_dict(), default=str))["market_data"]["oanda"]
            assert (listed["breaker"], listed["calls"], listed["failures"]) == ("closed", 7, 5)
            assert {symbol: age.provider for symbol, age in ages.items()} == dict.fromkeys(SYMBOLS, "oanda")
        assert server.violations == []
    repeated = store.database.rows("SELECT ts FROM market.bars GROUP BY symbol, timeframe, ts HAVING count(*) > 1")
    assert repeated == []
    assert providers_of(store) == {"oanda": 96, "twelve_data": 96}


def stood_for(store: MarketStore) -> dict[str, int]:
    """Hourly bars by provider."""
    rows = store.database.rows("SELECT provider, count(*) AS bars FROM market.bars WHERE timeframe = '1h' GROUP BY 1")
    return {row["provider"]: row["bars"] for row in rows}


def a_minute_later(redis_url: str) -> None:
    """Let the circuit's pause be over."""
    with redis.Redis.from_url(redis_url) as client:
        state = json.loads(client.get("nexus:breaker:oanda"))  # pyright: ignore[reportArgumentType]
        client.set("nexus:breaker:oanda", json.dumps({**state, "opened_at": state["opened_at"] - 61}))


# Secrets

KEYS = {
    "OANDA_API_KEY": "0a5f-oanda-token-77c1",
    "OANDA_ACCOUNT_ID": "101-004-8812345-001",
    "EODHD_API_TOKEN": "66aa0.eodhd+token/91",
    "ALPHAVANTAGE_API_KEY": "AVKEY7QX2M0PLZ",
    "TWELVEDATA_API_KEY": "td0c41e2b7f0469",
    "POLYGON_API_KEY": "pO1yG0nKeY_5521",
}


def test_nothing_that_a_failing_run_writes_holds_a_key(
    databases: DatabaseMaker,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    url = databases.migrated()
    store = MarketStore(Database(url))
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    faults = [
        Fault("status", "oanda", status=502),
        Fault("cut", "eodhd", share=0.5),
        Fault("rate_limit", "alpha_vantage"),
        Fault("html", "twelve_data"),
    ]
    # Polygon's key is another one than ours, so it is refused.
    names = {"oanda": "OANDA_API_KEY", "eodhd": "EODHD_API_TOKEN", "alpha_vantage": "ALPHAVANTAGE_API_KEY"}
    keys = {name: KEYS[variable] for name, variable in {**names, "twelve_data": "TWELVEDATA_API_KEY"}.items()}
    book = FrameBook({("EURUSD", "1h"): hours("EURUSD", date(2024, 3, 1), date(2024, 3, 9))})
    with Rehearsal(book, faults=faults, keys=keys) as server:
        addresses = {f"{name}_url": address for name, address in server.urls.items()}
        with graph(
            store, url, redis_url, folder=tmp_path, symbols="EURUSD", start_day="2024-03-01",
            feature_timeframes="1h", **addresses,
        ) as loaded:  # fmt: skip
            result = loaded.run(("market/raw_ohlc",), ("EURUSD", "EURUSD"), *DAYS, fails=True)
            told = [str(event) for event in result.all_events]
        assert {call.provider for call in server.calls} == {"oanda", "eodhd", "alpha_vantage", "twelve_data", "polygon"}
    failed = store.database.rows("SELECT * FROM market.failed_requests")
    assert len(failed) == 5
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.suffix == ".err" and content for path, content in files.items())
    assert any(path.suffix == ".db" and b"alpha_vantage" in content for path, content in files.items())
    assert any(all(f"{name}" in text for name in DEFAULT_ORDER if name != "yahoo") for text in told)
    with redis.Redis.from_url(redis_url) as client:
        kept = [client.dump(key) for key in client.scan_iter()]
    assert kept
    captured = capfd.readouterr()
    written = [
        *(text.encode() for text in (caplog.text, captured.out, captured.err, repr(failed), *told)),
        *files.values(),
        *(value for value in kept if isinstance(value, bytes)),
    ]
    for key in KEYS.values():
        assert [content[:200] for content in written if key.encode() in content] == []
    assert b"REDACTED" in b"".join(written)
