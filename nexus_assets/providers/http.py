"""The HTTP client of every network provider: polite, patient up to a deadline, and silent about keys.

One call is one logical request: it is retried with growing, random pauses, waits for the provider's budget, and is
refused while the provider's circuit is open. Every attempt counts: in the budget, in the breaker, in the call log.
"""

import http.client
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from typing import cast
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr
from requests.structures import CaseInsensitiveDict
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential_jitter,
)
from urllib3.exceptions import HTTPError

from nexus_assets.errors import (
    BudgetExhaustedError,
    CircuitOpenError,
    PermanentProviderError,
    ProviderError,
    TransientProviderError,
)
from nexus_assets.providers.breaker import CircuitBreaker
from nexus_assets.providers.budgets import RateBudget, Window
from nexus_assets.providers.call_log import CallLog
from nexus_assets.providers.control_state import ControlState
from nexus_assets.providers.http_answers import (
    Response,
    RevalidationCache,
    conditions,
    error_class,
    request_key,
    status_error,
)
from nexus_assets.providers.http_deadline import WatchedAdapter, watched
from nexus_assets.providers.redaction import REDACTED, redact, redact_body, remember

Value = str | int | float | SecretStr
Examine = Callable[[Response], None]

CONNECTIONS_PER_HOST = 4
"""Requests of one process that are under way to one host at once, at most."""

_CHUNK = 65536

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HttpLimits:
    """How patient a client is.

    Attributes:
        connect_s: Seconds for connecting; the budget's margin counts on it.
        read_s: Seconds without a single byte.
        deadline_s: Seconds for everything: waiting for the budget, all attempts, the pauses between them.
        budget_s: Seconds of these for waiting for the budget before each attempt.
        attempts: How often a request is sent, at most.
        backoff_s: The first pause; it doubles each time, with up to as much again at random.
        longest_backoff_s: The longest pause, unless the provider asks for a longer one.
        max_bytes: Longest answer, decompressed. The largest that we ask for, four months of 1m bars, takes 20 MB.
    """

    connect_s: float = 3.0
    read_s: float = 20.0
    deadline_s: float = 90.0
    budget_s: float = 66.0
    attempts: int = 4
    backoff_s: float = 0.5
    longest_backoff_s: float = 20.0
    max_bytes: int = 32 * 2**20


@dataclass(frozen=True, repr=False)
class _Request:
    """A request with its keys in clear; it has no representation."""

    host: str
    prepared: requests.PreparedRequest
    shown: str
    secrets: tuple[SecretStr, ...]
    ends_at: float

    def remaining_s(self) -> float:
        return max(0.0, self.ends_at - time.monotonic())


