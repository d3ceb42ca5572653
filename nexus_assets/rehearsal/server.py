"""The rehearsal: one local HTTP server per market-data API, on loopback.

    with Rehearsal(FrameBook({("EURUSD", "1h"): bars}), faults=[Fault("status", "oanda", calls=(1,))]) as rehearsal:
        requests.get(f"{rehearsal.urls['oanda']}/v3/instruments/EUR_USD/candles", ...)
        assert not rehearsal.violations

Each API has a port of its own, because limits, breakers and concurrency are kept per host. What is asked is answered
from the book of prices, or from a recording that fits; every call is written down, and every rule of an API that a
call breaks.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

from nexus_assets.errors import SettingsError
from nexus_assets.rehearsal.alpha_vantage import AlphaVantage
from nexus_assets.rehearsal.desk import Desk, World
from nexus_assets.rehearsal.dialogue import Api
from nexus_assets.rehearsal.eodhd import Eodhd
from nexus_assets.rehearsal.faults import PROVIDERS, Fault, FaultCounter
from nexus_assets.rehearsal.limits import RateLimit
from nexus_assets.rehearsal.oanda import Oanda
from nexus_assets.rehearsal.polygon import Polygon
from nexus_assets.rehearsal.prices import Book
from nexus_assets.rehearsal.recordings import KEY_PARAMETERS, Recordings
from nexus_assets.rehearsal.spellings import spellings
from nexus_assets.rehearsal.transport import Reply, Server, shaped
from nexus_assets.rehearsal.twelve_data import TwelveData
from nexus_assets.rehearsal.yahoo import Yahoo

KEY_VARIABLES: Mapping[str, str] = {
    "oanda": "OANDA_API_KEY",
    "eodhd": "EODHD_API_TOKEN",
    "alpha_vantage": "ALPHAVANTAGE_API_KEY",
    "twelve_data": "TWELVEDATA_API_KEY",
    "polygon": "POLYGON_API_KEY",
}
"""The variables in which users have the APIs' keys. Yahoo has none."""


@dataclass(frozen=True)
class Call:
    """One request and how it was answered.

    Attributes:
        number: Counts the calls of all APIs from 1, in the order in which they were answered.
        target: Path and query, keys replaced by `***`.
        at: Seconds of the rehearsal's clock when the request was read.
        status: 0 where the connection was closed before a status line.
        faults: Kinds that fired.
        key_place: `header`, `query` or empty.
        client: The client's port; calls of one connection share it.
    """

    provider: str
    number: int
    target: str
    at: float
    status: int
    faults: tuple[str, ...]
    key_place: str
    user_agent: str
    client: int


@dataclass(frozen=True)
class Violation:
    """A rule of an API that a call broke: `rate limit`, `page size` or `range`."""

    provider: str
    rule: str
    call: Call


