"""Training sets: features joined to labels as a decision could have seen them, with what it takes to make them again.

    import nexus_assets

    data = nexus_assets.training_set(["EURUSD", "XAUUSD"], "2021-01-01", "2022-01-01",
                                     features=["rsi_14", "natr_14@4h"], label="barrier_label", split="train")
    data.pandas(), data.polars(), data.arrow, data.manifest()

What belongs here: reading a request's columns and putting one symbol's rows together. Which value a row may see is in
transforms/training_sets.py, the words of a request in training_request.py, hashes and manifest in manifests.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nexus_assets import trading_calendar
from nexus_assets.errors import SettingsError, TrainingSetError
from nexus_assets.manifests import Contents, manifest
from nexus_assets.schemas import DATASET_SPLITS, INDICATOR_ROWS, LABELS, Table
from nexus_assets.settings import Settings, apply_dotenv, settings
from nexus_assets.training_request import (
    CORRELATION,
    LABEL_END,
    Feature,
    TimeSplit,
    TrainingRequest,
    label_column,
    request,
)
from nexus_assets.transforms import training_sets as transform
from nexus_assets.transforms.folds import Fold, combinatorial_purged_folds
from nexus_assets.transforms.sample_weights import average_uniqueness

if TYPE_CHECKING:
    import polars

_LABEL_INSTANTS = ("entry_at", "horizon_end")


class Reader(Protocol):
    """Where columns come from: MarketStore, or a recomputation of what was known at an instant."""

    def read_columns(
        self, table: Table, columns: Sequence[str], symbol: str, timeframe: str, start: datetime, end: datetime
    ) -> pa.Table:
        """ts and these columns of one symbol and timeframe with ts in [start, end), by ts."""
        ...

    def read_pair(self, symbol_a: str, symbol_b: str, timeframe: str, first_day: date, end_day: date) -> pa.Table:
        """day, correlation and known_at of a pair on the days [first_day, end_day), by day."""
        ...


@dataclass(frozen=True)
class TrainingSet:
    """Rows of features and labels.

    Attributes:
        arrow: The rows, by symbol in the catalogue's order and then by ts. Columns: symbol, ts, the features, the
            label, entry_at, t1 (the label's own end), horizon_end, weight (uniqueness of the label among the rows of
            its symbol, and of its part of the split), split (where one was asked for), known_at. The meaning and unit
            of each column stand in the fields' metadata.
        request: What was asked for.
        dropped: Labelled bars in the range that are no rows, by reason.
    """

    arrow: pa.Table
    request: TrainingRequest
    dropped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self.arrow.num_rows

    @property
    def feature_names(self) -> list[str]:
        """The feature columns."""
        return [feature.name for feature in self.request.features]

    def pandas(self) -> pd.DataFrame:
        """The rows as pandas: timestamps `datetime64[us, UTC]`, missing numbers NaN."""
        return self.arrow.to_pandas()

    def polars(self) -> polars.DataFrame:
        """The rows as polars; needs the package polars (`pip install nexus_assets[polars]`)."""
        import polars

        return polars.from_arrow(self.arrow)  # pyright: ignore[reportReturnType]

    def folds(self, *, groups: int = 6, test_groups: int = 2, embargo_hours: float | None = None) -> Iterator[Fold]:
        """Combinatorial purged folds of the rows; see transforms.folds.combinatorial_purged_folds.

        A fold's train and test are positions of rows: `frame.iloc[fold.train]`.
        """
        intervals = self.arrow.select(["symbol", "entry_at", "t1"]).to_pandas()
        intervals["timeframe"] = self.request.timeframe
        return combinatorial_purged_folds(
            intervals, groups=groups, test_groups=test_groups, embargo_hours=embargo_hours
        )

    def manifest(self) -> dict[str, Any]:
        """What these rows are and what they were made with; see manifests.manifest."""
        return manifest(self.request, self._contents, self.dropped)

    @cached_property
    def _contents(self) -> Contents:
        contents = Contents()
        contents.add(self.arrow)
        return contents


def training_set(
    symbols: Sequence[str],
    start: date | datetime | str,
    end: date | datetime | str,
    features: Sequence[str] | None = None,
    label: str = "forward_return_24h",
    split: str | TimeSplit | None = None,
    timeframe: str | None = None,
    as_known: datetime | str | None = None,
    *,
    assume_published: timedelta | None = None,
    as_served: timedelta | None = None,
) -> TrainingSet:
    """Join features to labels, each row as a decision at its entry_at could have seen it.

    A row is a bar with a label and with a full warm-up behind its features. Features of another timeframe come from
    its last bar that was over at entry_at; correlations from the last day that was over.

    Args:
        symbols: Any of NEXUS_SYMBOLS.
        start: First ts (open of a bar): a day, an instant, or either as text. UTC.
        end: End of ts, exclusive.
        features: `rsi_14`, `rsi_14@4h`, `correlation@XAUUSD`; None for all 32 indicators.
        label: forward_return_24h, direction_24h, barrier_label, barrier_return or barrier_net_return.
        split: train, validation or test of features.dataset_splits; `all` for every row, with the name of its part in
            the column split (missing where the table does not have the row yet); a TimeSplit with other boundaries;
            None for no split.
        timeframe: Of the rows; NEXUS_SERVING_TIMEFRAME by default.
        as_known: Only what was known at this instant, made again from the revisions of that time: the same bits
            whenever it is asked for. None: with the newest corrections.
        assume_published: With as_known or as_served, how long after its end a bar counts as known that was first
            delivered long after it: for history that was loaded later. None: from its delivery.
        as_served: Each row's features from what was known so long after the end of its bar, which is the only set
            without look-ahead by revision. A value of another timeframe is that of its own bar's end, a correlation
            that of its day's. Labels are outcomes, with the newest corrections.

    Raises:
        TrainingSetError: something that was asked for does not exist, or is not computed.
        DatabaseError: the database cannot be reached.
    """
    with suppress(SettingsError):  # installed without a project, there is only the environment
        apply_dotenv()
    config = settings()
    asked = request(
        symbols,
        start,
        end,
        features,
        label,
        split,
        timeframe,
        as_known,
        config=config,
        assume_published=assume_published,
        as_served=as_served,
    )
    return assemble(open_reader(asked, config), asked, config)


def open_reader(asked: TrainingRequest, config: Settings) -> Reader:
    """The stored market, the market as it was known at the instant that was asked for, or as it was served."""
    from nexus_assets.as_known import known_market
    from nexus_assets.as_served import served_market
    from nexus_assets.resources import open_market_store

    store = open_market_store(config)
    if asked.as_served is not None:
        return served_market(store, asked.as_served, config, asked.assume_published)
    return store if asked.as_known is None else known_market(store, asked.as_known, config, asked.assume_published)


def assemble(reader: Reader, asked: TrainingRequest, config: Settings) -> TrainingSet:
    """The whole training set in memory; `parts` gives it symbol by symbol."""
    dropped: Counter[str] = Counter()
    tables = list(parts(reader, asked, config, dropped))
    return TrainingSet(pa.concat_tables(tables), asked, dropped)


def parts(reader: Reader, asked: TrainingRequest, config: Settings, dropped: Counter[str]) -> Iterator[pa.Table]:
    """The rows of one symbol after the other; `dropped` counts what is left out.

    Raises:
        TrainingSetError: no symbol has any label in the range, or none has the split.
    """
    rows = 0
    for symbol in asked.symbols:
        table = _symbol_rows(reader, asked, symbol, config, dropped)
        rows += table.num_rows
        yield table
    if not rows:
        raise TrainingSetError(
            f"No row: {', '.join(asked.symbols)} at {asked.timeframe} in [{asked.start.isoformat()}, "
            f"{asked.end.isoformat()}); left out: {dict(dropped) or 'nothing'}.",
            next_step="Load the range with `nexus backfill`, or ask for another one."
            if asked.as_known is None and asked.as_served is None
            else "Prices count as known from the moment this system learned them: ask for a later instant, or pass "
            "assume_published for history that was loaded later.",
        )


def _symbol_rows(
    reader: Reader, asked: TrainingRequest, symbol: str, config: Settings, dropped: Counter[str]
) -> pa.Table:
    labels = _labels(reader, asked, symbol, dropped)
    labels = _with_split(reader, asked, symbol, labels, dropped)
    labels, features, known = _with_features(reader, asked, symbol, labels, dropped)
    columns: dict[str, Any] = {"symbol": pa.repeat(symbol, len(labels)), "ts": labels["ts"], **features}
    columns[asked.label] = labels[asked.label]
    for name, stored in (("entry_at", "entry_at"), ("t1", LABEL_END[asked.label]), ("horizon_end", "horizon_end")):
        columns[name] = labels[stored]
    columns["weight"] = _weights(asked, labels)
    if asked.split is not None:
        columns["split"] = labels["split"]
    columns["known_at"] = transform.latest([labels["known_at"], *known])
    return pa.table(columns, schema=_schema(asked)) if len(labels) else _schema(asked).empty_table()


def _labels(reader: Reader, asked: TrainingRequest, symbol: str, dropped: Counter[str]) -> pa.Table:
    """The labels of the range that have a value."""
    names = dict.fromkeys(("entry_at", "t1", "horizon_end", LABEL_END[asked.label], asked.label, "known_at"))
    stored = reader.read_columns(LABELS, list(names), symbol, asked.timeframe, asked.start, asked.end)
    labels = stored.filter(pc.is_valid(stored[asked.label]))  # pyright: ignore[reportAttributeAccessIssue]
    _count(dropped, "label is NULL", stored.num_rows - labels.num_rows)
    return labels


def _with_split(
    reader: Reader, asked: TrainingRequest, symbol: str, labels: pa.Table, dropped: Counter[str]
) -> pa.Table:
    """The labels of the asked part of the split, with its name."""
    if asked.split is None:
        return labels
    if isinstance(asked.split, TimeSplit):
        names, wanted = _own_split(labels, symbol, asked, asked.split), asked.split.part
    else:
        stored = reader.read_columns(DATASET_SPLITS, ["split"], symbol, asked.timeframe, asked.start, asked.end)
        names = transform.gather(stored, transform.same_bar(_micros(labels["ts"]), _micros(stored["ts"])))["split"]
        wanted = asked.split
    labels = labels.append_column("split", names)
    if wanted == "all":
        return labels
    there = labels.filter(pc.is_valid(labels["split"]))  # pyright: ignore[reportAttributeAccessIssue]
    _count(dropped, "not in features.dataset_splits", labels.num_rows - there.num_rows)
    chosen = there.filter(pc.equal(there["split"], wanted))  # pyright: ignore[reportAttributeAccessIssue]
    for value in pc.value_counts(there["split"]).to_pylist():  # pyright: ignore[reportAttributeAccessIssue]
        if value["values"] != wanted:
            _count(dropped, f"split is {value['values']}", value["counts"])
    return chosen


def _own_split(labels: pa.Table, symbol: str, asked: TrainingRequest, boundaries: TimeSplit) -> pa.ChunkedArray:
    """The names of the parts under other boundaries than the stored ones; purged by the label's own end."""
    from nexus_assets.transforms.splits import split

    frame = labels.select(["ts", "entry_at", "known_at"]).to_pandas()
    frame["t1"] = labels[LABEL_END[asked.label]].to_pandas()
    frame = frame.assign(symbol=symbol, timeframe=asked.timeframe)
    parted = split(frame, train_end=boundaries.train_end, validation_end=boundaries.validation_end)
    positions = transform.same_bar(_micros(labels["ts"]), pd.DatetimeIndex(parted["ts"]).as_unit("us").asi8)
    return transform.gather(pa.table({"split": pa.array(parted["split"], pa.string())}), positions)["split"]


