"""Every stored table: columns, types, units, keys, invariants. The single list; the migrations are compared with it.

What belongs here: what a stored row may look like. What a row means is in docs/, how it is computed in transforms/,
how it is written in io_managers.py and database.py. A frame of a table has exactly its columns, in this order,
timestamps as `datetime64[us, UTC]`, missing floats as NaN (NULL in the database).
"""

import math
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Literal

import pandas as pd
import pandera.pandas as pa
import pyarrow as pyarrow_

from nexus_assets.indicator_table import INDICATORS
from nexus_assets.timeframes import TIMEFRAMES

ColumnType = Literal["text", "timestamp", "date", "float", "integer", "smallint", "boolean"]

_SQL = {
    "text": "text",
    "timestamp": "timestamp with time zone",
    "date": "date",
    "float": "double precision",
    "integer": "bigint",
    "smallint": "smallint",
    "boolean": "boolean",
}
_ARROW = {
    "text": pyarrow_.string(),
    "timestamp": pyarrow_.timestamp("us", "UTC"),
    "date": pyarrow_.date32(),
    "float": pyarrow_.float64(),
    "integer": pyarrow_.int64(),
    "smallint": pyarrow_.int16(),
    "boolean": pyarrow_.bool_(),
}

_NULLABLE = {"integer": pd.Int64Dtype(), "smallint": pd.Int16Dtype(), "boolean": pd.BooleanDtype()}
"""Types of pandas for columns that may hold NULL and that numpy's types have no NULL for."""

BOUNDS_TOLERANCE = 1e-9
"""Share of a column's range by which a value may exceed its bounds: TA-Lib gives stoch_k = -9e-12 on good data."""


@dataclass(frozen=True)
class Column:
    """One column. `bounds` are inclusive; `values` lists every text that may stand in it."""

    name: str
    type: ColumnType
    description: str
    unit: str = ""
    nullable: bool = False
    bounds: tuple[float | None, float | None] = (None, None)
    values: tuple[str, ...] = ()

    @property
    def sql_type(self) -> str:
        """The type as PostgreSQL's information_schema names it."""
        return _SQL[self.type]

    @property
    def comment(self) -> str:
        """The column's comment in the database: description and unit."""
        return f"{self.description} [{self.unit}]" if self.unit else self.description

    @property
    def tolerated_bounds(self) -> tuple[float, float]:
        """The bounds, widened by BOUNDS_TOLERANCE of their range; infinite where there is none."""
        low, high = (self.bounds[0], self.bounds[1])
        slack = BOUNDS_TOLERANCE * (high - low if low is not None and high is not None else 1.0)
        return (-math.inf if low is None else low - slack, math.inf if high is None else high + slack)

    def _checks(self) -> list[pa.Check]:
        low, high = self.tolerated_bounds
        checks = []
        if low > -math.inf:
            checks.append(pa.Check.ge(low))
        if high < math.inf:
            checks.append(pa.Check.le(high))
        if self.values:
            checks.append(pa.Check.isin(self.values))
        return checks

    def to_pandera(self) -> pa.Column:
        """The column as pandera checks it."""
        dtype: object = {
            "text": str,
            "timestamp": pd.DatetimeTZDtype("us", "UTC"),
            "date": date,
            "float": "float64",
            "integer": "int64",
            "smallint": "int16",
            "boolean": "bool",
        }[self.type]
        if self.type in _NULLABLE and self.nullable:
            dtype = _NULLABLE[self.type]
        if self.type == "date":
            dtype = object
        return pa.Column(
            dtype,  # pyright: ignore[reportArgumentType]
            checks=self._checks(),
            nullable=self.nullable,
            description=self.description,
            metadata={"unit": self.unit},
        )


