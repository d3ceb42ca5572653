"""The part of a provider that all APIs share: asking page after page, and turning refusals into our errors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import ClassVar, TypeVar

from pydantic import SecretStr

from nexus_assets.errors import PermanentProviderError, ProviderError, UnknownSymbolError
from nexus_assets.providers.answers import Subject, failure, refused
from nexus_assets.providers.interface import Delivery, Request
from nexus_assets.providers.pages import Kinds, Page, check_part, deliver
from nexus_assets.providers.spellings import Spelling, spelling, spells
from nexus_assets.providers.transport import Call, Response, Transport

MAX_PAGES = 10_000

Read = TypeVar("Read")
SHORTEST_KEY = 6
"""Shorter keys are demonstration words; masking them in an answer could change its data."""


class _NoBarsError(PermanentProviderError):
    """Carries `empty_answer` out of the transport, for which an error's status is always an error."""

    def __init__(self, empty_answer: bytes) -> None:
        super().__init__("The answer only says that there are no bars.")
        self.empty_answer = empty_answer


class ApiProvider(ABC):
    """A provider that is asked over HTTP.

    Subclasses say how pages are asked for and read; both are pure functions of their modules.
    """

    name: str
    key_setting: ClassVar[str]
    """The setting that holds the key, for messages; empty where the API has none."""
    url: ClassVar[str]
    """Where the API is, unless told otherwise."""
    timeframes: ClassVar[Mapping[str, str]]
    """{our timeframe: the API's}."""
    lag: ClassVar[timedelta] = timedelta(0)
    """How long after its end a bar takes to be there; it is not missed before."""

    def __init__(
        self,
        transport: Transport,
        key: SecretStr | None = None,
        *,
        base_url: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`now` says what time it is (tz-aware): a bar that is not over is never delivered."""
        self._transport = transport
        self._key = key
        self._base_url = (base_url or self.url).rstrip("/")
        self._now = now

    def serves(self, symbol: str, timeframe: str) -> bool:
        """Whether the API has the symbol and the timeframe."""
        if timeframe not in self.timeframes or not spells(self.name, symbol):
            return False
        return self.places(spelling(self.name, symbol), timeframe)

    def available(self, symbol: str, timeframe: str) -> tuple[datetime, datetime] | None:
        """None: the API does not say how far it reaches back.

        Raises:
            UnknownSymbolError: the API does not have the symbol or the timeframe.
        """
        self.spelled(symbol, timeframe)
        return None

    def fetch(self, request: Request) -> Delivery:
        """The bars of the range that are over.

        Raises:
            UnknownSymbolError: the API does not have the symbol or the timeframe.
            TransientProviderError: the same request may work later.
            PermanentProviderError: it will not; SourceFormatError where the answer is not as documented.
        """
        row = self.spelled(request.symbol, request.timeframe)
        now = self._now()
        pages: list[Page] = []
        while call := self.next_call(request, now, pages):
            pages.append(self._page(call, request, now, pages))
            self._check_progress(request, pages)
        self.check_reach(request, now, pages)
        source = f"{self.name} {row.text} {self.timeframes[request.timeframe]}"
        return deliver(self.name, request, pages, self.kinds(row), source=source)

    def _page(self, call: Call, request: Request, now: datetime, before: Sequence[Page]) -> Page:
        def read(body: bytes) -> Page:
            page = self.parse(body, call.part or request, now)
            if call.part is not None:
                check_part(self.name, page)
            self.check_further(request, [*before, page])
            return page

        return self.ask(call, call.part or request, read)

    def spelled(self, symbol: str, timeframe: str) -> Spelling:
        """What the API is asked for. Raises UnknownSymbolError."""
        row = spelling(self.name, symbol)
        if timeframe not in self.timeframes or not self.places(row, timeframe):
            shorter = ", ".join(t for t in self.timeframes if self.places(row, t))
            raise UnknownSymbolError(
                f"{self.name} has no {timeframe} bars of {symbol} that this project can place in time.",
                next_step=f"It has {shorter}; longer bars are made of these.",
            )
        return row

    def places(self, row: Spelling, timeframe: str) -> bool:
        """Whether the times of such bars are their opens."""
        return True

    def next_call(self, request: Request, now: datetime, pages: Sequence[Page]) -> Call | None:
        """What to ask after the pages that were answered; None when the range is complete."""
        calls = self.calls(request, now)
        return calls[len(pages)] if len(pages) < len(calls) else None

    def calls(self, request: Request, now: datetime) -> list[Call]:
        """All requests of a range, where they are known beforehand. Raises PermanentProviderError."""
        return []

    @abstractmethod
    def parse(self, body: bytes, request: Request, now: datetime) -> Page:
        """The rows of an answer with status 200. Raises ProviderError."""

    @abstractmethod
    def kinds(self, row: Spelling) -> Kinds:
        """What the numbers are of."""

    def refusal(self, status: int, body: bytes, subject: Subject) -> ProviderError | None:
        """The error in an answer, also in one with status 200; None where there is none that this API explains."""
        return None

    def no_data(self, status: int, body: bytes) -> bytes | None:
        """An empty answer in place of one whose status is an error and which only says that there are no bars."""
        return None

    def check_further(self, request: Request, pages: Sequence[Page]) -> None:
        """Raise ProviderError where the last page did not come further than the one before it."""
        return

    def check_reach(self, request: Request, now: datetime, pages: Sequence[Page]) -> None:
        """Raise PermanentProviderError where the pages cannot tell missing bars from bars that are out of reach."""
        return

    def authorisation(self) -> tuple[Mapping[str, SecretStr], Mapping[str, SecretStr]]:
        """(headers, query parameters) that carry the key."""
        return {}, {}

    def key_value(self) -> str:
        """The key in clear; only for authorisation(). Raises PermanentProviderError without one."""
        if self._key is None or not self._key.get_secret_value():
            raise PermanentProviderError(
                f"{self.name} needs a key and none is set.", next_step=f"Set {self.key_setting} in .env."
            )
        return self._key.get_secret_value()

    def ask(self, call: Call, subject: Subject, read: Callable[[bytes], Read]) -> Read:
        """What `read` makes of the answer to a call.

        The transport lets it look at each attempt's answer, so that one that cannot be read is tried again, and counts
        as a failure of the provider.

        Raises:
            ProviderError: from the transport, from `read`, or what the API says is wrong.
        """
        headers, secrets = self.authorisation()
        found: list[Read] = []
        try:
            self._transport.get(
                f"{self._base_url}{call.path}",
                params={**call.params, **secrets},
                headers=headers,
                secret_params=tuple(secrets),
                examine=lambda response: found.append(read(self._checked(response, subject))),
            )
        except _NoBarsError as nothing:
            return read(nothing.empty_answer)
        return found[-1]

    def _checked(self, response: Response, subject: Subject) -> bytes:
        """The body of a successful answer, without the key, which some APIs repeat in their messages."""
        body = self._without_key(response.body)
        success = 200 <= response.status < 300
        empty = self.no_data(response.status, body)
        if empty is not None:
            if success:
                return empty
            raise _NoBarsError(empty)
        error = self.refusal(response.status, body, subject)
        if error is None and not success:
            error = refused(response.status, body, self.name, subject, key_setting=self.key_setting)
        if error is not None:
            raise error
        return body

    def _without_key(self, body: bytes) -> bytes:
        key = self._key.get_secret_value().encode() if self._key else b""
        return body.replace(key, b"***") if len(key) >= SHORTEST_KEY else body

    def _check_progress(self, request: Request, pages: Sequence[Page]) -> None:
        if len(pages) > MAX_PAGES:
            raise failure(
                PermanentProviderError,
                self.name,
                request,
                f"the API wants more than {MAX_PAGES:,} pages for it",
                next_step="Ask for a shorter range.",
            )
