"""Faults by script: which calls of which API go wrong, and how.

A fault fires at the calls of its provider whose path and query contain its `match`: at those numbered in `calls`
(from 1, counted per fault), or else at each with `probability`, drawn from `seed` and the number of the call alone, so
that a run can be repeated. Faults of several kinds can fire at one call; of those that replace the answer the first
in the script wins.
"""

import json
import random
import threading
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from nexus_assets.errors import SettingsError
from nexus_assets.rehearsal.limits import RateLimit

FaultKind = Literal[
    "latency",
    "rate_limit",
    "status",
    "cut",
    "truncated",
    "wrong_content_type",
    "html",
    "huge",
    "stale",
    "repeated_page",
    "repeated_rows",
    "clock_skew",
    "recorded",
]
"""What goes wrong:

latency: the answer comes after `seconds`.
rate_limit: the API's own answer to a call beyond its limit, whatever was called before.
status: `status` (500 by default; 429 comes with Retry-After: `seconds`) and a short text.
cut: the connection is closed after `share` of the body; with a share of 0, before the status line.
truncated: a well-formed response whose body ends after `share` of it.
wrong_content_type: the right body, called text/plain.
html: status 200 and a page that says that the service is unavailable.
huge: a body of `size` bytes that begins like JSON and never makes sense.
stale: the newest `bars` bars are missing.
repeated_page: the previous good answer to the same path, or to its beginning where pages differ in the path.
repeated_rows: the first `bars` rows of the body stand in it twice.
clock_skew: the API's clock is `seconds` fast, in the Date header and in everything it knows.
recorded: the recorded response in the file `file` of the folder of recordings.
"""

PROVIDERS = ("oanda", "eodhd", "yahoo", "alpha_vantage", "twelve_data", "polygon")


@dataclass(frozen=True)
class Fault:
    """One line of a script. The attributes that a kind does not use are ignored.

    Raises:
        SettingsError: an unknown kind or provider, or a number that makes no sense.
    """

    kind: FaultKind
    provider: str = "*"
    match: str = ""
    calls: tuple[int, ...] = ()
    probability: float = 1.0
    seed: int = 0
    seconds: float = 1.0
    status: int = 500
    share: float = 0.5
    size: int = 100 * 2**20
    bars: int = 3
    file: str = ""

    def __post_init__(self) -> None:
        wrong = [
            sentence
            for sentence, broken in (
                (f"the kind {self.kind!r} is unknown", self.kind not in get_args(FaultKind)),
                (f"the provider {self.provider!r} is unknown", self.provider not in ("*", *PROVIDERS)),
                (f"the probability {self.probability} is not in [0, 1]", not 0 <= self.probability <= 1),
                (f"the share {self.share} is not in [0, 1)", not 0 <= self.share < 1),
                (f"the status {self.status} is not in [200, 599]", not 200 <= self.status <= 599),
                (f"{self.bars} bars or {self.size} bytes are less than one", self.bars < 1 or self.size < 1),
                ("it names no file", self.kind == "recorded" and not self.file),
            )
            if broken
        ]
        if wrong:
            raise SettingsError(
                f"A fault of the rehearsal is wrong: {'; '.join(wrong)}.",
                next_step=f"Kinds are {', '.join(get_args(FaultKind))}; providers are *, {', '.join(PROVIDERS)}.",
            )


class FaultCounter:
    """Decides which faults fire. Safe between threads."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        """The faults in the order in which they win."""
        self._faults = tuple(faults)
        self._seen = [0] * len(self._faults)
        self._lock = threading.Lock()

    def firing(self, provider: str, target: str) -> dict[str, Fault]:
        """The faults of one call, the first of each kind, in the script's order. `target` is path and query."""
        fired: dict[str, Fault] = {}
        for place, fault in enumerate(self._faults):
            if fault.provider not in ("*", provider) or fault.match not in target:
                continue
            with self._lock:
                self._seen[place] += 1
                number = self._seen[place]
            if _fires(fault, number):
                fired.setdefault(fault.kind, fault)
        return fired


def _fires(fault: Fault, number: int) -> bool:
    if fault.calls:
        return number in fault.calls
    return fault.probability >= 1.0 or random.Random(f"{fault.seed}:{number}").random() < fault.probability


@dataclass(frozen=True)
class Script:
    """Everything about a rehearsal that can stand in a file.

    Attributes:
        faults: In the order in which they win.
        limits: Per provider, in place of the API's own; an empty tuple means none.
        keys: Per provider, in place of `rehearsal-<provider>`.
        now: The server's time at its start; None for the machine's.
    """

    faults: tuple[Fault, ...] = ()
    limits: Mapping[str, tuple[RateLimit, ...]] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    now: datetime | None = None


def read_script(path: Path) -> Script:
    """A script from TOML or, where the name ends in .json, JSON, both of one form:

        now = 2024-03-05T10:30:00Z
        [keys]
        oanda = "a-token"
        [limits]
        alpha_vantage = [{ units = 5, seconds = 1 }]
        [[fault]]
        kind = "latency"
        provider = "oanda"
        match = "/candles"
        calls = [2, 3]
        seconds = 0.5

    Raises:
        SettingsError: the file cannot be read, or says something that is not known.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise SettingsError(f"The script {path} cannot be read: {error}.", next_step="Write TOML or JSON.") from error
    try:
        return parse_script(data)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error.fact}", next_step=error.next_step) from error


def parse_script(data: Mapping[str, Any]) -> Script:
    """A script from what TOML or JSON gave.

    Raises:
        SettingsError: it says something that is not known.
    """
    _only(data, {"fault", "limits", "keys", "now"}, "the script")
    known = {item.name for item in fields(Fault)}
    faults = []
    for entry in _listed(data.get("fault", []), "fault"):
        _only(entry, known, "a fault")
        if "kind" not in entry:
            raise SettingsError("A fault names no kind.", next_step='Add kind = "latency" or another.')
        faults.append(Fault(**{**entry, "calls": tuple(entry.get("calls", ()))}))
    limits, keys = data.get("limits", {}), data.get("keys", {})
    _only(limits, set(PROVIDERS), "limits")
    _only(keys, set(PROVIDERS), "keys")
    try:
        by_provider = {name: tuple(RateLimit(**one) for one in _listed(limits[name], name)) for name in limits}
        now = data.get("now")
        instant = datetime.fromisoformat(now) if isinstance(now, str) else now
        if instant is not None and instant.tzinfo is None:
            instant = instant.replace(tzinfo=UTC)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"A limit or `now` is wrong: {error}.",
            next_step='Write limits as [{ units = 5, seconds = 60, name = "minute" }] and now as an RFC 3339 time.',
        ) from error
    return Script(tuple(faults), by_provider, dict(keys), instant and instant.astimezone(UTC))


def _listed(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise SettingsError(f"`{name}` is not a list of tables.", next_step=f"Write [[{name}]] or a list of tables.")
    return value


def _only(entry: Any, known: set[str], what: str) -> None:
    if not isinstance(entry, dict):
        raise SettingsError(f"{what} is not a table.", next_step=f"It can hold {', '.join(sorted(known))}.")
    unknown = sorted(set(entry) - known)
    if unknown:
        raise SettingsError(
            f"{what} holds {', '.join(unknown)}, which is not known.", next_step=f"Use {', '.join(sorted(known))}."
        )
