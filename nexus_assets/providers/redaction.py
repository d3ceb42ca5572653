"""Keeping keys out of everything that is written: messages, logs, addresses and answers that repeat them.

A key is remembered here when it is used for the first time, and `redact` then removes it, plain or encoded, from any
text. Log records of the HTTP libraries, which print whole addresses at debug level, pass through the same function.
"""

import json
import logging
import re
import threading
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

REDACTED = "REDACTED"

_MIN_IN_BODY = 8
"""Shorter keys (such as `demo`) stay in an answer's body: they could be a part of the data."""

_LOGGERS = (
    "urllib3",
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.response",
    "urllib3.util.retry",
    "urllib3.util.ssl_",
    "requests",
    "tenacity",
    "charset_normalizer",
)

_lock = threading.Lock()
_forms: set[str] = set()
_pattern: re.Pattern[str] | None = None


def remember(secrets: Iterable[SecretStr]) -> None:
    """Redact these keys from now on, in this process."""
    global _pattern
    found = {form for secret in secrets for form in _written_forms(secret.get_secret_value())}
    if found <= _forms:
        return
    with _lock:
        _forms.update(found)
        # Longest first: the encoded form of a key may contain its plain one.
        _pattern = re.compile("|".join(map(re.escape, sorted(_forms, key=len, reverse=True))), re.IGNORECASE)
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            if _FILTER not in logger.filters:
                logger.addFilter(_FILTER)


def redact(text: str) -> str:
    """The text without any key that was remembered."""
    return _pattern.sub(REDACTED, text) if _pattern else text


def redact_body(body: bytes, secrets: Iterable[SecretStr]) -> bytes:
    """An answer's body without these keys; what is not a key keeps every byte.

    Some providers repeat the key in their error texts, and an excerpt of the body ends up in our own errors.
    """
    for secret in secrets:
        for form in _written_forms(secret.get_secret_value()):
            if len(form) >= _MIN_IN_BODY:
                body = body.replace(form.encode(), REDACTED.encode())
    return body


def _written_forms(secret: str) -> set[str]:
    # `Bearer abc` is sent as one header, but it is `abc` that gives access.
    forms = set()
    for part in (secret, secret.rpartition(" ")[2]):
        forms |= {part, quote(part), quote(part, safe=""), quote_plus(part), json.dumps(part)[1:-1], repr(part)[1:-1]}
    return forms - {""}


class _RedactingFilter(logging.Filter):
    """Writes a record's message out without keys, so that neither its text nor its arguments carry one."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


_FILTER = _RedactingFilter()