@dataclass(frozen=True)
class Table:
    """One stored table; `key` is its primary key, `time_column` what a hypertable is partitioned by."""

    schema: str
    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    time_column: str | None
    checks: tuple[pa.Check, ...] = ()

    @property
    def qualified(self) -> str:
        """schema.table."""
        return f"{self.schema}.{self.name}"

    @property
    def asset_key(self) -> list[str]:
        """The Dagster asset key: [schema, table]."""
        return [self.schema, self.name]

    @property
    def column_names(self) -> list[str]:
        """The columns in their order."""
        return [column.name for column in self.columns]

    @cached_property
    def arrow(self) -> pyarrow_.Schema:
        """The exact Arrow schema: what COPY is fed with."""
        return pyarrow_.schema([pyarrow_.field(c.name, _ARROW[c.type], c.nullable) for c in self.columns])

    @cached_property
    def pandera(self) -> pa.DataFrameSchema:
        """What a frame must satisfy before it is written."""
        return pa.DataFrameSchema(
            {column.name: column.to_pandera() for column in self.columns},
            checks=list(self.checks),
            unique=list(self.key),
            strict=True,
            ordered=True,
            name=self.qualified,
        )

    def to_pandas(self, rows: pyarrow_.Table) -> pd.DataFrame:
        """Rows in the table's Arrow types as a frame in the types that `pandera` checks."""
        frame = rows.to_pandas()
        for column in self.columns:
            if column.nullable and column.type in _NULLABLE:
                mapper = {_ARROW[column.type]: _NULLABLE[column.type]}.get
                frame[column.name] = rows[column.name].to_pandas(types_mapper=mapper)
        return frame

    def empty(self) -> pd.DataFrame:
        """A frame of no rows with every column in its type."""
        return self.arrow.empty_table().to_pandas(types_mapper=None)


_SYMBOL = Column("symbol", "text", "Generic instrument name, such as EURUSD.")
_TIMEFRAME = Column("timeframe", "text", "Length of the bar.", values=TIMEFRAMES)
_TS = Column("ts", "timestamp", "Open of the bar, UTC, inclusive; the bar covers [ts, ts + timeframe).")
_KNOWN_AT = Column(
    "known_at", "timestamp", "When this system learned the value: one database clock value per delivery."
)
_DERIVED_KNOWN_AT = Column("known_at", "timestamp", "Latest known_at of the bars this row was computed from.")
_CODE_VERSION = Column("code_version", "smallint", "Version of the code that computed the row.")
_PROVIDER = Column("provider", "text", "Who delivered the bar: files, synthetic, or an API's name.")
_DELIVERY = Column("delivery_id", "integer", "The delivery that brought the row; see market.deliveries.")
_PRICE_KIND = Column("price_kind", "text", "Which price the bar is of.", values=("mid", "bid", "ask", "last"))
_VOLUME_KIND = Column("volume_kind", "text", "What volume counts.", values=("ticks", "lots", "contracts", "none"))
_INSTRUMENT_KIND = Column("instrument_kind", "text", "What was priced.", values=("spot", "cfd", "future", "cash_index"))


_PRICE_UNIT = "quote currency or index points"
_VOLUME = Column("volume", "float", "Volume in the unit of volume_kind; NULL where the provider has none.", "", True)
_SPREAD = Column("spread", "float", "Ask less bid, where the provider tells.", _PRICE_UNIT, True)


def _prices(*, nullable: bool) -> tuple[Column, ...]:
    lowest = None if nullable else 0
    return tuple(
        Column(name, "float", f"{text} price of the bar.", _PRICE_UNIT, nullable, bounds=(lowest, None))
        for name, text in (("open", "First"), ("high", "Highest"), ("low", "Lowest"), ("close", "Last"))
    )


RAW_OHLC = Table(
    "market",
    "raw_ohlc",
    "Every bar value that a provider delivered, once, with when it was learned. Append-only: a value that differs "
    "from the newest known one is a new revision.",
    (
        _SYMBOL, _TIMEFRAME, _TS, _PROVIDER, _DELIVERY, _KNOWN_AT,
        *_prices(nullable=True), _VOLUME, _SPREAD,
        _PRICE_KIND, _VOLUME_KIND, _INSTRUMENT_KIND,
        Column("backfilled", "boolean", "Delivered long after the bar closed, so known_at says nothing of the market."),
        Column("withdrawn", "boolean", "A tombstone: the provider took the bar back."),
    ),
    key=("symbol", "timeframe", "ts", "provider", "delivery_id"),
    time_column="ts",
)  # fmt: skip

