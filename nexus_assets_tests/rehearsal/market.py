"""A small market made by hand: hours of EURUSD around a weekend and of gold, minutes of EURUSD, days of both."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import requests

from nexus_assets.rehearsal import FrameBook, Rehearsal

NOW = datetime(2024, 3, 5, 10, 30, tzinfo=UTC)
"""A Tuesday, in the middle of an hour."""

STEPS = {"1m": timedelta(minutes=1), "1h": timedelta(hours=1), "1d": timedelta(days=1)}


def instant(text: str) -> datetime:
    """An instant, UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def bars(start: str, count: int, timeframe: str = "1h", base: float = 1.08, digits: int = 5) -> pd.DataFrame:
    """`count` bars in a row; bar n opens `n` ticks above `base`, closes two ticks higher, and has volume 100 + n."""
    tick = 10.0**-digits
    numbers = np.arange(count)
    opens = base + numbers * tick
    ts = pd.date_range(instant(start), periods=count, freq=STEPS[timeframe])
    return pd.DataFrame(
        {
            "ts": ts,
            "open": opens.round(digits),
            "high": (opens + 5 * tick).round(digits),
            "low": (opens - 3 * tick).round(digits),
            "close": (opens + 2 * tick).round(digits),
            "volume": 100.0 + numbers,
            "spread": 4 * tick,
        }
    )


FRIDAY = bars("2024-03-01 00:00", 22)
"""Up to Friday 17:00 New York."""

FRAMES = {
    # The week is open from Sunday 17:00 New York; the frame goes on after NOW.
    ("EURUSD", "1h"): pd.concat([FRIDAY, bars("2024-03-03 22:00", 48, base=1.09)], ignore_index=True),
    ("EURUSD", "1m"): bars("2024-03-05 08:00", 300, "1m", base=1.07),
    ("EURUSD", "1d"): bars("2024-02-26 22:00", 9, "1d", base=1.05),
    ("XAUUSD", "1h"): bars("2024-03-04 00:00", 48, base=2080.0, digits=2),
    ("XAUUSD", "1d"): bars("2024-02-26 22:00", 9, "1d", base=2070.0, digits=2),
    ("NAS100", "1h"): bars("2024-03-04 00:00", 48, base=18000.0, digits=1),
}


def rehearsal(**settings: Any) -> Rehearsal:
    """The market's servers at NOW."""
    return Rehearsal(FrameBook(FRAMES), **{"now": lambda: NOW, **settings})


def get(server: Rehearsal, provider: str, path: str, *, key: str | None = None, **params: Any) -> requests.Response:
    """A request with the right key (or `key`) where the API wants it. `from_` stands for `from`."""
    right = server.keys.get(provider, "") if key is None else key
    query = {name.rstrip("_"): value for name, value in params.items()}
    headers: dict[str, str] = query.pop("headers", {})
    if provider in ("oanda", "polygon"):
        headers = {"Authorization": f"Bearer {right}", **headers}
    elif provider in ("eodhd", "alpha_vantage", "twelve_data"):
        query["api_token" if provider == "eodhd" else "apikey"] = right
    return requests.get(f"{server.urls[provider]}{path}", params=query, headers=headers, timeout=10)


def opens(frame: pd.DataFrame, start: str, end: str) -> pd.DataFrame:
    """The rows that open in [start, end)."""
    return frame.loc[(frame["ts"] >= instant(start)) & (frame["ts"] < instant(end))]
