"""Faults by script, limits, and what the rehearsal writes down."""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from nexus_assets.errors import SettingsError
from nexus_assets.rehearsal import Fault, RateLimit, Rehearsal, read_script
from nexus_assets_tests.rehearsal.market import NOW, get, instant, rehearsal

CANDLES = "/v3/instruments/EUR_USD/candles"
HOURS: dict[str, Any] = {"granularity": "H1", "from_": "2024-03-04T00:00:00Z"}


def candles(server: Rehearsal, **params: Any) -> requests.Response:
    return get(server, "oanda", CANDLES, **{**HOURS, **params})


def opens_of(answer: requests.Response) -> list[str]:
    return [candle["time"][:16] for candle in answer.json()["candles"]]


def test_a_fault_fires_at_the_calls_that_it_numbers_and_only_where_it_matches() -> None:
    faults = [Fault("status", "oanda", match="EUR_USD", calls=(2,), status=503)]
    with rehearsal(faults=faults) as server:
        assert candles(server).status_code == 200
        assert get(server, "oanda", "/v3/instruments/XAU_USD/candles", **HOURS).status_code == 200
        answer = candles(server)
        assert (answer.status_code, answer.text) == (503, "503 Service Unavailable")
        assert candles(server).status_code == 200
        assert [call.faults for call in server.calls] == [(), (), ("status",), ()]
        assert [call.status for call in server.calls] == [200, 200, 503, 200]


def test_a_probability_gives_the_same_calls_for_the_same_seed() -> None:
    def failures(seed: int) -> list[bool]:
        with rehearsal(faults=[Fault("status", probability=0.4, seed=seed)]) as server:
            return [candles(server, count=1).status_code == 500 for _ in range(30)]

    first = failures(1)
    assert first == failures(1)
    assert first != failures(2)
    assert 4 <= sum(first) <= 20


def test_latency_delays_the_answer() -> None:
    with rehearsal(faults=[Fault("latency", "oanda", calls=(1,), seconds=0.3)]) as server:
        begun = time.monotonic()
        assert candles(server).status_code == 200
        assert time.monotonic() - begun >= 0.3


def test_429_comes_with_retry_after_and_a_rate_limit_in_the_words_of_the_api() -> None:
    faults = [Fault("status", calls=(1,), status=429, seconds=7), Fault("rate_limit", "alpha_vantage", calls=(1, 2))]
    with rehearsal(faults=faults) as server:
        plain = candles(server)
        assert (plain.status_code, plain.headers["Retry-After"]) == (429, "7")
        query = {"function": "FX_DAILY", "from_symbol": "EUR", "to_symbol": "USD"}
        note = get(server, "alpha_vantage", "/query", **query)
        assert (note.status_code, list(note.json())) == (200, ["Note"])
        # What was scripted is no fault of the client.
        assert server.violations == []


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_connection_is_an_error_of_the_client_library(share: float) -> None:
    with rehearsal(faults=[Fault("cut", "oanda", calls=(1,), share=share)]) as server:
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            candles(server)
        assert server.calls[0].status == (200 if share else 0)
        assert candles(server).status_code == 200


def test_truncated_json_is_a_whole_response_that_cannot_be_read() -> None:
    with rehearsal(faults=[Fault("truncated", "oanda", share=0.3)]) as server:
        answer = candles(server)
    assert answer.status_code == 200
    assert answer.text.startswith('{"instrument"')
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


def test_a_wrong_content_type_is_around_the_right_body() -> None:
    with rehearsal(faults=[Fault("wrong_content_type", "oanda", calls=(1,))]) as server:
        wrong, right = candles(server), candles(server)
    assert wrong.headers["Content-Type"].startswith("text/plain")
    assert right.headers["Content-Type"] == "application/json"
    assert wrong.content == right.content


def test_an_html_page_comes_with_status_200() -> None:
    with rehearsal(faults=[Fault("html")]) as server:
        answer = candles(server)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.startswith("<!DOCTYPE html>")