BARS = Table(
    "market",
    "bars",
    "One valid bar per symbol, timeframe and ts: the base timeframe and those rolled up from it.",
    (
        _SYMBOL, _TIMEFRAME, _TS,
        *_prices(nullable=False),
        _VOLUME, _SPREAD,
        _PROVIDER, _PRICE_KIND, _VOLUME_KIND, _INSTRUMENT_KIND, _DERIVED_KNOWN_AT,
        Column("bars_expected", "smallint", "Base bars that the calendar expects in this bar.", "bars",
               bounds=(0, None)),
        Column("bars_present", "smallint", "Accepted base bars in this bar.", "bars", bounds=(1, None)),
        Column(
            "suspect", "text",
            "Names of the doubts about this bar, separated by commas: large_move, stale, before_gap. NULL for none.",
            nullable=True,
        ),
    ),
    key=("symbol", "timeframe", "ts"),
    time_column="ts",
    checks=(
        pa.Check(lambda f: f["high"] >= f[["open", "close", "low"]].max(axis=1), name="high_bounds_the_bar"),
        pa.Check(lambda f: f["low"] <= f[["open", "close", "high"]].min(axis=1), name="low_bounds_the_bar"),
    ),
)  # fmt: skip

QUARANTINE_RULES: dict[str, str] = {
    "unusable_key": "The row cannot be read: its time, an ambiguous local hour, or a cell that is no number.",
    "conflicting_repeat": "A second row of the same key in one delivery, with other values.",
    "granularity": "Fewer than half of the steps between rows of this file and month equal the declared timeframe.",
    "not_finite": "A price is missing or not finite.",
    "not_positive": "A price is zero or negative.",
    "high_low": "High and low do not bound open and close.",
    "off_grid": "ts does not lie on the grid of the timeframe.",
    "outside_session": "The bar lies outside the weekly session of its asset class.",
    "price_band": "A price lies outside the instrument's declared band.",
    "range": "|ln(high / low)| exceeds 0.7.",
}
"""Every rule by which a row is kept out of market.bars, and what it means. The first that holds, in this order."""

QUARANTINED_BARS = Table(
    "market",
    "quarantined_bars",
    "Rows kept out of market.bars, whole, with the rule they broke.",
    (
        _SYMBOL, _TIMEFRAME,
        Column(
            "ts", "timestamp",
            "Open of the bar, UTC; where it is unusable, that of the nearest earlier readable row, or the start of "
            "the asked range.",
        ),
        _PROVIDER,
        Column("rule", "text", "The first rule that the row broke.", values=tuple(QUARANTINE_RULES)),
        Column("stage", "text", "Where it was stopped: delivery (before raw_ohlc) or validation (before bars).",
               values=("delivery", "validation")),
        Column("row_hash", "text", "Hash of the row's origin and content; tells two rows of one ts and rule apart."),
        _DELIVERY, _KNOWN_AT,
        *_prices(nullable=True), _VOLUME, _SPREAD,
        Column("origin", "text", "File and line, or the request, that the row came from."),
        Column("content", "text", "The row as it was delivered."),
        Column("detail", "text", "The values that broke the rule."),
    ),
    key=("symbol", "timeframe", "ts", "provider", "rule", "row_hash"),
    time_column="ts",
)  # fmt: skip

DELIVERIES = Table(
    "market",
    "deliveries",
    "One answer of a provider: delivered = new + changed + unchanged + quarantined, always.",
    (
        Column("delivery_id", "integer", "Number of the delivery, ascending."),
        _SYMBOL, _TIMEFRAME, _PROVIDER,
        Column("range_start", "timestamp", "Start of the asked range, inclusive."),
        Column("range_end", "timestamp", "End of the asked range, exclusive."),
        _KNOWN_AT,
        Column("delivered", "integer", "Rows that the provider delivered for the range.", "rows", bounds=(0, None)),
        Column("new", "integer", "Rows of a key not known before.", "rows", bounds=(0, None)),
        Column("changed", "integer", "Rows that differ from the newest known revision.", "rows", bounds=(0, None)),
        Column("unchanged", "integer", "Rows equal to the newest known revision, or to an earlier row of the delivery.",
               "rows", bounds=(0, None)),
        Column("quarantined", "integer", "Rows kept out of raw_ohlc; see quarantined_bars.", "rows", bounds=(0, None)),
        Column("backfilled", "boolean", "Asked for long after the range was over."),
        Column("run_id", "text", "The Dagster run that asked.", nullable=True),
    ),
    key=("delivery_id",),
    time_column=None,
    checks=(
        pa.Check(
            lambda f: f["delivered"] == f["new"] + f["changed"] + f["unchanged"] + f["quarantined"],
            name="every_row_accounted_for",
        ),
    ),
)  # fmt: skip

