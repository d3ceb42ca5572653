"""EODHD as the rehearsal plays it."""

import csv
from typing import Any

import pytest

from nexus_assets.rehearsal import FrameBook, Rehearsal
from nexus_assets_tests.rehearsal.market import FRAMES, NOW, get, instant, opens, rehearsal

INTRADAY = "/api/intraday/EURUSD.FOREX"


def seconds(text: str) -> int:
    return int(instant(text).timestamp())


def test_intraday_bars_are_those_of_the_frame_both_ends_included(server: Rehearsal) -> None:
    span: dict[str, Any] = {"from_": seconds("2024-03-01 20:00"), "to": seconds("2024-03-03 23:00")}
    rows = get(server, "eodhd", INTRADAY, interval="1h", fmt="json", **span).json()
    expected = opens(FRAMES["EURUSD", "1h"], "2024-03-01 20:00", "2024-03-03 23:01")
    assert [row["timestamp"] for row in rows] == [int(ts.timestamp()) for ts in expected["ts"]]
    assert rows[-1]["datetime"] == "2024-03-03 23:00:00"
    for name in ("open", "high", "low", "close", "volume"):
        assert [row[name] for row in rows] == expected[name].tolist()


def test_csv_is_the_format_unless_json_is_asked_for(server: Rehearsal) -> None:
    answer = get(
        server, "eodhd", INTRADAY, interval="1h", from_=seconds("2024-03-04 00:00"), to=seconds("2024-03-04 01:00")
    )
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert [row["Datetime"] for row in rows] == ["2024-03-04 00:00:00", "2024-03-04 01:00:00"]


@pytest.mark.parametrize(("interval", "days"), [("1m", 120), ("5m", 600), ("1h", 7200)])
def test_a_range_longer_than_the_interval_allows_is_refused(server: Rehearsal, interval: str, days: int) -> None:
    end = int(NOW.timestamp())
    widest: dict[str, Any] = {"interval": interval, "fmt": "json", "from_": end - days * 86_400, "to": end}
    assert get(server, "eodhd", INTRADAY, **widest).status_code == 200
    assert server.violations == []
    assert get(server, "eodhd", INTRADAY, **{**widest, "from_": widest["from_"] - 1}).status_code == 422
    assert [violation.rule for violation in server.violations] == ["range"]


def test_days_carry_the_date_in_which_they_end(server: Rehearsal) -> None:
    rows = get(server, "eodhd", "/api/eod/EURUSD.FOREX", from_="2024-02-27", to="2024-02-28", fmt="json").json()
    # The bars open on the evenings of 26 and 27 February.
    assert [row["date"] for row in rows] == ["2024-02-27", "2024-02-28"]
    assert [row["open"] for row in rows] == FRAMES["EURUSD", "1d"]["open"].iloc[:2].tolist()
    assert rows[0]["adjusted_close"] == rows[0]["close"]


def test_the_real_time_price_is_the_newest_and_of_an_unknown_symbol_na(server: Rehearsal) -> None:
    price = get(server, "eodhd", "/api/real-time/EURUSD.FOREX", fmt="json").json()
    assert price["timestamp"] == int(NOW.timestamp())
    assert price["close"] == pytest.approx(FRAMES["EURUSD", "1m"]["open"].iloc[150], abs=1e-9)
    assert get(server, "eodhd", "/api/real-time/NOTHING.FOREX", fmt="json").json()["close"] == "NA"
    several = get(server, "eodhd", "/api/real-time/EURUSD.FOREX", fmt="json", s="XAUUSD.FOREX").json()
    assert [one["code"] for one in several] == ["EURUSD.FOREX", "XAUUSD.FOREX"]


def test_errors_are_texts(server: Rehearsal) -> None:
    wrong = get(server, "eodhd", INTRADAY, key="wrong")
    assert (wrong.status_code, wrong.text) == (401, "Unauthenticated")
    unknown = get(server, "eodhd", "/api/intraday/NOTHING.FOREX")
    assert (unknown.status_code, unknown.text) == (404, "Ticker Not Found.")


def test_intraday_requests_cost_five_calls_of_the_day() -> None:
    from nexus_assets.rehearsal import RateLimit

    with rehearsal(limits={"eodhd": (RateLimit(12, 86_400.0, "day"),)}) as server:
        statuses = [get(server, "eodhd", INTRADAY, interval="1h").status_code for _ in range(3)]
        assert statuses == [200, 200, 402]
        assert get(server, "eodhd", "/api/eod/EURUSD.FOREX").status_code == 200


def test_a_missing_volume_is_null() -> None:
    frame = FRAMES["EURUSD", "1h"].assign(volume=float("nan"))
    with Rehearsal(FrameBook({("EURUSD", "1h"): frame}), now=lambda: NOW) as server:
        rows = get(server, "eodhd", INTRADAY, interval="1h", fmt="json").json()
    assert {row["volume"] for row in rows} == {None}
