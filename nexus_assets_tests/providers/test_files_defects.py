"""Price files as they are found: damaged, contradictory, of another timeframe, or not there."""

import gzip
import os
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from nexus_assets.errors import SourceFormatError, UnknownSymbolError
from nexus_assets.providers.interface import settle_repeats
from nexus_assets_tests.providers.price_files import files_provider, generic, request, utc, walk, write

HEADER = "ts,open,high,low,close,volume,spread"


def hours(first: str, count: int, step: str = "1h") -> list[str]:
    """Rows from a first hour on."""
    return [f"{ts:%Y-%m-%d %H:%M:%S},1.1,1.2,1.0,1.1,5,0.0001" for ts in pd.date_range(first, periods=count, freq=step)]


def provider_of(root: Path, *lines: str, more: str = ""):
    write(root / "EURUSD.csv", "\n".join([HEADER, *lines]))
    return files_provider(root, generic("{symbol}.csv", more=more))


def test_a_row_that_cannot_be_read_is_kept_with_its_place_and_text(tmp_path: Path) -> None:
    good = hours("2024-03-05 10:00", 8)
    bad = [
        "soon,1.1,1.2,1.0,1.1,5,0.0001",
        "2024-03-05,1.1,1.2,1.0,1.1,5,0.0001",
        "2024-03-05 13:00:00,1.1",
        "2024-03-05 13:00:00,?,1,1,1,1,1",
    ]
    provider = provider_of(tmp_path, *good[:3], "", *bad, *good[3:])
    delivery = provider.fetch(request())
    assert len(delivery.bars) == 8
    rejected = delivery.rejected
    assert rejected["rule"].tolist() == ["unusable_key"] * 4
    assert rejected["content"].tolist() == [bad[0], bad[1], bad[2], bad[3]]
    assert rejected["origin"].tolist() == [f"EURUSD.csv:{line}" for line in (6, 7, 8, 9)]
    assert rejected["detail"].tolist() == [
        "the time of the row cannot be read",
        "the time of the row cannot be read",
        "2 columns where 7 were expected",
        "open '?' is not a number",
    ]
    # They lie where the readable row before them lies: in one range, never in two.
    assert (rejected["ts"] == utc("2024-03-05T12:00:00")).all()
    assert len(provider.fetch(request(start="2024-03-05T12:00:00", end="2024-03-05T13:00:00")).rejected) == 4
    assert len(provider.fetch(request(start="2024-03-05T13:00:00")).rejected) == 0


def test_an_unreadable_row_before_all_others_lies_with_the_first_one(tmp_path: Path) -> None:
    delivery = provider_of(tmp_path, "soon,1,1,1,1,1,1", *hours("2024-03-05 10:00", 3)).fetch(request())
    assert delivery.rejected["ts"].tolist() == [utc("2024-03-05T10:00:00")]


def test_times_that_the_declared_clock_does_not_have_are_unusable(tmp_path: Path) -> None:
    lines = hours("2024-03-10 00:00", 5) + hours("2024-11-03 00:00", 3)
    delivery = provider_of(tmp_path, *lines, more='time_zone = "America/New_York"').fetch(request())
    assert delivery.rejected["detail"].str.slice(0, 40).tolist() == [
        "the clock of the source jumps over this time"[:40],
        "the clock of the source shows this time twice"[:40],
    ]
    assert delivery.delivered == 8


def test_missing_and_bad_prices_are_delivered_to_be_judged_later(tmp_path: Path) -> None:
    lines = [
        "2024-03-05 10:00:00,,1.2,1.0,nan,,",
        "2024-03-05 11:00:00,0,0,0,0,0,0",
        "2024-03-05 12:00:00,1,inf,-1,1,N/A,null",
    ]
    bars = provider_of(tmp_path, *lines).fetch(request()).bars
    assert bars.isna().sum().to_dict() == {
        "ts": 0,
        "open": 1,
        "high": 0,
        "low": 0,
        "close": 1,
        "volume": 2,
        "spread": 2,
    }
    assert bars["high"].tolist() == [1.2, 0.0, float("inf")]