class HttpClient:
    """Sends the requests of one provider. Usable from several threads; close it, or use it in a `with` statement.

    Args:
        provider: Its name, for messages.
        breaker, budget, calls: Shared control of the provider; each may be left out.
        limits: How patient it is.
    """

    def __init__(
        self,
        provider: str,
        *,
        breaker: CircuitBreaker | None = None,
        budget: RateBudget | None = None,
        calls: CallLog | None = None,
        limits: HttpLimits | None = None,
    ) -> None:
        self.provider = provider
        self.breaker = breaker
        self.budget = budget
        self.calls = calls
        self.limits = limits or HttpLimits()
        self._kept = RevalidationCache()
        self._lock = threading.Lock()
        self._sessions: dict[tuple[int, str], requests.Session] = {}

    def __repr__(self) -> str:
        return f"HttpClient({self.provider!r})"

    def __enter__(self) -> "HttpClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, Value] | None = None,
        headers: Mapping[str, Value] | None = None,
        secret_params: Collection[str] = (),
        examine: Examine | None = None,
        deadline_s: float | None = None,
    ) -> Response:
        """GET an address.

        Args:
            url: Without keys.
            params: Query parameters. A SecretStr never appears in anything that is written.
            headers: Request headers; likewise.
            secret_params: Names of parameters that are secret although they are no SecretStr.
            examine: Looks at every answer whose status is not transient, 4xx included, before it counts as a success,
                and raises a ProviderError for one that is none (an error told with status 200, an unknown symbol, an
                HTML page). A transient one is retried and counts for the breaker; its `retry_after` is honoured by
                all processes, as the header is.
            deadline_s: Instead of that of the limits.

        Returns:
            An answer with a 2xx status.

        Raises:
            CircuitOpenError: the provider is left alone for now. Nothing was sent.
            BudgetExhaustedError: its budget allows no request in time. Nothing was sent.
            RateLimitedError: it answered 429 until the attempts or the deadline were used up.
            TransientProviderError: no answer, a broken one, or a server error, until then.
            PermanentProviderError: any other status, an answer that is too long, a request that cannot be sent.
        """
        patience = self.limits.deadline_s if deadline_s is None else deadline_s
        request = self._prepare(url, dict(params or {}), dict(headers or {}), secret_params, patience)
        attempting = Retrying(
            stop=stop_after_attempt(self.limits.attempts) | stop_before_delay(patience),
            wait=self._pause,
            retry=retry_if_exception(self._worth_retrying),
            before_sleep=_log_retry,
            reraise=True,
        )
        return attempting(self._attempt, request, examine)

    def _prepare(
        self,
        url: str,
        params: dict[str, Value],
        headers: dict[str, Value],
        secret_params: Collection[str],
        patience: float,
    ) -> _Request:
        values = params | {name: SecretStr(_plain(params[name])) for name in secret_params if name in params}
        secrets = tuple(value for value in (*values.values(), *headers.values()) if isinstance(value, SecretStr))
        remember(secrets)
        hidden = {name: REDACTED if isinstance(value, SecretStr) else value for name, value in values.items()}
        session = self._session(url)
        prepared, shown = _written(session, url, values, headers), _written(session, url, hidden, {})
        for outcome in (prepared, shown):
            if isinstance(outcome, str):
                raise PermanentProviderError(
                    f"A request to {self.provider} ({redact(url)}) cannot be written: {outcome}.",
                    next_step="See that its address and its key hold no stray characters.",
                )
        prepared, shown = cast(requests.PreparedRequest, prepared), cast(requests.PreparedRequest, shown)
        host = urlsplit(str(prepared.url)).netloc
        return _Request(host, prepared, redact(str(shown.url)), secrets, time.monotonic() + patience)

    def _session(self, url: str) -> requests.Session:
        # By process too: connections must not be used on both sides of a fork.
        key = os.getpid(), urlsplit(url).netloc
        with self._lock:
            if key not in self._sessions:
                session = self._sessions[key] = requests.Session()
                session.headers["User-Agent"] = user_agent()
                # Otherwise a ~/.netrc would replace the provider's own header.
                session.auth = lambda request: request
                for scheme in ("http://", "https://"):
                    session.mount(scheme, WatchedAdapter(pool_maxsize=CONNECTIONS_PER_HOST))
            return self._sessions[key]

    def _worth_retrying(self, error: BaseException) -> bool:
        if not isinstance(error, TransientProviderError) or isinstance(error, CircuitOpenError | BudgetExhaustedError):
            return False
        # The attempt may have been the one that opened the circuit, or the trial: then its own error tells more.
        return self.breaker is None or self.breaker.reading().state == "closed"

    def _pause(self, call: RetryCallState) -> float:
        backoff = wait_exponential_jitter(
            multiplier=self.limits.backoff_s, max=self.limits.longest_backoff_s, jitter=self.limits.backoff_s
        )
        error = call.outcome.exception() if call.outcome else None
        return (getattr(error, "retry_after", None) or 0.0) + backoff(call)

    def _attempt(self, request: _Request, examine: Examine | None) -> Response:
        # A second more than it can take, so that a trial is not given away while it still runs.
        guard = self.breaker.guard(request.remaining_s() + 1) if self.breaker else nullcontext()
        with guard, self._place(request):
            if self.budget:
                self.budget.acquire(min(self.limits.budget_s, request.remaining_s()))
            began = time.monotonic()
            try:
                response = self._exchange(request, examine)
            except ProviderError as error:
                self._log_call(time.monotonic() - began, error.fact)
                pause = error.retry_after if isinstance(error, TransientProviderError) else None
                if pause and self.budget:
                    self.budget.hold_off(pause)
                raise
            self._log_call(time.monotonic() - began, None)
            return response

    @contextmanager
    def _place(self, request: _Request) -> Iterator[None]:
        gate = _gate(os.getpid(), request.host)
        if not gate.acquire(timeout=request.remaining_s()):
            raise BudgetExhaustedError(
                f"{CONNECTIONS_PER_HOST} requests to {request.host} are under way, and none ended before the deadline.",
                next_step="Ask for less at once, or allow a longer deadline.",
            )
        try:
            yield
        finally:
            gate.release()

    def _exchange(self, request: _Request, examine: Examine | None) -> Response:
        outcome = self._send(request)
        if isinstance(outcome, ProviderError):
            raise outcome
        error = status_error(self.provider, outcome)
        if error and error.transient:
            raise error
        if examine:
            examine(outcome)
        if error:
            raise error
        return outcome

    def _send(self, request: _Request) -> Response | ProviderError:
        prepared = request.prepared.copy()
        key = request_key(str(prepared.url), {name: str(value) for name, value in prepared.headers.items()})
        kept = self._kept.get(key)
        prepared.headers.update(conditions(kept) if kept else {})
        received = self._receive(request, prepared)
        if isinstance(received, ProviderError):
            return received
        answer, body = received
        if answer.status_code == 304 and kept:
            return replace(kept, revalidated=True)
        shown = CaseInsensitiveDict({name: redact(value) for name, value in answer.headers.items()})
        response = Response(answer.status_code, shown, body, request.shown)
        self._kept.keep(key, response)
        return response

    def _receive(
        self, request: _Request, prepared: requests.PreparedRequest
    ) -> tuple[requests.Response, bytes] | ProviderError:
        # An error is returned: raised inside the `except`, it would carry the library's own, which holds the key.
        session, remaining = self._session(str(prepared.url)), max(request.remaining_s(), 0.001)
        timeout = min(self.limits.connect_s, remaining), min(self.limits.read_s, remaining)
        settings = session.merge_environment_settings(str(prepared.url), {}, True, None, None)
        with watched(remaining) as watch:
            try:
                with session.send(prepared, timeout=timeout, allow_redirects=False, **settings) as answer:
                    body = self._body(request, answer)
            except (OSError, HTTPError, http.client.HTTPException) as error:
                body = self._no_answer(request, error)
        if watch.expired:
            # Even where all seemed well: a body without a length ends where its connection is shut.
            return self._no_answer(request, TimeoutError())
        return body if isinstance(body, ProviderError) else (answer, body)

    def _body(self, request: _Request, answer: requests.Response) -> bytes | ProviderError:
        # What is longer than allowed is not read to its end; leaving closes the connection.
        declared = answer.headers.get("Content-Length", "")
        too_long = declared.isdigit() and int(declared) > self.limits.max_bytes
        body = bytearray()
        for chunk in () if too_long else answer.iter_content(_CHUNK):
            body += chunk
            if len(body) > self.limits.max_bytes:
                too_long = True
                break
        if not too_long:
            return redact_body(bytes(body), request.secrets)
        return PermanentProviderError(
            f"{self.provider} answered {request.shown} with more than {self.limits.max_bytes:,} bytes.",
            next_step="Ask for a shorter range.",
        )

    def _no_answer(self, request: _Request, fault: Exception) -> ProviderError:
        kind = error_class(fault) or TransientProviderError
        what = "nothing before the deadline" if isinstance(fault, TimeoutError) else _told(fault)
        return kind(
            f"{self.provider} did not answer {request.shown}: {what}.",
            next_step="Ask again later; another provider is asked meanwhile.",
        )

    def _log_call(self, latency_s: float, failure: str | None) -> None:
        if self.calls:
            self.calls.record(self.provider, latency_s, failure)


