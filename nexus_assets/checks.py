"""Data quality gates over what is stored.

What belongs here: judging stored rows. What must stop a bad row before it is stored is in transforms/ (quarantine) and
in the assets' own blocking checks. Each check judges the partitions of the run it is part of, or, started by hand
without partitions, the last RECENT_DAYS days. A read that fails is an error of the check's step, never a verdict.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import combinations
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.execution.context.system import StepExecutionContext

from nexus_assets import trading_calendar
from nexus_assets.indicator_table import INDICATOR_NAMES, INDICATORS
from nexus_assets.instruments import AssetClass, instrument
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import (
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    consecutive,
    days_between,
    grain_of,
    grains,
    parse_key,
)
from nexus_assets.providers.registry import Sources
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, DATASET_SPLITS, INDICATOR_ROWS, PAIR_RANKINGS, Table
from nexus_assets.settings import settings
from nexus_assets.transforms.folds import overlaps
from nexus_assets.transforms.splits import embargo_open_hours

RECENT_DAYS = 7
MAX_QUARANTINED_SHARE = 0.01
MAX_SUSPECT_SHARE = 0.01
MAX_TRIANGLE_RESIDUAL = 0.002
"""20 basis points; on a real feed the 99.9th percentile of the residual is 5 to 7."""
MAX_NEGATIVE_EIGENVALUE = 1e-9

CONDITIONAL = frozenset(indicator.name for indicator in INDICATORS if indicator.conditional)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a check judges: these symbols on the days [first_day, end_day)."""

    symbols: tuple[str, ...]
    first_day: date
    end_day: date

    @property
    def instants(self) -> tuple[datetime, datetime]:
        """The days as a half-open range of instants."""
        return trading_calendar.day_range(self.first_day, self.end_day)


def scope(context: dg.AssetCheckExecutionContext) -> Scope:
    """The partitions of the run that the check is part of, or the last RECENT_DAYS days of every symbol."""
    (check_key,) = context.op_execution_context.selected_asset_check_keys
    grain = grain_of(check_key.asset_key)
    tags = context.run.tags
    start = tags.get(RANGE_START_TAG, tags.get(PARTITION_TAG))
    end = tags.get(RANGE_END_TAG, tags.get(PARTITION_TAG))
    every = settings().symbols
    if start is None or end is None:
        newest = min(grain.bounds()[1], datetime.now(UTC).date() + timedelta(days=1))
        return Scope(every, newest - timedelta(days=RECENT_DAYS + 1), newest)
    if "|" not in start:
        return Scope(every, grain.span(date.fromisoformat(start))[0], grain.span(date.fromisoformat(end))[1])
    (first_symbol, first), (last_symbol, last) = parse_key(start), parse_key(end)
    chosen = every[every.index(first_symbol) : every.index(last_symbol) + 1]
    return Scope(chosen, grain.span(first)[0], grain.span(last)[1])


def judges(
    table: Table, *, description: str, blocking: bool = False
) -> Callable[[Callable[..., dg.AssetCheckResult]], list[dg.AssetChecksDefinition]]:
    """A decorator that makes the check of a table's asset by day and, where there is a history, of that by month."""

    def make(body: Callable[..., dg.AssetCheckResult]) -> list[dg.AssetChecksDefinition]:
        return [
            dg.asset_check(asset=grain.asset_key(table), description=description, blocking=blocking)(body)
            for grain in grains()
        ]

    return make


class Verdict(dg.AssetCheckResult):
    """A result that finds the materialisation which it judges without listing the asset's partitions.

    Dagster takes a check for a reader of every partition, makes all their keys to fetch their versions, and drops them
    when there are a hundred or more: 0.65 s a check over 87,600 partitions, and seven checks in every hourly update.
    """

    def _get_unpartitioned_target_materialization_data(
        self, step_context: StepExecutionContext, asset_key: dg.AssetKey
    ) -> AssetCheckEvaluationTargetMaterializationData | None:
        # Six checks judge the bars of a run, each after the step that wrote them.
        return _newest_materialization(step_context.instance, step_context.run_id, asset_key)


@lru_cache(maxsize=64)
def _newest_materialization(
    instance: dg.DagsterInstance, run_id: str, asset_key: dg.AssetKey
) -> AssetCheckEvaluationTargetMaterializationData | None:
    for record in instance.get_asset_records([asset_key]):
        newest = record.asset_entry.last_materialization_record
        if newest is not None:
            return AssetCheckEvaluationTargetMaterializationData(
                storage_id=newest.storage_id, run_id=newest.run_id, timestamp=newest.timestamp
            )
    return None


def _warn(passed: bool, metadata: Mapping[str, Any], description: str = "") -> dg.AssetCheckResult:
    return Verdict(
        passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=metadata, description=description or None
    )


