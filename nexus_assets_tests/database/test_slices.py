"""Overwriting slices: exactly the days that were asked for, all or nothing, and only what differs."""

import threading
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from nexus_assets import trading_calendar
from nexus_assets.database import Database
from nexus_assets.errors import DatabaseError, PartitionError
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import BARS, CORRELATION_MATRIX, DATASET_SPLITS, INDICATOR_ROWS, QUARANTINED_BARS, Table
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.database.rows import (
    KNOWN_AT,
    MONDAY,
    bar_rows,
    indicator_rows,
    instant,
    no_quarantine,
)

TUESDAY = MONDAY + timedelta(days=1)
WEDNESDAY = MONDAY + timedelta(days=2)
ALL = ("1h", "4h", "1d")


def write_bars(store: MarketStore, bars: pd.DataFrame, first_day: date, end_day: date, **more: object) -> None:
    """Replace bars without anything in quarantine."""
    given = {"symbol": "EURUSD", "timeframes": ALL, "first_day": first_day, "end_day": end_day, **more}
    store.replace_bars(bars, no_quarantine(), **given)  # pyright: ignore[reportArgumentType]


def write_indicators(store: MarketStore, frame: pd.DataFrame, first_day: date, end_day: date) -> tuple[int, int]:
    """Replace hourly indicators; rows written and slices left alone."""
    counts = store.replace(
        INDICATOR_ROWS, frame, symbol="EURUSD", timeframes=("1h",), first_day=first_day, end_day=end_day
    )
    return counts.written, counts.unchanged_slices


def versions(store: MarketStore, table: Table) -> pd.Series:
    """Which transaction wrote each row, by symbol, timeframe and ts."""
    rows = store.database.rows(f"SELECT symbol, timeframe, ts, xmin::text AS x FROM {table.qualified}")
    return pd.DataFrame(rows).set_index(["symbol", "timeframe", "ts"])["x"].sort_index()


@pytest.mark.parametrize("days", [(date(2024, 3, 8), date(2024, 3, 13)), (date(2024, 11, 1), date(2024, 11, 6))])
def test_rows_beside_a_slice_are_untouched_through_both_switches_of_the_clock(
    any_level_database: Database, days: tuple[date, date]
) -> None:
    store = MarketStore(any_level_database)
    first, end = days
    every = pd.concat([bar_rows(first, end, timeframe) for timeframe in ALL], ignore_index=True)
    write_bars(store, every, first, end)
    write_bars(store, every.assign(symbol="GBPUSD"), first, end, symbol="GBPUSD")
    before = versions(store, BARS)
    middle = first + timedelta(days=2)
    nudged = pd.concat([bar_rows(middle, middle + timedelta(days=1), t, price=1.2) for t in ALL], ignore_index=True)
    write_bars(store, nudged, middle, middle + timedelta(days=1))
    after = versions(store, BARS)
    changed = after.index[(after != before).to_numpy()].to_frame(index=False)
    assert len(changed) == len(nudged) > 28
    assert set(changed["symbol"]) == {"EURUSD"}
    for timeframe, rows in changed.groupby("timeframe"):
        ends = trading_calendar.bar_end(pd.DatetimeIndex(rows["ts"]), str(timeframe))
        assert ends.min() > instant(middle)
        assert ends.max() <= instant(middle, 24)
    read = store.read_slice(BARS, symbol="EURUSD", first_day=first, end_day=end)
    assert len(read) == len(every)


def test_a_1d_bar_belongs_to_the_day_in_which_it_ends(store: MarketStore) -> None:
    day = date(2024, 7, 9)
    write_bars(
        store,
        bar_rows(day, day + timedelta(days=1), "1d", symbol="USDJPY"),
        day,
        WEDNESDAY.replace(month=7),
        symbol="USDJPY",
    )
    read = store.read_slice(BARS, symbol="USDJPY", first_day=day, end_day=day + timedelta(days=1))
    assert list(read["ts"]) == [pd.Timestamp("2024-07-08 21:00", tz="UTC")]


