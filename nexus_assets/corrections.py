"""Corrections: what changed bars reach, shown before it is done, and done exactly.

A bar that was corrected, inserted, withdrawn, quarantined or released changes the bars rolled up from it, the
indicators of every day whose fixed slice holds it, the labels whose horizon or volatility holds it, the correlations
whose window holds it, what is ranked by them, the splits, the training sets of those months, and what Redis serves.
`propagate` finds these partitions (see closures.py), computes them by the assets' own functions, and leaves alone all
others.

What belongs here: the order of the steps. No Dagster run: a job, the sensor, the command line and the Python API all
come here.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pandas as pd

from nexus_assets import planning
from nexus_assets.closures import (
    AFTER_BARS,
    BEFORE,
    BarChanges,
    compare_bars,
    correlation_days,
    indicator_days,
    joined,
    label_days,
    weekends_between,
)
from nexus_assets.correction_report import Corrections
from nexus_assets.errors import DatabaseError, FeatureStoreError
from nexus_assets.feature_store import FeatureStore
from nexus_assets.instruments import instrument
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import Slice, consecutive, days_between, partition_key
from nexus_assets.pinned_sets import FEATURE_TABLES, JOINED
from nexus_assets.proposed_market import ProposedMarket
from nexus_assets.providers.registry import Sources
from nexus_assets.redis_contract import Slot
from nexus_assets.schemas import (
    BARS,
    CORRELATION_MATRIX,
    DATASET_SPLITS,
    INDICATOR_ROWS,
    LABELS,
    PAIR_RANKINGS,
    RAW_OHLC,
    Table,
)
from nexus_assets.serving import push
from nexus_assets.settings import settings
from nexus_assets.slice_ledger import ALL_SYMBOLS, WHOLE_TABLE
from nexus_assets.transforms.correlations import HISTORY_DAYS

Cell = planning.Cell
Progress = Callable[[str], None]


def pending(store: MarketStore, *, symbol: str | None = None, settled_before: datetime | None = None) -> set[Cell]:
    """The days of bars that were made before their raw rows changed; a raw row after 17:00 New York counts for the next
    day as well. Not those that are not made again, because retention dropped some of their prices.

    Args:
        symbol: Of this one only.
        settled_before: Leave out changes at or after this instant: a run may be about to make the bars.
    """
    rows = store.database.rows(
        """
        SELECT b.symbol, b.day
        FROM (
            -- Two joins by equality in place of one by either day, which would compare every pair of days.
            SELECT symbol, day + late AS day, changed_at
            FROM nexus.slices CROSS JOIN generate_series(0, 1) AS late
            WHERE table_name = 'market.raw_ohlc' AND changed_at < %s AND symbol = ANY(%s)
        ) AS r
        JOIN nexus.slices AS b
            ON b.table_name = 'market.bars' AND b.symbol = r.symbol AND b.day = r.day AND b.written_at < r.changed_at
        WHERE b.day >= coalesce((SELECT made_from FROM nexus.retention WHERE table_name = 'market.bars'), b.day)
        """,
        (settled_before or datetime.max.replace(tzinfo=UTC), [symbol] if symbol else list(settings().symbols)),
    )
    return {(row["symbol"], row["day"]) for row in rows}


def propagate(
    store: MarketStore,
    sources: Sources,
    cells: Collection[Cell],
    *,
    write: bool,
    progress: Progress = lambda _: None,
    vectors_made: Callable[[Corrections], None] = lambda _: None,
    now: datetime | None = None,
) -> Corrections:
    """Make the bars of these days again, and everything that their changes reach; in memory only unless `write`.

    Only partitions that were computed before are touched: the others are a backfill's.

    Args:
        vectors_made: Called when bars and indicators are made, before labels and correlations: somebody waits for
            what is served from them.

    Raises:
        DatabaseError: a slice cannot be written, or a raw row is not accounted for. What was written before is whole,
            and the rest stays pending.
    """
    work = _Propagation(store, sources, write, now or datetime.now(UTC))
    days = {symbol: {day for s, day in cells if s == symbol} for symbol in settings().symbols}
    days = {symbol: mine for symbol, mine in days.items() if mine}
    if not days:
        return work.report
    work.remember_stale_analytics(days)
    work.report.symbols = list(days)
    for symbol, mine in days.items():
        changes = work.bars(symbol, mine)
        work.indicators(symbol, changes)
        progress(f"{symbol}: bars of {len(mine)} days, and the indicators that they reach")
    vectors_made(work.report)
    for symbol, mine in days.items():
        work.labels(symbol, mine)
    progress("labels")
    work.analytics()
    progress("correlations")
    work.splits_and_months()
    return work.report


def carry_out(
    store: MarketStore,
    feature_store: FeatureStore,
    sources: Sources,
    cells: Collection[Cell],
    *,
    progress: Progress = lambda _: None,
    served: Callable[[], None] = lambda: None,
) -> Corrections:
    """Propagate, serve the new features and then the correlations, and make the splits and training sets again that
    read what changed.

    Args:
        served: Called when Redis holds the corrected vectors and prices; what follows is slower, and nobody waits.

    Raises:
        DatabaseError: as for propagate.
        FeatureStoreError: Redis could not be written; the tables are.
    """
    from nexus_assets.assets import dataset_splits, training_set

    config = settings()

    def serve(report: Corrections) -> None:
        _serve(store, feature_store, report)
        served()

    # The tables come first: if Redis cannot be written now, that is tried again, and told, when they are whole.
    waiting = False

    def serve_early(report: Corrections) -> None:
        nonlocal waiting
        try:
            serve(report)
        except FeatureStoreError:
            waiting = True

    report = propagate(store, sources, cells, write=True, progress=progress, vectors_made=serve_early)
    if not report.symbols:
        return report
    if waiting:
        serve(report)
    elif report.of(CORRELATION_MATRIX).changed:
        push(store, feature_store, config, report.symbols).raise_failures()
    if report.splits:
        read_at = store.settled_until()
        frame, _ = dataset_splits.compute(store)
        old = store.read_all(DATASET_SPLITS)
        report.of(DATASET_SPLITS).add(DATASET_SPLITS, old, frame)
        store.replace_all(DATASET_SPLITS, frame, read_at=read_at)
        progress("splits")
    dropped = store.days_dropped_before()
    report.months = [
        month
        for month in report.months
        if training_set.folder_of(config, month).is_dir()
        # A month of which features were dropped stays as it was written.
        and month - JOINED >= max(dropped.get(table.qualified, date.min) for table in FEATURE_TABLES)
    ]
    for month in report.months:
        training_set.write(store, config, month, training_set.folder_of(config, month))
        progress(f"training set of {month:%B %Y}")
    return report


def _serve(store: MarketStore, feature_store: FeatureStore, report: Corrections) -> None:
    """Bring Redis up to the tables: the newest vector of a bar that is gone is removed, because an older one would
    never replace it, and the newest are pushed as ever."""
    config = settings()
    for timeframe in config.feature_timeframes:
        slots = [Slot(symbol, timeframe) for symbol in report.symbols]
        newest = store.newest_features(report.symbols, timeframe).set_index("symbol")["ts"]
        for slot, vector in feature_store.served(slots).items():
            gone = slot.symbol not in newest.index or newest[slot.symbol] < pd.Timestamp(vector.ts)
            if gone and (slot.symbol, timeframe) in report.deleted:
                feature_store.forget([slot.symbol], [timeframe])
    push(store, feature_store, config, report.symbols).raise_failures()


@dataclass
class _Propagation:
    """One propagation under way.

    Attributes:
        proposed: The bars that were made, for a plan to read.
        changes: How the bars of each symbol and timeframe changed.
        changed_at: By symbol, when our write changed its bars; absent where somebody wrote after us.
        stale_features: By symbol, the slices of its features that were stale before.
        stale_analytics: Days of the tables by day that were stale before.
        reached: By symbol, the days of each table of features that read a changed bar.
    """

    store: MarketStore
    sources: Sources
    write: bool
    now: datetime
    report: Corrections = field(default_factory=Corrections)
    proposed: list[tuple[Slice, pd.DataFrame]] = field(default_factory=list)
    changes: dict[tuple[str, str], BarChanges] = field(default_factory=dict)
    changed_at: dict[str, datetime] = field(default_factory=dict)
    stale_analytics: dict[str, set[date]] = field(default_factory=dict)
    stale_features: dict[str, dict[str, set[Cell]]] = field(default_factory=dict)
    reached: dict[str, dict[str, set[date]]] = field(default_factory=dict)

    def bars(self, symbol: str, days: set[date]) -> dict[str, BarChanges]:
        """Make the bars of these days of a symbol; their changes by timeframe."""
        from nexus_assets.assets import bars as asset

        if self.write:
            self.stale_features[symbol] = self._stale_features(symbol, days)
        found: dict[str, list[BarChanges]] = {}
        effect = self.report.of(BARS)
        for piece in _slices(symbol, days):
            effect.partitions |= set(piece.keys)
            read_at = self.store.settled_until(RAW_OHLC, symbol)
            made, raw_rows = asset.make(self.store, self.sources, piece, self.now)
            old = self.store.read_slice(BARS, symbol=symbol, first_day=piece.first_day, end_day=piece.end_day)
            for timeframe, changes in compare_bars(old, made.bars).items():
                found.setdefault(timeframe, []).append(changes)
            effect.add(BARS, old, made.bars)
            self.proposed.append((piece, made.bars))
            if self.write:
                _refuse(asset.unaccounted(piece, made, raw_rows))
                gaps = asset.gaps_of(self.store, self.sources, piece, made, self.now)
                asset.write(self.store, self.sources, piece, made, gaps, read_at)
        if self.write:
            self._note_change(symbol, days)
        changes = {timeframe: joined(parts) for timeframe, parts in found.items()}
        self.report.deleted |= {(symbol, timeframe) for timeframe, change in changes.items() if len(change.deleted)}
        self.changes |= {(symbol, timeframe): change for timeframe, change in changes.items() if len(change.ts)}
        return changes

    def indicators(self, symbol: str, changes: dict[str, BarChanges]) -> None:
        """Find the features that read a changed bar, and make the indicators among them."""
        indicators, labels = set[date](), set[date]()
        for timeframe in settings().feature_timeframes:
            change = changes.get(timeframe)
            if change is None or not len(change.ts):
                continue
            opens = self.store.read_opens(symbol, timeframe, change.ts[0] - BEFORE, change.ts[-1], AFTER_BARS)
            indicators |= indicator_days(opens, timeframe, change)
            labels |= label_days(opens, timeframe, change, instrument(symbol).asset_class)
        self.reached[symbol] = {INDICATOR_ROWS.qualified: indicators, LABELS.qualified: labels}
        self._make(INDICATOR_ROWS, symbol, self._indicators)

    def labels(self, symbol: str, days: set[date]) -> None:
        """Make the labels that read a changed bar."""
        self._make(LABELS, symbol, self._labels)
        if self.write and symbol in self.changed_at:
            for table, stale in self._stale_features(symbol, days).items():
                unreached = {day for _, day in stale - self.stale_features[symbol][table]} - self.reached[symbol][table]
                self.store.confirm(table, symbol, sorted(unreached), self.changed_at[symbol])

    def _make(self, table: Table, symbol: str, compute: Callable[[Slice], pd.DataFrame]) -> None:
        """Make the reached days of a table that were ever written."""
        effect, days = self.report.of(table), self.reached[symbol][table.qualified]
        if not days:
            return
        written = self._written(table, symbol, set(days_between(min(days), max(days) + timedelta(days=1))))
        reached = days & written
        for piece in _slices(symbol, reached | weekends_between(reached, written)):
            effect.partitions |= {partition_key(symbol, day) for day in reached.intersection(piece.days)}
            old = self.store.read_slice(table, symbol=symbol, first_day=piece.first_day, end_day=piece.end_day)
            effect.add(table, old, compute(piece))
            effect.partitions |= effect.changed

    def _reader(self) -> MarketStore | ProposedMarket:
        return self.store if self.write else ProposedMarket(self.store, self.proposed)

    def _indicators(self, piece: Slice) -> pd.DataFrame:
        from nexus_assets.assets import indicators as asset

        read_at = self.store.settled_until(BARS, piece.symbol)
        frame = asset.compute(self._reader(), piece)
        if self.write:
            outside = asset.out_of_bounds(frame)
            _refuse([f"{piece}: {name} is outside of its bounds in {count} rows" for name, count in outside.items()])
            asset.write(self.store, piece, frame, read_at)
        return frame

    def _labels(self, piece: Slice) -> pd.DataFrame:
        from nexus_assets.assets import labels as asset

        read_at = self.store.settled_until(BARS, piece.symbol)
        results = [asset.compute(self._reader(), piece, timeframe) for timeframe in settings().feature_timeframes]
        _refuse([f"{early}: a label ends after the newest bar" for early in asset.too_early(piece, results)])
        if self.write:
            return asset.write(self.store, piece, results, read_at)
        return pd.concat([result.labels for result, _ in results], ignore_index=True)

    def _written(self, table: Table, symbol: str, days: set[date]) -> set[date]:
        """Those of the days on which the table was ever written, and is made again."""
        if not days:
            return set()
        rows = self.store.ledger(table, [symbol], min(days), max(days) + timedelta(days=1))
        made_from = self.store.made_from(table)
        return {day for day in days & set(rows["day"]) if day >= made_from}

    # The ledger judges staleness generously, by days. What such a change did not reach is confirmed as up to date with
    # it, or the next healing would compute it for nothing.

    def _stale_features(self, symbol: str, days: set[date]) -> dict[str, set[Cell]]:
        config = settings()
        reach = timedelta(
            days=max(planning.warmup_days(timeframe) for timeframe in config.feature_timeframes)
            + planning.LABEL_REACH_DAYS
        )
        first, end = min(days) - reach, max(days) + reach + timedelta(days=1)
        ledger = planning.Ledger.read(self.store, [symbol], first - reach, end + reach)
        found = {}
        for table in (INDICATOR_ROWS, LABELS):
            stale = planning.stale_cells(ledger, table, [symbol], first, end, config=config)
            found[table.qualified] = {cell for cell in stale if (table.qualified, *cell) in ledger.rows}
        return found

    def _note_change(self, symbol: str, days: set[date]) -> None:
        """When our write changed the bars: it can be vouched for unless somebody changed them since."""
        rows = self.store.ledger(BARS, [symbol], min(days), max(days) + timedelta(days=1))
        mine = rows[rows["day"].isin(days)]
        changed = mine["changed_at"].max().to_pydatetime()
        elsewhere = self.store.newest_change(BARS, symbol)
        if elsewhere is not None and elsewhere <= changed:
            self.changed_at[symbol] = changed

    def remember_stale_analytics(self, days: dict[str, set[date]]) -> None:
        """Which days of the tables by day are stale already."""
        if self.write:
            self._span = (min(map(min, days.values())), max(map(max, days.values())))
            self.stale_analytics = self._stale_days()

    def _stale_days(self) -> dict[str, set[date]]:
        config = settings()
        reach = timedelta(days=planning.correlation_reach(config) + HISTORY_DAYS + 1)
        first, end = self._span[0], self._span[1] + reach
        ledger = planning.Ledger.read(self.store, config.symbols, first - reach, end)
        found = {}
        for table in (CORRELATION_MATRIX, PAIR_RANKINGS):
            stale = planning.stale_days(ledger, table, config.symbols, first, end, config=config)
            found[table.qualified] = {day for day in stale if (table.qualified, ALL_SYMBOLS, day) in ledger.rows}
        return found

    def analytics(self) -> None:
        """Correlations that read a changed close, and the rankings that follow from them."""
        config = settings()
        mine = {s: c for (s, timeframe), c in self.changes.items() if timeframe == config.correlation_timeframe}
        if mine:
            reach = planning.correlation_reach(config)
            first = min(change.ts[0] for change in mine.values()).date()
            end = max(change.ts[-1] for change in mine.values()).date() + timedelta(days=reach + 2)
            written = sorted(self._written(CORRELATION_MATRIX, ALL_SYMBOLS, set(days_between(first, end))))
            days: set[date] = set()
            for symbol, change in mine.items():
                windows = self.store.correlation_windows(symbol, config.correlation_timeframe, first, end)
                days |= correlation_days(windows, written, change, reach)
            self._correlations(days)
        if self.write and len(self.changed_at) == len({piece.symbol for piece, _ in self.proposed}):
            for table, stale in self._stale_days().items():
                reached = {date.fromisoformat(key) for key in self.report.effects[table].partitions} if mine else set()
                unreached = stale - self.stale_analytics[table] - reached
                at = [*self.changed_at.values(), self.store.newest_change(CORRELATION_MATRIX, ALL_SYMBOLS)]
                self.store.confirm(table, ALL_SYMBOLS, sorted(unreached), max(filter(None, at)))

    def _correlations(self, days: set[date]) -> None:
        from nexus_assets.assets import correlation_matrix, pair_rankings

        made = self._replace_days(
            CORRELATION_MATRIX, days, lambda some: correlation_matrix.compute(self._reader(), some)
        )
        changed = {date.fromisoformat(key) for key in self.report.of(CORRELATION_MATRIX).changed}
        following = {day + timedelta(days=n) for day in changed for n in range(HISTORY_DAYS)}
        following = self._written(PAIR_RANKINGS, ALL_SYMBOLS, following)
        reader = self.store if self.write else ProposedMarket(self.store, self.proposed, (days, made))
        self._replace_days(PAIR_RANKINGS, following, lambda some: pair_rankings.compute(reader, some))

    def _replace_days(
        self, table: Table, days: Collection[date], compute: Callable[[list[date]], pd.DataFrame]
    ) -> pd.DataFrame:
        effect, made = self.report.of(table), [table.empty()]
        for first, end in consecutive(days):
            effect.partitions |= {str(day) for day in days_between(first, end)}
            read_at = self.store.settled_until()
            old = self.store.read_slice(table, symbol=None, first_day=first, end_day=end)
            made.append(compute(list(days_between(first, end))))
            effect.add(table, old, made[-1])
            if self.write:
                self.store.replace(table, made[-1], symbol=None, first_day=first, end_day=end, read_at=read_at)
        filled = [frame for frame in made if len(frame)]
        return pd.concat(filled, ignore_index=True) if filled else made[0]

    def splits_and_months(self) -> None:
        """Whether the splits, and which months of training sets, have to be made again."""
        labels, indicators = self.report.of(LABELS).changed, self.report.of(INDICATOR_ROWS).changed
        days = {date.fromisoformat(key.partition("|")[0]) for key in labels | indicators}
        # A row may use values of another timeframe, or correlations, of up to a week before.
        months = {(day + timedelta(days=n)).replace(day=1) for day in days for n in (0, 7)}
        self.report.months = sorted(months)
        written = self.store.ledger(DATASET_SPLITS, [ALL_SYMBOLS], WHOLE_TABLE, WHOLE_TABLE + timedelta(days=1))
        self.report.splits = bool(labels) and len(written) > 0


def _slices(symbol: str, days: Iterable[date]) -> list[Slice]:
    return [Slice(symbol, first, end) for first, end in consecutive(days)]


def _refuse(sentences: Sequence[str]) -> None:
    if sentences:
        raise DatabaseError(
            "; ".join(sentences[:5]), next_step="This is a fault of nexus_assets; report it with these numbers."
        )