def _with_features(
    reader: Reader, asked: TrainingRequest, symbol: str, labels: pa.Table, dropped: Counter[str]
) -> tuple[pa.Table, dict[str, pa.ChunkedArray], list[pa.ChunkedArray]]:
    """The rows whose own bar has its features, the feature columns in the order asked for, and their known_at."""
    own = [feature for feature in asked.features if feature.symbol is None and feature.timeframe == asked.timeframe]
    names = [feature.column for feature in own]
    stored = reader.read_columns(
        INDICATOR_ROWS, [*names, "slice_start", "known_at"], symbol, asked.timeframe, asked.start, asked.end
    )
    warm = stored.filter(pc.is_valid(stored["slice_start"]))  # pyright: ignore[reportAttributeAccessIssue]
    positions = transform.same_bar(_micros(labels["ts"]), _micros(warm["ts"]))
    kept = positions != transform.NOTHING
    in_table = transform.same_bar(_micros(labels["ts"]), _micros(stored["ts"])) != transform.NOTHING
    _count(dropped, "features wait for their warm-up", int((in_table & ~kept).sum()))
    _count(dropped, "no row in features.indicators", int((~in_table).sum()))
    if not kept.all():
        labels, positions = labels.filter(pa.array(kept)), positions[kept]
    mine = transform.gather(warm, positions)
    columns = {feature.name: mine[feature.column] for feature in own}
    known = [mine["known_at"]]
    decided_at = _micros(labels["entry_at"])
    for group in _other_sources(asked):
        joined = _joined(reader, asked, symbol, group, decided_at)
        columns |= {feature.name: joined[feature.column] for feature in group}
        known.append(joined["known_at"])
    return labels, {feature.name: columns[feature.name] for feature in asked.features}, known


