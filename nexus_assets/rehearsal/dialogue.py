"""What an API of the rehearsal is asked and what it answers."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import orjson

from nexus_assets.rehearsal.limits import RateLimit
from nexus_assets.rehearsal.prices import Prices


@dataclass(frozen=True)
class Question:
    """One GET request as an API sees it.

    Attributes:
        path: Decoded, beginning with a slash, without the query.
        params: The query; of a repeated name the last value.
        headers: Names in lower case.
        prices: What the API knows at this moment.
        base_url: Where the client reached the server, without a slash at the end.
        number: Counts the calls of this API from 1; it makes request ids.
    """

    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    prices: Prices
    base_url: str
    number: int

    @property
    def now(self) -> datetime:
        """The API's time, UTC."""
        return self.prices.now


@dataclass
class Answer:
    """One response. `broke` names the rule of the API that the request broke, such as `page size`; empty if none."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    broke: str = ""


class Api(Protocol):
    """One market-data API."""

    name: str
    limits: tuple[RateLimit, ...]

    def refuse(self, question: Question, key: str) -> Answer | None:
        """The API's answer to a missing or wrong key; None where the key is right."""
        ...

    def key_place(self, question: Question) -> str:
        """Where the client put its key: `header`, `query` or empty."""
        ...

    def cost(self, question: Question, limit: RateLimit) -> int:
        """What a request counts under a limit."""
        ...

    def limited(self, limit: RateLimit, wait: float, used: int) -> Answer:
        """The API's answer to a call beyond a limit; `wait` seconds until a place is free."""
        ...

    def answer(self, question: Question) -> Answer:
        """The API's answer to a request with a right key and within the limits."""
        ...


def as_json(payload: Any, status: int = 200, *, broke: str = "", **headers: str) -> Answer:
    """A JSON answer. NaN becomes null."""
    body = orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(body, status, headers=names, broke=broke)


def as_text(text: str, status: int, content_type: str = "text/plain; charset=utf-8", *, broke: str = "") -> Answer:
    """A text answer."""
    return Answer(text.encode(), status, content_type, broke=broke)


def as_csv(names: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ",") -> Answer:
    """A CSV answer with a header."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return as_text(text.getvalue(), 200, "text/csv; charset=utf-8")


def decimals(value: float, digits: int) -> str:
    """A price with at least `digits` decimals, and as many more as it takes to read the same number back."""
    text = f"{value:.{digits}f}"
    return text if float(text) == value else repr(value)


def price_texts(values: Iterable[float], digits: int) -> list[str]:
    """Prices as `decimals` writes them."""
    return [decimals(value, digits) for value in values]


def whole_number(text: str | None, default: int) -> int | None:
    """A query parameter that must be an integer: `default` where it is missing, None where it is none."""
    if text is None or text == "":
        return default
    try:
        return int(text)
    except ValueError:
        return None