def test_a_huge_body_is_streamed_and_the_client_may_hang_up() -> None:
    with rehearsal(faults=[Fault("huge", "oanda")]) as server:
        url, key = f"{server.urls['oanda']}{CANDLES}", {"Authorization": f"Bearer {server.keys['oanda']}"}
        with requests.get(url, headers=key, stream=True, timeout=10) as answer:
            assert int(answer.headers["Content-Length"]) == 100 * 2**20
            beginning = next(answer.iter_content(1000))
        assert beginning.startswith(b'{"rows": [0, 0, ')
        with requests.get(url, headers=key, stream=True, timeout=10) as answer:
            assert sum(len(chunk) for chunk in answer.iter_content(2**20)) == 100 * 2**20


def test_stale_data_lack_the_newest_bars() -> None:
    with rehearsal(faults=[Fault("stale", "oanda", calls=(2, 3), bars=4)]) as server:
        fresh, stale = opens_of(candles(server)), opens_of(candles(server))
        assert fresh[-1] == "2024-03-05T10:00"
        assert stale == fresh[:-4]
        price = get(server, "oanda", "/v3/accounts/001-001-1-001/pricing", instruments="EUR_USD").json()["prices"][0]
    # The newest minute that is left began at 10:26.
    assert (price["time"][11:16], price["tradeable"]) == ("10:27", False)


def test_a_page_can_come_twice() -> None:
    with rehearsal(faults=[Fault("repeated_page", "oanda", calls=(2,))]) as server:
        first = opens_of(candles(server, count=3))
        again = opens_of(candles(server, count=3, from_="2024-03-04T03:00:00Z"))
        third = opens_of(candles(server, count=3, from_="2024-03-04T03:00:00Z"))
    assert first == again == ["2024-03-04T00:00", "2024-03-04T01:00", "2024-03-04T02:00"]
    assert third[0] == "2024-03-04T03:00"


def test_a_polygon_page_can_come_twice_though_its_path_moves() -> None:
    with rehearsal(faults=[Fault("repeated_page", "polygon", calls=(2,))]) as server:
        path = "/v2/aggs/ticker/C:EURUSD/range/1/hour/2024-03-04/2024-03-04"
        first = get(server, "polygon", path, limit=120).json()
        again = get(server, "polygon", first["next_url"].removeprefix(server.urls["polygon"])).json()
    assert first == again


ROWS: list[tuple[str, str, dict[str, Any], Callable[[Any], list[Any]]]] = [
    ("oanda", CANDLES, HOURS, lambda body: [row["time"] for row in body["candles"]]),
    (
        "eodhd",
        "/api/intraday/EURUSD.FOREX",
        {"interval": "1h", "fmt": "json"},
        lambda body: [row["timestamp"] for row in body],
    ),
    (
        "yahoo",
        "/v8/finance/chart/EURUSD=X",
        {"interval": "1h", "range": "1d"},
        lambda body: body["chart"]["result"][0]["timestamp"],
    ),
    (
        "twelve_data",
        "/time_series",
        {"symbol": "EUR/USD", "interval": "1h"},
        lambda body: [row["datetime"] for row in body["values"]],
    ),
    (
        "polygon",
        "/v2/aggs/ticker/C:EURUSD/range/1/hour/2024-03-04/2024-03-04",
        {},
        lambda body: [row["t"] for row in body["results"]],
    ),
]


@pytest.mark.parametrize(("provider", "path", "params", "times"), ROWS, ids=[row[0] for row in ROWS])
def test_rows_can_stand_in_an_answer_twice(
    provider: str, path: str, params: dict[str, Any], times: Callable[[Any], list[Any]]
) -> None:
    with rehearsal(faults=[Fault("repeated_rows", calls=(2,), bars=2)]) as server:
        once, twice = (times(get(server, provider, path, **params).json()) for _ in range(2))
    assert twice == once[:2] + once


def test_a_skewed_clock_is_seen_in_the_date_and_in_the_bars() -> None:
    with rehearsal(faults=[Fault("clock_skew", "oanda", calls=(2,), seconds=-7200)]) as server:
        right, skewed = candles(server), candles(server)
    assert parsedate_to_datetime(right.headers["Date"]) == NOW
    assert parsedate_to_datetime(skewed.headers["Date"]) == instant("2024-03-05 08:30")
    assert opens_of(skewed)[-1] == "2024-03-05T08:00"


