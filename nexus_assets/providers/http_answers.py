"""What an HTTP answer, or its absence, means: transient or permanent, when to ask again, what is still valid.

What belongs here: judging and remembering answers. Sending requests is in http.py.
"""

import hashlib
import http.client
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from nexus_assets.errors import PermanentProviderError, ProviderError, RateLimitedError, TransientProviderError
from nexus_assets.providers.redaction import redact

EXCERPT = 200
"""Characters of an answer that an error message shows."""


@dataclass(frozen=True)
class Response:
    """An answer of a provider.

    Attributes:
        status: HTTP status; 200 also where the provider said that what we had is still valid.
        headers: By name, whatever its case; without keys.
        body: Decompressed; without keys of 8 characters or more.
        url_without_secrets: What was asked, for messages and metadata.
        revalidated: The body is the one of an earlier request, which the provider said is unchanged.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url_without_secrets: str
    revalidated: bool = False

    @property
    def excerpt(self) -> str:
        """The beginning of the body, for messages."""
        text = redact(self.body[: 8 * EXCERPT].decode("utf-8", "replace"))
        return text[:EXCERPT] + ("..." if len(text) > EXCERPT else "")


def error_class(fault: int | Exception) -> type[ProviderError] | None:
    """What kind of error an HTTP status, or an exception of the HTTP libraries, is. The one place that decides.

    Providers that answer 200 with an error inside use it for the status that they name there.

    Returns:
        None for success; RateLimitedError for 429; TransientProviderError where the same request may work later (408,
        425, 5xx but 501 and 505, no or a broken answer, a certificate that is not accepted); PermanentProviderError
        for every other status, redirects included, and for a request that cannot be sent at all.
    """
    if isinstance(fault, int):
        if 200 <= fault < 300:
            return None
        if fault == 429:
            return RateLimitedError
        transient = fault in (408, 425) or (fault >= 500 and fault not in (501, 505))
    else:
        # Those of requests for addresses and headers that cannot be written are ValueErrors.
        transient = not isinstance(fault, ValueError | http.client.InvalidURL)
    return TransientProviderError if transient else PermanentProviderError


def status_error(provider: str, response: Response) -> ProviderError | None:
    """The error that an answer's status stands for, with the beginning of its body; None for success."""
    kind = error_class(response.status)
    if kind is None:
        return None
    meaning = http.client.responses.get(response.status, "no standard status")
    fact = f"{provider} answered {response.status} ({meaning}) to {response.url_without_secrets}"
    if 300 <= response.status < 400:
        fact += f", redirecting to {response.headers.get('Location', 'nowhere')!r}; redirects are not followed"
    fact += f": {response.excerpt!r}."
    if issubclass(kind, TransientProviderError):
        pause = retry_after(response.headers)
        hint = "Ask again later" if pause is None else f"Ask again in {pause:.0f} s"
        return kind(fact, next_step=f"{hint}; another provider is asked meanwhile.", retry_after=pause)
    if response.status in (401, 402, 403):
        return kind(fact, next_step=f"See that the key of {provider} is right and that its plan includes this.")
    return kind(fact, next_step=f"See that {provider} has what was asked for; nothing is retried.")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header Retry-After asks to wait, in either of its forms; None without a readable one.

    A date is compared with the answer's own Date, so that a clock that is wrong here does not matter.
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        at, now = _http_date(text), _http_date(headers.get("Date", "")) or datetime.now(UTC)
        return None if at is None else max(0.0, (at - now).total_seconds())
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class RevalidationCache:
    """Answers that carry an ETag or Last-Modified, to ask only whether they changed. Usable from several threads.

    Args:
        max_entries, max_bytes: The least recently used answers beyond either are forgotten.
    """

    def __init__(self, max_entries: int = 64, max_bytes: int = 16 * 2**20) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Response] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Response | None:
        """What was kept under the key."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def keep(self, key: bytes, response: Response) -> None:
        """Keep an answer if it is a success that can be asked about again, and the provider does not forbid it."""
        storable = "no-store" not in response.headers.get("Cache-Control", "").lower()
        if response.status != 200 or not storable or not conditions(response) or len(response.body) > self._max_bytes:
            return
        with self._lock:
            self._forget(key)
            self._entries[key] = response
            self._bytes += len(response.body)
            while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
                self._forget(next(iter(self._entries)))

    def _forget(self, key: bytes) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._bytes -= len(old.body)


def conditions(response: Response) -> dict[str, str]:
    """Request headers that ask whether an answer is still valid; none where that cannot be asked."""
    pairs = (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified"))
    return {name: response.headers[source] for name, source in pairs if source in response.headers}


def request_key(url: str, headers: Mapping[str, str]) -> bytes:
    """What tells two requests apart, keys included; nothing can be read from it."""
    parts = [url, *(f"{name.lower()}: {value}" for name, value in sorted(headers.items()))]
    return hashlib.sha256("\n".join(parts).encode()).digest()
