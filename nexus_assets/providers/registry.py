"""Which provider serves which symbol: sources.toml turned into providers, in order of priority."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nexus_assets import trading_calendar
from nexus_assets.errors import SettingsError
from nexus_assets.providers.api_provider import ApiProvider
from nexus_assets.providers.connections import Connections
from nexus_assets.providers.declared_hours import declared_overrides
from nexus_assets.providers.files import FilesProvider
from nexus_assets.providers.interface import Provider
from nexus_assets.providers.source_declaration import (
    Declared,
    FilesSource,
    ServiceSource,
    SyntheticSource,
    read_declarations,
)
from nexus_assets.providers.synthetic import SyntheticProvider


@dataclass(frozen=True)
class SourceInUse:
    """A provider at one place of the order. `symbols` and `timeframes` limit what it is asked for there; empty for no
    limit."""

    provider: Provider
    symbols: frozenset[str] = frozenset()
    timeframes: frozenset[str] = frozenset()

    def serves(self, symbol: str, timeframe: str) -> bool:
        """Whether the provider is asked for these bars."""
        allowed = (not self.symbols or symbol in self.symbols) and (not self.timeframes or timeframe in self.timeframes)
        return allowed and self.provider.serves(symbol, timeframe)


class Sources:
    """The providers that are in use, the preferred one first."""

    def __init__(
        self,
        in_use: Iterable[SourceInUse],
        *,
        origin: str,
        connections: Connections | None = None,
        without_key: Iterable[str] = (),
    ) -> None:
        """
        Args:
            in_use: In order of priority. A provider may stand at several places of the order, for other symbols.
            origin: The file they were declared in, for messages.
            connections: How services are reached, None where there are none.
            without_key: Services that are declared and have no key.
        """
        self.in_use = tuple(in_use)
        self.origin = origin
        self.connections = connections
        self.without_key = tuple(without_key)

    @property
    def providers(self) -> tuple[Provider, ...]:
        """Each provider once, the preferred one first."""
        found = {source.provider.name: source.provider for source in self.in_use}
        return tuple(found[name] for name in self.priority)

    @property
    def priority(self) -> tuple[str, ...]:
        """The providers' names, the preferred one first."""
        return tuple(dict.fromkeys(source.provider.name for source in self.in_use))

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the market-data services among them."""
        return tuple(provider.name for provider in self.providers if isinstance(provider, ApiProvider))

    def for_symbol(self, symbol: str, timeframe: str) -> list[Provider]:
        """The providers of a symbol's bars, the preferred one first; empty where there is none."""
        found: dict[str, Provider] = {}
        for source in self.in_use:
            if source.serves(symbol, timeframe):
                found.setdefault(source.provider.name, source.provider)
        return list(found.values())

    def priority_of(self, symbol: str, timeframe: str) -> tuple[str, ...]:
        """The names of a symbol's providers, the preferred one first, and then those that may have delivered it in the
        past."""
        mine = [provider.name for provider in self.for_symbol(symbol, timeframe)]
        return tuple(dict.fromkeys([*mine, *self.priority]))

    def served(self, symbols: Iterable[str], timeframe: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The symbols split into (those that a provider serves, those that none does), each in the order given."""
        served, unserved = [], []
        for symbol in symbols:
            (served if self.for_symbol(symbol, timeframe) else unserved).append(symbol)
        return tuple(served), tuple(unserved)

    def explain(self, symbol: str, timeframe: str) -> str:
        """One sentence on where a symbol's bars are looked for."""
        places = [
            f"{provider.name} looks for {provider.places(symbol)}"
            if isinstance(provider, FilesProvider)
            else f"{provider.name} is asked"
            for provider in self.providers
        ]
        places += [f"{name} has no key" for name in self.without_key]
        return f"{symbol} {timeframe} by {self.origin}: {'; '.join(places) or 'no source is in use'}."


def load_sources(path: Path, files_root: Path | None, connections: Connections | None = None) -> Sources:
    """The providers that a file of sources declares. The hours it declares become those of this process's calendar.

    Where the file declares no market-data service, those that have a key are used, after the files.

    Args:
        path: A file such as sources.toml in the project's root.
        files_root: The folder of price files; None switches every `files` source off.
        connections: How services are reached; None switches all of them off.

    Raises:
        SettingsError: the file or the folder is missing, or the file is wrong.
    """
    if files_root is not None and not files_root.is_dir():
        raise SettingsError(
            f"NEXUS_FILES_ROOT names {files_root}, which is not a folder.",
            next_step="Set it to the folder of your price files, or unset it to use synthetic prices.",
        )
    declared = read_declarations(path)
    services = [source for source in declared if isinstance(source, ServiceSource)] if connections else []
    without_key = dict.fromkeys(s.name for s in services if connections and not connections.usable(s.name))
    wanted = _with_keyed(declared, services, files_root, connections)
    in_use = [
        source
        for source in wanted
        if (isinstance(source, FilesSource) and files_root is not None)
        or (isinstance(source, ServiceSource) and connections is not None and connections.usable(source.name))
    ]
    if in_use or files_root is not None:
        wanted = [s for s in wanted if not isinstance(s, SyntheticSource) or s.use == "always"]
    trading_calendar.declare_overrides(declared_overrides(in_use, path.name))
    made = _made(in_use, files_root, connections)
    ordered = [
        SourceInUse(SyntheticProvider())
        if isinstance(source, SyntheticSource)
        else SourceInUse(made[source.name], *_limits(source))
        for source in wanted
        if isinstance(source, SyntheticSource) or source in in_use
    ]
    return Sources(ordered, origin=path.name, connections=connections, without_key=without_key)


def _with_keyed(
    declared: Iterable[Declared],
    services: list[ServiceSource],
    files_root: Path | None,
    connections: Connections | None,
) -> list[Declared]:
    """What is declared, and every service that has a key where none is declared: before invented prices."""
    wanted = list(declared)
    if services or connections is None:
        return wanted
    taken = {source.name for source in wanted if isinstance(source, FilesSource)}
    place = next((n for n, source in enumerate(wanted) if isinstance(source, SyntheticSource)), len(wanted))
    wanted[place:place] = [ServiceSource(provider=name) for name in connections.keyed if name not in taken]  # pyright: ignore[reportArgumentType]
    return wanted


def _limits(source: FilesSource | ServiceSource) -> tuple[frozenset[str], frozenset[str]]:
    """Symbols and timeframes; a file's own declaration limits what it serves by itself."""
    if isinstance(source, ServiceSource):
        return frozenset(source.symbols), frozenset(source.timeframe)
    return frozenset(), frozenset()


def _made(
    sources: Iterable[FilesSource | ServiceSource], files_root: Path | None, connections: Connections | None
) -> Mapping[str, Provider]:
    """One provider for each name."""
    files: dict[str, list[FilesSource]] = {}
    made: dict[str, Provider] = {}
    for source in sources:
        if isinstance(source, FilesSource):
            files.setdefault(source.name, []).append(source)
        elif connections is not None and source.name not in made:
            made[source.name] = connections.open(source.name, source.price_kind)
    for name, mine in files.items():
        assert files_root is not None  # files without a root are not in use
        made[name] = FilesProvider(name, files_root, mine)
    return made
