"""Waiting while Dagster's database is away: it is restarted by the supervisor, and nothing that we do is lost."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""How long a database that cannot be reached is waited for: longer than a crash recovery usually takes."""
_PAUSE_SECONDS = 0.5


def patiently(call: Callable[[], T]) -> T:
    """The result of a call that can be repeated; again while the connection breaks or cannot be made.

    Raises:
        OperationalError, InterfaceError, DagsterPostgresException: still so after PATIENCE_SECONDS.
    """
    # Not at import: every process that loads the definitions would pay for it.
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import InterfaceError, OperationalError

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except (OperationalError, InterfaceError, DagsterPostgresException):
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
