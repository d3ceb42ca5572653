"""An end to every HTTP exchange, however slowly the other side sends.

The timeouts of `requests` count anew with each byte, so an answer that drips never ends. Here the socket is shut down
when the time is up, whatever the exchange is waiting for.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_thread = threading.local()


class Watch:
    """The exchange under way in one thread. `expired` tells whether it was ended here."""

    def __init__(self) -> None:
        self.expired = False
        self._ended = False
        self._sock: object = None
        self._lock = threading.Lock()

    def follow(self, sock: object) -> None:
        """Watch this socket; at once shut down if the time is up."""
        with self._lock:
            self._sock = sock
            if self.expired:
                self._shut()

    def expire(self) -> None:
        """The time is up."""
        with self._lock:
            if not self._ended:
                self.expired = True
                self._shut()

    def end(self) -> None:
        """The exchange is over; the socket may be somebody else's from now on."""
        with self._lock:
            self._ended = True

    def _shut(self) -> None:
        if isinstance(self._sock, socket.socket):
            try:
                # Past the TLS layer, which another thread is using.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
            except OSError:
                return  # The other side was faster.


@contextmanager
def watched(seconds: float) -> Iterator[Watch]:
    """End what this thread does over an adapter of this module when so many seconds are over."""
    watch = Watch()
    timer = threading.Timer(max(0.0, seconds), watch.expire)
    timer.daemon = True
    _thread.watch = watch
    timer.start()
    try:
        yield watch
    finally:
        watch.end()
        timer.cancel()
        _thread.watch = None


class _Watched:
    sock: Any

    def getresponse(self) -> Any:
        watch = getattr(_thread, "watch", None)
        if watch is not None:
            watch.follow(self.sock)
        return super().getresponse()  # pyright: ignore[reportAttributeAccessIssue]


class _WatchedHTTPConnection(_Watched, HTTPConnection):
    pass


class _WatchedHTTPSConnection(_Watched, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHTTPConnection  # pyright: ignore[reportAssignmentType]


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPSConnection  # pyright: ignore[reportAssignmentType]


class WatchedAdapter(HTTPAdapter):
    """Connections that `watched` can end, direct and through a proxy."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager
