"""How long rows are kept: what must stay and why, and which settings are refused.

Unset means for ever. A table's retention is refused where it is shorter than what is still made of the table (warm-up,
horizon, correlation window, monthly training sets) or than what a pinned training set reads, with the numbers. It is
refused when a setting is new or shorter than before; a pin that comes of age later holds rows back and says so.

What is still there of days whose input was dropped stays as it is; dropping.py says how rows go.

What belongs here: decisions. SQL that drops is in dropping.py, the schedule in retention_runs.py, pins in
pinned_sets.py.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import psycopg

from nexus_assets.errors import MigrationError, SettingsError
from nexus_assets.indicator_table import WARMUP_BARS
from nexus_assets.pinned_sets import PinnedSet, pinned_sets
from nexus_assets.planning import LABEL_REACH_DAYS, correlation_reach, warmup_days
from nexus_assets.schemas import (
    BARS,
    CORRELATION_MATRIX,
    INDICATOR_ROWS,
    LABELS,
    PAIR_RANKINGS,
    QUARANTINED_BARS,
    RAW_OHLC,
    Table,
)
from nexus_assets.settings import Settings
from nexus_assets.transforms.correlations import HISTORY_DAYS

KEPT_TABLES: tuple[Table, ...] = (
    RAW_OHLC, QUARANTINED_BARS, BARS, INDICATOR_ROWS, LABELS, CORRELATION_MATRIX, PAIR_RANKINGS,
)  # fmt: skip
"""Those that have a setting, in its order."""

MONTH_DAYS = 50
"""A month's training set is made on the 10th of the next month, and joins values of up to 9 days before."""

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Need:
    """The first day of a table that must stay, why, and the pinned set that asks for it (empty: what is made daily)."""

    table: Table
    first_day: date
    reason: str
    pin: str = ""


@dataclass(frozen=True)
class Expiry:
    """From which day on a table is kept now.

    Attributes:
        days: The setting.
        kept_from: Earlier days go.
        held_by: What keeps days that are older than the setting; None where nothing does.
    """

    table: Table
    days: int
    kept_from: date
    held_by: Need | None


def daily_needs(config: Settings, today: date) -> list[Need]:
    """What the work of every day reads: healing, labels that wait for their horizon, correlations, the month's set."""
    made = today - timedelta(days=max(config.healing_days, LABEL_REACH_DAYS))
    which = f"the oldest day that healing and waiting labels make ({made})"
    warm_ups = [
        (made - timedelta(days=warmup_days(t)), f"the warm-up of {WARMUP_BARS} bars at {t} before {which}")
        for t in config.feature_timeframes
    ]
    window = f"the correlation window of {config.correlation_window} bars at {config.correlation_timeframe}"
    first_bar, why = min([*warm_ups, (made - timedelta(days=correlation_reach(config)), f"{window} before {which}")])
    month = today - timedelta(days=MONTH_DAYS)
    monthly = "the training set of a month, made on the 10th of the next,"
    ranked, ranking = made - timedelta(days=HISTORY_DAYS), f"the ranking's {HISTORY_DAYS} days before {which}"
    return [
        Need(RAW_OHLC, first_bar - _ONE_DAY, f"{why}, and the evening before it,"),
        Need(QUARANTINED_BARS, made - _ONE_DAY, which),
        Need(BARS, first_bar, why),
        Need(INDICATOR_ROWS, min(month, made), monthly if month < made else which),
        Need(LABELS, min(month, made), monthly if month < made else which),
        Need(CORRELATION_MATRIX, min(month, ranked), monthly if month < ranked else ranking),
        Need(PAIR_RANKINGS, made, which),
    ]


