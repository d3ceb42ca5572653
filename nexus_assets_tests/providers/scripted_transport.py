"""A transport that answers from a script, and what the tests of the API providers share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr

from nexus_assets.errors import PermanentProviderError
from nexus_assets.providers.interface import Request
from nexus_assets.providers.transport import Response

KEY = SecretStr("k3y-0f-a-us3r-8261")


def utc(text: str) -> datetime:
    """An instant from ISO text without a zone."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ask(symbol: str, timeframe: str, start: str, end: str) -> Request:
    """A request between two times of UTC."""
    return Request(symbol, timeframe, utc(start), utc(end))


@dataclass(frozen=True)
class Answer:
    """A response."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    url_without_secrets: str = "http://127.0.0.1/"


@dataclass(frozen=True)
class Asked:
    """A request as the transport saw it, without secrets."""

    url: str
    params: dict[str, str]
    headers: dict[str, str]
    secret_params: tuple[str, ...]


class ScriptedTransport:
    """Answers with `script`, which is called with each request; keeps what was asked."""

    def __init__(self, script: Callable[[Asked], Answer]) -> None:
        self._script = script
        self.asked: list[Asked] = []

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, str | SecretStr],
        headers: Mapping[str, str | SecretStr],
        secret_params: Sequence[str] = (),
        examine: Callable[[Response], None] | None = None,
    ) -> Answer:
        asked = Asked(url, _shown(params), _shown(headers), tuple(secret_params))
        self.asked.append(asked)
        answer = self._script(asked)
        if examine:
            examine(answer)
        if not 200 <= answer.status < 300:
            raise PermanentProviderError(f"The server answered {answer.status}.")
        return answer


def _shown(values: Mapping[str, str | SecretStr]) -> dict[str, str]:
    return {k: f"secret {v.get_secret_value()}" if isinstance(v, SecretStr) else v for k, v in values.items()}


def answering(body: Any, status: int = 200) -> ScriptedTransport:
    """Always this body: bytes, text, or something to print as JSON."""
    text = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else orjson.dumps(body)
    return ScriptedTransport(lambda _: Answer(text, status))


def recorded(real_data: Path, name: str) -> bytes:
    """A recorded response's body."""
    return (real_data / "api_fixtures" / name).read_bytes()
