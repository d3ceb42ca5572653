"""What a training set is asked for: symbols, range, features, label, split; parsed and refused with reasons.

What belongs here: the words of the request. Reading and joining are in training_sets.py.

A feature is written `rsi_14` (of the rows' own timeframe), `rsi_14@4h` (of another timeframe, from its last complete
bar) or `correlation@XAUUSD` (of the row's symbol with another one, from the last day that was over).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from nexus_assets.errors import SettingsError, TrainingSetError
from nexus_assets.indicator_table import INDICATOR_NAMES
from nexus_assets.instruments import in_catalogue_order, instrument
from nexus_assets.schemas import INDICATOR_ROWS, LABELS, Column
from nexus_assets.settings import Settings
from nexus_assets.timeframes import TIMEFRAMES

SplitName = Literal["train", "validation", "test"]

CORRELATION = "correlation"

LABEL_END = {
    "forward_return_24h": "t1",
    "direction_24h": "t1",
    "barrier_label": "barrier_t1",
    "barrier_return": "barrier_t1",
    "barrier_net_return": "barrier_t1",
}
"""The labels, and the column of features.labels in which each one's own end stands."""


@dataclass(frozen=True)
class Feature:
    """One feature column.

    Attributes:
        name: As it was asked for, and as the column is called: `rsi_14`, `rsi_14@4h`, `correlation@XAUUSD`.
        column: Column of features.indicators; CORRELATION for a correlation.
        timeframe: Of the indicator, or of the correlated returns.
        symbol: The other symbol of a correlation, else None.
    """

    name: str
    column: str
    timeframe: str
    symbol: str | None = None

    @property
    def described(self) -> Column:
        """The stored column behind it: unit and meaning."""
        if self.symbol is not None:
            return Column(
                self.name, "float", f"Correlation with {self.symbol} at the end of the last full day.", "fraction"
            )
        return next(column for column in INDICATOR_ROWS.columns if column.name == self.column)


@dataclass(frozen=True)
class TimeSplit:
    """A split by time that is not the stored one.

    Attributes:
        part: The rows that are returned.
        train_end: First instant of validation, common to all symbols.
        validation_end: First instant of test.
    """

    part: SplitName
    train_end: datetime
    validation_end: datetime


@dataclass(frozen=True)
class TrainingRequest:
    """A checked request.

    Attributes:
        symbols: In the order of the catalogue.
        start: First ts, UTC, inclusive.
        end: End of ts, exclusive.
        timeframe: Of the rows.
        features: In the order asked for.
        label: A key of LABEL_END.
        split: A part of features.dataset_splits, `all` for every row with its part's name in a column, a TimeSplit, or
            None for no split.
        as_known: What was known at this instant; None for the newest corrections.
        assume_published: With as_known or as_served, how long after its end a bar that was loaded as history counts as
            known.
        as_served: Each row's features as known at its own decision: so long after the end of its bar.
    """

    symbols: tuple[str, ...]
    start: datetime
    end: datetime
    timeframe: str
    features: tuple[Feature, ...]
    label: str
    split: SplitName | Literal["all"] | TimeSplit | None
    as_known: datetime | None
    assume_published: timedelta | None = None
    as_served: timedelta | None = None


def request(
    symbols: Sequence[str],
    start: date | datetime | str,
    end: date | datetime | str,
    features: Sequence[str] | None,
    label: str,
    split: str | TimeSplit | None,
    timeframe: str | None,
    as_known: datetime | str | None,
    *,
    config: Settings,
    assume_published: timedelta | None = None,
    as_served: timedelta | None = None,
) -> TrainingRequest:
    """Check a request against what this installation has.

    Raises:
        TrainingSetError: something in it does not exist, or the range is empty.
        SettingsError: a symbol is unknown.
    """
    chosen = timeframe or config.serving_timeframe
    _timeframe_is_stored(chosen, config)
    begin, finish = instant(start), instant(end)
    if begin >= finish:
        raise TrainingSetError(
            f"The range [{begin.isoformat()}, {finish.isoformat()}) is empty.", next_step="Name an end after the start."
        )
    if label not in LABEL_END:
        raise TrainingSetError(f"There is no label {label!r}.", next_step=f"Use one of {', '.join(LABEL_END)}.")
    if isinstance(split, str) and split not in ("train", "validation", "test", "all"):
        raise TrainingSetError(
            f"There is no split {split!r}.",
            next_step="Use train, validation, test, all, a TimeSplit with your own boundaries, or None.",
        )
    if isinstance(split, str) and chosen != config.serving_timeframe:
        raise TrainingSetError(
            f"features.dataset_splits holds {config.serving_timeframe} rows; rows of {chosen} were asked for.",
            next_step="Pass TimeSplit(part, train_end, validation_end), or no split.",
        )
    if as_served is not None and (as_known is not None or as_served < timedelta(0)):
        raise TrainingSetError(
            f"as_served={as_served} says nothing here.",
            next_step="Pass a latency of zero or more, and not as_known with it.",
        )
    past = as_known is not None or as_served is not None
    if assume_published is not None and (not past or assume_published < timedelta(0)):
        raise TrainingSetError(
            f"assume_published={assume_published} says nothing here.",
            next_step="Pass a time of zero or more, together with as_known or as_served.",
        )
    if past and isinstance(split, str):
        split = _fixed_split(split, config)
    return TrainingRequest(
        symbols=_symbols(symbols),
        start=begin,
        end=finish,
        timeframe=chosen,
        features=_features(features, chosen, config),
        label=label,
        split=split,  # pyright: ignore[reportArgumentType]
        as_known=None if as_known is None else instant(as_known),
        assume_published=assume_published,
        as_served=as_served,
    )


