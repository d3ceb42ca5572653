"""What a user may declare in sources.toml, and what it means. Nothing here opens a price file.

The file is a list of `[[source]]` tables; their order is the priority of the providers.
"""

import glob
import tomllib
from datetime import date, datetime, time
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from nexus_assets.errors import NexusError, SettingsError
from nexus_assets.instruments import INSTRUMENTS, InstrumentKind, PriceKind, VolumeKind, instrument
from nexus_assets.providers import time_zones
from nexus_assets.providers.declared_hours import DeclaredHours, known_hours
from nexus_assets.providers.spellings import spells
from nexus_assets.timeframes import Timeframe

Layout = Literal["generic", "histdata_ascii_m1", "mt5", "dukascopy"]
ServiceName = Literal["oanda", "eodhd", "yahoo", "alpha_vantage", "twelve_data", "polygon"]

DEFAULT_ORDER: tuple[ServiceName, ...] = get_args(ServiceName)
"""The market-data services, the preferred one first where nothing else is declared."""
KEYLESS: tuple[ServiceName, ...] = ("yahoo",)
"""Services that need no key. They are asked only where they are declared."""

_GENERIC_COLUMNS = ("ts", "date", "time", "symbol", "open", "high", "low", "close", "volume", "spread")

# What the numbers of each layout are, unless a source says otherwise. A generic file must say so itself.
_KINDS: dict[str, tuple[PriceKind, VolumeKind]] = {
    "histdata_ascii_m1": ("bid", "none"),
    "mt5": ("bid", "ticks"),
    "dukascopy": ("bid", "lots"),
}

_EVERY_SYMBOL = {item.symbol: item.symbol for item in INSTRUMENTS}

# What the prices of each service may be declared as.
_SERVICE_PRICES: dict[str, tuple[PriceKind, ...]] = {"oanda": ("mid", "bid", "ask"), "twelve_data": ("mid",)}


class _Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SyntheticSource(_Declaration):
    """Invented prices for every symbol. By default only where there is no folder of files and no market-data service is
    in use, so that invented prices never stand beside real ones unless `use = "always"` asks for it."""

    provider: Literal["synthetic"]
    use: Literal["always", "without_files_root"] = "without_files_root"


class _Hours(_Declaration):
    """Where a source quotes at other hours than its venue; see declared_hours."""

    hours: str = ""
    opened: tuple[DeclaredHours, ...] = ()
    closed: tuple[DeclaredHours, ...] = ()

    @field_validator("hours")
    @classmethod
    def _known_hours(cls, value: str) -> str:
        if value and value not in known_hours():
            raise ValueError(f"{value!r} is unknown; use one of {', '.join(known_hours())}, or list opened and closed")
        return value


