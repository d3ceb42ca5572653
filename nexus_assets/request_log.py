"""Who was asked for which bars and what came of it: answers from market.deliveries, failures from
market.failed_requests; and which days are worth asking for again, from market.gaps.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

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
    """(symbol, day) with a missing bar that a provider of the symbol has not finally said it does not have, or for
    which the preferred provider failed and was not asked again, so that another one may stand in its place.

    Args:
        providers: Those that serve each symbol, by symbol, the preferred one first.
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
    found = {
        (row["symbol"], row["day"])
        for row in missing
        if first_day <= row["day"] < end_day and not set(providers[row["symbol"]]) <= set(row["provider"].split(","))
    }
    return found | _days_passed_over(database, providers, timeframe, first_day, end_day)


def _days_passed_over(
    database: Database, providers: Mapping[str, Sequence[str]], timeframe: str, first_day: date, end_day: date
) -> set[tuple[str, date]]:
    preferred = {symbol: names[0] for symbol, names in providers.items() if len(names) > 1}
    rows = database.rows(
        """
        SELECT DISTINCT failed.symbol, day::date
        FROM (SELECT %s::date AS first, %s::date AS last) AS asked
        CROSS JOIN unnest(%s::text[], %s::text[]) AS preferred (symbol, provider)
        JOIN market.failed_requests AS failed USING (symbol, provider)
        CROSS JOIN LATERAL generate_series(
            greatest(failed.range_start AT TIME ZONE 'UTC', first)::date::timestamp,
            least(failed.range_end AT TIME ZONE 'UTC' - INTERVAL '1 microsecond', last)::date::timestamp,
            INTERVAL '1 day'
        ) AS day
        WHERE failed.timeframe = %s AND failed.transient
            AND NOT EXISTS (
                SELECT FROM market.deliveries AS answer
                WHERE answer.symbol = failed.symbol AND answer.provider = failed.provider
                    AND answer.timeframe = failed.timeframe AND answer.known_at > failed.failed_at
                    AND answer.range_start < (day + INTERVAL '1 day') AT TIME ZONE 'UTC'
                    AND answer.range_end > day AT TIME ZONE 'UTC'
            )
        """,
        (first_day, end_day - timedelta(days=1), list(preferred), list(preferred.values()), timeframe),
    )
    return {(row["symbol"], row["day"]) for row in rows}
