"""The file of sources: what it may say, and which provider serves what."""

from pathlib import Path

import pytest

from nexus_assets.errors import SettingsError
from nexus_assets.instruments import DEFAULT_SYMBOLS
from nexus_assets.providers.registry import Sources, load_sources
from nexus_assets_tests.providers.price_files import generic, request, walk, write

DEFAULT_FILE = Path(__file__).resolve().parents[2] / "sources.toml"
SYNTHETIC = '[[source]]\nprovider = "synthetic"\n'


def load(root: Path, text: str, files_root: Path | None = None) -> Sources:
    return load_sources(write(root / "sources.toml", text), files_root)


def test_without_files_the_default_file_invents_every_default_symbol() -> None:
    sources = load_sources(DEFAULT_FILE, None)
    assert sources.priority == ("synthetic",)
    assert sources.served(DEFAULT_SYMBOLS, "1h") == (DEFAULT_SYMBOLS, ())


def test_with_files_the_default_file_serves_what_is_there_and_invents_nothing(tmp_path: Path) -> None:
    bars = walk("1h")
    extra = bars.assign(symbol="EURUSD", ts_src="x", bid_c=0.0)
    extra.to_parquet(tmp_path / "EURUSD.parquet")
    write(tmp_path / "GBPUSD.csv", bars.to_csv(index=False))
    write(tmp_path / "USDJPY.csv.gz", bars.drop(columns=["volume", "spread"]).to_csv(index=False))
    write(tmp_path / "NOTES.csv", "hello")
    sources = load_sources(DEFAULT_FILE, tmp_path)
    assert sources.priority == ("files",)
    served, unserved = sources.served(("EURUSD", "XAUUSD", "USDJPY", "GBPUSD"), "1h")
    assert (served, unserved) == (("EURUSD", "USDJPY", "GBPUSD"), ("XAUUSD",))
    for symbol in served:
        (provider,) = sources.for_symbol(symbol, "1h")
        assert len(provider.fetch(request(symbol)).bars) == len(bars)
    assert sources.for_symbol("EURUSD", "1m") == []
    assert str(tmp_path) in sources.explain("XAUUSD", "1h")


def test_the_order_of_the_file_is_the_priority(tmp_path: Path) -> None:
    write(tmp_path / "EURUSD.csv", walk("1h").to_csv(index=False))
    text = generic("{symbol}.csv", more='name = "second_broker"') + SYNTHETIC + 'use = "always"\n'
    text += generic("{symbol}.csv", more='name = "broker"') + generic(
        "more/{symbol}.csv", more='name = "second_broker"'
    )
    sources = load(tmp_path, text, tmp_path)
    assert sources.priority == ("second_broker", "synthetic", "broker")
    assert [p.name for p in sources.for_symbol("EURUSD", "1h")] == ["second_broker", "synthetic", "broker"]
    assert [p.name for p in sources.for_symbol("GBPUSD", "1h")] == ["synthetic"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "source"),
        ("[[source]\n", "cannot be read"),
        ('[[source]]\nprovider = "oracle"\n', "oracle"),
        (SYNTHETIC + "tempo = 3\n", "source 1: tempo"),
        (SYNTHETIC + generic("{symbol}.csv", more='time_zone = "Mars"'), "source 2: The time zone 'Mars'"),
        (generic("{symbol}.csv").replace('time_zone = "UTC"', ""), "time_zone is missing"),
        (generic("{symbol}.csv").replace('price_kind = "mid"', ""), "price_kind missing"),
        (generic("{symbol}.csv", timeframe="2h"), "timeframe"),
        (generic("/data/{symbol}.csv"), "not a path below"),
        (generic("../{symbol}.csv"), "not a path below"),
        (generic("all.csv"), "neither {symbol} nor {spelling}"),
        (generic("{symbol}.csv", more='symbols = ["DOGEUR"]'), "DOGEUR"),
        (generic("{symbol}.csv", more='columns = { opening = "o" }'), "opening"),
        (generic("{symbol}.csv", more="price_divisor = 0"), "price_divisor must be positive"),
        (generic("{symbol}.csv", more='price_divisor = { "*" = -1 }'), "price_divisor must be positive"),
        (generic("{symbol}.csv", more='name = "synthetic"'), "synthetic marks invented prices"),
        (generic("{symbol}.csv", more="from = 2020-01-01T00:00:00Z"), "without an offset"),
        (generic("{symbol}.csv", more='layout = "mt5"\ntime_format = "unix_s"'), "belong to the generic layout"),
        (generic("{symbol}.csv", more='layout = "histdata_ascii_m1"'), "1m bars"),
        (generic("a/{symbol}.csv") + generic("b/{symbol}.csv").replace('"mid"', '"bid"'), "price_kind mid and bid"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, text, tmp_path)
    assert complaint in str(error.value)
    assert "sources.toml" in str(error.value)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    text = SYNTHETIC + "tempo = 3\n" + generic("/x.csv", timeframe="2h")
    with pytest.raises(SettingsError, match=r"(?s)tempo.*path.*timeframe"):
        load(tmp_path, text)


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="NEXUS_SOURCES"):
        load_sources(tmp_path / "nowhere.toml", None)
    with pytest.raises(SettingsError, match="NEXUS_FILES_ROOT"):
        load(tmp_path, SYNTHETIC, tmp_path / "nowhere")
