"""A key must be nowhere in what a failing run writes: messages, logs, chained exceptions, frames, Redis."""

import json
import logging
import socket
import time
import traceback
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
import redis
from pydantic import SecretStr

from nexus_assets.errors import NexusError, PermanentProviderError, TransientProviderError
from nexus_assets.providers.control_state import ControlState
from nexus_assets.providers.http import HttpLimits, open_client
from nexus_assets.providers.http_answers import Response
from nexus_assets.providers.redaction import redact, redact_body, remember
from nexus_assets_tests.providers.loopback import Handler, loopback

KEY = 'K3y/with+odd "chars"&more'
FORMS = {KEY, quote(KEY), quote(KEY, safe=""), quote_plus(KEY), json.dumps(KEY)[1:-1], quote(KEY, safe="").lower()}
LIMITS = HttpLimits(attempts=2, backoff_s=0.01, read_s=0.2, deadline_s=2)


def echo(handler: Handler) -> None:
    key = handler.headers.get("Authorization", "")
    body = f"Your key {key} at {handler.path} is wrong: {json.dumps(KEY)}".encode()
    handler.reply(500 if handler.path.startswith("/500") else 401, body, X_Key=key)


def redirect(handler: Handler) -> None:
    handler.reply(302, Location=f"https://elsewhere.invalid{handler.path}")


def cut(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def silent(handler: Handler) -> None:
    time.sleep(0.4)


def garbled(handler: Handler) -> None:
    handler.wfile.write(f"HTTP/1.1 {KEY} is no status\r\n\r\n".encode())
    handler.close_connection = True


def wrong_gzip(handler: Handler) -> None:
    handler.reply(200, KEY.encode(), Content_Encoding="gzip")


def refused_by_examiner(response: Response) -> None:
    raise PermanentProviderError(f"tested said {response.excerpt!r} to {response.url_without_secrets}.")


def broken_examiner(response: Response) -> None:
    raise TransientProviderError(f"tested said {response.body!r}; {dict(response.headers)}.")


def everything_in(error: BaseException) -> str:
    """All that a log of this error, with its causes, contexts and the locals of every frame, could show."""
    written, left, seen = [], [error], set()
    while left:
        current = left.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        # This file's own frames hold the key on purpose.
        ours = [
            frame for frame in traceback.walk_tb(current.__traceback__) if "nexus_assets_tests" not in str(frame[0])
        ]
        written += [repr(current), str(vars(current)), *map(str, current.args), str(getattr(current, "object", ""))]
        written += [f"{name}={value!r}" for frame, _ in ours for name, value in frame.f_locals.items()]
        left += [found for found in (current.__cause__, current.__context__) if found]
    return "\n".join(written)


@pytest.mark.parametrize(
    ("answer", "path", "examine"),
    [
        (echo, "/401", None),
        (echo, "/500", None),
        (echo, "/401", refused_by_examiner),
        (echo, "/401", broken_examiner),
        (redirect, "/", None),
        (cut, "/", None),
        (silent, "/", None),
        (garbled, "/", None),
        (wrong_gzip, "/", None),
        (None, "/", None),
    ],
)
def test_no_key_in_anything_that_a_failing_run_writes(
    answer: Callable[[Handler], None] | None,
    path: str,
    examine: Callable[[Response], None] | None,
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        loopback(answer or Handler.reply) as server,
        open_client("tested", ControlState(SecretStr(redis_url)), limits=LIMITS) as client,
    ):
        url = server.url if answer else "http://127.0.0.1:1"
        with pytest.raises(NexusError) as caught:
            client.get(
                f"{url}{path}",
                params={"apikey": SecretStr(KEY), "symbol": "EURUSD"},
                headers={"Authorization": SecretStr(f"Bearer {KEY}")},
                examine=examine,
            )
        written = [everything_in(caught.value), caplog.text, *capfd.readouterr(), repr(client), repr(vars(client))]
    written += [str(record.__dict__) for record in caplog.records]
    with redis.Redis.from_url(redis_url) as inspected:
        for name in inspected.scan_iter("*"):
            kind = inspected.type(name)
            read = {b"hash": inspected.hgetall, b"string": inspected.get}.get(kind)  # pyright: ignore
            written += [str(name), str(read(name)) if read else ""]
    text = "\n".join(written)
    assert "EURUSD" in text
    assert "urllib3" in text, "The debug log of urllib3 was not captured."
    assert [form for form in FORMS if form in text or repr(form)[1:-1] in text] == []


@pytest.mark.parametrize("key", ["a\nkey-with-a-line-break", "a-key-with-\u2013-a-dash"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_client("tested", ControlState(None)) as client, pytest.raises(PermanentProviderError) as caught:
        client.get("http://127.0.0.1:1/", headers={"Authorization": SecretStr(key)})
    text = everything_in(caught.value) + caplog.text
    assert key not in text
    assert repr(key)[1:-1] not in text


def test_a_body_keeps_every_byte_that_is_not_a_key_and_short_keys_stay() -> None:
    body = b'{"key": "long-enough-key", "demo": "demo", "raw": "\xff\x00"}'
    found = redact_body(body, [SecretStr("long-enough-key"), SecretStr("demo")])
    assert found == b'{"key": "REDACTED", "demo": "demo", "raw": "\xff\x00"}'


def test_a_bearer_token_is_redacted_with_and_without_its_scheme() -> None:
    remember([SecretStr("Bearer tok-en-123"), SecretStr("")])
    assert redact("Bearer tok-en-123, tok-en-123, TOK-EN-123, bearer") == "REDACTED, REDACTED, REDACTED, bearer"
