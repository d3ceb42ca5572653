"""Pages in a headless Chromium, through the DevTools protocol: when they are usable, and what they asked the server.

A page is usable when the content that people come for stands in its text and nothing in it says that more is being
loaded, for STEADY_SECONDS. `websockets` comes with dagster-webserver.
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installation import BenchmarkError
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STEADY_SECONDS = 0.5
SIZE = "1600,1000"

# Spinners and skeletons of Dagster's UI, and elements that say so in words. A spinner of a caption's size belongs to a
# state, such as that of a run that is under way.
WAITING = """
const shown = e => e.getClientRects().length > 0;
const waiting = [...document.querySelectorAll(
  '[class*="pinner"], [class*="keleton"], [class*="shimmer" i], [aria-busy="true"], [title="Loading…"]')]
  .filter(e => shown(e) && !e.closest('[class*="captionText"]')).map(e => e.className.baseVal ?? e.className);
const says = [...document.querySelectorAll('div, span, td')].filter(e => e.children.length === 0 && shown(e) &&
  /^(loading|calculating|fetching)\\b|fetching statuses/i.test(e.textContent.trim())).map(e => e.textContent.trim());
"""


@dataclass(frozen=True)
class Load:
    """One load of a page.

    Attributes:
        seconds: From navigation, or the click, until it was usable.
        requests: GraphQL requests until then.
        request_seconds: Their durations together; they overlap.
        slowest: The operation that took longest, with its seconds.
        megabytes: What they answered.
    """

    seconds: float
    requests: int
    request_seconds: float
    slowest: str
    megabytes: float

    def as_dict(self, name: str) -> dict[str, Any]:
        """The numbers, each under this name and its own."""
        return {f"{name}_{key}": value for key, value in vars(self).items()}


@dataclass
class _Asked:
    operation: str
    sent: float
    answered: float | None = None
    size: float = 0


class Tab:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._asked: dict[str, _Asked] = {}
        self.send("Page.enable")
        self.send("Network.enable", maxPostDataSize=1_000_000)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command. Events that arrive before are counted."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=120))
            if message.get("id") == number:
                if "error" in message:
                    raise BenchmarkError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str | None, what: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent" and "/graphql" in what["request"]["url"]:
            operation = json.loads(what["request"].get("postData") or "{}").get("operationName") or "?"
            self._asked[what["requestId"]] = _Asked(operation, what["timestamp"])
        elif event in ("Network.loadingFinished", "Network.loadingFailed") and what["requestId"] in self._asked:
            asked = self._asked[what["requestId"]]
            asked.answered, asked.size = what["timestamp"], what.get("encodedDataLength", 0)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression.

        Raises:
            BenchmarkError: it threw.
        """
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BenchmarkError(f"{expression[:200]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def open(self, url: str, expected: str, *, timeout: float = 180) -> Load:
        """Navigate and wait until the page is usable.

        Args:
            expected: JavaScript expression that is true when the content stands there.
        """
        # From nothing, so that the page before cannot be taken for this one.
        self.send("Page.navigate", url="about:blank")
        self._asked = {}
        begun = time.perf_counter()
        self.send("Page.navigate", url=url)
        return self._wait(begun, expected, timeout)

    def act(self, action: str, expected: str, *, timeout: float = 180) -> Load:
        """The same for what JavaScript does in this page, such as a click."""
        self._asked = {}
        begun = time.perf_counter()
        self.evaluate(action)
        return self._wait(begun, expected, timeout)

    def _wait(self, begun: float, expected: str, timeout: float) -> Load:
        script = f"(() => {{ {WAITING} return {{there: !!({expected}), waiting: [...waiting, ...says]}}; }})()"
        usable_since, seen, asked = None, {}, []
        while time.perf_counter() - begun < timeout:
            now = time.perf_counter()
            try:
                seen = self.evaluate(script)
            except BenchmarkError as error:  # the document of the navigation is just replacing the one before
                seen = {"there": False, "waiting": [str(error)]}
            if not seen["there"] or seen["waiting"]:
                usable_since = None
            elif usable_since is None:
                usable_since, asked = now, list(self._asked.values())
            elif now - usable_since >= STEADY_SECONDS:
                return _load(usable_since - begun, asked)
            time.sleep(0.05)
        raise BenchmarkError(f"Not usable after {timeout:.0f} s: {expected}; {seen}; {self.text()[:500]}")

    def settle(self, timeout: float = 120) -> list[_Asked]:
        """Wait until every GraphQL request is answered."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            self.evaluate("0")
            if all(asked.answered for asked in self._asked.values()):
                break
            time.sleep(0.1)
        return list(self._asked.values())

    def text(self) -> str:
        """What the page says."""
        return self.evaluate("document.body ? document.body.innerText : ''")

    def picture(self, file: Path) -> None:
        """Write a PNG of what is shown."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


def _load(seconds: float, asked: Sequence[_Asked]) -> Load:
    done = [one for one in asked if one.answered]
    took = {one.operation: one.answered - one.sent for one in sorted(done, key=lambda o: o.answered - o.sent)}  # pyright: ignore[reportOptionalOperand]
    slowest = f"{list(took)[-1]} {list(took.values())[-1]:.2f} s" if took else ""
    total = sum(((one.answered or one.sent) - one.sent for one in done), 0.0)
    return Load(seconds, len(asked), total, slowest, sum(one.size for one in done) / 1e6)


def installed() -> str | None:
    """The program, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def tab(program: str, profile: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, with an empty profile in a new folder."""
    arguments = ["--headless", "--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={SIZE}"]
    # As root there is no sandbox, and in containers /dev/shm is small.
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    quiet = ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "about:blank"]
    profile.mkdir(parents=True)
    process = subprocess.Popen([program, *arguments, *quiet], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_page_address(profile, process), max_size=None, open_timeout=30) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait(30)


def _page_address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            port = (profile / "DevToolsActivePort").read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as response:
                return next(page["webSocketDebuggerUrl"] for page in json.load(response) if page["type"] == "page")
        except (OSError, IndexError, StopIteration):
            time.sleep(0.1)
    raise BenchmarkError("Chromium did not start.")
