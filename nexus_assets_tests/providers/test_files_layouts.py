"""Every layout that `files` reads, from files as their makers write them."""

from pathlib import Path

import pandas as pd
import pytest

from nexus_assets.errors import SourceFormatError
from nexus_assets_tests.providers.price_files import files_provider, generic, request, walk, write

BRACKETS = "<DATE> <TIME> <OPEN> <HIGH> <LOW> <CLOSE> <TICKVOL> <VOL> <SPREAD>"

TWO_BARS = [
    ["2024-03-05T10:00:00+00:00", 1.1, 1.2, 1.0, 1.15, 7.0, 0.0002],
    ["2024-03-05T11:00:00+00:00", 1.15, 1.25, 1.05, 1.2, 8.0, 0.0003],
]


def source(layout: str, path: str, more: str = "", timeframe: str = "1h") -> str:
    return f"""
[[source]]
provider = "files"
layout = "{layout}"
path = "{path}"
timeframe = "{timeframe}"
symbols = ["EURUSD", "USDJPY"]
{more}
"""


def rows(root: Path, declaration: str, symbol: str = "EURUSD", timeframe: str = "1h") -> list[list[object]]:
    """Every delivered bar, time first as text, missing numbers as None."""
    delivery = files_provider(root, declaration).fetch(request(symbol, timeframe))
    assert delivery.rejected.empty, delivery.rejected["detail"].tolist()
    bars = delivery.bars.astype(object).where(delivery.bars.notna(), None)
    return [[row[0].isoformat(), *row[1:]] for row in bars.itertuples(index=False)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("header", [BRACKETS, BRACKETS.replace("<", "").replace(">", ""), ""])
def test_metatrader_files_are_read_with_and_without_a_header(
    tmp_path: Path, header: str, delimiter: str, line_end: str
) -> None:
    lines = [header, "2024.03.05 12:00:00 1.1 1.2 1.0 1.15 7 0 20", "2024.03.05 13:00:00 1.15 1.25 1.05 1.2 8 0 30", ""]
    write(
        tmp_path / "EURUSD_H1.csv", line_end.join(line.replace(" ", delimiter) for line in lines if line or not header)
    )
    zone = 'time_zone = "UTC+02:00 with US DST"'
    assert rows(tmp_path, source("mt5", "{symbol}_H1.csv", zone)) == TWO_BARS


def test_metatrader_files_with_one_time_column_and_without_spread_are_read(tmp_path: Path) -> None:
    write(
        tmp_path / "EURUSD_H1.csv",
        "time,open,high,low,close,tick_volume\n2024-03-05 12:00:00,1.1,1.2,1.0,1.15,7\n"
        "2024-03-05 13:00:00,1.15,1.25,1.05,1.2,8\n",
    )
    found = rows(tmp_path, source("mt5", "{symbol}_H1.csv", 'time_zone = "Europe/Athens"'))
    assert found == [[*bar[:-1], None] for bar in TWO_BARS]


def test_metatrader_files_in_utf_16_are_read(tmp_path: Path) -> None:
    text = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\r\n"
    text += "2024.03.05\t10:00\t1.1\t1.2\t1.0\t1.15\t7\t0\t20\r\n"
    (tmp_path / "EURUSD_H1.csv").write_bytes(text.encode("utf-16"))
    assert rows(tmp_path, source("mt5", "{symbol}_H1.csv", 'time_zone = "UTC"')) == TWO_BARS[:1]


def test_a_daily_metatrader_file_prints_bare_dates(tmp_path: Path) -> None:
    write(tmp_path / "EURUSD.csv", "Date,open,high,low,close,tick_volume\n2024-03-05,110000,120000,100000,115000,7\n")
    more = 'time_zone = "UTC+02:00 with US DST"\nprice_divisor = 100000'
    (bar,) = rows(tmp_path, source("mt5", "{symbol}.csv", more, "1d"), timeframe="1d")
    assert bar == ["2024-03-04T22:00:00+00:00", 1.1, 1.2, 1.0, 1.15, 7.0, None]


def test_integer_points_are_divided_by_the_symbols_own_scale(tmp_path: Path) -> None:
    header = "time,open,high,low,close,tick_volume,spread\n"
    write(tmp_path / "EURUSD.csv", header + "2024-03-05 10:00:00,110001,120003,100007,115009,7,20\n")
    write(tmp_path / "USDJPY.csv", header + "2024-03-05 10:00:00,150001,150103,149907,150009,7,20\n")
    more = 'time_zone = "UTC"\nprice_divisor = { "*" = 100000, USDJPY = 1000 }'
    declaration = source("mt5", "{symbol}.csv", more)
    assert rows(tmp_path, declaration)[0][1:] == [1.10001, 1.20003, 1.00007, 1.15009, 7.0, 0.0002]
    assert rows(tmp_path, declaration, "USDJPY")[0][1:] == [150.001, 150.103, 149.907, 150.009, 7.0, 0.02]


def test_dukascopy_gmt_time_needs_no_declared_zone(tmp_path: Path) -> None:
    write(
        tmp_path / "EURUSD_Candlestick_1_Hour_BID.csv",
        "Gmt time,Open,High,Low,Close,Volume\n05.03.2024 10:00:00.000,1.1,1.2,1.0,1.15,7\n"
        "05.03.2024 11:00:00.000,1.15,1.25,1.05,1.2,8\n",
    )
    assert rows(tmp_path, source("dukascopy", "{symbol}_*.csv")) == [[*bar[:-1], None] for bar in TWO_BARS]


def test_dukascopy_local_time_prints_its_offset_in_every_row(tmp_path: Path) -> None:
    write(
        tmp_path / "EURUSD.csv",
        "Local time,Open,High,Low,Close,Volume\n27.10.2024 02:00:00.000 GMT+0200,1.1,1.2,1.0,1.1,7\n"
        "27.10.2024 02:00:00.000 GMT+0100,1.1,1.2,1.0,1.1,7\n",
    )
    found = rows(tmp_path, source("dukascopy", "{symbol}.csv"))
    assert [bar[0] for bar in found] == ["2024-10-27T00:00:00+00:00", "2024-10-27T01:00:00+00:00"]


def test_dukascopy_local_time_without_an_offset_needs_a_declared_zone(tmp_path: Path) -> None:
    write(
        tmp_path / "EURUSD.csv", "Local time,Open,High,Low,Close,Volume\n05.03.2024 11:00:00.000,1.1,1.2,1.0,1.15,7\n"
    )
    with pytest.raises(SourceFormatError, match="time_zone"):
        rows(tmp_path, source("dukascopy", "{symbol}.csv"))
    zoned = source("dukascopy", "{symbol}.csv", 'time_zone = "Europe/Berlin"')
    assert rows(tmp_path, zoned) == [[*TWO_BARS[0][:-1], None]]


def test_histdata_volume_is_no_volume(tmp_path: Path) -> None:
    write(tmp_path / "EURUSD.zip", "20240305 050000;1.100000;1.200000;1.000000;1.150000;0\n")
    more = 'time_zone = "America/New_York"'
    found = rows(tmp_path, source("histdata_ascii_m1", "{symbol}.zip", more, "1m"), timeframe="1m")
    assert found == [["2024-03-05T10:00:00+00:00", 1.1, 1.2, 1.0, 1.15, None, None]]


@pytest.mark.parametrize(
    ("printed", "more"),
    [
        (["2024-03-05 10:00:00", "2024-03-05 11:00:00"], 'time_zone = "UTC"'),
        (["2024-03-05T10:00:00Z", "2024-03-05T11:00:00Z"], 'time_zone = "UTC"'),
        (["2024-03-05T10:00:00.000000+00:00", "2024-03-05T11:00:00+00:00"], 'time_zone = "UTC"'),
        (["2024-03-05 11:00+01", "2024-03-05 12:00+01"], 'time_zone = "in_rows"'),
        (["2024-03-05 05:00:00", "2024-03-05 06:00:00"], 'time_zone = "America/New_York"'),
        (["1709632800", "1709636400"], 'time_zone = "UTC"\ntime_format = "unix_s"'),
        (["1709640000000", "1709643600000"], 'time_zone = "Europe/Athens"\ntime_format = "unix_ms"'),
        (["05/03/24 10h00", "05/03/24 11h00"], 'time_zone = "UTC"\ntime_format = "%d/%m/%y %Hh%M"'),
    ],
)
def test_a_generic_file_prints_its_times_as_declared(tmp_path: Path, printed: list[str], more: str) -> None:
    lines = [",".join([time, *map(str, bar[1:])]) for time, bar in zip(printed, TWO_BARS, strict=True)]
    write(tmp_path / "EURUSD.csv", "\n".join(["ts,open,high,low,close,volume,spread", *lines]))
    assert rows(tmp_path, generic("{symbol}.csv", more=more)) == TWO_BARS


def test_a_generic_file_has_its_columns_mapped_and_the_others_ignored(tmp_path: Path) -> None:
    write(
        tmp_path / "eur.usd" / "2024.csv",
        "note;Day;Clock;O;H;L;C;Lots;Wide\nx;2024-03-05;10:00;11;12;10;11.5;7;2\ny;2024-03-05;11:00;11.5;12.5;10.5;12;8;3\n",
    )
    more = """symbols = { EURUSD = "eur.usd" }
price_divisor = 10
spread_divisor = 10000
[source.columns]
date = "Day"
time = "Clock"
open = "O"
high = "H"
low = "L"
close = "C"
volume = "Lots"
spread = "Wide"
"""
    assert rows(tmp_path, generic("{spelling}/*.csv", more=more)) == TWO_BARS


def test_a_file_of_many_symbols_is_told_apart_by_its_column(tmp_path: Path) -> None:
    write(
        tmp_path / "all.csv",
        "ticker,ts,open,high,low,close\n"
        "EUR,2024-03-05 10:00:00,1.1,1.2,1.0,1.15\nJPY,2024-03-05 10:00:00,150,151,149,150\n"
        "JPY,2024-03-05 11:00:00\nwhose?\n",
    )
    more = 'symbols = { EURUSD = "EUR", USDJPY = "JPY" }\ncolumns = { symbol = "ticker" }'
    provider = files_provider(tmp_path, generic("all.csv", more=more))
    euro, yen = provider.fetch(request("EURUSD")), provider.fetch(request("USDJPY"))
    assert (euro.bars["open"].tolist(), yen.bars["open"].tolist()) == ([1.1], [150.0])
    # Each line of the file is delivered once, whomever it is of.
    assert euro.rejected["content"].tolist() == ["whose?"]
    assert yen.rejected["content"].tolist() == ["JPY,2024-03-05 11:00:00"]


@pytest.mark.parametrize("kind", ["aware", "naive", "text", "integer prices"])
def test_parquet_files_are_read_in_the_types_that_people_store(tmp_path: Path, kind: str) -> None:
    bars = walk("1h")
    stored, more = bars.copy(), 'time_zone = "UTC"'
    if kind == "naive":
        stored["ts"] = bars["ts"].dt.tz_convert("Europe/Athens").dt.tz_localize(None).astype("datetime64[ns]")
        more = 'time_zone = "Europe/Athens"'
    elif kind == "text":
        stored["ts"] = bars["ts"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    elif kind == "integer prices":
        for name in ("open", "high", "low", "close"):
            stored[name] = (bars[name] * 100_000).round().astype("int64")
        more += "\nprice_divisor = 100000"
    (tmp_path / "year=2024").mkdir()
    stored.to_parquet(tmp_path / "year=2024" / "EURUSD.parquet")
    delivery = files_provider(tmp_path, generic("**/{symbol}.parquet", more=more)).fetch(request())
    pd.testing.assert_frame_equal(delivery.bars, bars, check_exact=True)


def test_a_file_whose_clock_changed_its_rule_is_declared_in_parts(tmp_path: Path) -> None:
    write(
        tmp_path / "EURUSD.csv",
        "ts,open,high,low,close\n2019-11-29 12:00:00,1.1,1.2,1.0,1.1\n2020-03-16 12:00:00,1.1,1.2,1.0,1.1\n",
    )
    declaration = generic("{symbol}.csv", more='until = 2020-01-01\ntime_zone = "UTC+02:00 with EU DST"')
    declaration += generic("{symbol}.csv", more='from = 2020-01-01\ntime_zone = "UTC+02:00 with US DST"')
    # On 16 March New York had moved its clock and Europe had not.
    assert [bar[0] for bar in rows(tmp_path, declaration)] == ["2019-11-29T10:00:00+00:00", "2020-03-16T09:00:00+00:00"]


def test_a_delivery_says_what_its_numbers_are(tmp_path: Path) -> None:
    write(tmp_path / "USDJPY.csv", "ts,open,high,low,close\n2024-03-05 10:00:00,150,151,149,150\n")
    more = 'name = "broker"\ninstrument_kind = "cfd"'
    declaration = generic("{symbol}.csv", more=more).replace('"mid"', '"ask"').replace('"ticks"', '"contracts"')
    delivery = files_provider(tmp_path, declaration, "broker").fetch(request("USDJPY"))
    kinds = (delivery.provider, delivery.price_kind, delivery.volume_kind, delivery.instrument_kind, delivery.source)
    assert kinds == ("broker", "ask", "contracts", "cfd", "USDJPY.csv")