def needed(config: Settings, pins: Collection[PinnedSet], today: date) -> dict[str, Need]:
    """The oldest day that must stay, and why, by the qualified name of each table of KEPT_TABLES."""
    needs = daily_needs(config, today)
    for pin in pins:
        for table in KEPT_TABLES:
            first_day = pin.reads_from(table)
            if first_day is not None:
                needs.append(Need(table, first_day, f"the pinned training set {pin.name!r}", pin.name))
    return {
        table.qualified: min((n for n in needs if n.table is table), key=lambda n: n.first_day) for table in KEPT_TABLES
    }


def too_short(config: Settings) -> list[str]:
    """A sentence for each setting that is shorter than what the work of every day needs."""
    today = datetime.now(UTC).date()
    return [
        _conflict(need, days, today)
        for need in daily_needs(config, today)
        if (days := config.retentions[need.table.name]) is not None and today - timedelta(days=days) > need.first_day
    ]


def _conflict(need: Need, days: int, today: date) -> str:
    kept_from = today - timedelta(days=days)
    return (
        f"{setting(need.table)} is {days} days, which keeps {need.table.qualified} from {kept_from} on; {need.reason} "
        f"needs it from {need.first_day} on: at least {(today - need.first_day).days} days"
    )


def setting(table: Table) -> str:
    """The name of a table's setting."""
    return f"NEXUS_RETENTION_{table.name.upper()}"


def conflicts(connection: psycopg.Connection, config: Settings, today: date) -> tuple[list[str], list[str]]:
    """Sentences about pinned sets that a retention is too short for: those of settings that are new or were shortened
    since they were last accepted, and those of settings that pins have outlived."""
    accepted = dict(connection.execute("SELECT table_name, days FROM nexus.retention").fetchall())
    needs = needed(config, pinned_sets(connection), today)
    fresh, outlived = [], []
    for table in KEPT_TABLES:
        days, need = config.retentions[table.name], needs[table.qualified]
        if days is not None and today - timedelta(days=days) > need.first_day:
            before = accepted.get(table.qualified)
            (fresh if before is None or days < before else outlived).append(_conflict(need, days, today))
    return fresh, outlived


def accept(connection: psycopg.Connection, config: Settings, today: date) -> list[str]:
    """Take over the settings, or refuse them; in the transaction of the connection.

    Returns:
        Sentences about rows that are held back for pinned sets.

    Raises:
        MigrationError: a setting that is new or shorter than before is too short for a pinned set.
    """
    fresh, outlived = conflicts(connection, config, today)
    if fresh:
        raise MigrationError(
            "; ".join(fresh) + ".",
            next_step="Set it to as many days or unset it, or let the set go with `nexus pins remove NAME`.",
        )
    for table in KEPT_TABLES:
        connection.execute(
            "INSERT INTO nexus.retention AS kept (table_name, days, changed_at) VALUES (%s, %s, clock_timestamp()) "
            "ON CONFLICT (table_name) DO UPDATE SET days = excluded.days, changed_at = excluded.changed_at "
            "WHERE kept.days IS DISTINCT FROM excluded.days",
            (table.qualified, config.retentions[table.name]),
        )
    return [f"{sentence}. They are held back." for sentence in outlived]


def expiries(connection: psycopg.Connection, config: Settings, today: date) -> list[Expiry]:
    """From which day on each table that has a retention is kept, pinned sets considered.

    Raises:
        SettingsError: a setting is too short, or was not accepted by `nexus migrate`; nothing may be dropped.
    """
    fresh, _ = conflicts(connection, config, today)
    mistakes = [*too_short(config), *fresh]
    if mistakes:
        raise SettingsError(
            f"Nothing is dropped: {'; '.join(mistakes)}.", next_step="Correct the setting, or remove the pin."
        )
    needs = needed(config, pinned_sets(connection), today)
    found = []
    for table in KEPT_TABLES:
        days = config.retentions[table.name]
        if days is not None:
            begins, need = today - timedelta(days=days), needs[table.qualified]
            held = need.first_day < begins
            found.append(Expiry(table, days, need.first_day if held else begins, need if held else None))
    return found
