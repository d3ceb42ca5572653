"""The file of sources: what it may say, and which provider serves what."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from nexus_assets import trading_calendar
from nexus_assets.errors import SettingsError
from nexus_assets.instruments import DEFAULT_SYMBOLS
from nexus_assets.providers.connections import Access, Connections
from nexus_assets.providers.registry import Sources, load_sources
from nexus_assets.providers.source_declaration import DEFAULT_ORDER
from nexus_assets_tests.providers.price_files import generic, request, utc, walk, write

DEFAULT_FILE = Path(__file__).resolve().parents[2] / "sources.toml"
SYNTHETIC = '[[source]]\nprovider = "synthetic"\n'


def load(root: Path, text: str, files_root: Path | None = None, *, keys: tuple[str, ...] = ()) -> Sources:
    connections = Connections({name: Access(key=SecretStr(f"key of {name}")) for name in keys}, None)
    return load_sources(write(root / "sources.toml", text), files_root, connections)


def service(name: str, more: str = "") -> str:
    return f'[[source]]\nprovider = "{name}"\n{more}\n'


def names(sources: Sources, symbol: str, timeframe: str = "1h") -> list[str]:
    return [provider.name for provider in sources.for_symbol(symbol, timeframe)]


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


def test_services_with_a_key_are_used_without_a_declaration_in_the_default_order(tmp_path: Path) -> None:
    keyed = ("polygon", "twelve_data", "oanda", "eodhd", "alpha_vantage")
    sources = load(tmp_path, SYNTHETIC, keys=keyed)
    assert sources.priority == ("oanda", "eodhd", "alpha_vantage", "twelve_data", "polygon")
    assert names(sources, "EURUSD") == list(sources.priority)
    assert names(sources, "US500") == ["oanda", "eodhd", "twelve_data", "polygon"]
    assert names(sources, "EURUSD", "5m") == list(sources.priority)
    assert names(sources, "EURUSD", "4h") == ["oanda", "twelve_data"]


def test_files_come_before_services_that_nobody_declared_and_invented_prices_after_them(tmp_path: Path) -> None:
    write(tmp_path / "EURUSD.csv", walk("1h").to_csv(index=False))
    text = generic("{symbol}.csv") + SYNTHETIC
    sources = load(tmp_path, text + 'use = "always"\n', tmp_path, keys=("oanda",))
    assert names(sources, "EURUSD") == ["files", "oanda", "synthetic"]
    assert names(sources, "GBPUSD") == ["oanda", "synthetic"]
    assert load(tmp_path, text, keys=("oanda",)).priority == ("oanda",)
    assert load(tmp_path, text).priority == ("synthetic",)


def test_only_declared_services_are_used_where_one_is_declared_and_only_with_a_key(tmp_path: Path) -> None:
    text = service("polygon") + service("yahoo") + service("eodhd")
    sources = load(tmp_path, text + SYNTHETIC, keys=("oanda", "polygon"))
    assert sources.priority == ("polygon", "yahoo")
    assert "eodhd has no key" in sources.explain("EURUSD", "1h")
    assert load(tmp_path, service("eodhd") + SYNTHETIC).priority == ("synthetic",)


def test_the_order_of_the_file_is_the_priority_of_each_symbol(tmp_path: Path) -> None:
    text = service("eodhd", 'symbols = ["EURUSD"]') + service("oanda", 'timeframe = ["1h", "5m"]') + service("eodhd")
    sources = load(tmp_path, text, keys=DEFAULT_ORDER)
    assert names(sources, "EURUSD") == ["eodhd", "oanda"]
    assert names(sources, "GBPUSD") == ["oanda", "eodhd"]
    assert names(sources, "GBPUSD", "1m") == ["eodhd"]
    assert sources.priority_of("GBPUSD", "1h") == ("oanda", "eodhd")
    assert len(sources.providers) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (service("oanda", 'price_kind = "last"'), "prices of oanda are mid or bid or ask"),
        (service("yahoo", 'price_kind = "mid"'), "prices of yahoo are last"),
        (service("alpha_vantage", 'symbols = ["EURUSD", "US30"]'), "alpha_vantage does not have US30"),
        (service("oanda", 'symbols = ["EURUSDX"]'), "EURUSDX"),
        (service("oanda", 'timeframe = "2h"'), "source 1: timeframe"),
        (service("oanda", 'layout = "mt5"'), "source 1: layout"),
        (service("oanda") + service("oanda", 'price_kind = "bid"'), "price_kind None and bid"),
        (service("bloomberg"), "provider"),
    ],
)
def test_what_a_service_does_not_have_cannot_be_declared(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        load(tmp_path, text, keys=DEFAULT_ORDER)


def test_files_and_a_service_of_one_name_are_refused(tmp_path: Path) -> None:
    text = generic("{symbol}.csv", more='name = "oanda"')
    with pytest.raises(SettingsError, match="files are named oanda"):
        load(tmp_path, text + service("oanda"), tmp_path, keys=("oanda",))
    write(tmp_path / "EURUSD.csv", walk("1h").to_csv(index=False))
    assert load(tmp_path, text, tmp_path, keys=("oanda", "eodhd")).priority == ("oanda", "eodhd")


def test_hours_of_a_service_can_be_declared(tmp_path: Path) -> None:
    closed = """
    [[source.closed]]
    asset_class = "fx"
    days = ["friday"]
    start = 16:00:00
    end = 17:00:00
    """
    start, end = (utc(f"2024-03-08 {hour}:00") for hour in (21, 22))
    try:
        load(tmp_path, service("oanda") + closed, keys=("oanda",))
        assert len(trading_calendar.expected("fx", start, end, "1h", "oanda")) == 0
    finally:
        load(tmp_path, service("oanda"), keys=("oanda",))
    assert len(trading_calendar.expected("fx", start, end, "1h", "oanda")) == 1
