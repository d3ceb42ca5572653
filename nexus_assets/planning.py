"""What has to be materialised: missing, immature or stale slices, decided from the ledger of written slices.

What belongs here: decisions; nothing is written or started. Staleness is judged generously: a slice is repeated
when anything it may have read changed after it was written. Repeating one is harmless, because equal content is left
untouched.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import ClassVar

from nexus_assets.backfill import Rectangle
from nexus_assets.indicator_table import INDICATORS_VERSION, WARMUP_BARS
from nexus_assets.instruments import instrument
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import DAYS, Grain, Slice, consecutive, days_between
from nexus_assets.providers.registry import Sources
from nexus_assets.schemas import (
    ASSET_TABLES,
    BARS,
    CORRELATION_MATRIX,
    DATASET_SPLITS,
    INDICATOR_ROWS,
    LABELS,
    PAIR_RANKINGS,
    RAW_OHLC,
    Table,
)
from nexus_assets.settings import Settings
from nexus_assets.slice_ledger import ALL_SYMBOLS, WHOLE_TABLE
from nexus_assets.timeframes import minutes
from nexus_assets.trading_calendar import calendar_version
from nexus_assets.transforms.bars import BARS_VERSION
from nexus_assets.transforms.correlations import (
    CORRELATIONS_VERSION,
    HISTORY_DAYS,
    RANKINGS_VERSION,
    look_back_days,
)
from nexus_assets.transforms.labels import LABELS_VERSION, VOLATILITY_BARS

Cell = tuple[str, date]

PRICES: tuple[Table, ...] = (RAW_OHLC, BARS)
FEATURES: tuple[Table, ...] = (INDICATOR_ROWS, LABELS)
ANALYTICS: tuple[Table, ...] = (CORRELATION_MATRIX, PAIR_RANKINGS)

LABEL_REACH_DAYS = 8
MOST_RECTANGLES = 8

VERSIONS = {
    BARS.qualified: BARS_VERSION,
    INDICATOR_ROWS.qualified: INDICATORS_VERSION,
    LABELS.qualified: LABELS_VERSION,
    CORRELATION_MATRIX.qualified: CORRELATIONS_VERSION,
    PAIR_RANKINGS.qualified: RANKINGS_VERSION,
}
"""The version of the code that writes each table; slices of another one are stale."""


def warmup_days(timeframe: str, bars: int = WARMUP_BARS) -> int:
    """Calendar days that certainly hold this many bars of an asset class that trades five days a week, with the year's
    longest holidays between."""
    bars_a_week = 5 * 1380 / minutes(timeframe) if timeframe != "1d" else 5
    return ceil(bars / bars_a_week * 7) + 8


def switched_off(config: Settings, first_day: date, today: date) -> dict[str, str]:
    """Feature timeframes whose warm-up does not fit between the first day of all and today, with a sentence."""
    sentences = {}
    setting = "NEXUS_HISTORY_START" if config.has_history else "NEXUS_START_DAY"
    for timeframe in config.feature_timeframes:
        needed = warmup_days(timeframe)
        if first_day + timedelta(days=needed) > today:
            sentences[timeframe] = (
                f"Features at {timeframe} are off: their warm-up of {WARMUP_BARS} bars takes {needed} days, and the "
                f"prices start on {first_day}. Set {setting} to "
                f"{today - timedelta(days=needed)} or earlier, or leave {timeframe} out of NEXUS_FEATURE_TIMEFRAMES."
            )
    return sentences


def load_from(config: Settings, first_day: date) -> date:
    """The first day whose bars features from `first_day` need: the longest warm-up and the correlation window
    before it, but not before the first partition."""
    reach = max([correlation_reach(config), *(warmup_days(timeframe) for timeframe in config.feature_timeframes)])
    return max(config.first_day, first_day - timedelta(days=reach))


def first_kept(config: Settings, table: Table, made_from: Mapping[str, date]) -> date:
    """The first day of a table that is loaded or made: earlier ones lie before its retention, or they, or what they are
    made from, were dropped.

    Args:
        made_from: By table, from nexus.retention.
    """
    days = config.retentions.get(table.name)
    begins = datetime.now(UTC).date() - timedelta(days=days) if days else date.min
    return max(begins, made_from.get(table.qualified, date.min))


@dataclass
class Ledger:
    """When each slice was written and last changed, from nexus.slices; which days of prices are worth asking for again,
    from market.gaps; and from which day on each table is made again, from nexus.retention."""

    _VALUES: ClassVar = ("written_at", "changed_at", "rows", "complete", "code_version", "inputs")

    rows: Mapping[tuple[str, str, date], tuple[datetime, datetime, int, bool, int, str]] = field(default_factory=dict)
    worth_asking: Collection[Cell] = frozenset()
    inputs: Mapping[tuple[str, str], str] = field(default_factory=dict)
    made_from: Mapping[str, date] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        store: MarketStore,
        symbols: Collection[str],
        first_day: date,
        end_day: date,
        *,
        config: Settings | None = None,
        sources: Sources | None = None,
    ) -> "Ledger":
        """What is stored about every asset's slices on these days, and about tables that are written as a whole.

        Args:
            config, sources: With both, gaps that a provider may still fill count, and slices that were written under
                another calendar, order of providers or timeframes count as never written.
        """
        whole = store.ledger(DATASET_SPLITS, [ALL_SYMBOLS], WHOLE_TABLE, WHOLE_TABLE + timedelta(days=1))
        frames = [
            whole,
            *(store.ledger(table, [*symbols, ALL_SYMBOLS], first_day, end_day) for table in ASSET_TABLES),
        ]
        rows = {}
        for frame in frames:
            keys = zip(frame["table_name"], frame["symbol"], frame["day"], strict=True)
            values = zip(*(frame[name] for name in cls._VALUES), strict=True)
            rows.update(zip(keys, values, strict=True))
        made_from = store.days_made_from()
        if config is None or sources is None:
            return cls(rows, made_from=made_from)
        fingerprints = {
            (table.qualified, symbol): inputs_of(table, symbol, sources, config)
            for table in (BARS, LABELS)
            for symbol in symbols
        }
        gaps = worth_asking(store, sources, symbols, first_day, end_day, config=config)
        return cls(rows, gaps, fingerprints, made_from)

    def newest_change(self, table: str) -> datetime | None:
        """When the content of any slice of a table last changed, as far as it was read."""
        return max((row[1] for key, row in self.rows.items() if key[0] == table), default=None)

    def written(self, table: str, symbol: str, day: date) -> datetime | None:
        """When the slice was last written; None if never, by another version of the code, or under other inputs."""
        row = self.rows.get((table, symbol, day))
        if row is None or row[4] != VERSIONS.get(table, row[4]) or row[5] != self.inputs.get((table, symbol), row[5]):
            return None
        return row[0]

    def complete(self, table: str, symbol: str, day: date) -> bool:
        """Whether the slice was written after its day, or its labels' horizon, was over."""
        row = self.rows.get((table, symbol, day))
        return row is not None and row[3]

    def changed_since(self, table: str, symbol: str, days: Iterable[date], instant: datetime) -> bool:
        """Whether the content of any of these slices changed after the instant."""
        return any(
            row is not None and row[1] > instant for row in (self.rows.get((table, symbol, day)) for day in days)
        )