GAP_STATES: dict[str, str] = {
    "missing": "Expected, over, and not delivered.",
    "quarantined": "Delivered and kept out; the reason is the rule.",
    "healed": "Present: delivered after an answer that did not hold it, or by another provider than its day's.",
    "holiday": "Inside the weekly session, and not expected; the reason is the holiday.",
}

MISSING_REASONS: dict[str, str] = {
    "provider_has_none": "Every provider of the symbol answered a day or more after the bar's end, without it.",
    "not_confirmed": "Answers without it were given less than a day after its end; it may come late.",
    "provider_failed": "The last request that covers it failed at a provider.",
    "not_asked": "A provider of the symbol was not asked since the bar ended.",
}
"""Why a bar is missing. Only the first is final: healing and backfills ask again for the others."""

GAPS = Table(
    "market",
    "gaps",
    "Every bar of the base timeframe that is not simply present: stretches of neighbouring bars in one state, cut at "
    "00:00 UTC. A bar that is over, expected and in no row here is in market.bars.",
    (
        _SYMBOL, _TIMEFRAME,
        Column("ts", "timestamp", "Open of the first bar of the stretch."),
        Column("ends_at", "timestamp", "End of its last bar."),
        Column("bars", "integer", "Bars in the stretch.", "bars", bounds=(1, None)),
        Column("state", "text", "What became of them.", values=tuple(GAP_STATES)),
        Column("reason", "text", "missing: why; quarantined: the rule; holiday: its name; healed: the way."),
        Column("provider", "text", "missing: who answered without them a day or more after their end, by comma; "
               "healed: who delivered; quarantined: whose rows; holiday: empty."),
        Column("known_at", "timestamp", "When the state was learned: of the last answer, or of the delivery; NULL "
               "where nobody was asked.", nullable=True),
    ),
    key=("symbol", "timeframe", "ts"),
    time_column=None,
)  # fmt: skip

DISAGREEMENTS = Table(
    "market",
    "disagreements",
    "Bars whose close lies further from another provider's than 3 times the hour's median spread, or than 10 basis "
    "points where no spread is known.",
    (
        _SYMBOL, _TIMEFRAME, _TS, _PROVIDER,
        Column("other_provider", "text", "Who says otherwise."),
        Column("close", "float", "Close of the bar.", _PRICE_UNIT),
        Column("other_close", "float", "The other provider's close.", _PRICE_UNIT),
        Column("tolerance", "float", "What the two may differ by.", _PRICE_UNIT, bounds=(0, None)),
        Column("known_at", "timestamp", "When the later of the two was learned."),
    ),
    key=("symbol", "timeframe", "ts", "provider", "other_provider"),
    time_column=None,
)  # fmt: skip

FAILED_REQUESTS = Table(
    "market",
    "failed_requests",
    "Requests that a provider did not answer.",
    (
        _SYMBOL, _TIMEFRAME, _PROVIDER,
        Column("range_start", "timestamp", "Start of the asked range, inclusive."),
        Column("range_end", "timestamp", "End of the asked range, exclusive."),
        Column("failed_at", "timestamp", "When it failed."),
        Column("transient", "boolean", "Whether the same request may work later."),
        Column("message", "text", "What went wrong."),
        Column("run_id", "text", "The Dagster run that asked.", nullable=True),
    ),
    key=("symbol", "timeframe", "provider", "failed_at"),
    time_column=None,
)  # fmt: skip

INDICATOR_ROWS = Table(
    "features",
    "indicators",
    "32 indicators per bar, each day computed on exactly the 250 accepted bars before it plus its own.",
    (
        _SYMBOL, _TIMEFRAME, _TS,
        *(
            Column(i.name, "float", i.description, i.unit, nullable=True, bounds=i.bounds)
            for i in INDICATORS
        ),
        Column("slice_start", "timestamp", "ts of the first bar of the slice this day was computed on.", nullable=True),
        _DERIVED_KNOWN_AT, _CODE_VERSION,
    ),
    key=("symbol", "timeframe", "ts"),
    time_column="ts",
)  # fmt: skip

