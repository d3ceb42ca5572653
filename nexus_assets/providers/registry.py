"""Which provider serves which symbol: sources.toml turned into providers, in order of priority."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from nexus_assets import trading_calendar
from nexus_assets.errors import SettingsError
from nexus_assets.providers.declared_hours import declared_overrides
from nexus_assets.providers.files import FilesProvider
from nexus_assets.providers.interface import Provider
from nexus_assets.providers.source_declaration import FilesSource, SyntheticSource, read_declarations
from nexus_assets.providers.synthetic import SyntheticProvider


class Sources:
    """The providers that are in use, the preferred one first."""

    def __init__(self, providers: Iterable[Provider], *, origin: str) -> None:
        """`origin` names the file they were declared in, for messages."""
        self.providers = tuple(providers)
        self.origin = origin

    @property
    def priority(self) -> tuple[str, ...]:
        """The providers' names, the preferred one first."""
        return tuple(provider.name for provider in self.providers)

    def for_symbol(self, symbol: str, timeframe: str) -> list[Provider]:
        """The providers of a symbol's bars, the preferred one first; empty where there is none."""
        return [provider for provider in self.providers if provider.serves(symbol, timeframe)]

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
        return f"{symbol} {timeframe} by {self.origin}: {'; '.join(places) or 'no source is in use'}."


def load_sources(path: Path, files_root: Path | None) -> Sources:
    """The providers that a file of sources declares. The hours it declares become those of this process's calendar.

    Args:
        path: A file such as sources.toml in the project's root.
        files_root: The folder of price files; None switches every `files` source off, and the synthetic one on.

    Raises:
        SettingsError: the file or the folder is missing, or the file is wrong.
    """
    if files_root is not None and not files_root.is_dir():
        raise SettingsError(
            f"NEXUS_FILES_ROOT names {files_root}, which is not a folder.",
            next_step="Set it to the folder of your price files, or unset it to use synthetic prices.",
        )
    files: dict[str, list[FilesSource]] = {}
    order: dict[str, None] = {}
    for source in read_declarations(path):
        if isinstance(source, SyntheticSource):
            if source.use == "always" or files_root is None:
                order["synthetic"] = None
        elif files_root is not None:
            files.setdefault(source.name, []).append(source)
            order[source.name] = None
    trading_calendar.declare_overrides(declared_overrides(chain.from_iterable(files.values()), path.name))
    providers: list[Provider] = [
        FilesProvider(name, files_root, files[name]) if files_root and name in files else SyntheticProvider()
        for name in order
    ]
    return Sources(providers, origin=path.name)
