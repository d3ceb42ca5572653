"""What every provider must do, run against each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from nexus_assets.errors import PermanentProviderError, UnknownSymbolError
from nexus_assets.providers.interface import BAR_COLUMNS, REJECTED_COLUMNS, TS_DTYPE, Delivery, Provider, Request
from nexus_assets.providers.synthetic import SyntheticProvider
from nexus_assets_tests.providers.price_files import END, START, files_provider, generic, utc, walk, write

RULES = {"unusable_key", "conflicting_repeat", "granularity"}


@dataclass(frozen=True)
class Case:
    """A provider and a range in which it has bars of `symbol`."""

    provider: Provider
    symbol: str
    timeframe: str
    start: datetime = START
    end: datetime = END

    def fetch(self, start: datetime | None = None, end: datetime | None = None, symbol: str | None = None) -> Delivery:
        return self.provider.fetch(Request(symbol or self.symbol, self.timeframe, start or self.start, end or self.end))


def _synthetic(symbol: str, timeframe: str) -> Callable[[Path], Case]:
    return lambda _: Case(SyntheticProvider(now=lambda: utc("2024-04-10T10:30:00")), symbol, timeframe)


def _generic(ending: str, *, defects: bool = False) -> Callable[[Path], Case]:
    def make(root: Path) -> Case:
        bars = walk("1h")
        if ending == "parquet":
            bars.to_parquet(root / "EURUSD.parquet")
        else:
            text = bars.to_csv(index=False)
            write(root / f"EURUSD.{ending}", _damaged(text) if defects else text)
        return Case(files_provider(root, generic(f"{{symbol}}.{ending}")), "EURUSD", "1h")

    return make


def _damaged(text: str) -> str:
    """Two equal repeats, a conflicting one, a row without a time, one cut short, and a month of another timeframe."""
    lines = text.splitlines()
    header, rows = lines[0], lines[1:]
    broken = [
        rows[40],
        rows[41],
        rows[50].replace(",1.", ",2.", 1),
        "yesterday" + rows[60][25:],
        "2024-03-08 10:00:00,1",
    ]
    daily = [f"2023-11-{day:02d} 00:00:00+00:00,1.1,1.2,1.0,1.1,5,0.0001" for day in range(1, 29)]
    return "\n".join([header, *daily, *rows[:70], *broken, *rows[70:]])


def _histdata(root: Path) -> Case:
    bars = walk("1m", end=START + timedelta(days=9))
    wall = bars["ts"].dt.tz_convert("America/New_York").dt.strftime("%Y%m%d %H%M%S")
    rows = [
        f"{t};{r.open:.6f};{r.high:.6f};{r.low:.6f};{r.close:.6f};0"
        for t, r in zip(wall, bars.itertuples(), strict=True)
    ]
    write(root / "HISTDATA_EURUSD.zip", "\n".join(rows))
    provider = files_provider(
        root,
        """
        [[source]]
        provider = "files"
        layout = "histdata_ascii_m1"
        path = "HISTDATA_{symbol}.zip"
        timeframe = "1m"
        time_zone = "America/New_York"
        symbols = ["EURUSD"]
        """,
    )
    return Case(provider, "EURUSD", "1m", START, START + timedelta(days=12))


CASES: dict[str, Callable[[Path], Case]] = {
    "synthetic fx 1h": _synthetic("EURUSD", "1h"),
    "synthetic metal 15m": _synthetic("XAUUSD", "15m"),
    "synthetic index 1d": _synthetic("US500", "1d"),
    "synthetic crypto 4h": _synthetic("BTCUSD", "4h"),
    "files csv": _generic("csv"),
    "files csv with defects": _generic("csv", defects=True),
    "files csv.gz": _generic("csv.gz"),
    "files zip": _generic("zip"),
    "files parquet": _generic("parquet"),
    "files histdata": _histdata,
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return CASES[request.param](tmp_path)


def test_bars_are_unique_and_ascending_in_utc_with_exactly_the_bar_columns(case: Case) -> None:
    bars = case.fetch().bars
    assert len(bars) > 20
    assert tuple(bars.columns) == BAR_COLUMNS
    assert bars["ts"].dtype == TS_DTYPE
    assert bars["ts"].is_monotonic_increasing
    assert bars["ts"].is_unique
    assert all(bars[name].dtype == "float64" for name in BAR_COLUMNS[1:])


def test_the_range_holds_its_start_and_not_its_end(case: Case) -> None:
    ts = list(case.fetch().bars["ts"])
    first, last = ts[3], ts[12]
    delivered = list(case.fetch(first.to_pydatetime(), last.to_pydatetime()).bars["ts"])
    assert delivered == ts[3:12]


def test_a_range_without_bars_is_an_empty_delivery(case: Case) -> None:
    saturday = utc("1999-01-02")
    for delivery in (case.fetch(saturday, saturday + timedelta(days=1)), case.fetch(case.start, case.start)):
        assert delivery.delivered == 0
        assert tuple(delivery.bars.columns) == BAR_COLUMNS
        assert tuple(delivery.rejected.columns) == REJECTED_COLUMNS
        assert delivery.bars.dtypes.equals(case.fetch().bars.dtypes)


def test_any_grouping_of_requests_delivers_the_same_rows(case: Case) -> None:
    start = utc("2023-10-01")
    whole = case.fetch(start)
    edges = [start, utc("2023-11-15"), case.start, case.start + timedelta(hours=7, minutes=20)]
    edges += [case.start + timedelta(days=n) for n in (1, 2, 6, 9)] + [case.end]
    parts = [case.fetch(a, b) for a, b in pairwise(edges)]
    pd.testing.assert_frame_equal(pd.concat([p.bars for p in parts], ignore_index=True), whole.bars, check_exact=True)
    pd.testing.assert_frame_equal(
        pd.concat([p.rejected for p in parts], ignore_index=True), whole.rejected, check_exact=True
    )
    assert sum(p.equal_repeats for p in parts) == whole.equal_repeats
    assert sum(p.delivered for p in parts) == whole.delivered


def test_asking_twice_gives_the_same_bits(case: Case) -> None:
    first, second = case.fetch(), case.fetch()
    pd.testing.assert_frame_equal(first.bars, second.bars, check_exact=True)
    assert first.bars is not second.bars


def test_every_delivered_row_is_counted_once(case: Case) -> None:
    delivery = case.fetch(utc("2023-10-01"), utc("2024-06-01"))
    assert delivery.delivered == len(delivery.bars) + len(delivery.rejected) + delivery.equal_repeats
    assert set(delivery.rejected["rule"]) <= RULES
    assert not delivery.rejected["ts"].isna().any()
    assert (delivery.rejected["origin"].str.len() > 0).all()
    assert (delivery.rejected["content"].str.len() > 0).all()


def test_an_unknown_symbol_is_refused_by_name(case: Case) -> None:
    with pytest.raises(UnknownSymbolError, match="DOGEUR"):
        case.fetch(symbol="DOGEUR")
    assert not case.provider.serves("DOGEUR", case.timeframe)
    assert case.provider.serves(case.symbol, case.timeframe)


def test_what_is_available_holds_every_bar(case: Case) -> None:
    available = case.provider.available(case.symbol, case.timeframe)
    assert available is not None
    bars = case.fetch().bars
    assert available[0] <= bars["ts"].iloc[0]
    assert bars["ts"].iloc[-1] < available[1]


def test_the_provider_keeps_the_protocol(case: Case) -> None:
    assert isinstance(case.provider, Provider)
    assert case.fetch().provider == case.provider.name


def test_a_request_that_is_not_utc_or_runs_backwards_is_refused() -> None:
    with pytest.raises(PermanentProviderError, match="not UTC"):
        Request("EURUSD", "1h", datetime(2024, 1, 1), datetime(2024, 1, 2, tzinfo=UTC))
    with pytest.raises(PermanentProviderError, match="before it starts"):
        Request("EURUSD", "1h", datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC))
