"""Yahoo's chart API as the rehearsal plays it."""

from typing import Any

import numpy as np
import pytest

from nexus_assets.rehearsal import Rehearsal
from nexus_assets_tests.rehearsal.market import FRAMES, NOW, get, instant, opens, rehearsal

CHART = "/v8/finance/chart/EURUSD=X"


def seconds(text: str) -> int:
    return int(instant(text).timestamp())


def result(server: Rehearsal, path: str, **params: Any) -> dict[str, Any]:
    return get(server, "yahoo", path, **params).json()["chart"]["result"][0]


def test_a_chart_is_the_frame_and_nulls_where_a_gap_begins(server: Rehearsal) -> None:
    span = {"period1": seconds("2024-03-01 20:00"), "period2": seconds("2024-03-04 02:00")}
    chart = result(server, CHART, interval="1h", **span)
    quote = chart["indicators"]["quote"][0]
    expected = opens(FRAMES["EURUSD", "1h"], "2024-03-01 20:00", "2024-03-04 02:01")
    assert chart["timestamp"][2] == seconds("2024-03-01 22:00")
    assert {name: quote[name][2] for name in quote} == dict.fromkeys(("open", "high", "low", "close", "volume"), None)
    stamps, opened = chart["timestamp"], quote["open"]
    del stamps[2], opened[2]
    assert stamps == [int(ts.timestamp()) for ts in expected["ts"]]
    assert opened == expected["open"].tolist()
    assert set(quote["volume"]) == {0, None}


def test_a_day_stands_at_midnight_of_its_exchange_and_an_unfinished_one_at_now(server: Rehearsal) -> None:
    span = {"period1": seconds("2024-03-01 00:00"), "period2": seconds("2024-03-06 00:00")}
    chart = result(server, CHART, interval="1d", **span)
    assert chart["timestamp"][0] == seconds("2024-03-01 00:00")
    assert chart["timestamp"][-1] == int(NOW.timestamp())
    assert chart["indicators"]["adjclose"][0]["adjclose"] == chart["indicators"]["quote"][0]["close"]
    gold = result(server, "/v8/finance/chart/GC=F", interval="1d", **span)
    assert gold["meta"]["exchangeTimezoneName"] == "America/New_York"
    assert gold["timestamp"][0] == seconds("2024-03-01 05:00")


def test_no_bars_is_a_chart_without_timestamps_and_an_unknown_symbol_404(server: Rehearsal) -> None:
    span = {"period1": seconds("2024-03-02 01:00"), "period2": seconds("2024-03-02 09:00")}
    chart = result(server, CHART, interval="1h", **span)
    assert "timestamp" not in chart
    assert chart["indicators"] == {"quote": [{}]}
    unknown = get(server, "yahoo", "/v8/finance/chart/NOTHING=X")
    error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
    assert (unknown.status_code, unknown.json()) == (404, {"chart": {"result": None, "error": error}})


@pytest.mark.parametrize(
    ("interval", "days_back", "days", "words"),
    [
        ("1m", 9, 8.1, "Only 8 days worth of 1m granularity"),
        ("1m", 31, 1, "within the last 30 days"),
        ("15m", 61, 1, "within the last 60 days"),
        ("1h", 731, 1, "within the last 730 days"),
    ],
)
def test_a_range_too_long_or_too_old_is_refused(
    server: Rehearsal, interval: str, days_back: int, days: float, words: str
) -> None:
    first = int(NOW.timestamp()) - days_back * 86_400
    span: dict[str, Any] = {"period1": first, "period2": first + int(days * 86_400)}
    answer = get(server, "yahoo", CHART, interval=interval, **span)
    assert answer.status_code == 422
    assert words in answer.json()["chart"]["error"]["description"]
    assert [violation.rule for violation in server.violations] == ["range"]


def test_the_spelling_of_a_dollar_pair_may_be_short(server: Rehearsal) -> None:
    assert get(server, "yahoo", "/v8/finance/chart/XYZ=X").status_code == 404
    with rehearsal(names={"yahoo": {"EURO": "EURUSD"}}) as other:
        assert result(other, "/v8/finance/chart/EURO", interval="1h")["meta"]["symbol"] == "EURO"


def test_single_precision_loses_digits_as_the_real_api_does() -> None:
    with rehearsal(single_precision=True) as server:
        values = result(server, CHART, interval="1h", range="5d")["indicators"]["quote"][0]["close"]
    given = FRAMES["EURUSD", "1h"]["close"].tolist()
    kept = [value for value in values if value is not None]
    assert not set(kept) & set(given)
    assert np.array(kept, "float32").tolist() == kept


def test_a_call_beyond_the_limit_is_a_line_of_text() -> None:
    from nexus_assets.rehearsal import RateLimit

    with rehearsal(limits={"yahoo": (RateLimit(1, 60.0),)}) as server:
        get(server, "yahoo", CHART)
        refused = get(server, "yahoo", CHART)
    assert (refused.status_code, refused.text.strip()) == (429, "Too Many Requests")
    assert "Retry-After" not in refused.headers