def test_an_empty_cell_does_not_change_the_bits_of_the_others(tmp_path: Path) -> None:
    bars = walk("1h", digits=17)
    text = bars.to_csv(index=False, lineterminator="\n")
    provider = provider_of(tmp_path, *text.splitlines()[1:])
    pd.testing.assert_frame_equal(provider.fetch(request()).bars, bars, check_exact=True)
    holed = provider_of(tmp_path, *text.splitlines()[1:], "2024-05-01 10:00:00+00:00,,,,,,").fetch(request()).bars
    pd.testing.assert_frame_equal(holed.iloc[:-1], bars, check_exact=True)


def test_the_first_row_of_a_time_stands_and_repeats_are_told_apart(tmp_path: Path) -> None:
    good = hours("2024-03-05 10:00", 6)
    other = good[2].replace("1.2", "1.3")
    delivery = provider_of(tmp_path, *good, good[1], other, other).fetch(request())
    assert delivery.equal_repeats == 1
    assert delivery.rejected["rule"].tolist() == ["conflicting_repeat"] * 2
    assert delivery.rejected[["high", "origin", "content"]].values.tolist() == [
        [1.3, "EURUSD.csv:9", other],
        [1.3, "EURUSD.csv:10", other],
    ]
    assert delivery.bars["high"].tolist() == [1.2] * 6
    assert delivery.delivered == 9


def test_files_that_overlap_are_settled_in_the_order_of_their_names(tmp_path: Path) -> None:
    rows = hours("2024-03-05 10:00", 8)
    write(tmp_path / "EURUSD_1.csv", "\n".join([HEADER, *rows[:6]]))
    write(tmp_path / "EURUSD_2.csv", "\n".join([HEADER, rows[4], rows[5].replace("1.2", "1.3"), *rows[6:]]))
    delivery = files_provider(tmp_path, generic("{symbol}_*.csv")).fetch(request())
    assert (len(delivery.bars), delivery.equal_repeats) == (8, 1)
    assert delivery.rejected["origin"].tolist() == ["EURUSD_2.csv:3"]
    assert delivery.source == "EURUSD_1.csv, EURUSD_2.csv"


def test_settling_counts_missing_values_as_equal() -> None:
    frame = pd.DataFrame(
        {
            "ts": pd.to_datetime(["2024-01-01"] * 3, utc=True).as_unit("us"),
            **dict.fromkeys(("open", "high", "low", "close"), 1.0),
        }
    ).assign(volume=[float("nan"), float("nan"), 3.0], spread=float("nan"))
    unique, conflicting, equal = settle_repeats(frame)
    assert (len(unique), conflicting["volume"].tolist(), equal) == (1, [3.0], 1)


def test_a_month_of_another_timeframe_is_rejected_whole_whatever_range_is_asked(tmp_path: Path) -> None:
    daily, hourly = hours("2024-01-01", 31, "1D"), hours("2024-02-01", 500)
    provider = provider_of(tmp_path, *daily, *hourly)
    whole = provider.fetch(request())
    assert (len(whole.bars), len(whole.rejected)) == (500, 31)
    assert set(whole.rejected["rule"]) == {"granularity"}
    assert whole.rejected["content"].tolist() == daily
    assert whole.rejected["high"].tolist() == [1.2] * 31
    one_day = provider.fetch(request(start="2024-01-31", end="2024-02-02"))
    assert (len(one_day.bars), len(one_day.rejected)) == (24, 1)


def test_a_month_with_half_of_its_steps_as_declared_is_kept(tmp_path: Path) -> None:
    sparse = [row for n, row in enumerate(hours("2024-02-01", 300)) if n % 3]
    delivery = provider_of(tmp_path, *sparse).fetch(request())
    assert len(delivery.bars) == 200


