"""Who was asked for which bars and what came of it: answers from market.deliveries, failures from
market.failed_requests; and which days are worth asking for again, from market.gaps.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import pandas as pd

from nexus_assets.database import Database
from nexus_assets.errors import ProviderError
from nexus_assets.providers.interface import Request

MAX_MESSAGE = 1000

_INSERT = """
INSERT INTO market.failed_requests (
    symbol, timeframe, provider, range_start, range_end, failed_at, transient, message, run_id
) VALUES (%s, %s, %s, %s, %s, clock_timestamp(), %s, %s, %s)
"""


def requests_about(database: Database, symbol: str, timeframe: str, start: datetime, end: datetime) -> pd.DataFrame:
    """provider, range_start, range_end, at and answered of every request whose range meets [start, end), by `at`."""
    return database.frame(
        """
        SELECT provider, range_start, range_end, known_at AS at, true AS answered
        FROM market.deliveries
        WHERE symbol = %s AND timeframe = %s AND range_end > %s AND range_start < %s
        UNION ALL
        SELECT provider, range_start, range_end, failed_at, false
        FROM market.failed_requests
        WHERE symbol = %s AND timeframe = %s AND range_end > %s AND range_start < %s
        ORDER BY at
        """,
        (symbol, timeframe, start, end) * 2,
    )


def record_failure(
    database: Database, provider: str, request: Request, error: ProviderError, *, run_id: str | None
) -> None:
    """Note that a provider did not answer a request."""
    database.run(
        lambda connection: connection.execute(
            _INSERT,
            (
                request.symbol, request.timeframe, provider, request.start, request.end, error.transient,
                str(error)[:MAX_MESSAGE].replace("\0", "\\x00"), run_id,
            ),
        )
    )  # fmt: skip


def days_worth_asking(
    database: Database,
    providers: Mapping[str, Sequence[str]],
    timeframe: str,
    first_day: date,
    end_day: date,
) -> set[tuple[str, date]]:
    """(symbol, day) with a missing bar that a provider of the symbol has not finally said it does not have.

    Args:
        providers: Those that serve each symbol, by symbol.
    """
    missing = database.rows(
        """
        SELECT DISTINCT symbol, market.bar_day(timeframe, ts) AS day, provider
        FROM market.gaps
        WHERE symbol = ANY(%s) AND timeframe = %s AND state = 'missing'
            AND ts >= %s::date - 1 AND ts < %s::date + 1
        """,
        (list(providers), timeframe, first_day, end_day),
    )
    return {
        (row["symbol"], row["day"])
        for row in missing
        if first_day <= row["day"] < end_day and not set(providers[row["symbol"]]) <= set(row["provider"].split(","))
    }