def test_a_day_without_rows_is_emptied(fresh_store: MarketStore) -> None:
    write_bars(fresh_store, bar_rows(MONDAY, WEDNESDAY), MONDAY, WEDNESDAY)
    write_bars(fresh_store, BARS.empty(), MONDAY, TUESDAY)
    read = fresh_store.read_slice(BARS, symbol="EURUSD", first_day=MONDAY, end_day=WEDNESDAY)
    assert len(read) == 24
    assert read["ts"].min() == instant(TUESDAY)


@pytest.mark.parametrize(
    ("stray", "named"),
    [
        (bar_rows(TUESDAY, WEDNESDAY).head(1), "EURUSD, 1h, 2024-01-09"),
        (bar_rows(MONDAY, TUESDAY).tail(1).assign(symbol="GBPUSD"), "GBPUSD, 1h"),
        (bar_rows(MONDAY, TUESDAY, "15m").head(1), "EURUSD, 15m"),
        (bar_rows(TUESDAY, WEDNESDAY, "1d"), "EURUSD, 1d, 2024-01-08"),
    ],
    ids=["day", "symbol", "timeframe", "1d bar that opens on the day and ends on the next"],
)
def test_a_row_outside_the_slice_is_named_and_nothing_is_written(
    fresh_store: MarketStore, stray: pd.DataFrame, named: str
) -> None:
    write_bars(fresh_store, bar_rows(MONDAY, TUESDAY), MONDAY, TUESDAY)
    rows = pd.concat([bar_rows(MONDAY, TUESDAY, price=1.2), stray], ignore_index=True)
    with pytest.raises(PartitionError, match=f"1 of 25 rows for market.bars lie outside .*{named}"):
        write_bars(fresh_store, rows, MONDAY, TUESDAY)
    read = fresh_store.read_slice(BARS, symbol="EURUSD", first_day=MONDAY, end_day=TUESDAY)
    assert read["open"].iloc[0] == 1.1


def test_a_slice_without_a_day_is_refused(store: MarketStore) -> None:
    with pytest.raises(PartitionError, match="has no day"):
        write_bars(store, BARS.empty(), MONDAY, MONDAY)


def test_a_slice_without_a_timeframe_is_refused(store: MarketStore) -> None:
    with pytest.raises(PartitionError, match="names no timeframe"):
        write_bars(store, BARS.empty(), MONDAY, TUESDAY, timeframes=())


def test_a_table_by_day_is_not_written_by_symbol(store: MarketStore) -> None:
    with pytest.raises(PartitionError, match="by day for all symbols"):
        store.replace(
            CORRELATION_MATRIX,
            CORRELATION_MATRIX.empty(),
            symbol="EURUSD",
            timeframes=("1h",),
            first_day=MONDAY,
            end_day=TUESDAY,
        )


def test_a_frame_that_breaks_the_schema_is_refused_with_column_check_and_rows(fresh_store: MarketStore) -> None:
    frame = indicator_rows(MONDAY, TUESDAY)
    frame.loc[5, "rsi_14"] = 101.0
    with pytest.raises(DatabaseError, match=r"features\.indicators .*rsi_14 .*101\.0.*2024-01-08 05:00"):
        write_indicators(fresh_store, frame, MONDAY, TUESDAY)
    doubled = pd.concat([indicator_rows(MONDAY, TUESDAY), indicator_rows(MONDAY, TUESDAY).head(1)])
    with pytest.raises(DatabaseError, match=r"features\.indicators"):
        write_indicators(fresh_store, doubled, MONDAY, TUESDAY)
    assert fresh_store.table_counts()["features.indicators"] == 0


def test_a_column_too_many_or_missing_is_refused(store: MarketStore) -> None:
    frame = indicator_rows(MONDAY, TUESDAY)
    with pytest.raises(DatabaseError, match="unknown columns colour"):
        write_indicators(store, frame.assign(colour="red"), MONDAY, TUESDAY)
    with pytest.raises(DatabaseError, match="lack the columns rsi_14"):
        write_indicators(store, frame.drop(columns="rsi_14"), MONDAY, TUESDAY)