def _weights(asked: TrainingRequest, labels: pa.Table) -> pa.Array:
    """The uniqueness of each label among those of one symbol that are used together; missing for those of no use."""
    intervals = pd.DataFrame({"entry_at": labels["entry_at"], "t1": labels[LABEL_END[asked.label]]})
    intervals = intervals.assign(symbol="", timeframe="")
    if asked.split != "all":
        return pa.array(average_uniqueness(intervals))
    weights = np.full(len(intervals), np.nan)
    names = labels["split"].to_numpy()
    for name in ("train", "validation", "test"):
        mine = np.flatnonzero(names == name)
        weights[mine] = average_uniqueness(intervals.iloc[mine])
    return pa.array(weights, from_pandas=True)


def _other_sources(asked: TrainingRequest) -> list[list[Feature]]:
    """The features that come from other rows than the bar's own, by the rows they come from."""
    groups: dict[tuple[str, str | None], list[Feature]] = {}
    for feature in asked.features:
        if feature.symbol is not None or feature.timeframe != asked.timeframe:
            groups.setdefault((feature.timeframe, feature.symbol), []).append(feature)
    return list(groups.values())


def _joined(
    reader: Reader, asked: TrainingRequest, symbol: str, group: list[Feature], decided_at: np.ndarray
) -> pa.Table:
    """Features of one other source at each decision."""
    reach = transform.MAX_AGE + timedelta(
        days=2
    )  # a bar or day that ended within MAX_AGE began at most two days before
    start, end = asked.start - reach, asked.end + timedelta(days=2)
    first = group[0]
    if first.symbol == symbol:
        raise TrainingSetError(
            f"{first.name} is asked for {symbol} itself.", next_step="Ask for another symbol's correlation."
        )
    if first.symbol is not None:
        stored = reader.read_pair(symbol, first.symbol, first.timeframe, start.date(), end.date())
        days = pc.cast(pc.cast(stored["day"], pa.timestamp("us")), pa.int64()).to_numpy()
        available_at = days + 86_400_000_000
        stored = stored.select([CORRELATION, "known_at"])
    else:
        names = [feature.column for feature in group]
        stored = reader.read_columns(INDICATOR_ROWS, [*names, "known_at"], symbol, first.timeframe, start, end)
        opens = pd.DatetimeIndex(stored["ts"].to_pandas())
        available_at = trading_calendar.bar_end(opens, first.timeframe).asi8 if len(opens) else np.array([], "int64")
    return transform.gather(stored, transform.join_features(decided_at, available_at))


