"""Rows that stand in an answer twice."""

from typing import Any

import orjson

from nexus_assets.rehearsal.dialogue import Answer

_LISTS = ("candles", "values", "results")


def repeated_rows(answer: Answer, count: int) -> Answer:
    """The answer with its first `count` rows twice. Answers without a list of rows stay as they are: errors, CSV, and
    Alpha Vantage's, whose rows are the names of an object."""
    if answer.status != 200 or answer.content_type != "application/json":
        return answer
    body = orjson.loads(answer.body)
    if isinstance(body, list):
        body[:0] = body[:count]
    elif isinstance(body, dict):
        for name in _LISTS:
            if isinstance(body.get(name), list):
                body[name][:0] = body[name][:count]
        _repeat_chart(body, count)
    return Answer(orjson.dumps(body), answer.status, answer.content_type, answer.headers, answer.broke)


def _repeat_chart(body: dict[str, Any], count: int) -> None:
    for result in (body.get("chart") or {}).get("result") or ():
        columns = [result.get("timestamp", [])]
        for groups in result["indicators"].values():
            columns += [values for group in groups for values in group.values()]
        for values in columns:
            values[:0] = values[:count]