def test_slices_of_equal_bits_are_left_alone(any_level_database: Database) -> None:
    store = MarketStore(any_level_database)
    frame = indicator_rows(MONDAY, WEDNESDAY)
    assert write_indicators(store, frame, MONDAY, WEDNESDAY) == (48, 0)
    before = versions(store, INDICATOR_ROWS)
    shuffled = frame.sample(frac=1, random_state=1)
    assert write_indicators(store, shuffled, MONDAY, WEDNESDAY) == (0, 2)
    frame.loc[30, "macd"] = np.nextafter(50.0, 51.0)
    assert write_indicators(store, frame, MONDAY, WEDNESDAY) == (24, 1)
    after = versions(store, INDICATOR_ROWS)
    assert (after.to_numpy() != before.to_numpy()).tolist() == [False] * 24 + [True] * 24


@pytest.mark.parametrize(("was", "becomes"), [(0.0, -0.0), (50.0, np.nan), (np.nan, 0.0)])
def test_a_zero_of_another_sign_and_a_missing_value_are_changes(
    fresh_store: MarketStore, was: float, becomes: float
) -> None:
    frame = indicator_rows(MONDAY, TUESDAY).assign(macd=was)
    write_indicators(fresh_store, frame, MONDAY, TUESDAY)
    assert write_indicators(fresh_store, frame.assign(macd=becomes), MONDAY, TUESDAY) == (24, 0)
    stored = fresh_store.read_slice(INDICATOR_ROWS, symbol="EURUSD", first_day=MONDAY, end_day=TUESDAY)["macd"]
    assert stored.to_numpy().view("int64").tolist() == [np.array(becomes).view("int64").item()] * 24


def test_a_timeframe_that_is_not_named_stays(fresh_store: MarketStore) -> None:
    write_bars(fresh_store, pd.concat([bar_rows(MONDAY, TUESDAY), bar_rows(MONDAY, TUESDAY, "15m")]), MONDAY, TUESDAY,
               timeframes=("15m", "1h"))  # fmt: skip
    write_bars(fresh_store, BARS.empty(), MONDAY, TUESDAY, timeframes=("1h",))
    read = fresh_store.read_slice(BARS, symbol="EURUSD", first_day=MONDAY, end_day=TUESDAY)
    assert set(read["timeframe"]) == {"15m"}


def quarantined(day: date, rule: str, stage: str) -> pd.DataFrame:
    """One row in quarantine, off the grid."""
    row = dict.fromkeys(("open", "high", "low", "close", "volume", "spread"), np.nan) | {
        "symbol": "EURUSD", "timeframe": "1h", "ts": pd.Timestamp(instant(day)) + pd.Timedelta(minutes=7),
        "provider": "files", "rule": rule, "stage": stage, "row_hash": rule, "delivery_id": 1, "known_at": KNOWN_AT,
        "origin": "delivery 1", "content": "{}", "detail": "ts 00:07",
    }  # fmt: skip
    return pd.DataFrame([row])[QUARANTINED_BARS.column_names].astype(
        dict.fromkeys(("ts", "known_at"), "datetime64[us, UTC]")
    )


def test_validation_replaces_its_own_rows_in_quarantine_and_not_those_of_a_delivery(fresh_store: MarketStore) -> None:
    with fresh_store.database.transaction() as connection:
        for row in (quarantined(MONDAY, "granularity", "delivery"), quarantined(TUESDAY, "range", "validation")):
            fresh_store.database.copy(connection, QUARANTINED_BARS, row)
    slice_of_monday = {"symbol": "EURUSD", "timeframes": ALL, "first_day": MONDAY, "end_day": TUESDAY}
    off_grid = quarantined(MONDAY, "off_grid", "validation")
    fresh_store.replace_bars(BARS.empty(), off_grid, **slice_of_monday)
    rules = "SELECT rule FROM market.quarantined_bars ORDER BY rule"
    assert [row["rule"] for row in fresh_store.database.rows(rules)] == ["granularity", "off_grid", "range"]
    fresh_store.replace_bars(BARS.empty(), no_quarantine(), **slice_of_monday)
    assert [row["rule"] for row in fresh_store.database.rows(rules)] == ["granularity", "range"]