class Rehearsal:
    """The six servers. A context manager; `start` and `stop` do the same."""

    def __init__(
        self,
        book: Book,
        *,
        faults: Iterable[Fault] = (),
        limits: Mapping[str, tuple[RateLimit, ...]] | None = None,
        keys: Mapping[str, str] | None = None,
        names: Mapping[str, Mapping[str, str]] | None = None,
        recordings: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        ports: Mapping[str, int] | None = None,
        single_precision: bool = False,
        error_statuses: bool = False,
    ) -> None:
        """Nothing is opened before `start`.

        Args:
            limits: Per provider, in place of the API's own; an empty tuple means none.
            keys: Per provider, in place of `rehearsal-<provider>`.
            names: Per provider, further names of the API and their generic symbols.
            recordings: A folder with an index.json; a recording that fits comes before the book.
            now: The time of all APIs, tz-aware. A bar that is not over by then is unfinished.
            clock: Seconds for the rate limits; it only grows.
            ports: Per provider; a free one where none is given.
            single_precision: Yahoo's prices lose digits, as the real ones do.
            error_statuses: Twelve Data's errors come with their code as HTTP status.

        Raises:
            SettingsError: an unknown provider, recordings that cannot be read, or a fault that needs recordings.
        """
        faults = tuple(faults)
        _known(limits, keys, names, ports)
        if recordings is None and any(fault.kind == "recorded" for fault in faults):
            raise SettingsError(
                "A fault replays a recording, and no folder of recordings is given.", next_step="Name it."
            )
        world = World(book, now, clock, Recordings(recordings) if recordings else None)
        for fault in faults:
            if fault.kind == "recorded" and world.recordings is not None:
                world.recordings.read(fault.file)
        apis = _apis(names or {}, limits or {}, single_precision=single_precision, error_statuses=error_statuses)
        self.keys = {name: (keys or {}).get(name, f"rehearsal-{name}") for name in KEY_VARIABLES}
        self._desks = {api.name: Desk(api, self.keys.get(api.name, ""), world) for api in apis}
        self._faults = FaultCounter(faults)
        self._clock = clock
        self._ports = dict(ports or {})
        self._servers: dict[str, tuple[Server, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._violations: list[Violation] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Open the servers on 127.0.0.1.

        Raises:
            SettingsError: a port is taken.
        """
        for provider in PROVIDERS:
            port = self._ports.get(provider, 0)
            try:
                server = Server(port, partial(self._reply, provider))
            except OSError as error:
                self.stop()
                raise SettingsError(
                    f"The port {port} for {provider} cannot be opened: {error}.", next_step="Choose another, or 0."
                ) from error
            thread = threading.Thread(
                target=server.serve_forever, args=(0.02,), name=f"rehearsal-{provider}", daemon=True
            )
            thread.start()
            self._servers[provider] = (server, thread)
        return self

    def stop(self) -> None:
        """Close the servers and every connection. Can be repeated."""
        # Each waits for its server's loop to look up: together, not one after the other.
        closing = [threading.Thread(target=server.shutdown) for server, _ in self._servers.values()]
        for thread in closing:
            thread.start()
        for thread in (*closing, *(serving for _, serving in self._servers.values())):
            thread.join()
        for server, _ in self._servers.values():
            server.server_close()
            server.hang_up()
        self._servers.clear()

    @property
    def urls(self) -> dict[str, str]:
        """The base URL of each API, in place of that of its real host; none before `start`."""
        return {provider: f"http://127.0.0.1:{server.server_port}" for provider, (server, _) in self._servers.items()}

    def environment(self) -> dict[str, str]:
        """Variables that make a client use the rehearsal: base URLs as NEXUS_<PROVIDER>_URL, and the keys."""
        urls = {f"NEXUS_{provider.upper()}_URL": url for provider, url in self.urls.items()}
        return {**urls, **{KEY_VARIABLES[provider]: key for provider, key in self.keys.items()}}

    @property
    def calls(self) -> list[Call]:
        """Every call so far, in the order in which they were answered."""
        with self._lock:
            return list(self._calls)

    def calls_of(self, provider: str) -> list[Call]:
        """The calls of one API."""
        return [call for call in self.calls if call.provider == provider]

    @property
    def violations(self) -> list[Violation]:
        """Every rule of an API that a call broke, so far."""
        with self._lock:
            return list(self._violations)

    def most_at_once(self, provider: str) -> int:
        """The largest number of requests of an API that were being answered at one time."""
        return self._desks[provider].most_at_once

    def _reply(self, provider: str, path: str, params: dict[str, str], headers: dict[str, str], client: int) -> Reply:
        """Answer one request and write it down."""
        at, target, desk = self._clock(), _without_keys(path, params), self._desks[provider]
        fired = self._faults.firing(provider, target)
        question, answer = desk.answer(path, params, headers, fired)
        reply = shaped(answer, question.now, fired, headers.get("accept-encoding", ""))
        place, agent = desk.api.key_place(question), headers.get("user-agent", "")
        with self._lock:
            number = len(self._calls) + 1
            call = Call(provider, number, target, at, reply.status, tuple(fired), place, agent, client)
            self._calls.append(call)
            if answer.broke:
                self._violations.append(Violation(provider, answer.broke, call))
        return reply


def _apis(
    names: Mapping[str, Mapping[str, str]],
    limits: Mapping[str, tuple[RateLimit, ...]],
    *,
    single_precision: bool,
    error_statuses: bool,
) -> tuple[Api, ...]:
    known = {provider: {**spellings(provider), **names.get(provider, {})} for provider in PROVIDERS}
    return (
        Oanda(known["oanda"], limits.get("oanda")),
        Eodhd(known["eodhd"], limits.get("eodhd")),
        Yahoo(known["yahoo"], limits.get("yahoo"), single_precision=single_precision),
        AlphaVantage(known["alpha_vantage"], limits.get("alpha_vantage")),
        TwelveData(known["twelve_data"], limits.get("twelve_data"), error_statuses=error_statuses),
        Polygon(known["polygon"], limits.get("polygon")),
    )


def _without_keys(path: str, params: Mapping[str, str]) -> str:
    shown = {name: "***" if name in KEY_PARAMETERS else value for name, value in params.items()}
    return f"{path}?{urlencode(shown, safe='*:/,')}" if shown else path


def _known(*mappings: Mapping[str, object] | None) -> None:
    unknown = sorted({name for mapping in mappings for name in mapping or ()} - set(PROVIDERS))
    if unknown:
        raise SettingsError(
            f"The rehearsal knows no provider {', '.join(unknown)}.", next_step=f"Use {', '.join(PROVIDERS)}."
        )
