"""The real files (NEXUS_REAL_DATA), declared in real_sources.toml: every row is delivered, at the instant that others
found, and the known defects are counted.

The Parquet files hold the time as the source printed it (ts_src) beside the instant (ts) that their collector found
by comparing every week with a reference feed. The sources read the first; the tests compare with the second.
"""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from nexus_assets.instruments import INSTRUMENTS
from nexus_assets.providers.files import FilesProvider
from nexus_assets.providers.interface import Delivery
from nexus_assets.providers.registry import Sources, load_sources
from nexus_assets_tests.providers.price_files import request

SOURCES = Path(__file__).parent / "real_sources.toml"
PRICES = ["open", "high", "low", "close"]

# Folder, timeframe, symbols with a file that is declared.
FOLDERS = [
    ("oanda_h1", "1h", 21),
    ("oanda_s5_mislabelled_h1", "1h", 14),
    ("histdata_m1", "1m", 7),
    ("mt5_h1_nobodys", "1h", 5),
    ("mt5_h1_ejtrader", "1h", 6),
    ("mt5_h1_jorge", "1h", 6),
    ("mt5_h1_javier", "1h", 6),
    ("mt5_m5_javier", "5m", 3),
    ("mt5_h1_simom", "1h", 2),
    ("utc_h1_mystertech", "1h", 5),
    ("dukascopy_h1_2024", "1h", 6),
    ("dukascopy_h1_eurusd_2020_2023", "1h", 1),
    ("dukascopy_m1_eurusd_201810", "1m", 1),
    ("backtesting_py_eurusd_h1", "1h", 1),
    ("lean_oanda_h1", "1h", 2),
    ("lean_fxcm_h1", "1h", 1),
    ("fxcm_m1_bidask", "1m", 1),
]

OF_ANOTHER_TIMEFRAME = ("oanda_s5_mislabelled_h1", "mt5_h1_simom")

# A raw sample, the folder whose Parquet file was made of it, and the first instant that both hold.
RAW_SAMPLES = [
    ("histdata_m1_raw", "USDCHF", "1m", "histdata_m1/USDCHF_2018.parquet", "2018-01-01"),
    ("mt5_h1_nobodys_raw", "GBPUSD", "1h", "mt5_h1_nobodys/GBPUSD.parquet", "2020-01-02"),
    ("mt5_h1_javier_raw", "NAS100", "1h", "mt5_h1_javier/NAS100.parquet", "2024-08-30"),
    ("mt5_h1_simom_raw", "NZDUSD", "1h", "mt5_h1_simom/NZDUSD.parquet", "2020-07-05"),
    ("dukascopy_h1_2024_raw", "EURUSD", "1h", "dukascopy_h1_2024/EURUSD.parquet", "2023-12-31"),
    ("dukascopy_h1_2024_raw", "US500", "1h", "dukascopy_h1_2024/USA500.IDXUSD.parquet", "2023-12-31"),
    ("dukascopy_m1_eurusd_201810_raw", "EURUSD", "1m", "dukascopy_m1_eurusd_201810/EURUSD.parquet", "2018-10-01"),
]


@pytest.fixture(scope="module")
def sources(real_data: Path) -> Sources:
    return load_sources(SOURCES, real_data)


def provider(sources: Sources, name: str) -> FilesProvider:
    found = next(p for p in sources.providers if p.name == name)
    assert isinstance(found, FilesProvider)
    return found


def deliveries(sources: Sources, name: str, timeframe: str) -> list[Delivery]:
    served = provider(sources, name)
    symbols = [item.symbol for item in INSTRUMENTS if served.serves(item.symbol, timeframe)]
    return [served.fetch(request(symbol, timeframe)) for symbol in symbols]


def stored(real_data: Path, delivery: Delivery) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(real_data / path) for path in delivery.source.split(", ")], ignore_index=True)


@pytest.mark.parametrize(("name", "timeframe", "symbols"), FOLDERS, ids=[folder[0] for folder in FOLDERS])
def test_every_row_of_a_folder_is_delivered_at_its_true_instant(
    sources: Sources, real_data: Path, name: str, timeframe: str, symbols: int
) -> None:
    found = deliveries(sources, name, timeframe)
    assert len(found) == symbols
    for delivery in found:
        known = stored(real_data, delivery)
        assert delivery.delivered == len(known), delivery.request
        assert delivery.equal_repeats == known.duplicated("ts").sum()
        assert delivery.rejected.empty or name in OF_ANOTHER_TIMEFRAME
        rejected = delivery.rejected.loc[delivery.rejected["rule"] == "granularity", "ts"]
        expected = known.loc[~known["ts"].isin(rejected)].drop_duplicates("ts").sort_values("ts", ignore_index=True)
        pd.testing.assert_frame_equal(
            delivery.bars[["ts", *PRICES]], expected[["ts", *PRICES]], check_exact=True, check_dtype=False
        )