def test_a_limit_is_answered_once_it_is_passed_and_written_down() -> None:
    seconds = [0.0]
    with rehearsal(limits={"oanda": (RateLimit(3, 2.0, "second"),)}, clock=lambda: seconds[0]) as server:
        assert [candles(server).status_code for _ in range(4)] == [200, 200, 200, 429]
        seconds[0] = 2.0
        assert candles(server).status_code == 200
        (violation,) = server.violations
        assert (violation.provider, violation.rule, violation.call.number) == ("oanda", "rate limit", 4)
        assert violation.call.target.startswith(CANDLES)


def test_calls_are_written_down_without_keys() -> None:
    with rehearsal() as server:
        get(server, "eodhd", "/api/eod/EURUSD.FOREX", headers={"User-Agent": "nexus_assets/test"})
        with requests.Session() as session:
            for _ in range(2):
                session.get(f"{server.urls['yahoo']}/v8/finance/chart/EURUSD=X", timeout=10)
        written = repr(server.calls) + repr(server.violations)
        assert "api_token=***" in written
        assert not any(key in written for key in server.keys.values())
        eodhd, first, second = server.calls
        assert (eodhd.key_place, eodhd.user_agent) == ("query", "nexus_assets/test")
        assert (first.key_place, first.client) == ("", second.client)


def test_requests_under_way_at_once_are_counted() -> None:
    with rehearsal(faults=[Fault("latency", seconds=0.3)]) as server:
        threads = [threading.Thread(target=candles, args=(server,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.most_at_once("oanda") == 4
        assert server.most_at_once("polygon") == 0


def test_stopping_ends_the_connections_that_a_client_keeps() -> None:
    server = rehearsal().start()
    with requests.Session() as session:
        url = f"{server.urls['yahoo']}/v8/finance/chart/EURUSD=X"
        assert session.get(url, timeout=10).status_code == 200
        server.stop()
        with pytest.raises(requests.ConnectionError):
            session.get(url, timeout=10)
    server.stop()


def test_a_long_answer_is_compressed_for_those_who_can_read_it() -> None:
    with rehearsal() as server:
        packed, plain = candles(server), candles(server, headers={"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert packed.json() == plain.json()


TOML = """
now = 2024-03-05T10:30:00Z
[keys]
oanda = "a-token"
[limits]
alpha_vantage = [{ units = 5, seconds = 1 }, { units = 25, seconds = 60.0, name = "day" }]
yahoo = []
[[fault]]
kind = "latency"
provider = "oanda"
match = "/candles"
calls = [2, 3]
seconds = 0.5
[[fault]]
kind = "cut"
probability = 0.1
seed = 4
"""


@pytest.mark.parametrize("form", ["toml", "json"])
def test_a_script_is_read_from_toml_and_json(tmp_path: Path, form: str) -> None:
    import tomllib

    file = tmp_path / f"script.{form}"
    file.write_text(TOML if form == "toml" else json.dumps(tomllib.loads(TOML), default=str))
    script = read_script(file)
    assert script.faults == (
        Fault("latency", "oanda", "/candles", (2, 3), seconds=0.5),
        Fault("cut", probability=0.1, seed=4),
    )
    assert script.limits == {"alpha_vantage": (RateLimit(5, 1), RateLimit(25, 60.0, "day")), "yahoo": ()}
    assert (script.keys, script.now) == ({"oanda": "a-token"}, datetime(2024, 3, 5, 10, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[fault]]\nkind = 'boredom'", "boredom"),
        ("[[fault]]\nprovider = 'oanda'", "names no kind"),
        ("[[fault]]\nkind = 'cut'\nsharee = 1", "sharee"),
        ("[[fault]]\nkind = 'cut'\nshare = 1.5", "1.5"),
        ("[fault]\nkind = 'cut'", "`fault`"),
        ("[limits]\nbloomberg = []", "bloomberg"),
        ("[limits]\noanda = [{ unit = 3 }]", "unit"),
        ("now = 'soon'", "soon"),
        ("[[fault", "script.toml"),
    ],
)
def test_a_wrong_script_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "script.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"script\.toml") as raised:
        read_script(file)
    assert words in raised.value.fact
    assert raised.value.next_step
