"""Recorded responses: replayed from a folder, and compared in shape with what the rehearsal makes."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from nexus_assets.errors import SettingsError
from nexus_assets.rehearsal import Fault, Rehearsal
from nexus_assets_tests.rehearsal.market import get, rehearsal

INDEX = [
    {
        "provider": "oanda",
        "url": "GET /v3/instruments/{instrument}/candles",
        "params": {"granularity": "M5", "count": 5},
        "file": "oanda/candles.json",
    },
    {"provider": "oanda", "url": "GET v3/accounts/{id}/pricing", "file": "oanda/pricing.json"},
    {
        "provider": "yahoo_chart_v8",
        "url": "https://query2.finance.yahoo.com/v8/finance/chart/EURUSD=X?interval=1d&events=div%7Csplit",
        "status": 200,
        "file": "yahoo/chart.json",
    },
    {
        "provider": "eodhd",
        "url": "https://eodhd.com/api/intraday/AAPL.US?api_token=REDACTED&fmt=json",
        "status": 401,
        "file": "eodhd/401.txt",
    },
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("oanda", "yahoo", "eodhd"):
        (tmp_path / name).mkdir()
    (tmp_path / "index.json").write_text(json.dumps(INDEX))
    (tmp_path / "oanda/candles.json").write_text('{"candles": ["recorded"]}')
    (tmp_path / "oanda/pricing.json").write_text('{"prices": ["recorded"]}')
    response = {"status": 404, "headers": {"content-type": "application/json;charset=utf-8"}, "bodyJson": {"chart": 1}}
    (tmp_path / "yahoo/chart.json").write_text(json.dumps({"request": {}, "response": response}))
    (tmp_path / "eodhd/401.txt").write_text("Unauthenticated")
    return tmp_path


def test_a_recording_answers_the_requests_whose_parameters_it_states(folder: Path) -> None:
    path = "/v3/instruments/EUR_USD/candles"
    with rehearsal(recordings=folder) as server:
        assert get(server, "oanda", path, granularity="M5", count=5).json() == {"candles": ["recorded"]}
        assert get(server, "oanda", path, granularity="M5", count=5, price="M").json() == {"candles": ["recorded"]}
        assert get(server, "oanda", path, granularity="H1", count=5).json()["granularity"] == "H1"
        chart = get(server, "yahoo", "/v8/finance/chart/EURUSD=X", interval="1d", events="div|split")
        assert (chart.status_code, chart.json()) == (404, {"chart": 1})
        assert chart.headers["Content-Type"] == "application/json;charset=utf-8"
        assert get(server, "eodhd", "/api/intraday/AAPL.US", fmt="json").status_code == 401


def test_a_recording_without_parameters_answers_only_requests_without_any(folder: Path) -> None:
    path = "/v3/accounts/001-001-1-001/pricing"
    with rehearsal(recordings=folder) as server:
        assert get(server, "oanda", path).json() == {"prices": ["recorded"]}
        assert get(server, "oanda", path, instruments="EUR_USD").json()["prices"][0]["instrument"] == "EUR_USD"


def test_a_fault_replays_a_recording_whatever_was_asked(folder: Path) -> None:
    fault = Fault("recorded", "polygon", calls=(1,), file="eodhd/401.txt")
    with rehearsal(recordings=folder, faults=[fault]) as server:
        answer = get(server, "polygon", "/v1/last_quote/currencies/EUR/USD")
        assert (answer.status_code, answer.text) == (401, "Unauthenticated")
        assert get(server, "polygon", "/v1/last_quote/currencies/EUR/USD").status_code == 200


def test_recordings_that_are_missing_are_refused_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no file other\.json"):
        rehearsal(recordings=folder, faults=[Fault("recorded", file="other.json")])
    with pytest.raises(SettingsError, match="no folder of recordings"):
        rehearsal(faults=[Fault("recorded", file="eodhd/401.txt")])
    (folder / "index.json").write_text('[{"file": "x"}]')
    with pytest.raises(SettingsError, match=r"index\.json"):
        rehearsal(recordings=folder)


def shape(value: Any) -> Any:
    """Keys and types; of a list, the shapes of its elements; of a string of numbers, how it is written."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(one), sort_keys=True) for one in value if one is not None})
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d.:TZ -]*", value):
        return re.sub(r"\d+", "9", value.lstrip("-+"))
    return type(value).__name__


