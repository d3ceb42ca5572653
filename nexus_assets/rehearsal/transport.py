"""How answers reach the client: HTTP/1.1, and the faults of the connection."""

import gzip
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from nexus_assets.rehearsal.dialogue import Answer
from nexus_assets.rehearsal.faults import Fault

_SMALLEST_COMPRESSED = 1024
_CHUNK = 64 * 1024
_HTML = (
    b"<!DOCTYPE html><html><head><title>Service unavailable</title></head>"
    b"<body><h1>We'll be right back</h1><p>Scheduled maintenance.</p></body></html>"
)


@dataclass(frozen=True)
class Reply:
    """What is sent.

    Attributes:
        status: 0 where the connection is closed before a status line.
        body: The bytes as sent, perhaps compressed; of a huge reply only the beginning.
        size: Content-Length; larger than the body where the rest is filling.
        cut: Bytes of the body after which the connection is closed; None where it is not.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int
    cut: int | None


def shaped(answer: Answer, now: datetime, fired: Mapping[str, Fault], accepted: str) -> Reply:
    """The answer after the faults that replace or cut it. `accepted` is the client's Accept-Encoding."""
    body, status, kind, headers = answer.body, answer.status, answer.content_type, dict(answer.headers)
    size = None
    for name, fault in fired.items():
        if name == "status":
            body, status, kind = _phrase(fault.status).encode(), fault.status, "text/plain; charset=utf-8"
            headers = {"Retry-After": str(max(1, round(fault.seconds)))} if status == 429 else {}
        elif name == "html":
            body, status, kind, headers = _HTML, 200, "text/html; charset=utf-8", {}
        elif name == "huge":
            body, status, kind, headers, size = b'{"rows": [', 200, "application/json", {}, fault.size
        elif name == "truncated":
            body = body[: int(len(body) * fault.share)]
        if name in ("status", "html", "huge", "truncated"):
            break
    if "wrong_content_type" in fired:
        kind = "text/plain; charset=utf-8"
    if size is None and "gzip" in accepted and len(body) >= _SMALLEST_COMPRESSED:
        body = gzip.compress(body, 1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    size = max(len(body), size or 0)
    cut = int(size * fired["cut"].share) if "cut" in fired else None
    named = {"Date": format_datetime(now, usegmt=True), "Server": "rehearsal", "Content-Type": kind, **headers}
    return Reply(0 if cut == 0 else status, {**named, "Content-Length": str(size)}, body, size, cut)


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


class Server(ThreadingHTTPServer):
    """One API's server. It keeps its connections, so that stopping closes them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, reply: Callable[[str, dict[str, str], dict[str, str], int], Reply]) -> None:
        """`reply` gets path, query, headers (names in lower case) and the client's port.

        Raises:
            OSError: the port is taken.
        """
        self.reply = reply
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Remember the connection."""
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End every connection that a client keeps open."""
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                # Already closed by the client.
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is part of the rehearsal; anything else is printed."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Reads requests and writes replies. Other methods than GET are answered 501."""

    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: with Nagle's algorithm the second would wait for an acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer one request."""
        assert isinstance(self.server, Server)
        address = urlsplit(self.path)
        params = dict(parse_qsl(address.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.reply(unquote(address.path), params, headers, self.client_address[1])
        if reply.status:
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self._send(reply)
        if reply.cut is not None:
            self.close_connection = True

    def _send(self, reply: Reply) -> None:
        end = reply.size if reply.cut is None else reply.cut
        self.wfile.write(reply.body[:end])
        left = end - len(reply.body)
        filling = b"0, " * (_CHUNK // 3)
        while left > 0:
            self.wfile.write(filling[:left])
            left -= len(filling)

    def log_message(self, format: str, *args: Any) -> None:
        """Calls are written down by the rehearsal, without keys."""