LABELS = Table(
    "features",
    "labels",
    "What happened in the 24 open market hours after each bar. A row exists only once its whole horizon has passed.",
    (
        _SYMBOL, _TIMEFRAME, _TS,
        Column("entry_at", "timestamp", "When the position would be opened: ts + timeframe."),
        Column("t1", "timestamp", "End of the bar that decided the label; purging uses [entry_at, t1].", nullable=True),
        Column("horizon_end", "timestamp", "entry_at advanced by 24 open hours; the label is visible from then on."),
        Column("forward_return_24h", "float", "Exit close / entry close - 1.", "fraction", nullable=True),
        Column("missing_reason", "text", "Why forward_return_24h is NULL.", nullable=True,
               values=("no_exit_bar",)),
        _DERIVED_KNOWN_AT, _CODE_VERSION,
        Column("volatility_50", "float", "Standard deviation (ddof 1) of the last 50 log returns, of one bar, not "
               "annualised.", "fraction", nullable=True, bounds=(0.0, None)),
        Column("direction_24h", "smallint", "Sign of forward_return_24h; 0 within a quarter of the volatility of the "
               "whole horizon.", nullable=True, bounds=(-1, 1)),
        Column("barrier", "text", "Which barrier the price met first; profit and loss lie at the entry close x (1 + or "
               "- barrier_width).", nullable=True, values=("profit", "loss", "time")),
        Column("barrier_label", "smallint", "1 for profit, -1 for loss, 0 for time.", nullable=True, bounds=(-1, 1)),
        Column("barrier_t1", "timestamp", "End of the bar that met the barrier.", nullable=True),
        Column("barrier_return", "float", "Exit price / entry close - 1: at the barrier, at the open of a bar that "
               "opens beyond it, or at the last close of the horizon.", "fraction", nullable=True),
        Column("barrier_net_return", "float", "The same, bought on the ask and sold on the bid; NULL where a spread is "
               "not stored.", "fraction", nullable=True),
        Column("barrier_width", "float", "4 x volatility_50.", "fraction", nullable=True, bounds=(0.0, None)),
        Column("barrier_ambiguous", "boolean", "Both barriers lie in the deciding bar; it counts as the loss.",
               nullable=True),
        Column("barrier_missing_reason", "text", "Why the barrier columns are NULL.", nullable=True,
               values=("no_volatility", "no_exit_bar")),
    ),
    key=("symbol", "timeframe", "ts"),
    time_column="ts",
)  # fmt: skip

DATASET_SPLITS = Table(
    "features",
    "dataset_splits",
    "Which labels belong to training, validation and test, purged and embargoed.",
    (
        _SYMBOL, _TIMEFRAME, _TS,
        Column("entry_at", "timestamp", "As in features.labels."),
        Column("t1", "timestamp", "As in features.labels."),
        Column("split", "text", "Where the label may be used.",
               values=("train", "validation", "test", "purged", "embargoed")),
        _DERIVED_KNOWN_AT, _CODE_VERSION,
        Column("uniqueness", "float", "Weight of the label: mean of 1 / number of labels of the same symbol, timeframe "
               "and split that cover a bar, over its bars.", "fraction", nullable=True, bounds=(0.0, 1.0)),
    ),
    key=("symbol", "timeframe", "ts"),
    time_column="ts",
)  # fmt: skip

CORRELATION_MATRIX = Table(
    "analytics",
    "correlation_matrix",
    "Correlation of hourly log returns of each pair over its last 100 common bars; pairs with symbol_a < symbol_b. "
    "The row of a day is known at the next day's 00:00 UTC. The full matrix is the view analytics.correlation_square.",
    (
        Column("day", "date", "UTC day at whose end the window ends."),
        _TIMEFRAME,
        Column("symbol_a", "text", "First symbol of the pair, in alphabetical order."),
        Column("symbol_b", "text", "Second symbol of the pair."),
        Column("window_bars", "smallint", "Log returns asked for.", "bars"),
        Column("correlation", "float", "Pearson correlation of the log returns; NULL where the window is not full.",
               "fraction", nullable=True, bounds=(-1.0, 1.0)),
        Column("n", "smallint", "Log returns that were there.", "bars", bounds=(0, None)),
        Column("standard_error", "float", "(1 - correlation^2) / sqrt(n - 1).", "fraction", nullable=True,
               bounds=(0.0, None)),
        Column("window_start", "timestamp", "ts of the first common close.", nullable=True),
        Column("window_end", "timestamp", "ts of the last common close.", nullable=True),
        _DERIVED_KNOWN_AT, _CODE_VERSION,
    ),
    key=("day", "timeframe", "symbol_a", "symbol_b"),
    time_column="day",
)  # fmt: skip