@lru_cache(maxsize=256)
def _expected(asset_class: AssetClass, timeframe: str, first_day: date, end_day: date) -> int:
    start, end = trading_calendar.slice_bounds(timeframe, first_day, end_day)
    return len(trading_calendar.expected(asset_class, start, end, timeframe))


@judges(BARS, description="Bars present against bars the calendar expects, by symbol and timeframe.")
def coverage(
    context: dg.AssetCheckExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.AssetCheckResult:
    """Warns for each symbol and timeframe below its threshold; days that are not over are left out."""
    judged = scope(context)
    end_day = min(judged.end_day, datetime.now(UTC).date())
    if end_day <= judged.first_day:
        return _warn(True, {}, "No day of this run is over yet.")
    low: dict[str, str] = {}
    total = expected_total = 0
    for timeframe in settings().timeframes:
        start, end = trading_calendar.slice_bounds(timeframe, judged.first_day, end_day)
        counts = market_store.bar_counts(judged.symbols, timeframe, start, end)
        for symbol in judged.symbols:
            item = instrument(symbol)
            wanted = _expected(item.asset_class, timeframe, judged.first_day, end_day)
            present = counts.get(symbol, 0)
            total, expected_total = total + present, expected_total + wanted
            if wanted and present / wanted < item.coverage_threshold(timeframe):
                low[f"{symbol} {timeframe}"] = f"{present} of {wanted} ({present / wanted:.1%})"
    return _warn(not low, {"bars": total, "expected": expected_total, "below_threshold": low})


@judges(BARS, description=f"Share of rows in quarantine, by symbol: at most {MAX_QUARANTINED_SHARE:.0%}.")
def quarantined_share(
    context: dg.AssetCheckExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.AssetCheckResult:
    """Warns for each symbol above the share, and counts the rules that were broken."""
    judged = scope(context)
    start, end = judged.instants
    base = settings().base_timeframe
    accepted = market_store.bar_counts(judged.symbols, base, start, end)
    rejected = market_store.quarantine_counts(judged.symbols, base, start, end)
    high: dict[str, str] = {}
    for symbol, count in rejected.groupby("symbol")["rows"].sum().items():
        share = count / (count + accepted.get(str(symbol), 0))
        if share > MAX_QUARANTINED_SHARE:
            high[str(symbol)] = f"{count} rows ({share:.2%})"
    rules = {str(rule): int(count) for rule, count in rejected.groupby("rule")["rows"].sum().items()}
    return _warn(not high, {"above_threshold": high, "rules": rules, "rows": int(rejected["rows"].sum())})


@judges(BARS, description="Every missing bar was asked for, and every provider said that it has none.")
def gaps_are_explained(
    context: dg.AssetCheckExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.AssetCheckResult:
    """Warns for each symbol with a bar missing of which a provider failed, was not asked, or may yet have it; bars of
    today are left out."""
    judged = scope(context)
    start, end = judged.instants
    found = market_store.gap_counts(judged.symbols, settings().base_timeframe, start, min(end, _today()))
    wanting = found[(found["state"] == "missing") & (found["reason"] != "provider_has_none")]
    named = {str(symbol): dict(zip(rows["reason"], rows["bars"], strict=True)) for symbol, rows in _by_symbol(wanting)}
    states = {str(state): int(count) for state, count in found.groupby("state")["bars"].sum().items()}
    return _warn(not named, {"bars": states, "not_explained": named})


@judges(
    BARS,
    description="Closes of several providers lie within 3 of the hour's median spreads, or 10 basis points.",
)
def providers_agree(
    context: dg.AssetCheckExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.AssetCheckResult:
    """Warns for each symbol and pair of providers with a bar beyond the tolerance."""
    judged = scope(context)
    found = market_store.disagreement_counts(judged.symbols, settings().base_timeframe, *judged.instants)
    named = {
        f"{row['symbol']} {row['provider']} against {row['other_provider']}": f"{row['bars']} bars, the largest "
        f"{row['largest']:.1f} times the tolerance"
        for row in found.to_dict("records")
    }
    return _warn(not named, {"bars": int(found["bars"].sum()), "apart": named})


def _today() -> datetime:
    return datetime.combine(datetime.now(UTC).date(), time(), UTC)


def _by_symbol(frame: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    return iter(frame.groupby("symbol"))


@judges(BARS, description="Doubtful bars: large moves, stale quotes, bars before a gap, triangles.")
def suspects(
    context: dg.AssetCheckExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.AssetCheckResult:
    """Warns where more than MAX_SUSPECT_SHARE of a symbol's bars are flagged, or a currency triangle is off."""
    judged = scope(context)
    start, end = judged.instants
    base = settings().base_timeframe
    flagged = market_store.suspect_counts(judged.symbols, base, start, end)
    accepted = market_store.bar_counts(judged.symbols, base, start, end)
    by_symbol = flagged.groupby("symbol")["rows"].sum()
    many = {
        str(symbol): f"{count} of {accepted[str(symbol)]}"
        for symbol, count in by_symbol.items()
        if count > MAX_SUSPECT_SHARE * accepted[str(symbol)]
    }
    triangles = triangles_off(market_store, judged, base)
    flags = {str(flag): int(count) for flag, count in flagged.groupby("suspect")["rows"].sum().items()}
    return _warn(
        not many and not triangles, {"flags": flags, "above_threshold": many, "triangles_beyond_20_bp": triangles}
    )


def triangles_off(market_store: MarketStore, judged: Scope, timeframe: str) -> dict[str, int]:
    """triangle_residuals of all days, read a month at a time: a run may hold many years of minutes."""
    found: Counter[str] = Counter()
    for first_day, end_day in consecutive(days_between(judged.first_day, judged.end_day)):
        bounds = trading_calendar.day_range(first_day, end_day)
        found.update(triangle_residuals(market_store.read_closes(judged.symbols, timeframe, *bounds)))
    return dict(found)


def triangle_residuals(closes: pd.DataFrame) -> dict[str, int]:
    """Number of ts at which A/B x B/C differs from A/C by more than MAX_TRIANGLE_RESIDUAL, by triangle."""
    wide = closes.pivot(index="ts", columns="symbol", values="close")
    found = {}
    pairs = [str(s) for s in wide.columns if instrument(str(s)).asset_class == "fx"]
    for left in pairs:
        for right in pairs:
            cross = left[:3] + right[3:]
            if left[3:] == right[:3] and cross in wide.columns:
                residual = (wide[left] * wide[right] / wide[cross] - 1.0).abs()
                count = int((residual > MAX_TRIANGLE_RESIDUAL).sum())
                if count:
                    found[f"{left} x {right} against {cross}"] = count
    return found


@dg.asset_check(
    asset=BARS.asset_key, description="The newest bar of each symbol is as new as its market's hours allow."
)
def freshness(market_store: dg.ResourceParam[MarketStore], sources: dg.ResourceParam[Sources]) -> dg.AssetCheckResult:
    """Warns for each symbol that a source serves and whose newest base bar is older than the newest expected one by
    more than two bars."""
    base = settings().base_timeframe
    now = datetime.now(UTC)
    symbols, unserved = sources.served(settings().symbols, base)
    newest = market_store.newest_bars(symbols, base).set_index("symbol")["ts"]
    late: dict[str, str] = {}
    for symbol in symbols:
        limit = newest_expected(instrument(symbol).asset_class, base, now)
        if symbol not in newest.index:
            late[symbol] = "no bar at all"
        elif newest[symbol] < limit:
            late[symbol] = f"newest {newest[symbol].isoformat()}, expected {limit.isoformat()}"
    return _warn(not late, {"late": late, "symbols": len(symbols), "without_a_source": ", ".join(unserved)})


def newest_expected(asset_class: AssetClass, timeframe: str, now: datetime) -> pd.Timestamp:
    """ts of the bar that should have arrived by now, two bars of grace left out."""
    opens = trading_calendar.expected(asset_class, now - timedelta(days=7), now, timeframe)
    over = opens[trading_calendar.bar_end(opens, timeframe) <= pd.Timestamp(now)]
    return over[max(-3, -len(over))]


@judges(INDICATOR_ROWS, description="No indicator is missing once its warm-up is there.")
def complete_after_warm_up(
    context: dg.AssetCheckExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.AssetCheckResult:
    """Warns for each column, beyond those rightly NULL on a flat or volumeless stretch, that holds a NULL."""
    judged = scope(context)
    start, end = judged.instants
    counts = market_store.null_indicators(judged.symbols, start, end, INDICATOR_NAMES)
    rows = counts.pop("rows")
    missing = {name: count for name, count in counts.items() if count and name not in CONDITIONAL}
    return _warn(
        not missing,
        {
            "rows_after_warm_up": rows,
            "missing": missing,
            "flat_or_without_volume": {name: n for name, n in counts.items() if n and name in CONDITIONAL},
        },
    )


@judges(
    CORRELATION_MATRIX,
    blocking=True,
    description="The full matrix is symmetric with a unit diagonal, and positive semi-definite within rounding where "
    "all pairs share one window.",
)
def is_a_correlation_matrix(
    context: dg.AssetCheckExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.AssetCheckResult:
    """Fails on an asymmetric matrix or a diagonal other than 1. Pairs whose windows differ (another session, another
    holiday) may make the whole matrix slightly indefinite; its smallest eigenvalue is told, not judged."""
    judged = scope(context)
    wrong: list[str] = []
    smallest = np.inf
    for day, rows in market_store.read_square(judged.first_day, judged.end_day).groupby("day"):
        matrix = rows.pivot(index="symbol_a", columns="symbol_b", values="correlation")
        if not np.array_equal(matrix.to_numpy(), matrix.to_numpy().T, equal_nan=True):
            wrong.append(f"{day}: not symmetric")
        if not (np.diag(matrix) == 1.0).all():
            wrong.append(f"{day}: the diagonal is not 1")
        if not matrix.isna().to_numpy().any():
            smallest = min(smallest, float(np.linalg.eigvalsh(matrix.to_numpy()).min()))
        shared = _largest_shared_window(rows)
        if len(shared) > 1:
            block = matrix.loc[shared, shared].to_numpy()
            lowest = float(np.linalg.eigvalsh(block).min())
            if lowest < -MAX_NEGATIVE_EIGENVALUE * len(shared):
                wrong.append(f"{day}: smallest eigenvalue {lowest:.3g} over {len(shared)} symbols of one window")
    return Verdict(
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "wrong": "; ".join(wrong[:10]),
            **({"smallest_eigenvalue": smallest} if np.isfinite(smallest) else {}),
        },
    )


def _largest_shared_window(rows: pd.DataFrame) -> list[str]:
    """The symbols of the most common (start, end, n) whose every pair has that window."""
    pairs = rows[(rows["symbol_a"] != rows["symbol_b"]) & rows["correlation"].notna()]
    if pairs.empty:
        return []
    window = pairs.groupby(["window_start", "window_end", "n"]).size().idxmax()
    same = pairs.set_index(["window_start", "window_end", "n"]).sort_index().loc[[window]]
    counts = same.groupby("symbol_a").size()
    chosen = [str(symbol) for symbol in counts.index]
    while chosen:
        inside = same[same["symbol_a"].isin(chosen) & same["symbol_b"].isin(chosen)].groupby("symbol_a").size()
        if len(inside) == len(chosen) and (inside == len(chosen) - 1).all():
            return chosen
        worst = inside.reindex(chosen, fill_value=0).idxmin()
        chosen.remove(str(worst))
    return []


@judges(PAIR_RANKINGS, description="Every pair with a correlation is ranked once, from 1 without a gap.")
def every_pair_is_ranked(
    context: dg.AssetCheckExecutionContext, market_store: dg.ResourceParam[MarketStore]
) -> dg.AssetCheckResult:
    """Fails for each day whose ranks are not 1 to the number of correlations."""
    judged = scope(context)
    wrong = market_store.misranked_days(judged.first_day, judged.end_day)
    return Verdict(
        passed=not wrong, severity=dg.AssetCheckSeverity.ERROR, metadata={"days": ", ".join(map(str, wrong[:20]))}
    )


@dg.asset_check(
    asset=DATASET_SPLITS.asset_key,
    description="No interval [entry_at, t1] of an earlier part meets one of a later part, of whichever symbol; and no "
    "row is entered within the embargo after the part before.",
)
def splits_do_not_overlap(market_store: dg.ResourceParam[MarketStore]) -> dg.AssetCheckResult:
    """Compares every stored interval; fails with the rows that meet one of a later part."""
    rows = market_store.read_split_intervals(settings().serving_timeframe)
    wrong: list[str] = []
    compared = {}
    for earlier, later in combinations(("train", "validation", "test"), 2):
        first, second = rows[rows["split"] == earlier], rows[rows["split"] == later]
        found = overlaps(first, second)
        compared[f"{earlier} rows that meet {later}"] = len(found)
        wrong += [
            f"{row['symbol']} {row['ts']} of {earlier} reaches {row['t1']}; {row['test_symbol']} of {later} is entered "
            f"{row['test_entry_at']}"
            for row in found.head(5).to_dict("records")
        ]
    wrong += _embargo_violations(rows)
    return Verdict(
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"rows": len(rows), **compared, "wrong": "; ".join(wrong[:10])},
    )


def _embargo_violations(rows: pd.DataFrame) -> list[str]:
    """Sentences about symbols whose validation or test begins before the embargo after the part before is over."""
    sentences = []
    for earlier, later in (("train", "validation"), ("validation", "test")):
        decided = rows.loc[rows["split"] == earlier, "t1"]
        if decided.empty:
            continue
        for (symbol, timeframe), mine in rows[rows["split"] == later].groupby(["symbol", "timeframe"]):  # pyright: ignore[reportGeneralTypeIssues]
            asset_class = instrument(str(symbol)).asset_class
            # The boundary lies after the last decision of the part before, so this is the least that is owed.
            owed = trading_calendar.advance(asset_class, [decided.max()], embargo_open_hours(str(timeframe)))[0]
            if mine["entry_at"].min() < owed:
                sentences.append(f"{symbol} of {later} is entered {mine['entry_at'].min()}, before {owed}")
    return sentences