def correlation_rows(day: date, correlation: float = 0.5) -> pd.DataFrame:
    """One pair on one day."""
    row = {
        "day": day, "timeframe": "1h", "symbol_a": "EURUSD", "symbol_b": "XAUUSD", "window_bars": 100,
        "correlation": correlation, "n": 100, "standard_error": 0.075, "window_start": KNOWN_AT,
        "window_end": KNOWN_AT, "known_at": KNOWN_AT, "code_version": 3,
    }  # fmt: skip
    return pd.DataFrame([row])


def test_a_table_by_day_is_replaced_by_day(any_level_database: Database) -> None:
    store = MarketStore(any_level_database)
    both = pd.concat([correlation_rows(MONDAY), correlation_rows(TUESDAY)], ignore_index=True)
    store.replace(CORRELATION_MATRIX, both, symbol=None, first_day=MONDAY, end_day=WEDNESDAY)
    counts = store.replace(
        CORRELATION_MATRIX, correlation_rows(TUESDAY, 0.6), symbol=None, first_day=TUESDAY, end_day=WEDNESDAY
    )
    assert counts.written == 1
    assert list(store.read_correlations(MONDAY, WEDNESDAY)["correlation"]) == [0.5, 0.6]
    with pytest.raises(PartitionError, match="lie outside"):
        store.replace(CORRELATION_MATRIX, both, symbol=None, first_day=MONDAY, end_day=TUESDAY)
    ledger = store.ledger(CORRELATION_MATRIX, [""], MONDAY, WEDNESDAY)
    assert list(ledger["rows"]) == [1, 1]
    assert list(ledger["code_version"]) == [3, 3]
    assert ledger["changed_at"].is_monotonic_increasing
    assert ledger["changed_at"].is_unique


def test_a_whole_table_is_replaced_or_left_alone(fresh_store: MarketStore) -> None:
    splits = pd.DataFrame({
        "symbol": "EURUSD", "timeframe": "1h", "ts": bar_rows(MONDAY, TUESDAY)["ts"], "entry_at": KNOWN_AT,
        "t1": KNOWN_AT, "split": "train", "known_at": KNOWN_AT, "code_version": 1, "uniqueness": 0.5,
    })  # fmt: skip
    assert fresh_store.replace_all(DATASET_SPLITS, splits).written == 24
    assert fresh_store.replace_all(DATASET_SPLITS, splits).written == 0
    assert fresh_store.replace_all(DATASET_SPLITS, splits.head(3)).written == 3
    assert len(fresh_store.read_all(DATASET_SPLITS)) == 3
    assert set(fresh_store.read_split_intervals("1h")["split"]) == {"train"}


def test_the_ledger_tells_what_was_written_what_changed_and_what_is_complete(fresh_store: MarketStore) -> None:
    today = pd.Timestamp.now("UTC").date()
    write_indicators(fresh_store, indicator_rows(MONDAY, WEDNESDAY), MONDAY, WEDNESDAY)
    first = fresh_store.ledger(INDICATOR_ROWS, ["EURUSD"], MONDAY, WEDNESDAY)
    assert list(first["rows"]) == [24, 24]
    assert first["complete"].all()
    changed = indicator_rows(MONDAY, WEDNESDAY)
    changed.loc[0, "macd"] = 51.0
    write_indicators(fresh_store, changed, MONDAY, WEDNESDAY)
    second = fresh_store.ledger(INDICATOR_ROWS, ["EURUSD"], MONDAY, WEDNESDAY)
    assert (second["written_at"] > first["written_at"]).all()
    assert (second["changed_at"] > first["changed_at"]).tolist() == [True, False]
    write_bars(fresh_store, BARS.empty(), today, today + timedelta(days=1))
    assert not fresh_store.ledger(BARS, ["EURUSD"], today, today + timedelta(days=1))["complete"].any()
    write_bars(fresh_store, BARS.empty(), MONDAY, TUESDAY, complete={MONDAY: False})
    assert not fresh_store.ledger(BARS, ["EURUSD"], MONDAY, TUESDAY)["complete"].any()