class ServiceSource(_Hours):
    """A market-data service that is asked over HTTP. It is left out while it has no key.

    Attributes:
        symbols: "*" for every symbol that the service has, or a list.
        timeframe: One or several; all that the service has without it.
        price_kind: mid, bid or ask of OANDA; the others have one kind, which may be named.
    """

    provider: ServiceName
    symbols: tuple[str, ...] = tuple(_EVERY_SYMBOL)
    timeframe: tuple[Timeframe, ...] = ()
    price_kind: PriceKind | None = None

    @property
    def name(self) -> str:
        """Provider that the rows carry."""
        return self.provider

    @field_validator("symbols", mode="before")
    @classmethod
    def _all(cls, value: Any) -> Any:
        return tuple(_EVERY_SYMBOL) if value == "*" else value

    @field_validator("timeframe", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _had(self) -> "ServiceSource":
        for symbol in self.symbols:
            _as_value_error(instrument, symbol)
        missing = [symbol for symbol in self.symbols if not spells(self.provider, symbol)]
        if missing and set(self.symbols) != set(_EVERY_SYMBOL):
            raise ValueError(f"symbols: {self.provider} does not have {', '.join(missing)}")
        kinds = _SERVICE_PRICES.get(self.provider, ("last",))
        if self.price_kind is not None and self.price_kind not in kinds:
            raise ValueError(f"price_kind: prices of {self.provider} are {' or '.join(kinds)}")
        return self


class FilesSource(_Hours):
    """Price files of one layout, one clock and one scale. Several sources of one `name` are one provider.

    Attributes:
        name: Provider that the rows carry.
        path: Patterns relative to the files root; {symbol} and {spelling} are filled in, `*` and `**` match.
        time_zone: See time_zones.
        time_format: strptime format, unix_s or unix_ms, for the generic layout; ISO 8601 without it. A number is read
            as the clock of time_zone, too.
        columns: Which column holds what, for the generic layout. Names that are not listed stand for themselves.
        price_divisor, spread_divisor: What the file's numbers are divided by: one number, or one per symbol with "*"
            for the others.
        starts, ends: Only rows whose printed time lies in [starts, ends) belong to this source: a file whose clock
            changed its rule is declared twice.
        symbols: "*" for every symbol that has a file, a list, or a table {symbol = spelling}.
    """

    provider: Literal["files"]
    name: str = Field("files", pattern=r"^[a-z][a-z0-9_]*$")
    layout: Layout = "generic"
    path: tuple[str, ...]
    timeframe: Timeframe
    time_zone: str = ""
    time_format: str = ""
    delimiter: str = Field("", max_length=1)
    columns: dict[str, str] = {}
    price_divisor: float | dict[str, float] = 1.0
    spread_divisor: float | dict[str, float] | None = None
    price_kind: PriceKind = "mid"
    volume_kind: VolumeKind = "none"
    instrument_kind: InstrumentKind | None = None
    symbols: dict[str, str]
    starts: datetime | None = Field(None, alias="from")
    ends: datetime | None = Field(None, alias="until")

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("path")
    @classmethod
    def _inside_the_root(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts or not pattern:
                raise ValueError(f"{pattern!r} is not a path below NEXUS_FILES_ROOT")
        return value

    @field_validator("symbols", mode="before")
    @classmethod
    def _spellings(cls, value: Any) -> Any:
        if value == "*":
            return _EVERY_SYMBOL
        return {name: name for name in value} if isinstance(value, list) else value

    @field_validator("symbols")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        for symbol in value:
            _as_value_error(instrument, symbol)
        return value

    @field_validator("starts", "ends", mode="before")
    @classmethod
    def _wall_clock(cls, value: Any) -> Any:
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime.combine(value, time())
        if isinstance(value, datetime) and value.tzinfo is not None:
            raise ValueError("write it as the file prints it, without an offset")
        return value

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(value) - set(_GENERIC_COLUMNS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: only {', '.join(_GENERIC_COLUMNS)} can be mapped")
        return value

    @model_validator(mode="before")
    @classmethod
    def _layout_defaults(cls, data: Any) -> Any:
        kinds = _KINDS.get(data.get("layout", "")) if isinstance(data, dict) else None
        return {"price_kind": kinds[0], "volume_kind": kinds[1], **data} if kinds else data

    @model_validator(mode="after")
    def _consistent(self) -> "FilesSource":
        if self.shared_file and self.symbols == _EVERY_SYMBOL:
            raise ValueError(
                "symbols: path names neither {symbol} nor {spelling}, so the file holds several symbols; list them"
            )
        if self.name == "synthetic":
            raise ValueError("name: synthetic marks invented prices; choose another name")
        if self.time_zone:
            _as_value_error(time_zones.zone, self.time_zone)
        elif self.layout != "dukascopy":
            raise ValueError("time_zone is missing: declare the clock of the files, such as UTC")
        if self.layout == "histdata_ascii_m1" and self.timeframe != "1m":
            raise ValueError("timeframe: histdata_ascii_m1 files hold 1m bars")
        if self.layout == "generic":
            missing = {"price_kind", "volume_kind"} - self.model_fields_set
            if missing:
                raise ValueError(f"{' and '.join(sorted(missing))} missing: say what the numbers of a generic file are")
        elif self.columns or self.time_format or self.delimiter:
            raise ValueError(f"columns, time_format and delimiter belong to the generic layout, not to {self.layout}")
        for name in ("price_divisor", "spread_divisor"):
            value = getattr(self, name)
            numbers = value.values() if isinstance(value, dict) else [1.0 if value is None else value]
            if not all(0 < number < float("inf") for number in numbers):
                raise ValueError(f"{name} must be positive")
        return self

    @property
    def shared_file(self) -> bool:
        """Whether one file holds many symbols, told apart by the column `symbol`."""
        return not any("{symbol}" in pattern or "{spelling}" in pattern for pattern in self.path)

    def price_divisor_of(self, symbol: str) -> float:
        """What the prices in the file are divided by."""
        return _of_symbol(self.price_divisor, symbol, 1.0)

    def spread_divisor_of(self, symbol: str) -> float:
        """What the spreads in the file are divided by: MetaTrader counts them in points, the last decimal place."""
        default = 10.0 ** instrument(symbol).digits if self.layout == "mt5" else 1.0
        return default if self.spread_divisor is None else _of_symbol(self.spread_divisor, symbol, default)

    def files(self, root: Path, symbol: str) -> list[Path]:
        """The existing files of a symbol, ordered by pattern, then by name."""
        if symbol not in self.symbols:
            return []
        found: dict[Path, None] = {}
        names = {"{symbol}": glob.escape(symbol), "{spelling}": glob.escape(self.symbols[symbol])}
        for pattern in self.path:
            for placeholder, name in names.items():
                pattern = pattern.replace(placeholder, name)
            found.update(dict.fromkeys(path for path in sorted(root.glob(pattern)) if path.is_file()))
        return list(found)


Declared = SyntheticSource | FilesSource | ServiceSource
Source = Annotated[Declared, Field(discriminator="provider")]


class _SourcesFile(_Declaration):
    source: tuple[Source, ...]


def _of_symbol(value: float | dict[str, float], symbol: str, default: float) -> float:
    return value.get(symbol, value.get("*", default)) if isinstance(value, dict) else value


def _as_value_error(function: Any, argument: str) -> None:
    try:
        function(argument)
    except NexusError as error:
        raise ValueError(str(error)) from error


def read_declarations(path: Path) -> tuple[Declared, ...]:
    """The sources of a file, in its order.

    Raises:
        SettingsError: the file is missing, not TOML, or wrong; the message lists every mistake.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        sources = TypeAdapter(_SourcesFile).validate_python(content).source
    except FileNotFoundError:
        raise SettingsError(
            f"The file of sources {path} does not exist.",
            next_step="Set NEXUS_SOURCES to one, or restore sources.toml.",
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"The file of sources {path} cannot be read: {error}.", next_step="Correct it.") from error
    except ValidationError as error:
        lines = [_mistake(mistake["loc"], mistake["msg"]) for mistake in error.errors(include_url=False)]
        raise SettingsError(
            f"The file of sources {path} is wrong:\n  " + "\n  ".join(lines) + "\n",
            next_step="docs/providers.md shows every setting with an example.",
        ) from None
    _same_kinds(path, [source for source in sources if not isinstance(source, SyntheticSource)])
    return sources


def _mistake(place: tuple[int | str, ...], message: str) -> str:
    number = next((part + 1 for part in place if isinstance(part, int)), None)
    tags = ("source", "files", "synthetic", *DEFAULT_ORDER)
    names = [part for part in place if isinstance(part, str) and part not in tags]
    where = f"source {number}" if number else "the file"
    return ": ".join([where, *([".".join(names)] if names else []), message.removeprefix("Value error, ")])


def _same_kinds(path: Path, sources: list[FilesSource | ServiceSource]) -> None:
    """Sources of one name are one provider, whose rows must all be of one kind."""
    first: dict[str, FilesSource | ServiceSource] = {}
    for source in sources:
        other = first.setdefault(source.name, source)
        if type(other) is not type(source):
            raise SettingsError(
                f"{path}: files are named {source.name}, and the market-data service of that name is declared as well.",
                next_step="Give the files another name; their rows would not be told apart.",
            )
        for kind in ("price_kind", "volume_kind", "instrument_kind"):
            mine, theirs = (getattr(one, kind, None) for one in (source, other))
            if mine != theirs:
                raise SettingsError(
                    f"{path}: two sources named {source.name} have the {kind} {theirs} and {mine}.",
                    next_step="Give them different names.",
                )