def _micros(instants: pa.ChunkedArray) -> np.ndarray:
    return pc.cast(instants, pa.int64()).to_numpy()


def _count(dropped: Counter[str], reason: str, rows: int) -> None:
    if rows:
        dropped[reason] += rows


def _schema(asked: TrainingRequest) -> pa.Schema:
    """Exact types, with the unit and the meaning of each column in its field."""

    def described(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
        return pa.field(name, kind, metadata={"description": meaning, **({"unit": unit} if unit else {})})

    instant = pa.timestamp("us", "UTC")
    label = label_column(asked.label)
    fields = [
        described("symbol", pa.string(), "Generic instrument name."),
        described("ts", instant, f"Open of the {asked.timeframe} bar."),
        *(described(f.name, pa.float64(), f.described.description, f.described.unit) for f in asked.features),
        described(label.name, LABELS.arrow.field(label.name).type, label.description, label.unit),
        described("entry_at", instant, "When the decision is taken: the end of the bar."),
        described("t1", instant, "End of the bar that decided the label; purging uses [entry_at, t1]."),
        described("horizon_end", instant, "The label is visible from then on."),
        described("weight", pa.float64(), "Uniqueness of the label among those it is used with.", "fraction"),
    ]
    if asked.split is not None:
        fields.append(described("split", pa.string(), "Where the row may be used; as in features.dataset_splits."))
    fields.append(described("known_at", instant, "Latest known_at of everything in the row."))
    return pa.schema(fields)
