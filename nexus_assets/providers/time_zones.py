"""Wall clocks of price files: from what is printed in a row to UTC.

A zone is declared, never guessed:

- `UTC`, `UTC+02:00`: a fixed offset.
- an IANA name, such as `Europe/Athens` or `America/New_York`.
- `UTC+02:00 with US DST`, `UTC-05:00 with EU DST`: a standard offset whose clock moves an hour forward at the moments
  at which New York's, or the European Union's, does. The first is New York + 7 hours, as MetaTrader brokers like it.
- `in_rows`: every row prints its own offset.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from nexus_assets.errors import SettingsError

IN_ROWS = "in_rows"

NONEXISTENT = "the clock of the source jumps over this time"
AMBIGUOUS = "the clock of the source shows this time twice, and the order of the rows does not say which one is meant"

_OFFSET = re.compile(r"UTC(?:([+-])(\d{2}):(\d{2}))?(?: with (US|EU) DST)?")
# A place whose clock moves at the same moments, and its standard offset.
_DST_PLACE = {"US": ("America/New_York", -5), "EU": ("Europe/Berlin", 1)}
_NEXT_STEP = (
    "Use UTC, UTC+02:00, UTC+02:00 with US DST, UTC+02:00 with EU DST, an IANA name such as Europe/Athens, or in_rows."
)


@dataclass(frozen=True, slots=True)
class Zone:
    """A wall clock: that of `place` plus `shift`; without a place, UTC plus `shift`."""

    text: str
    shift: timedelta
    place: ZoneInfo | None

    @property
    def prints_offsets(self) -> bool:
        """Whether rows with an offset of their own agree with the declaration."""
        return self.text in (IN_ROWS, "UTC")

    def to_utc(self, wall: pd.DatetimeIndex) -> tuple[pd.DatetimeIndex, np.ndarray]:
        """Naive wall clock times, in the order of the file, as UTC.

        A time that the clock shows twice is resolved where the rows of that hour step back exactly once: those
        before the step are of the first pass, the others of the second.

        Returns:
            (UTC, NaT where it cannot be told; the reason for each of these as text, else an empty string).
        """
        reasons = np.full(len(wall), "", dtype=object)
        local = wall - self.shift
        if self.place is None:
            return local.tz_localize("UTC"), reasons
        every = np.ones(len(local), dtype=bool)
        first = local.tz_localize(self.place, ambiguous=every, nonexistent="NaT").tz_convert("UTC")
        second = local.tz_localize(self.place, ambiguous=~every, nonexistent="NaT").tz_convert("UTC")
        readable = ~np.asarray(local.isna())
        reasons[np.asarray(first.isna()) & readable] = NONEXISTENT
        twice = np.asarray((first != second) & np.asarray(first.notna()))
        if not twice.any():
            return first, reasons
        chosen, seconds = (np.array(index.tz_localize(None)) for index in (first, second))
        for rows in _runs(twice):
            steps_back = np.flatnonzero(np.diff(local.asi8[rows]) <= 0)
            if len(steps_back) == 1:
                later = rows[steps_back[0] + 1 :]
                chosen[later] = seconds[later]
            else:
                chosen[rows] = np.datetime64("NaT")
                reasons[rows] = AMBIGUOUS
        return pd.DatetimeIndex(chosen).tz_localize("UTC"), reasons


def _runs(mask: np.ndarray) -> list[np.ndarray]:
    """The positions of each unbroken stretch of True."""
    positions = np.flatnonzero(mask)
    return np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)


@lru_cache(maxsize=64)
def zone(text: str) -> Zone:
    """The zone of a declaration.

    Raises:
        SettingsError: it is none of the forms above.
    """
    if text == IN_ROWS:
        return Zone(text, timedelta(0), None)
    match = _OFFSET.fullmatch(text)
    if match:
        sign, hours, minutes, rule = match.groups()
        standard = timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
        if rule is None:
            return Zone(text, standard, None)
        name, offset = _DST_PLACE[rule]
        return Zone(text, standard - timedelta(hours=offset), ZoneInfo(name))
    try:
        return Zone(text, timedelta(0), ZoneInfo(text))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingsError(f"The time zone {text!r} is unknown.", next_step=_NEXT_STEP) from None