def recorded(folder: Path, file: str) -> Any:
    body = json.loads((folder / "api_fixtures" / file).read_text())
    return body["response"]["bodyJson"] if "response" in body else body


def first_row_of_each(body: Any) -> Any:
    """Alpha Vantage's rows are named by their times: the names become one."""
    return {name: {"time": next(iter(rows.values()))} if "Time Series" in name else rows for name, rows in body.items()}


FX: dict[str, Any] = {"from_symbol": "EUR", "to_symbol": "USD"}
ACCOUNT = "/v3/accounts/001-001-1-001"
UNIX = {"Accept-Datetime-Format": "UNIX"}
EURUSD_CHART = "yahoo_chart_v8/chart-EURUSD=X-2020-01-01-to-2020-01-03.json"
AGGREGATES = "polygon/v2_aggs_C_EURUSD_1day_2023-01-01_2023-01-10.json"
SAME: list[tuple[str, str, str, dict[str, Any]]] = [
    (
        "oanda/candles_GBP_USD_D_ask.json",
        "oanda",
        "/v3/instruments/EUR_USD/candles",
        {"granularity": "D", "price": "A"},
    ),
    ("oanda/candles_DE30_EUR_M5_mid.json", "oanda", "/v3/instruments/XAU_USD/candles", {"granularity": "H1"}),
    (
        "oanda/candles_AUD_USD_S5_mid_unixtime.json",
        "oanda",
        "/v3/instruments/EUR_USD/candles",
        {"granularity": "H1", "headers": UNIX},
    ),
    ("oanda/pricing.json", "oanda", f"{ACCOUNT}/pricing", {"instruments": "EUR_USD"}),
    ("oanda/instruments.json", "oanda", f"{ACCOUNT}/instruments", {}),
    ("eodhd/intraday_AAPL_US_5m.json", "eodhd", "/api/intraday/EURUSD.FOREX", {"interval": "1h", "fmt": "json"}),
    (EURUSD_CHART, "yahoo", "/v8/finance/chart/EURUSD=X", {"interval": "1d", "range": "5d"}),
    (
        "alpha_vantage/mock_fx_intraday.json",
        "alpha_vantage",
        "/query",
        {**FX, "function": "FX_INTRADAY", "interval": "60min"},
    ),
    ("alpha_vantage/mock_fx_daily.json", "alpha_vantage", "/query", {**FX, "function": "FX_DAILY"}),
    (
        "alpha_vantage/mock_fx.json",
        "alpha_vantage",
        "/query",
        {"function": "CURRENCY_EXCHANGE_RATE", "from_currency": "EUR", "to_currency": "USD"},
    ),
    ("alpha_vantage/information_demo_key_error.json", "alpha_vantage", "/query", {"key": "demo"}),
    (
        "twelve_data/bad_request_response_error.json",
        "twelve_data",
        "/time_series",
        {"symbol": "NDX", "interval": "1ms"},
    ),
    ("twelve_data/unauthorized_response_error.json", "twelve_data", "/time_series", {"key": "wrong"}),
    ("twelve_data/not_found_response_error.json", "twelve_data", "/time_series", {"symbol": "NOTHING"}),
    (AGGREGATES, "polygon", "/v2/aggs/ticker/C:EURUSD/range/1/day/2024-02-27/2024-03-01", {}),
    ("polygon/v1__last_quote__currencies__AUD__USD.json", "polygon", "/v1/last_quote/currencies/EUR/USD", {}),
]