def _fixed_split(split: str, config: Settings) -> TimeSplit:
    """A stored split by its boundaries: as it was known it can only be made again where these are fixed."""
    if split == "all" or config.train_end is None or config.validation_end is None:
        raise TrainingSetError(
            f"The split {split!r} is not known for a past instant: the stored one moves as labels are added.",
            next_step="Pass TimeSplit(part, train_end, validation_end), set NEXUS_TRAIN_END and NEXUS_VALIDATION_END, "
            "or ask for no split.",
        )
    return TimeSplit(split, instant(config.train_end), instant(config.validation_end))  # pyright: ignore[reportArgumentType]


def instant(value: date | datetime | str) -> datetime:
    """An instant in UTC: a day is its 00:00; one without a time zone is taken for UTC.

    Raises:
        TrainingSetError: the text is no day and no instant.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise TrainingSetError(
                f"{value!r} is no day and no instant.", next_step="Write 2024-01-31 or 2024-01-31T17:00:00Z."
            ) from None
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _symbols(symbols: Sequence[str]) -> tuple[str, ...]:
    found = in_catalogue_order([symbols] if isinstance(symbols, str) else symbols)
    if not found:
        raise TrainingSetError("No symbol was asked for.", next_step="Name at least one, such as EURUSD.")
    return found


def _features(names: Sequence[str] | None, timeframe: str, config: Settings) -> tuple[Feature, ...]:
    wanted = list(INDICATOR_NAMES) if names is None else [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise TrainingSetError("No feature was asked for.", next_step="Name some, or leave them out for all 32.")
    repeated = sorted({name for name in wanted if wanted.count(name) > 1})
    if repeated:
        raise TrainingSetError(f"Features are asked for twice: {', '.join(repeated)}.")
    return tuple(feature(name, timeframe, config) for name in wanted)


def feature(name: str, timeframe: str, config: Settings) -> Feature:
    """The feature of a name.

    Raises:
        TrainingSetError: there is no such indicator, timeframe or symbol.
    """
    column, at, source = name.partition("@")
    if column == CORRELATION and at:
        try:
            return Feature(name, CORRELATION, config.correlation_timeframe, instrument(source).symbol)
        except SettingsError as error:
            raise TrainingSetError(f"{name}: {error.fact}", next_step=error.next_step) from None
    if column not in INDICATOR_NAMES:
        raise TrainingSetError(
            f"There is no feature {name!r}.{_near(column, INDICATOR_NAMES)}",
            next_step="Write an indicator (rsi_14), one of another timeframe (rsi_14@4h), or correlation@XAUUSD; "
            "docs/data-dictionary.md lists the indicators.",
        )
    if at and source not in TIMEFRAMES:
        raise TrainingSetError(f"{name}: {source!r} is no timeframe.", next_step=f"Use one of {', '.join(TIMEFRAMES)}.")
    _timeframe_is_stored(source or timeframe, config)
    return Feature(name, column, source or timeframe)


def _timeframe_is_stored(timeframe: str, config: Settings) -> None:
    if timeframe not in config.feature_timeframes:
        raise TrainingSetError(
            f"Features and labels at {timeframe} are not computed: NEXUS_FEATURE_TIMEFRAMES is "
            f"{' '.join(config.feature_timeframes)}.",
            next_step=f"Add {timeframe} to it and run `nexus backfill`, or use another timeframe.",
        )


def _near(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def label_column(label: str) -> Column:
    """The stored column of a label: unit and meaning."""
    return next(column for column in LABELS.columns if column.name == label)