def test_a_writer_killed_in_the_middle_leaves_the_old_rows(fresh_store: MarketStore) -> None:
    database = fresh_store.database
    write_bars(fresh_store, bar_rows(MONDAY, TUESDAY), MONDAY, TUESDAY)
    with pytest.raises(DatabaseError), database.transaction() as connection:  # noqa: PT012
        connection.execute("DELETE FROM market.bars")
        database.copy(connection, BARS, bar_rows(MONDAY, TUESDAY, price=1.2))
        database.rows("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        connection.execute("SELECT 1")
    read = fresh_store.read_slice(BARS, symbol="EURUSD", first_day=MONDAY, end_day=TUESDAY)
    assert read["open"].iloc[0] == 1.1
    assert len(read) == 24


def test_a_write_whose_connection_is_killed_is_repeated(fresh_store: MarketStore) -> None:
    database = fresh_store.database
    killer = threading.Timer(0.3, _kill_waiting_writers, [database])
    with database.transaction() as holder:
        database.lock(holder, f"{BARS.qualified} EURUSD")
        killer.start()
        writer = threading.Thread(
            target=write_bars, args=(fresh_store, bar_rows(MONDAY, TUESDAY), MONDAY, TUESDAY), daemon=True
        )
        writer.start()
        killer.join()
    writer.join(timeout=20)
    assert not writer.is_alive()
    assert fresh_store.table_counts()["market.bars"] == 24


def _kill_waiting_writers(database: Database) -> None:
    killed = database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND datname = current_database()"
    )
    assert killed


def test_concurrent_writers_of_one_slice_follow_each_other(fresh_store: MarketStore) -> None:
    errors: list[BaseException] = []

    def write(price: float) -> None:
        try:
            for _ in range(3):
                write_bars(fresh_store, bar_rows(MONDAY, WEDNESDAY, price=price), MONDAY, WEDNESDAY)
        except BaseException as error:
            errors.append(error)
            raise

    writers = [threading.Thread(target=write, args=(1.1 + n / 10,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert not errors
    stored = fresh_store.read_slice(BARS, symbol="EURUSD", first_day=MONDAY, end_day=WEDNESDAY)
    assert len(stored) == 48
    assert np.ptp(stored["open"].to_numpy() - np.arange(48) * 1e-4) < 1e-9


def test_readers_never_see_half_a_slice(fresh_store: MarketStore) -> None:
    write_bars(fresh_store, bar_rows(MONDAY, TUESDAY), MONDAY, TUESDAY)
    done = threading.Event()

    def write() -> None:
        try:
            for n in range(20):
                write_bars(fresh_store, bar_rows(MONDAY, TUESDAY, price=1.1 + n / 10), MONDAY, TUESDAY)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        rows = fresh_store.read_bars("EURUSD", "1h", instant(MONDAY), instant(TUESDAY))
        seen.add((len(rows), round(float(np.ptp(rows["open"])), 6)))
    writer.join()
    assert seen == {(24, 0.0023)}


def test_a_database_without_the_schema_says_how_to_get_it(databases: DatabaseMaker) -> None:
    bare = Database(databases.empty(), patience=1)
    with pytest.raises(DatabaseError, match="nexus migrate"):
        MarketStore(bare).table_counts()
    with pytest.raises(DatabaseError, match="nexus migrate"):
        MarketStore(bare).newest_bars(["EURUSD"], "1h")