@pytest.mark.parametrize(("file", "provider", "path", "params"), SAME, ids=[row[0] for row in SAME])
def test_what_is_made_has_the_keys_and_types_of_what_was_recorded(
    real_data: Path, server: Rehearsal, file: str, provider: str, path: str, params: dict[str, Any]
) -> None:
    made, real = get(server, provider, path, **params).json(), recorded(real_data, file)
    if provider == "alpha_vantage":
        made, real = first_row_of_each(made), first_row_of_each(real)
        made = {("Time Series FX (5min)" if name.endswith("(60min)") else name): rows for name, rows in made.items()}
    if provider == "eodhd":
        # Missing volumes are null in both; this frame has none.
        real = [row for row in real if row["volume"] is not None]
    assert shape(made) == shape(real)


def test_a_series_of_twelve_data_has_the_keys_and_types_of_what_was_recorded(
    real_data: Path, server: Rehearsal
) -> None:
    made = get(server, "twelve_data", "/time_series", symbol="EUR/USD", interval="1min", outputsize=2).json()
    real = recorded(real_data, "twelve_data/time_series_USDJPY_1min_previous_close.json")
    for value in real["values"]:
        # It was asked for by a parameter of its own.
        del value["previous_close"]
    assert shape(made) == shape(real)
    with rehearsal(names={"twelve_data": {"IBM": "NAS100"}}) as other:
        share = get(other, "twelve_data", "/time_series", symbol="IBM", interval="1h").json()
    assert share["meta"].keys() == recorded(real_data, "twelve_data/time_series.json")["meta"].keys()


def test_error_texts_are_the_recorded_ones(real_data: Path, server: Rehearsal) -> None:
    demo = get(server, "alpha_vantage", "/query", key="demo").json()
    assert demo == recorded(real_data, "alpha_vantage/information_demo_key_error.json")
    refused = get(server, "twelve_data", "/time_series", key="wrong").json()
    assert refused == recorded(real_data, "twelve_data/unauthorized_response_error.json")
    wrong = get(server, "twelve_data", "/time_series", symbol="NDX", interval="1ms").json()
    assert wrong["message"] == recorded(real_data, "twelve_data/bad_request_response_error.json")["message"]
    unauthenticated = get(server, "eodhd", "/api/intraday/EURUSD.FOREX", key="wrong").text
    assert unauthenticated == (real_data / "api_fixtures/eodhd/intraday_401.txt").read_text()


def test_csv_headers_are_the_recorded_ones(real_data: Path, server: Rehearsal) -> None:
    def header(file: str) -> list[str]:
        with (real_data / "api_fixtures" / file).open() as lines:
            return next(csv.reader(lines))

    intraday = {**FX, "function": "FX_INTRADAY", "interval": "60min", "datatype": "csv"}
    made = get(server, "alpha_vantage", "/query", **intraday).text.splitlines()[0].split(",")
    assert made == header("alpha_vantage/FX_INTRADAY.csv")
    daily = get(server, "eodhd", "/api/eod/EURUSD.FOREX").text.splitlines()[0].split(",")
    assert daily == header("eodhd/AAPL.US_from_2018-01-01_to_2019-10-02.csv")


def test_every_recorded_response_of_the_six_apis_is_replayed(real_data: Path) -> None:
    folder = real_data / "api_fixtures"
    index = [entry for entry in json.loads((folder / "index.json").read_text()) if entry["provider"] != "dukascopy"]
    assert len(index) > 40
    faults = [Fault("recorded", "polygon", calls=(n,), file=entry["file"]) for n, entry in enumerate(index, 1)]
    with rehearsal(recordings=folder, faults=faults, limits={"polygon": ()}) as server:
        answers = [get(server, "polygon", "/anything") for _ in index]
    for entry, answer in zip(index, answers, strict=True):
        raw = (folder / entry["file"]).read_bytes()
        if entry["provider"] == "yahoo_chart_v8" and b'"bodyJson"' in raw:
            assert answer.json() == json.loads(raw)["response"]["bodyJson"]
        else:
            assert answer.content == raw
        assert answer.status_code == (entry.get("status") or 200)
    with rehearsal(recordings=folder) as server:
        chart = get(
            server, "yahoo", "/v8/finance/chart/EURUSD=X", interval="1d", period1=1577836800, period2=1578009600,
            useYfid="true", includePrePost="true", events="div|split|earn", lang="en-US",
        )  # fmt: skip
        assert chart.json() == recorded(real_data, EURUSD_CHART)
