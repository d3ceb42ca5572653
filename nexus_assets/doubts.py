"""Whether a service's answer can be trusted, or another provider should be asked as well.

What belongs here: judging one answer. It is stored whatever is found; a doubt is noted like a failure, so that the
bars are asked for again.
"""

from dataclasses import replace
from datetime import datetime, timedelta

import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.errors import ImplausibleDataError, ProviderError, StaleDataError
from nexus_assets.instruments import instrument
from nexus_assets.providers.interface import Delivery, Request
from nexus_assets.transforms.quarantined_bars import broken_rules

STALE_BARS = 2
"""An answer is stale where more than so many of the newest expected bars are missing from it."""

UPDATE_WITHIN = timedelta(days=1)
"""A request is an update where it ends less than this before now; of older ranges nobody can tell a stale answer from
one that has no more bars."""

FEWEST_ROWS = 3
"""Fewer rows are not enough to call an answer implausible."""


def doubt(delivery: Delivery, *, now: datetime, lag: timedelta) -> tuple[Request, ProviderError] | None:
    """What is wrong with an answer, and for which part of its range; None where nothing is.

    Args:
        delivery: A service's answer.
        now: When it was given.
        lag: How long after its end a bar may take to be there.
    """
    return _implausible(delivery) or _stale(delivery, now - lag)


def _implausible(delivery: Delivery) -> tuple[Request, ProviderError] | None:
    """Most rows break a quarantine rule or cannot be read. Rows of hours in which nobody trades do not count."""
    request = delivery.request
    rows = delivery.bars.assign(provider=delivery.provider)
    rules = broken_rules(rows, instrument(request.symbol), request.timeframe) if len(rows) else []
    named = [str(rule) for rule in rules if rule != "outside_session"] + list(delivery.rejected["rule"])
    broken = [rule for rule in named if rule]
    if len(named) < FEWEST_ROWS or len(broken) * 2 <= len(named):
        return None
    counts = ", ".join(f"{broken.count(rule):,} {rule}" for rule in sorted(set(broken)))
    return request, ImplausibleDataError(
        f"{delivery.provider}, {request}: {len(broken):,} of {len(named):,} rows are implausible ({counts}).",
        next_step="Another provider is asked for these bars; look at market.quarantined_bars.",
    )


def _stale(delivery: Delivery, until: datetime) -> tuple[Request, ProviderError] | None:
    """The newest expected bars are missing."""
    request = delivery.request
    if request.end < until - UPDATE_WITHIN:
        return None
    asset_class = instrument(request.symbol).asset_class
    grid = trading_calendar.expected(asset_class, request.start, request.end, request.timeframe, delivery.provider)
    grid = grid[trading_calendar.bar_end(grid, request.timeframe) <= pd.Timestamp(until)]
    newest = delivery.bars["ts"].max() if len(delivery.bars) else None
    missing = grid if newest is None else grid[grid > newest]
    if len(missing) <= STALE_BARS:
        return None
    told = "it has none of them" if newest is None else f"its newest bar opened at {newest:%Y-%m-%dT%H:%MZ}"
    return replace(request, start=missing[0].to_pydatetime()), StaleDataError(
        f"{delivery.provider}, {request}: the newest {len(missing):,} expected bars are missing; {told}.",
        next_step="Another provider is asked for them; this one is asked again at the next update.",
    )