CORRELATION_CATEGORIES: tuple[str, ...] = ("uncorrelated", "negative", "moderate", "high")

PAIR_RANKINGS = Table(
    "analytics",
    "pair_rankings",
    "Pairs ranked from the best diversifier to the worst, with a category and a reason in words.",
    (
        Column("day", "date", "UTC day of the correlations."),
        _TIMEFRAME,
        Column("rank", "smallint", "1 is the pair with the smallest absolute correlation.", bounds=(1, None)),
        Column("symbol_a", "text", "First symbol of the pair, in alphabetical order."),
        Column("symbol_b", "text", "Second symbol of the pair."),
        Column("correlation", "float", "As in correlation_matrix.", "fraction", bounds=(-1.0, 1.0)),
        Column("standard_error", "float", "As in correlation_matrix.", "fraction", bounds=(0.0, None)),
        Column("change_7d", "float", "Correlation less that of the newest row at least 7 days older.", "fraction",
               nullable=True, bounds=(-2.0, 2.0)),
        Column("category", "text", "uncorrelated (diversification), negative (hedging), moderate, high (avoid).",
               values=CORRELATION_CATEGORIES),
        Column("reason", "text", "The category in words, with the numbers behind it."),
        _DERIVED_KNOWN_AT, _CODE_VERSION,
    ),
    key=("day", "timeframe", "symbol_a", "symbol_b"),
    time_column="day",
)  # fmt: skip

MARKET_SESSIONS = Table(
    "market",
    "market_sessions",
    "Trading sessions of the day in local time; the open and close in UTC follow the city's own clock.",
    (
        Column("session", "text", "Name of the session.", values=("sydney", "tokyo", "london", "new_york")),
        Column("time_zone", "text", "IANA time zone of the city."),
        Column("opens", "text", "Local opening time, HH:MM."),
        Column("closes", "text", "Local closing time, HH:MM."),
        Column("description", "text", "For people."),
    ),
    key=("session",),
    time_column=None,
)

SLICES = Table(
    "nexus",
    "slices",
    "What was written when: one row per table, symbol and day. Backfills and healing decide from it.",
    (
        Column("table_name", "text", "schema.table of the asset."),
        Column("symbol", "text", "The symbol; empty for tables that hold all symbols of a day."),
        Column("day", "date", "The UTC day."),
        Column("written_at", "timestamp", "When the slice was last written, or found unchanged."),
        Column("changed_at", "timestamp", "When the content of the slice last changed."),
        Column("rows", "integer", "Rows in the slice.", "rows", bounds=(0, None)),
        Column("complete", "boolean", "False while the day is not over, or labels wait for their horizon."),
        Column("code_version", "smallint", "Version of the code that wrote it."),
        Column(
            "inputs",
            "text",
            "Fingerprint of the calendar, the providers' order and the settings that the rows follow "
            "from; empty where they follow from other tables alone.",
        ),
    ),
    key=("table_name", "symbol", "day"),
    time_column=None,
)

ASSET_TABLES: tuple[Table, ...] = (
    RAW_OHLC, BARS, INDICATOR_ROWS, LABELS, DATASET_SPLITS, CORRELATION_MATRIX, PAIR_RANKINGS,
)  # fmt: skip
"""Tables that are assets, in the order of the graph."""

TABLES: tuple[Table, ...] = (
    *ASSET_TABLES, QUARANTINED_BARS, GAPS, DISAGREEMENTS, DELIVERIES, FAILED_REQUESTS, MARKET_SESSIONS, SLICES,
)  # fmt: skip


def table(qualified: str) -> Table:
    """The table of a `schema.table` name. Raises KeyError for an unknown one."""
    return {t.qualified: t for t in TABLES}[qualified]
