"""Recorded responses, replayed from a folder that holds an index.json.

The index is a list of objects with `provider`, `file` (path in the folder), `url` (with or without the method and the
host, `{...}` for any one step of the path), and optionally `params` and `status`. A file is the body itself, or an
object {request, response: {status, headers, bodyJson}}.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

from nexus_assets.errors import SettingsError
from nexus_assets.rehearsal.dialogue import Answer, Question

KEY_PARAMETERS = frozenset({"api_token", "apikey", "apiKey"})


@dataclass(frozen=True)
class _Recording:
    provider: str
    path: re.Pattern[str]
    params: Mapping[str, str]
    status: int
    file: Path


class Recordings:
    """The recordings of a folder."""

    def __init__(self, folder: Path) -> None:
        """Reads index.json.

        Raises:
            SettingsError: it is missing or not such an index.
        """
        self._folder = folder
        try:
            entries = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            self._recordings = [_recording(entry, folder) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{folder / 'index.json'} cannot be read as an index of recorded responses: {error!r}.",
                next_step="Give a list of objects with provider, file, url and, where there are any, params.",
            ) from error

    def find(self, provider: str, question: Question) -> Answer | None:
        """The recording of a request: every parameter of the recording is equal, and the most of them win. One that
        states no parameter stands only for a request without any. None where nothing fits."""
        asked = {name: value for name, value in question.params.items() if name not in KEY_PARAMETERS}
        best: _Recording | None = None
        for one in self._recordings:
            fits = one.provider == provider and one.path.fullmatch(question.path) is not None
            if not fits or (not one.params and asked) or one.params.items() - asked.items():
                continue
            if best is None or len(one.params) > len(best.params):
                best = one
        return None if best is None else _read(best.file, best.status)

    def read(self, file: str) -> Answer:
        """The response in a file of the folder.

        Raises:
            SettingsError: the index does not name it, or it cannot be read.
        """
        for one in self._recordings:
            if one.file == self._folder / file:
                return _read(one.file, one.status)
        raise SettingsError(f"{self._folder / 'index.json'} names no file {file}.", next_step="Name one that it does.")


def _recording(entry: Mapping[str, Any], folder: Path) -> _Recording:
    address = re.sub(r"^[A-Z]+ ", "", entry["url"]) if entry["url"] else ""
    parts = urlsplit(address)
    path = unquote(parts.path if parts.netloc else f"/{parts.path.lstrip('/')}")
    steps = re.split(r"\{[^}]*\}", path)
    params = {**dict(parse_qsl(parts.query)), **{n: _text(v) for n, v in (entry.get("params") or {}).items()}}
    return _Recording(
        "yahoo" if entry["provider"] == "yahoo_chart_v8" else entry["provider"],
        re.compile("[^/]+".join(map(re.escape, steps))),
        {name: value for name, value in params.items() if name not in KEY_PARAMETERS},
        entry.get("status") or 200,
        folder / entry["file"],
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(file: Path, status: int) -> Answer:
    try:
        body = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"The recording {file} cannot be read: {error}.", next_step="Restore it.") from error
    kinds = {".json": "application/json", ".csv": "text/csv; charset=utf-8"}
    content_type = kinds.get(file.suffix, "text/plain; charset=utf-8")
    if file.suffix == ".json" and b'"bodyJson"' in body:
        response = json.loads(body)["response"]
        kind = response.get("headers", {}).get("content-type", content_type)
        return Answer(orjson.dumps(response["bodyJson"]), response.get("status", status), kind)
    return Answer(body, status, content_type)