def inputs_of(table: Table, symbol: str, sources: Sources | None, config: Settings) -> str:
    """A fingerprint of what a slice of bars or labels follows from besides rows of other tables.

    Bars: the timeframes, the order of the symbol's providers and the hours of each, the kind and price band of the
    instrument. Labels: the hours of the venue.
    """
    item = instrument(symbol)
    if table is LABELS:
        return calendar_version(item.asset_class)
    assert sources is not None  # bars are never planned or made without them
    providers = sources.priority_of(symbol, config.base_timeframe)
    facts = [
        *config.timeframes,
        *(f"{provider} {calendar_version(item.asset_class, provider)}" for provider in providers),
        item.kind,
        *map(repr, item.price_band),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def worth_asking(
    store: MarketStore, sources: Sources, symbols: Collection[str], first_day: date, end_day: date, *, config: Settings
) -> set[Cell]:
    """The days of prices with a gap that a provider of the symbol may still fill: it failed, was not asked since the
    bar ended, or said less than a day after it that it has none. Those, too, for which the preferred provider failed
    and another one stood in."""
    timeframe = config.base_timeframe
    providers = {symbol: [provider.name for provider in sources.for_symbol(symbol, timeframe)] for symbol in symbols}
    return store.days_worth_asking(providers, timeframe, first_day, end_day)


def stale_cells(
    ledger: Ledger, target: Table, symbols: Collection[str], first_day: date, end_day: date, *, config: Settings
) -> set[Cell]:
    """The slices of one symbol x day table that were never written, are not complete, or read what changed since; of
    raw prices also those with a gap that a provider may still fill."""
    indicator_reach = max(warmup_days(timeframe) for timeframe in config.feature_timeframes)
    volatility_reach = max(warmup_days(timeframe, VOLATILITY_BARS + 1) for timeframe in config.feature_timeframes)
    reach = {
        BARS.qualified: (RAW_OHLC.qualified, 1, 0),
        INDICATOR_ROWS.qualified: (BARS.qualified, indicator_reach, 0),
        LABELS.qualified: (BARS.qualified, volatility_reach, LABEL_REACH_DAYS),
    }
    table = target.qualified
    found: set[Cell] = set()
    prices_from = first_kept(config, RAW_OHLC, ledger.made_from)
    for symbol in symbols:
        for day in days_between(max(first_day, first_kept(config, target, ledger.made_from)), end_day):
            origins = {(table, symbol, day), (reach.get(table, (table,))[0], symbol, day)}
            if day < prices_from and not origins & ledger.rows.keys():
                continue  # never loaded, and its prices lie before their retention
            written = ledger.written(table, symbol, day)
            if written is None or not ledger.complete(table, symbol, day):
                found.add((symbol, day))
            elif table == RAW_OHLC.qualified:
                if (symbol, day) in ledger.worth_asking:
                    found.add((symbol, day))
            else:
                source, back, ahead = reach[table]
                window = days_between(day - timedelta(days=back), day + timedelta(days=ahead + 1))
                if ledger.changed_since(source, symbol, window, written):
                    found.add((symbol, day))
    return found


def untouched_version(store: MarketStore, piece: Slice, config: Settings) -> int:
    """The version that wrote a slice's indicators, if every day was written after the last change of the bars that it
    reads; else 0. Of days of several versions the oldest."""
    reach = timedelta(days=max(warmup_days(timeframe) for timeframe in config.feature_timeframes))
    written = store.ledger(INDICATOR_ROWS, [piece.symbol], piece.first_day, piece.end_day)
    if len(written) < len(piece.days):
        return 0
    changed = store.ledger(BARS, [piece.symbol], piece.first_day - reach, piece.end_day)["changed_at"]
    if len(changed) and changed.max() > written["written_at"].min():
        return 0
    return int(written["code_version"].min())


def correlation_reach(config: Settings) -> int:
    """Days of closes that a day's correlations read."""
    return look_back_days(config.correlation_timeframe, config.correlation_window)


def undelivered_downstream(
    ledger: Ledger,
    tables: Iterable[Table],
    symbols: Collection[str],
    first_day: date,
    end_day: date,
    *,
    config: Settings,
    since: datetime,
) -> set[Cell]:
    """The slices of `tables` that lag behind prices which were delivered at or after `since`: what is left to do for
    the other symbols when a run ended because the provider of one failed."""
    lagging: set[Cell] = set()
    for table in tables:
        lagging |= stale_cells(ledger, table, symbols, first_day, end_day, config=config)
    return {
        (symbol, day)
        for symbol, day in lagging
        if (delivered := ledger.written(RAW_OHLC.qualified, symbol, day)) is not None and delivered >= since
    }


def stale_days(
    ledger: Ledger, target: Table, symbols: Collection[str], first_day: date, end_day: date, *, config: Settings
) -> set[date]:
    """The same for a table by day: correlations and rankings."""
    table, reach = target.qualified, correlation_reach(config)
    found = set()
    prices_from = first_kept(config, RAW_OHLC, ledger.made_from)
    for day in days_between(max(first_day, first_kept(config, target, ledger.made_from)), end_day):
        origins = {(table, ALL_SYMBOLS, day), *((BARS.qualified, symbol, day) for symbol in symbols)}
        if day < prices_from and not origins & ledger.rows.keys():
            continue  # never loaded, and its prices lie before their retention
        written = ledger.written(table, ALL_SYMBOLS, day)
        window = days_between(day - timedelta(days=reach), day + timedelta(days=1))
        if (
            written is None
            or not ledger.complete(table, ALL_SYMBOLS, day)
            or any(ledger.changed_since(BARS.qualified, symbol, window, written) for symbol in symbols)
            or (target is PAIR_RANKINGS and _correlations_changed(ledger, day, written))
        ):
            found.add(day)
    return found


def _correlations_changed(ledger: Ledger, day: date, instant: datetime) -> bool:
    """Whether correlations that a day's categories are followed from changed after the instant."""
    window = days_between(day - timedelta(days=HISTORY_DAYS), day + timedelta(days=1))
    return ledger.changed_since(CORRELATION_MATRIX.qualified, ALL_SYMBOLS, window, instant)


def in_partitions(cells: Collection[Cell], grain: Grain, config: Settings) -> set[Cell]:
    """The cells that the assets of a grain write, and those that they write along: of a month, all its days."""
    first, end = grain.bounds(config)
    begins = {(symbol, grain.begin(day)) for symbol, day in cells if first <= day < end}
    return {(symbol, day) for symbol, begin in begins for day in days_between(*grain.span(begin, config))}


def cover(
    cells: Collection[Cell], order: tuple[str, ...], tables: Iterable[Table], grain: Grain = DAYS
) -> list[Rectangle]:
    """Few rectangles that cover these cells: exact while there are at most MOST_RECTANGLES, else the bounding
    rectangle of each stretch of days. `order` is the order of the symbol partitions; the cells are those of whole
    partitions."""
    assets = asset_names(tables, grain)
    days: dict[str, set[date]] = defaultdict(set)
    for symbol, day in cells:
        days[symbol].add(day)
    exact: list[Rectangle] = []
    run: list[str] = []
    for position, symbol in enumerate(order):
        if not days[symbol]:
            continue
        run.append(symbol)
        following = order[position + 1] if position + 1 < len(order) else None
        if following is None or days[following] != days[symbol]:
            exact += [Rectangle(tuple(run), *span, assets, grain) for span in consecutive(days[symbol], at_most=36_600)]
            run = []
    if len(exact) <= MOST_RECTANGLES:
        return exact
    positions = [order.index(symbol) for symbol in days if days[symbol]]
    symbols = order[min(positions) : max(positions) + 1]
    union = set().union(*days.values())
    return [Rectangle(symbols, *span, assets, grain) for span in consecutive(union, at_most=36_600)]


def asset_names(tables: Iterable[Table], grain: Grain = DAYS) -> tuple[str, ...]:
    """The asset keys of tables, as Dagster writes them: market/bars."""
    return tuple("/".join(grain.asset_key(table)) for table in tables)


def day_rectangles(days: Collection[date], tables: Iterable[Table], grain: Grain = DAYS) -> list[Rectangle]:
    """The rectangles of assets that are partitioned by day or month only."""
    assets = asset_names(tables, grain)
    return [Rectangle((), *span, assets, grain) for span in consecutive(days, at_most=36_600)]
