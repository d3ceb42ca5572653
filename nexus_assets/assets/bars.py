"""market/bars: one valid bar per symbol, timeframe and ts.

From: the newest revision of each raw_ohlc row. Grain: the base timeframe and those rolled up from it; 4h and 1d bars
lie on the grid that starts at 17:00 New York, and exist only when their interval is over. Rows that break a rule go
to market.quarantined_bars with its name; doubtful ones are kept with a `suspect` flag. What is expected and not there
is in market.gaps with its reason, and closes on which providers differ are in market.disagreements.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import pandas as pd

from nexus_assets import trading_calendar
from nexus_assets.assets.specification import partitioned_asset
from nexus_assets.instruments import instrument
from nexus_assets.market_store import MarketStore
from nexus_assets.partitions import Slice, day_of_rows, grain_of, slices_of
from nexus_assets.planning import inputs_of
from nexus_assets.providers.registry import Sources
from nexus_assets.schemas import BARS, GAP_STATES, RAW_OHLC
from nexus_assets.settings import settings
from nexus_assets.slices import finish, materialise, rows_by_day, wants_plots
from nexus_assets.transforms import plots
from nexus_assets.transforms.bars import BARS_VERSION, MadeBars, make_bars
from nexus_assets.transforms.gaps import find_gaps

ACCOUNTED = dg.AssetCheckSpec(
    "every_raw_row_accounted_for",
    asset=BARS.asset_key,
    description="Each raw row is a bar, is in quarantine, is of a bar that is not over, or is of another provider.",
    blocking=True,
)


@partitioned_asset(BARS, version=BARS_VERSION, description=__doc__, reads=[RAW_OHLC], checks=[ACCOUNTED])
def bars(
    context: dg.AssetExecutionContext,
    market_store: dg.ResourceParam[MarketStore],
    sources: dg.ResourceParam[Sources],
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Judge, roll up and overwrite each slice."""
    now = datetime.now(UTC)
    lost: list[str] = []

    def work(piece: Slice) -> Mapping[date, Mapping[str, Any]]:
        read_at = market_store.settled_until(RAW_OHLC, piece.symbol)
        made, raw_rows = make(market_store, sources, piece, now)
        gaps = gaps_of(market_store, sources, piece, made, now)
        write(market_store, sources, piece, made, gaps, read_at)
        lost.extend(unaccounted(piece, made, raw_rows))
        return describe(made, gaps, piece, plot=draw and piece.days[-1] == last_days[piece.symbol])

    last_days, draw = last_day_by_symbol(context), wants_plots(context)
    report = materialise(context, work, made_from=market_store.made_from(BARS))
    yield dg.AssetCheckResult(
        check_name=ACCOUNTED.name,
        passed=not lost,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"partitions": len(report.written), **({"lost": "; ".join(lost[:10])} if lost else {})},
    )
    yield finish(context, report)


def last_day_by_symbol(context: dg.AssetExecutionContext) -> dict[str, date]:
    """The newest day of each symbol in this run: the partition that carries the plot."""
    return {piece.symbol: piece.days[-1] for piece in slices_of(context.partition_keys, grain_of(context.asset_key))}


def make(store: MarketStore, sources: Sources, piece: Slice, now: datetime) -> tuple[MadeBars, int]:
    """The bars of a slice, and the number of raw rows that fell into its days."""
    config = settings()
    start, end = trading_calendar.day_range(piece.first_day, piece.end_day)
    raw = store.read_raw(piece.symbol, config.base_timeframe, trading_calendar.rollup_read_start(piece.first_day), end)
    made = make_bars(
        raw,
        instrument=instrument(piece.symbol),
        base_timeframe=config.base_timeframe,
        rolled_up=config.rolled_up_timeframes,
        first_day=piece.first_day,
        end_day=piece.end_day,
        complete_until=min(pd.Timestamp(now), pd.Timestamp(end)),
        priority=sources.priority_of(piece.symbol, config.base_timeframe),
    )
    return made, int((raw["ts"] >= pd.Timestamp(start)).sum())