def test_the_few_rows_of_a_month_that_has_just_begun_are_judged_by_the_month_before(tmp_path: Path) -> None:
    # Friday's last hour and Sunday's first: no step of an hour, and nothing wrong with it.
    weekend = ["2024-03-01 21:00:00,1.1,1.2,1.0,1.1,5,0.1", "2024-03-03 22:00:00,1.1,1.2,1.0,1.1,5,0.1"]
    assert provider_of(tmp_path, *hours("2024-02-01", 500), *weekend).fetch(request()).rejected.empty
    daily = provider_of(tmp_path, *hours("2024-02-01", 29, "1D"), *weekend).fetch(request())
    assert len(daily.rejected) == 31


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "''"),
        ("time,price\n1,2\n", "time, price"),
        ("ts,open,high,low\n2024-03-05 10:00:00,1,2,3\n", "ts, open, high, low"),
        ("<html><body>404</body></html>\n", "404"),
        (f"{HEADER}\nsoon,1,1,1,1,1,1\nlater,1,1,1,1,1,1\n", "soon"),
        (f"{HEADER}\n2024-03-05T10:00:00+02:00,1,1,1,1,1,1\n", "an offset in every row"),
    ],
)
def test_a_file_that_is_not_what_was_declared_is_refused_with_what_was_found(
    tmp_path: Path, text: str, found: str
) -> None:
    write(tmp_path / "EURUSD.csv", text)
    zone = 'time_zone = "UTC+02:00"' if "+02" in text else 'time_zone = "UTC"'
    with pytest.raises(SourceFormatError) as error:
        files_provider(tmp_path, generic("{symbol}.csv", more=zone)).fetch(request())
    assert str(tmp_path / "EURUSD.csv") in str(error.value)
    assert found in str(error.value)
    assert error.value.next_step


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, HEADER)


@pytest.mark.parametrize("ending", ["csv.gz", "zip", "parquet", "csv"])
def test_a_damaged_file_is_named_and_the_other_symbols_are_served(tmp_path: Path, ending: str) -> None:
    bars = walk("1h")
    for symbol in ("EURUSD", "GBPUSD"):
        if ending == "parquet":
            bars.to_parquet(tmp_path / f"{symbol}.{ending}")
        else:
            write(tmp_path / f"{symbol}.{ending}", bars.to_csv(index=False))
    damaged = tmp_path / f"EURUSD.{ending}"
    damaged.write_bytes(b"\xff\x81\x00" if ending == "csv" else damaged.read_bytes()[: damaged.stat().st_size // 2])
    provider = files_provider(tmp_path, generic(f"{{symbol}}.{ending}"))
    with pytest.raises(SourceFormatError, match=f"EURUSD.{ending}"):
        provider.fetch(request("EURUSD"))
    assert len(provider.fetch(request("GBPUSD")).bars) == len(bars)


@pytest.mark.parametrize("names", [(), ("readme.md",), ("a.csv", "b.csv")])
def test_an_archive_must_hold_exactly_one_table(tmp_path: Path, names: tuple[str, ...]) -> None:
    _zip(tmp_path / "EURUSD.zip", *names)
    with pytest.raises(SourceFormatError, match=r"exactly one \.csv"):
        files_provider(tmp_path, generic("{symbol}.zip")).fetch(request())


def test_a_status_report_beside_the_table_is_passed_over(tmp_path: Path) -> None:
    _zip(tmp_path / "EURUSD.zip", "report.txt", "bars.csv")
    assert files_provider(tmp_path, generic("{symbol}.zip")).fetch(request()).delivered == 0


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    provider = provider_of(tmp_path, *hours("2024-03-05 10:00", 5))
    assert len(provider.fetch(request()).bars) == 5
    provider_of(tmp_path, *hours("2024-03-05 10:00", 6))
    assert len(provider.fetch(request()).bars) == 6
    # Same size, another time of change.
    path = tmp_path / "EURUSD.csv"
    path.write_text(path.read_text().replace("1.2", "1.3"))
    os.utime(path, ns=(1, 1))
    assert provider.fetch(request()).bars["high"].tolist() == [1.3] * 6


def test_a_symbol_without_a_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    provider = provider_of(tmp_path, *hours("2024-03-05 10:00", 5))
    assert not provider.serves("GBPUSD", "1h")
    assert not provider.serves("EURUSD", "1m")
    for asked in (request("GBPUSD"), request("EURUSD", "1m")):
        with pytest.raises(UnknownSymbolError, match=r"\{symbol\}\.csv \(1h\)"):
            provider.fetch(asked)


def test_a_line_in_a_gzipped_file_is_named_by_its_own_number(tmp_path: Path) -> None:
    path = tmp_path / "EURUSD.csv.gz"
    path.write_bytes(gzip.compress("\r\n".join([HEADER, *hours("2024-03-05 10:00", 4), "x,1,1,1,1,1,1"]).encode()))
    rejected = files_provider(tmp_path, generic("{symbol}.csv.gz")).fetch(request()).rejected
    assert rejected["origin"].tolist() == ["EURUSD.csv.gz:6"]
