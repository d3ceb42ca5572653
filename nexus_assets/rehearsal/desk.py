"""One API of the rehearsal, with what it remembers between calls."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from nexus_assets.errors import ProviderError
from nexus_assets.rehearsal.dialogue import Answer, Api, Question, as_text
from nexus_assets.rehearsal.faults import Fault
from nexus_assets.rehearsal.limits import RateLimit, Window
from nexus_assets.rehearsal.prices import Book, Prices
from nexus_assets.rehearsal.recordings import Recordings
from nexus_assets.rehearsal.repetition import repeated_rows

_SERIES = ("function", "symbol", "from_symbol", "to_symbol", "interval", "granularity")


@dataclass(frozen=True)
class World:
    """What all APIs share: the prices, the time, and recordings if there are any."""

    book: Book
    now: Callable[[], datetime]
    clock: Callable[[], float]
    recordings: Recordings | None


class Desk:
    """Answers the calls of one API. Safe between threads."""

    def __init__(self, api: Api, key: str, world: World) -> None:
        """`key` is the one that is right; empty where the API needs none."""
        self.api = api
        self.most_at_once = 0
        self._key = key
        self._world = world
        self._windows = [Window(limit, world.clock) for limit in api.limits]
        self._number = 0
        self._under_way = 0
        self._pages: dict[tuple[str, ...], Answer] = {}
        self._lock = threading.Lock()

    def answer(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str], fired: Mapping[str, Fault]
    ) -> tuple[Question, Answer]:
        """The answer, before the faults of the connection."""
        number = self._enter()
        try:
            now = self._world.now()
            if "clock_skew" in fired:
                now += timedelta(seconds=fired["clock_skew"].seconds)
            prices = Prices(self._world.book, now, fired["stale"].bars if "stale" in fired else 0)
            base_url = f"http://{headers.get('host', '')}"
            question = Question(path, params, headers, prices, base_url, number)
            answer = self._refused(question, forced="rate_limit" in fired)
            if "latency" in fired:
                time.sleep(fired["latency"].seconds)
            try:
                return question, answer or self._served(question, fired)
            except ProviderError as error:
                # The book's own source failed. Nothing is rehearsed here, but whoever asks must hear of it.
                return question, as_text(f"The rehearsal has no prices: {error}", 500)
        finally:
            with self._lock:
                self._under_way -= 1

    def _enter(self) -> int:
        with self._lock:
            self._number += 1
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            return self._number

    def _refused(self, question: Question, *, forced: bool) -> Answer | None:
        """The API's answer to a wrong key or to a call beyond a limit."""
        refused = self.api.refuse(question, self._key)
        if refused is not None:
            return refused
        if forced:
            limit = self.api.limits[0] if self.api.limits else RateLimit(1, 60.0)
            return self.api.limited(limit, 1.0, limit.units + 1)
        for window in self._windows:
            wait, used = window.take(self.api.cost(question, window.limit))
            if wait is not None:
                answer = self.api.limited(window.limit, wait, used)
                answer.broke = "rate limit"
                return answer
        return None

    def _served(self, question: Question, fired: Mapping[str, Fault]) -> Answer:
        recordings = self._world.recordings
        if recordings is not None and "recorded" in fired:
            return recordings.read(fired["recorded"].file)
        answer = (recordings.find(self.api.name, question) if recordings else None) or self.api.answer(question)
        series = _series(question)
        if "repeated_page" in fired:
            answer = self._pages.get(series, answer)
        if answer.status == 200:
            self._pages[series] = answer
        return repeated_rows(answer, fired["repeated_rows"].bars) if "repeated_rows" in fired else answer


def _series(question: Question) -> tuple[str, ...]:
    """What the pages of one series have in common; Polygon's differ in the last two steps of the path."""
    path = question.path
    if path.startswith("/v2/aggs/ticker/"):
        path = path.rsplit("/", 2)[0]
    return (path, *(question.params.get(name, "") for name in _SERIES))