def open_client(
    provider: str, state: ControlState, *, windows: Sequence[Window] | None = None, limits: HttpLimits | None = None
) -> HttpClient:
    """A client with the provider's breaker, budget (its default windows where none are given) and call log."""
    return HttpClient(
        provider,
        breaker=CircuitBreaker(provider, state),
        budget=RateBudget(provider, state, windows),
        calls=CallLog(state),
        limits=limits,
    )


@lru_cache(maxsize=1)
def user_agent() -> str:
    """`nexus_assets/<version> (+address of the project)`, the address only where the package names one."""
    try:
        package = metadata.metadata("nexus_assets")
    except metadata.PackageNotFoundError:
        return "nexus_assets"
    addresses = [line.partition(",")[2].strip() for line in package.get_all("Project-URL") or ()]
    return f"nexus_assets/{package['Version']}" + (f" (+{addresses[0]})" if addresses else "")


@lru_cache(maxsize=256)
def _gate(process: int, host: str) -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(CONNECTIONS_PER_HOST)


def _plain(value: Value) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _written(
    session: requests.Session, url: str, params: Mapping[str, Value], headers: Mapping[str, Value]
) -> requests.PreparedRequest | str:
    # What is wrong is returned: an error raised in the `except` would carry one that holds the key.
    sent = {name: _plain(value) for name, value in headers.items()}
    plain = {name: _plain(value) for name, value in params.items()}
    try:
        for value in sent.values():
            value.encode("latin-1")
        return session.prepare_request(requests.Request("GET", url, headers=sent, params=plain))
    except ValueError as error:
        return _told(error)


def _told(error: Exception) -> str:
    # Without the layers of the libraries, each of which repeats the address.
    reason = getattr(error.args[0], "reason", None) if error.args else None
    cause = reason if isinstance(reason, Exception) else error
    return f"{type(cause).__name__}: {redact(str(cause))[:300]}"


def _log_retry(call: RetryCallState) -> None:
    error = call.outcome.exception() if call.outcome else None
    pause = call.next_action.sleep if call.next_action else 0.0
    _log.info("%s Trying again in %.1f s.", error, pause)