def unaccounted(piece: Slice, made: MadeBars, raw_rows: int) -> list[str]:
    """A sentence if a raw row of the slice is neither a bar nor accounted for otherwise."""
    base = len(made.leaders)
    if raw_rows == base + len(made.quarantined) + made.other_provider_rows + made.unfinished_rows:
        return []
    return [f"{piece}: {raw_rows} raw rows, {base} bars, {len(made.quarantined)} in quarantine"]


def write(
    store: MarketStore, sources: Sources, piece: Slice, made: MadeBars, gaps: pd.DataFrame, read_at: datetime
) -> None:
    """Overwrite a slice with what was made of the raw rows of `read_at`."""
    store.replace_bars(
        made.bars,
        made.quarantined,
        gaps=gaps,
        disagreements=made.disagreements,
        symbol=piece.symbol,
        timeframes=settings().timeframes,
        first_day=piece.first_day,
        end_day=piece.end_day,
        code_version=BARS_VERSION,
        read_at=read_at,
        inputs=inputs_of(BARS, piece.symbol, sources, settings()),
    )


def gaps_of(store: MarketStore, sources: Sources, piece: Slice, made: MadeBars, now: datetime) -> pd.DataFrame:
    """The gaps of a slice, in the columns of schemas.GAPS."""
    timeframe = settings().base_timeframe
    start, end = trading_calendar.slice_bounds(timeframe, piece.first_day, piece.end_day)
    names = ["ts", "provider", "rule", "known_at"]
    kept_out = [made.quarantined[names], store.read_kept_out(piece.symbol, timeframe, start, end)]
    return find_gaps(
        made.bars.iloc[: len(made.leaders)],
        made.leaders,
        pd.concat([frame for frame in kept_out if len(frame)] or kept_out[:1]),
        store.requests_about(piece.symbol, timeframe, start, end),
        lambda ts: store.read_revisions(piece.symbol, timeframe, ts),
        instrument=instrument(piece.symbol),
        timeframe=timeframe,
        first_day=piece.first_day,
        end_day=piece.end_day,
        complete_until=now,
        providers=[provider.name for provider in sources.for_symbol(piece.symbol, timeframe)],
    )


def describe(made: MadeBars, gaps: pd.DataFrame, piece: Slice, *, plot: bool) -> dict[date, dict[str, Any]]:
    """Metadata of each day: rows, time range, quarantined share, suspects, bars in each state of the gap ledger; on the
    newest that has bars a plot of the closes, and one of the gaps."""
    described = rows_by_day(made.bars, piece.days)
    base = made.bars.iloc[: len(made.leaders)]
    accepted = day_of_rows(base).value_counts()
    suspect = day_of_rows(base[base["suspect"].notna()]).value_counts()
    rejected = day_of_rows(made.quarantined).value_counts()
    apart = day_of_rows(made.disagreements).value_counts()
    states = gaps.groupby([day_of_rows(gaps), "state"])["bars"].sum().to_dict()
    for day, values in described.items():
        bad, good = int(rejected.get(day, 0)), int(accepted.get(day, 0))
        values["quarantined"] = bad
        values["quarantined_share"] = bad / (bad + good) if bad + good else 0.0
        values["suspects"] = int(suspect.get(day, 0))
        values["disagreements"] = int(apart.get(day, 0))
        for state in GAP_STATES:
            values[f"gaps_{state}"] = int(states.get((day, state), 0))
    if plot and len(base):
        newest = max(day_of_rows(base))
        picture = plots.as_markdown(plots.price_plot(base), f"{piece.symbol} closes")
        described[newest]["closes"] = dg.MetadataValue.md(picture)
        picture = plots.as_markdown(plots.gap_plot(base, gaps, piece.days), f"{piece.symbol} gaps")
        described[newest]["gaps"] = dg.MetadataValue.md(picture)
    return described