@pytest.mark.parametrize(
    ("name", "symbol", "timeframe", "parquet", "since"), RAW_SAMPLES, ids=[r[0] + r[1] for r in RAW_SAMPLES]
)
def test_a_raw_sample_reads_to_the_rows_of_its_parquet_file(
    sources: Sources, real_data: Path, name: str, symbol: str, timeframe: str, parquet: str, since: str
) -> None:
    known = pd.read_parquet(real_data / parquet)
    # Some Parquet files were cut earlier than the sample.
    delivery = provider(sources, name).fetch(request(symbol, timeframe, since))
    raw = delivery.bars.loc[delivery.bars["ts"] <= known["ts"].max()]
    known = known.loc[known["ts"] >= pd.Timestamp(since, tz="UTC")]
    missing = known.loc[~known["ts"].isin(raw["ts"])]
    # The two rows that print a date without a time, which the collector read as midnight.
    assert len(missing) == len(delivery.rejected) == (2 if name == "mt5_h1_simom_raw" else 0)
    known = known.drop(missing.index).sort_values("ts", ignore_index=True)
    pd.testing.assert_frame_equal(
        raw[["ts", *PRICES]].reset_index(drop=True), known[["ts", *PRICES]], check_exact=True, check_dtype=False
    )


def test_histdata_delivers_an_hour_of_2019_twice(sources: Sources) -> None:
    hour = provider(sources, "histdata_m1").fetch(request("EURUSD", "1m", "2019-10-28T00:00:00", "2019-10-28T01:00:00"))
    assert (len(hour.bars), hour.equal_repeats, len(hour.rejected)) == (60, 60, 0)
    assert hour.bars["volume"].isna().all()


def test_all_five_second_files_named_hourly_are_rejected(sources: Sources) -> None:
    found = deliveries(sources, "oanda_s5_mislabelled_h1", "1h")
    assert [len(d.bars) for d in found] == [0] * 14
    assert Counter(rule for d in found for rule in d.rejected["rule"]) == {"granularity": 56_000}
    assert found[0].rejected["content"].str.startswith('{"symbol":').all()


def test_the_daily_months_of_an_hourly_file_are_rejected_and_the_others_kept(sources: Sources) -> None:
    euro, gold = deliveries(sources, "mt5_h1_simom", "1h")
    assert (euro.request.symbol, len(euro.rejected)) == ("NZDUSD", 0)
    assert set(gold.rejected["rule"]) == {"granularity"}
    # Every month from June 2007 to February 2018 holds one row a day.
    months = gold.rejected["ts"].dt.strftime("%Y-%m")
    assert (months.nunique(), months.min(), months.max()) == (129, "2007-06", "2018-02")
    assert gold.bars["ts"].iloc[0] >= pd.Timestamp("2018-03-01", tz="UTC")


def test_rows_with_a_bare_date_are_kept_with_their_line(sources: Sources) -> None:
    rejected = provider(sources, "mt5_h1_simom_raw").fetch(request("NZDUSD")).rejected
    assert rejected["rule"].tolist() == ["unusable_key"] * 2
    assert rejected["origin"].str.split(":").str[-1].tolist() == ["36264", "36384"]
    assert rejected["content"].str.startswith(("2026-05-04,0.58889", "2026-05-11,0.59334")).all()
    week = provider(sources, "mt5_h1_simom_raw").fetch(request("NZDUSD", "1h", "2026-05-04", "2026-05-08"))
    assert week.rejected.empty


def test_zero_prices_and_filled_weekends_are_delivered_to_be_judged(sources: Sources) -> None:
    bars = provider(sources, "utc_h1_mystertech").fetch(request("EURUSD")).bars
    assert ((bars[PRICES] == 0).all(axis=1)).sum() == 63
    minutes = provider(sources, "dukascopy_m1_eurusd_201810").fetch(request("EURUSD", "1m")).bars
    assert (minutes["volume"] == 0).sum() == 11_531


def test_integer_points_of_a_daily_file_are_scaled(sources: Sources) -> None:
    bars = provider(sources, "mt5_h1_ejtrader_raw").fetch(request("XAUUSD", "1d")).bars
    assert len(bars) == 2_400
    assert bars["close"].iloc[0] == 1726.72
    assert bars["ts"].iloc[0] == pd.Timestamp("2012-11-13T22:00:00Z")


def test_metatrader_spreads_are_points(sources: Sources) -> None:
    bars = provider(sources, "mt5_h1_nobodys_raw").fetch(request("GBPUSD")).bars
    assert bars["spread"].iloc[-1] == 0.00002
    assert bars["volume"].iloc[-1] == 4141


def test_a_repeated_hour_of_a_market_that_never_closes_is_read_in_the_order_of_the_file(sources: Sources) -> None:
    night = provider(sources, "dukascopy_h1_2024").fetch(
        request("BTCUSD", "1h", "2024-10-26T22:00:00", "2024-10-27T04:00:00")
    )
    assert len(night.bars) == 6
    assert night.rejected.empty
