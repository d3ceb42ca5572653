"""What is decided to be missing or stale, from hand-made ledgers."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from nexus_assets.planning import (
    FEATURES,
    PRICES,
    Cell,
    Ledger,
    asset_names,
    cover,
    load_from,
    stale_cells,
    stale_days,
    switched_off,
    undelivered_downstream,
    warmup_days,
)
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, INDICATOR_ROWS, LABELS, PAIR_RANKINGS, RAW_OHLC, Table
from nexus_assets.settings import load_settings
from nexus_assets.transforms.bars import BARS_VERSION
from nexus_assets.transforms.labels import LABELS_VERSION

NOW = datetime(2024, 6, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
DAY = date(2024, 3, 5)
SATURDAY = date(2024, 3, 9)
CONFIG = load_settings(symbols=("EURUSD", "GBPUSD", "USDJPY"), feature_timeframes=("1h",))


def entry(written: datetime = NOW, changed: datetime = NOW, rows: int = 24, complete: bool = True, version: int = 1):
    return (written, changed, rows, complete, version, "")


def current(table: Table, **changes) -> tuple:
    """An entry that this version of the code wrote."""
    return entry(version={BARS: BARS_VERSION, LABELS: LABELS_VERSION}.get(table, 1), **changes)


def ledger(*rows: tuple[Table, str, date, tuple], gaps: Collection[Cell] = ()) -> Ledger:
    return Ledger({(table.qualified, symbol, day): values for table, symbol, day, values in rows}, gaps)


def stale(made: Ledger, table: Table, day: date = DAY) -> bool:
    return stale_cells(made, table, ["EURUSD"], day, day + timedelta(days=1), config=CONFIG) == {("EURUSD", day)}


def test_what_was_never_written_is_stale() -> None:
    assert all(stale(ledger(), table) for table in (*PRICES, *FEATURES))


def test_what_is_written_and_complete_is_left_alone() -> None:
    made = ledger(*((table, "EURUSD", DAY, current(table)) for table in (*PRICES, *FEATURES)))
    assert not any(stale(made, table) for table in (*PRICES, *FEATURES))


def test_a_day_written_before_it_was_over_is_stale() -> None:
    assert stale(ledger((RAW_OHLC, "EURUSD", DAY, entry(complete=False))), RAW_OHLC)


def test_a_day_with_a_gap_that_a_provider_may_fill_is_asked_again_and_another_is_not() -> None:
    written = (RAW_OHLC, "EURUSD", DAY, entry(rows=0))
    assert stale(ledger(written, gaps=[("EURUSD", DAY)]), RAW_OHLC)
    assert not stale(ledger(written, gaps=[("GBPUSD", DAY), ("EURUSD", SATURDAY)]), RAW_OHLC)


def test_bars_are_stale_when_prices_of_their_day_or_of_the_evening_before_changed() -> None:
    for changed_day, expected in ((DAY, True), (DAY - timedelta(days=1), True), (DAY - timedelta(days=2), False)):
        made = ledger(
            (BARS, "EURUSD", DAY, current(BARS)), (RAW_OHLC, "EURUSD", changed_day, entry(LATER, changed=LATER))
        )
        assert stale(made, BARS) is expected


def test_indicators_look_back_over_their_warm_up_and_labels_over_their_volatility_and_horizon() -> None:
    reach = warmup_days("1h")
    for table, offset, expected in (
        (INDICATOR_ROWS, -10, True),
        (INDICATOR_ROWS, -reach - 1, False),
        (INDICATOR_ROWS, 1, False),
        (LABELS, 6, True),
        (LABELS, 9, False),
        (LABELS, -3, True),  # the 50 bars of the volatility
        (LABELS, -warmup_days("1h", 51) - 1, False),
    ):
        made = ledger(
            (table, "EURUSD", DAY, current(table)),
            (BARS, "EURUSD", DAY + timedelta(days=offset), entry(LATER, changed=LATER)),
        )
        assert stale(made, table) is expected, (table.qualified, offset)


def test_healing_returns_to_exactly_the_days_whose_labels_wait_for_their_horizon() -> None:
    days = [DAY + timedelta(days=number) for number in range(5)]
    made = ledger(
        *((table, "EURUSD", day, current(table)) for table in (*PRICES, INDICATOR_ROWS) for day in days),
        *((LABELS, "EURUSD", day, current(LABELS, complete=number < 3)) for number, day in enumerate(days)),
    )
    last = days[-1] + timedelta(days=1)
    assert stale_cells(made, LABELS, ["EURUSD"], DAY, last, config=CONFIG) == {("EURUSD", day) for day in days[3:]}
    for table in (*PRICES, INDICATOR_ROWS):
        assert stale_cells(made, table, ["EURUSD"], DAY, last, config=CONFIG) == set()


def test_another_version_of_the_code_makes_a_slice_stale() -> None:
    assert stale(ledger((INDICATOR_ROWS, "EURUSD", DAY, entry(version=0))), INDICATOR_ROWS)


def test_bars_and_labels_made_under_other_inputs_are_stale() -> None:
    for table, others in ((BARS, (LABELS, INDICATOR_ROWS)), (LABELS, (BARS,))):
        rows = [(t, "EURUSD", DAY, (*current(t)[:5], "now")) for t in (table, *others)]
        made = replace(ledger(*rows), inputs={(table.qualified, "EURUSD"): "other"})
        assert stale(made, table)
        assert not any(stale(made, other) for other in others)
        assert not stale(replace(made, inputs={(table.qualified, "EURUSD"): "now"}), table)


def test_correlations_are_stale_when_any_symbol_s_bars_in_their_window_changed() -> None:
    for offset, expected in ((0, True), (-10, True), (-60, False), (1, False)):
        made = ledger(
            (CORRELATION_MATRIX, "", DAY, entry()),
            (BARS, "USDJPY", DAY + timedelta(days=offset), entry(LATER, changed=LATER)),
        )
        found = stale_days(made, CORRELATION_MATRIX, CONFIG.symbols, DAY, DAY + timedelta(days=1), config=CONFIG)
        assert found == ({DAY} if expected else set()), offset


def test_a_ranking_is_stale_when_correlations_it_is_followed_from_changed() -> None:
    for offset, expected in ((-20, True), (-40, False), (1, False)):
        made = ledger(
            (PAIR_RANKINGS, "", DAY, entry()),
            (CORRELATION_MATRIX, "", DAY + timedelta(days=offset), entry(LATER, changed=LATER)),
        )
        found = stale_days(made, PAIR_RANKINGS, CONFIG.symbols, DAY, DAY + timedelta(days=1), config=CONFIG)
        assert found == ({DAY} if expected else set()), offset


def test_rectangles_cover_exactly_the_cells_while_they_are_few() -> None:
    days = [DAY + timedelta(days=n) for n in (0, 1, 3)]
    cells = {(symbol, day) for symbol in ("EURUSD", "GBPUSD") for day in days} | {("USDJPY", DAY)}
    found = cover(cells, CONFIG.symbols, PRICES)
    covered = [
        (symbol, piece.first_day + timedelta(days=n))
        for piece in found
        for symbol in piece.symbols
        for n in range((piece.end_day - piece.first_day).days)
    ]
    assert sorted(covered) == sorted(cells)
    assert {piece.assets for piece in found} == {asset_names(PRICES)}
    assert len(found) == 3


def test_many_ragged_cells_become_the_bounding_rectangle() -> None:
    cells = {(symbol, DAY + timedelta(days=2 * n)) for n in range(9) for symbol in ("EURUSD",)}
    cells |= {("USDJPY", DAY + timedelta(days=2 * n + 1)) for n in range(9)}
    (piece,) = cover(cells, CONFIG.symbols, PRICES)
    assert piece.symbols == ("EURUSD", "GBPUSD", "USDJPY")
    assert (piece.first_day, piece.end_day) == (DAY, DAY + timedelta(days=18))


def test_features_from_a_day_load_prices_from_before_it_but_not_before_the_first_partition() -> None:
    assert load_from(CONFIG, DAY) == DAY - timedelta(days=max(warmup_days("1h"), 18))
    assert load_from(CONFIG, CONFIG.start_day) == CONFIG.start_day


def test_a_timeframe_whose_warm_up_does_not_fit_is_switched_off_with_a_sentence() -> None:
    config = load_settings(feature_timeframes=("1h", "1d"))
    sentences = switched_off(config, DAY, DAY + timedelta(days=100))
    assert set(sentences) == {"1d"}
    assert "NEXUS_START_DAY" in sentences["1d"]
    assert switched_off(config, DAY, DAY + timedelta(days=warmup_days("1d"))) == {}


def test_only_what_was_delivered_since_a_failed_run_began_is_caught_up() -> None:
    made = ledger(
        (RAW_OHLC, "EURUSD", DAY, entry(LATER, changed=LATER)),
        (RAW_OHLC, "GBPUSD", DAY, entry(NOW - timedelta(days=1))),
    )
    found = undelivered_downstream(made, [BARS], CONFIG.symbols, DAY, DAY + timedelta(days=1), config=CONFIG, since=NOW)
    assert found == {("EURUSD", DAY)}
