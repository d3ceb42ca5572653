"""What the providers need of HTTP. The client that keeps time limits, budgets and secrets implements it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import SecretStr

from nexus_assets.providers.interface import Request


class Response(Protocol):
    """An answer whose body was read. `url_without_secrets` may be printed."""

    @property
    def status(self) -> int:
        """The HTTP status code."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's headers."""
        ...

    @property
    def body(self) -> bytes:
        """The whole body, decompressed."""
        ...

    @property
    def url_without_secrets(self) -> str:
        """The URL that was asked, with secret parameters masked."""
        ...


class Transport(Protocol):
    """Sends GET requests."""

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, str | SecretStr],
        headers: Mapping[str, str | SecretStr],
        secret_params: Sequence[str] = (),
        examine: Callable[[Response], None] | None = None,
    ) -> Response:
        """The answer.

        Args:
            url: Without a query.
            params: The query. A SecretStr is shown to the server only.
            headers: As params.
            secret_params: Names in `params` whose values must never be printed.
            examine: Looks at every answer, 4xx included, before it counts as a success, and raises a ProviderError for
                one that is none; a transient one may be tried again.

        Raises:
            TransientProviderError: no answer was had in time, or the server asks to wait.
            PermanentProviderError: the server will not answer.
            ProviderError: from `examine`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A request without its key: the path below the API's base URL and the query. `part` is the part of the asked
    range that the answer is for, None where the API decides how far it goes."""

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    part: Request | None = None
