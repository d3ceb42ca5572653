"""The HTTP client against real servers on loopback: retries, deadlines, limits, politeness."""

import gzip
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from nexus_assets.errors import (
    BudgetExhaustedError,
    CircuitOpenError,
    PermanentProviderError,
    RateLimitedError,
    TransientProviderError,
    UnknownSymbolError,
)
from nexus_assets.providers.budgets import Window
from nexus_assets.providers.control_state import ControlState
from nexus_assets.providers.http import CONNECTIONS_PER_HOST, HttpClient, HttpLimits, open_client
from nexus_assets.providers.http_answers import Response, RevalidationCache, error_class, retry_after
from nexus_assets_tests.providers.loopback import Handler, loopback

QUICK = HttpLimits(backoff_s=0.02, longest_backoff_s=0.1)


@pytest.fixture
def client() -> Iterator[HttpClient]:
    """A client with short pauses, without shared control."""
    with HttpClient("tested", limits=QUICK) as client:
        yield client


def in_turn(*answers: Callable[[Handler], None]) -> Callable[[Handler], None]:
    """The first request gets the first answer, and so on; the last one is repeated."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def status(code: int, body: bytes = b"{}", **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(code, body, **headers)


def test_an_answer_has_status_headers_body_and_the_address_without_keys(client: HttpClient) -> None:
    with loopback(status(200, b'{"a": 1}', Content_Type="application/json")) as server:
        params = {"symbol": "EUR/USD", "count": 5, "apikey": SecretStr("a-key-of-some-length"), "token": "plain-token"}
        headers = {"Authorization": SecretStr("Bearer another-long-key"), "Accept": "application/json"}
        answer = client.get(f"{server.url}/v1", params=params, headers=headers, secret_params=("token",))
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "application/json", b'{"a": 1}')
    assert answer.url_without_secrets == f"{server.url}/v1?symbol=EUR%2FUSD&count=5&apikey=REDACTED&token=REDACTED"
    (asked,) = server.asked
    assert asked.path == "/v1?symbol=EUR%2FUSD&count=5&apikey=a-key-of-some-length&token=plain-token"
    assert (asked.headers["Authorization"], asked.headers["Accept"]) == ("Bearer another-long-key", "application/json")
    assert asked.headers["User-Agent"].startswith("nexus_assets/0.")


def test_server_errors_are_retried_with_growing_pauses(client: HttpClient) -> None:
    with loopback(in_turn(status(500), status(503), status(502), status(200))) as server:
        assert HttpClient("tested", limits=HttpLimits(backoff_s=0.1)).get(server.url).status == 200
    first, second, third, fourth = server.times
    # The pause doubles, with up to 0.1 s at random.
    assert 0.1 <= second - first < 0.4
    assert 0.2 <= third - second < 0.5
    assert 0.4 <= fourth - third < 0.8


def test_a_server_error_that_stays_is_told_after_the_last_attempt(client: HttpClient) -> None:
    with (
        loopback(status(503, b"<html>come back later</html>")) as server,
        pytest.raises(
            TransientProviderError, match=r"tested answered 503 \(Service Unavailable\) to .*come back later"
        ),
    ):
        client.get(server.url)
    assert len(server.asked) == 4


@pytest.mark.parametrize("code", [301, 400, 401, 403, 404, 422, 501])
def test_what_will_not_work_later_is_not_retried(client: HttpClient, code: int) -> None:
    with (
        loopback(status(code, Location="/elsewhere")) as server,
        pytest.raises(PermanentProviderError, match=str(code)),
    ):
        client.get(server.url)
    assert len(server.asked) == 1


def test_every_status_and_exception_is_either_transient_or_permanent() -> None:
    assert {code for code in range(100, 600) if error_class(code) is None} == set(range(200, 300))
    assert {code for code in range(100, 600) if error_class(code) is RateLimitedError} == {429}
    transient = {code for code in range(100, 600) if error_class(code) is TransientProviderError}
    assert transient == {408, 425, *range(500, 600)} - {501, 505}
    for fault in (requests.Timeout(), requests.ConnectionError(), requests.exceptions.SSLError(), OSError()):
        assert error_class(fault) is TransientProviderError
    for fault in (requests.exceptions.InvalidURL(), requests.exceptions.InvalidHeader()):
        assert error_class(fault) is PermanentProviderError


def test_retry_after_in_seconds_is_honoured(client: HttpClient) -> None:
    with loopback(in_turn(status(429, Retry_After="1"), status(200))) as server:
        client.get(server.url)
    assert 1.0 <= server.times[1] - server.times[0] < 1.5


def test_retry_after_as_a_date_is_measured_by_the_servers_own_clock(client: HttpClient) -> None:
    def answer(handler: Handler) -> None:
        then = datetime.now(UTC) - timedelta(days=3)
        later = format_datetime(then + timedelta(seconds=1), usegmt=True)
        handler.send_response_only(503)
        handler.send_header("Date", format_datetime(then, usegmt=True))
        for name, value in (("Retry-After", later), ("Content-Length", "0")):
            handler.send_header(name, value)
        handler.end_headers()

    with loopback(in_turn(answer, status(200))) as server:
        client.get(server.url)
    assert 1.0 <= server.times[1] - server.times[0] < 1.5


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("", None), ("soon", None), ("inf", None)]
)
def test_an_unreadable_retry_after_is_none(text: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": text}) == seconds


def test_a_retry_after_beyond_the_deadline_is_told_at_once(client: HttpClient) -> None:
    with loopback(status(429, Retry_After="3600")) as server, pytest.raises(RateLimitedError) as caught:
        client.get(server.url)
    assert caught.value.retry_after == 3600
    assert len(server.asked) == 1


@pytest.mark.parametrize("framing", ["length", "none", "gzip"])
def test_a_body_of_100_mb_is_refused_without_filling_memory(framing: str) -> None:
    megabytes_sent = 0
    bomb = gzip.compress(bytes(100 * 2**20), 1)
    headers = {
        "length": {"Content-Length": str(100 * 2**20)},
        "none": {"Connection": "close"},
        "gzip": {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))},
    }

    def answer(handler: Handler) -> None:
        nonlocal megabytes_sent
        handler.send_response(200)
        for name, value in headers[framing].items():
            handler.send_header(name, value)
        handler.end_headers()
        for _ in range(1 if framing == "gzip" else 100):
            handler.wfile.write(bomb if framing == "gzip" else bytes(2**20))
            megabytes_sent += 1

    with loopback(answer) as server, HttpClient("tested", limits=HttpLimits(max_bytes=2**20)) as client:
        tracemalloc.start()
        try:
            with pytest.raises(PermanentProviderError, match=r"more than 1,048,576 bytes"):
                client.get(server.url)
            assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
        finally:
            tracemalloc.stop()
    assert megabytes_sent < 50
    assert len(server.asked) == 1


def test_a_latency_beyond_the_read_timeout_is_transient() -> None:
    limits = HttpLimits(read_s=0.1, attempts=2, backoff_s=0.01)
    with (
        loopback(lambda handler: time.sleep(0.5)) as server,
        HttpClient("tested", limits=limits) as client,
        pytest.raises(TransientProviderError, match=r"did not answer .*ReadTimeout"),
    ):
        client.get(server.url)
    assert len(server.asked) == 2


@pytest.mark.parametrize("where", ["headers", "sized body", "unsized body"])
def test_an_answer_that_drips_ends_at_the_deadline(client: HttpClient, where: str) -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        if where != "headers":
            handler.send_header(*(("Content-Length", "500") if where == "sized body" else ("Connection", "close")))
            handler.end_headers()
        handler.flush_headers()
        for _ in range(500):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)

    began = time.monotonic()
    with loopback(answer) as server, pytest.raises(TransientProviderError, match="nothing before the deadline"):
        client.get(server.url, deadline_s=0.6)
    assert 0.5 < time.monotonic() - began < 1.5
    assert len(server.asked) == 1


def test_a_cut_connection_and_a_truncated_body_are_retried(client: HttpClient) -> None:
    def cut(handler: Handler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    def truncated(handler: Handler) -> None:
        handler.reply(200, b'{"half"', Content_Length="100")
        handler.close_connection = True

    with loopback(in_turn(cut, truncated, status(200, b"whole"))) as server:
        assert client.get(server.url).body == b"whole"
    assert len(server.asked) == 3


def test_an_unchanged_answer_is_not_sent_twice(client: HttpClient) -> None:
    def answer(handler: Handler) -> None:
        known = handler.headers.get("If-None-Match") == '"v1"' and "If-Modified-Since" in handler.headers
        if known:
            handler.send_response(304)
            handler.end_headers()
        else:
            handler.reply(200, b"long", ETag='"v1"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

    with loopback(answer) as server:
        answers = [client.get(server.url, params={"symbol": symbol}) for symbol in ("EURUSD", "EURUSD", "USDJPY")]
    assert [answer.revalidated for answer in answers] == [False, True, False]
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"long")}


def test_the_memory_of_answers_is_bounded_and_obeys_no_store() -> None:
    cache = RevalidationCache(max_entries=2, max_bytes=100)
    tagged = Response(200, {"ETag": "x"}, bytes(40), "")
    for key in (b"a", b"b"):
        cache.keep(key, tagged)
    assert cache.get(b"a")
    cache.keep(b"c", tagged)
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    cache.keep(b"d", Response(200, {"ETag": "x"}, bytes(90), ""))
    assert [cache.get(key) is not None for key in (b"a", b"c", b"d")] == [False, False, True]
    for headers in ({}, {"ETag": "x", "Cache-Control": "private, no-store"}):
        cache.keep(b"e", Response(200, headers, b"", ""))
        assert cache.get(b"e") is None
    cache.keep(b"f", Response(200, {"ETag": "x"}, bytes(101), ""))
    assert cache.get(b"f") is None


def test_requests_to_one_host_are_bounded_whoever_sends_them() -> None:
    def answer(handler: Handler) -> None:
        time.sleep(0.05)
        handler.reply()

    with loopback(answer) as server, HttpClient("one") as one, HttpClient("two") as two:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda number: (one, two)[number % 2].get(server.url), range(16)))
        assert server.most_at_once == CONNECTIONS_PER_HOST
    assert len(server.asked) == 16


def test_one_connection_serves_many_requests(client: HttpClient) -> None:
    ports = set()

    def answer(handler: Handler) -> None:
        ports.add(handler.client_address[1])
        handler.reply()

    with loopback(answer) as server:
        for _ in range(5):
            client.get(server.url)
    assert len(ports) == 1


def test_redirects_are_not_followed_because_they_could_carry_a_key_elsewhere(client: HttpClient) -> None:
    with loopback() as other, loopback(status(302, Location=other.url)) as server:
        with pytest.raises(PermanentProviderError, match=f"redirecting to '{other.url}'"):
            client.get(server.url, headers={"Authorization": SecretStr("Bearer a-key")})
        assert other.asked == []


def test_a_netrc_of_the_user_does_not_replace_the_providers_header(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with loopback() as server:
        client.get(server.url, headers={"Authorization": SecretStr("Bearer a-key")})
    assert server.asked[0].headers["Authorization"] == "Bearer a-key"


def test_an_error_inside_a_success_is_found_by_the_examiner_and_retried(client: HttpClient) -> None:
    def examine(response: Response) -> None:
        if b"try again" in response.body:
            raise TransientProviderError(f"tested said {response.excerpt!r}.")

    with loopback(in_turn(status(200, b"try again"), status(200, b"fine"))) as server:
        assert client.get(server.url, examine=examine).body == b"fine"
    assert len(server.asked) == 2


def test_the_examiner_sees_client_errors_and_says_what_they_mean(client: HttpClient) -> None:
    def examine(response: Response) -> None:
        if response.status == 404:
            raise UnknownSymbolError("tested has no XYZ.")

    with loopback(in_turn(status(404), status(500), status(401))) as server:
        with pytest.raises(UnknownSymbolError):
            client.get(server.url, examine=examine)
        with pytest.raises(PermanentProviderError, match="401"):
            client.get(server.url, examine=examine)


def test_five_failed_attempts_open_the_circuit_for_every_client(redis_url: str) -> None:
    state = ControlState(SecretStr(redis_url))
    with loopback(status(503)) as server, open_client("tested", state, limits=QUICK) as client:
        for _ in range(2):
            # The error of the attempt that opened the circuit is told, not that it is open.
            with pytest.raises(TransientProviderError, match="503") as caught:
                client.get(server.url)
            assert type(caught.value) is TransientProviderError
        assert len(server.asked) == 5
        other = open_client("tested", ControlState(SecretStr(redis_url)), limits=QUICK)
        with pytest.raises(CircuitOpenError, match="503"):
            other.get(server.url)
        assert len(server.asked) == 5
        assert client.calls
        summary = client.calls.summary("tested", client.budget)
        assert (summary.calls, summary.failures) == (5, 5)
        assert "answered 503" in summary.reason


def test_a_trial_is_one_attempt_and_closes_the_circuit_when_it_works(redis_url: str) -> None:
    with (
        loopback(in_turn(*[status(503)] * 6, status(200))) as server,
        open_client("tested", ControlState(SecretStr(redis_url)), limits=QUICK) as client,
    ):
        assert client.breaker
        client.breaker._cooldown_s = 0.2
        for attempts in (4, 5, 6):
            with pytest.raises(TransientProviderError, match="503"):
                client.get(server.url)
            assert len(server.asked) == attempts
            time.sleep(0.25)
        assert client.get(server.url).status == 200
        assert client.breaker.reading().state == "closed"


def test_every_attempt_is_taken_from_the_budget(redis_url: str) -> None:
    state = ControlState(SecretStr(redis_url))
    limits = HttpLimits(backoff_s=0.01, budget_s=0.1)
    with (
        loopback(in_turn(status(500), status(200))) as server,
        open_client("tested", state, windows=(Window(3, 60),), limits=limits) as client,
    ):
        client.get(server.url)
        client.get(server.url)
        with pytest.raises(BudgetExhaustedError):
            client.get(server.url)
        assert len(server.asked) == 3
        assert client.breaker
        assert client.breaker.reading().state == "closed"


def test_a_retry_after_holds_off_every_client(redis_url: str) -> None:
    clients = [open_client("tested", ControlState(SecretStr(redis_url))) for _ in range(2)]
    with loopback(status(429, Retry_After="600")) as server:
        with pytest.raises(RateLimitedError, match="429"):
            clients[0].get(server.url)
        with pytest.raises(BudgetExhaustedError, match="left alone"):
            clients[1].get(server.url)
    assert len(server.asked) == 1


def test_a_fetch_does_not_fail_for_want_of_redis(caplog: pytest.LogCaptureFixture) -> None:
    with loopback() as server:
        for state in (ControlState(SecretStr("redis://127.0.0.1:1/0")), ControlState(SecretStr("no url"))):
            with open_client("alpha_vantage", state) as client:
                began = time.monotonic()
                assert client.get(server.url).status == 200
                assert time.monotonic() - began < 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_a_host_that_does_not_exist_and_a_refused_connection_are_transient(client: HttpClient) -> None:
    for url in ("http://no-such-host.invalid/", "http://127.0.0.1:1/"):
        with pytest.raises(TransientProviderError):
            client.get(url)


def test_threads_share_one_client(client: HttpClient) -> None:
    def answer(handler: Handler) -> None:
        handler.reply(200, handler.path.encode())

    def ask(number: int) -> None:
        assert client.get(f"{server.url}/{number}").body == f"/{number}".encode()

    with loopback(answer) as server, ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(100)))
