"""A real HTTP server on loopback that answers as a test says and remembers what it was asked."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """One request as the server saw it."""

    path: str
    headers: Mapping[str, str]
    at: float
    """time.monotonic()"""


@dataclass
class Loopback:
    """The server's address and what it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    """Requests under way."""
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def times(self) -> list[float]:
        """When each request came, ascending."""
        return sorted(asked.at for asked in self.asked)

    def most_in_any(self, seconds: float) -> int:
        """The largest number of requests in any window of this length."""
        times = self.times
        return max((sum(first <= at < first + seconds for at in times) for first in times), default=0)


class Handler(BaseHTTPRequestHandler):
    """Gives a request to the test's function."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Headers and body leave together; otherwise a delayed acknowledgement costs 40 ms.
    loopback: Loopback
    answer: "Callable[[Handler], None]"

    def do_GET(self) -> None:
        loopback = self.loopback
        with loopback.lock:
            loopback.asked.append(Asked(self.path, dict(self.headers), time.monotonic()))
            loopback.at_once += 1
            loopback.most_at_once = max(loopback.most_at_once, loopback.at_once)
        try:
            type(self).answer(self)
        except OSError:
            self.close_connection = True  # The client has gone, as it may.
        finally:
            with loopback.lock:
                loopback.at_once -= 1

    def reply(self, status: int = 200, body: bytes = b"{}", **headers: str) -> None:
        """Send an answer; underscores in header names stand for hyphens."""
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def loopback(answer: Callable[[Handler], None] = Handler.reply) -> Iterator[Loopback]:
    """A server that answers every GET with a function."""
    running = Loopback("")
    handler = type("_Handler", (Handler,), {"loopback": running, "answer": staticmethod(answer)})
    with _Server(("127.0.0.1", 0), handler) as server:
        running.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
