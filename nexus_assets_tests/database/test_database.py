"""Connections, bulk writes and reads, locks, and what is said when the server is away."""

import os
import signal
import socket
import threading
import time
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from nexus_assets.database import Database
from nexus_assets.errors import DatabaseError
from nexus_assets.schemas import CORRELATION_MATRIX, INDICATOR_ROWS, RAW_OHLC
from nexus_assets.services import ServiceState, heal, status
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.database.rows import KNOWN_AT, MONDAY, indicator_rows, instant

EXTREMES = [-0.0, 0.0, 5e-324, 2.2250738585072014e-308, 1e308, -1.7976931348623157e308, 0.1 + 0.2, np.inf, -np.inf]


def raw_rows(close: object) -> pd.DataFrame:
    """Raw bars with these closes."""
    frame = pd.DataFrame({"close": close})
    for name in ("open", "high", "low", "volume", "spread"):
        frame[name] = frame["close"]
    return frame.assign(
        symbol="EURUSD", timeframe="1h", ts=pd.date_range(instant(MONDAY), periods=len(frame), freq="h", unit="us"),
        provider="files", delivery_id=1, known_at=KNOWN_AT, price_kind="mid", volume_kind="ticks",
        instrument_kind="spot", backfilled=False, withdrawn=False,
    )  # fmt: skip


def round_trip(database: Database, frame: pd.DataFrame) -> pd.DataFrame:
    """Copied, read back and rolled away again."""
    with database.transaction() as connection:
        connection.execute("DELETE FROM market.raw_ohlc")
        assert database.copy(connection, RAW_OHLC, frame) == len(frame)
    return database.frame("SELECT * FROM market.raw_ohlc ORDER BY ts")


def test_floats_come_back_bit_by_bit(database: Database) -> None:
    stored = round_trip(database, raw_rows(EXTREMES))
    assert stored["close"].to_numpy().view("int64").tolist() == np.array(EXTREMES).view("int64").tolist()


def test_integers_in_a_float_column_are_stored_as_the_same_numbers(database: Database) -> None:
    stored = round_trip(database, raw_rows([1, 2, 3]))
    assert stored["close"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA, pd.NaT], ids=str)
def test_a_missing_float_is_null_in_the_database_and_nan_in_a_frame(database: Database, missing: object) -> None:
    frame = raw_rows([1.5, 2.5]).assign(volume=pd.Series([missing, 2.5], dtype=object))
    stored = round_trip(database, frame)
    assert np.isnan(stored["volume"].iloc[0])
    assert stored["volume"].dtype == "float64"
    assert database.rows(
        "SELECT count(volume) AS n, count(*) FILTER (WHERE volume = 'NaN') AS nan FROM market.raw_ohlc"
    ) == [{"n": 1, "nan": 0}]


def test_every_type_comes_back_as_declared(database: Database) -> None:
    row = {
        "day": date(2024, 1, 8), "timeframe": "1h", "symbol_a": "EURUSD", "symbol_b": "XAUUSD", "window_bars": 100,
        "correlation": np.nan, "n": 7, "standard_error": np.nan, "window_start": pd.Timestamp("NaT", tz="UTC"),
        "window_end": pd.Timestamp("2024-01-08 23:59:59.999999", tz="UTC"), "known_at": KNOWN_AT, "code_version": 1,
    }  # fmt: skip
    given = pd.DataFrame([row])
    given["window_start"] = pd.to_datetime(given["window_start"], utc=True)
    with database.transaction() as connection:
        database.copy(connection, CORRELATION_MATRIX, given)
    stored = database.frame("SELECT * FROM analytics.correlation_matrix")
    assert stored.dtypes.to_dict() == CORRELATION_MATRIX.empty().dtypes.to_dict()
    CORRELATION_MATRIX.pandera.validate(stored)
    assert stored.loc[0, "day"] == date(2024, 1, 8)
    assert stored.loc[0, "window_end"] == row["window_end"]
    assert stored["window_start"].isna().all()


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("delivery_id", 1.5, "do not fit"),
        ("close", "dear", "do not fit"),
        ("ts", pd.Timestamp("2024-01-08"), "without a time zone in ts"),
        ("ts", pd.Timestamp("2024-01-08 00:00:00.000000001", tz="UTC"), "do not fit"),
    ],
)
def test_a_value_that_does_not_fit_without_loss_is_refused(
    database: Database, column: str, value: object, said: str
) -> None:
    frame = raw_rows([1.0]).assign(**{column: pd.Series([value])})
    with pytest.raises(DatabaseError, match=said), database.transaction() as connection:
        database.copy(connection, RAW_OHLC, frame)


def test_values_are_quoted_as_literals(database: Database) -> None:
    words = ["O'Hara", "100%", "{brace}", 'back\\slash "quoted"', "%s", "; DROP TABLE market.bars"]
    frame = database.frame("SELECT x FROM unnest(%s::text[]) AS words (x) WHERE x <> %s", (words, "none"))
    assert frame["x"].tolist() == words
    moment = datetime(2024, 3, 10, 7, 0, 0, 1, tzinfo=UTC)
    assert database.frame("SELECT %s AS x, %s AS y", (moment, date(2024, 3, 10)))["x"].iloc[0] == moment
    with pytest.raises(DatabaseError, match="1 placeholders and 2 values"):
        database.frame("SELECT %s", (1, 2))


def test_a_session_is_named_and_in_utc(database: Database) -> None:
    assert database.rows("SELECT current_setting('application_name') AS name, current_setting('timezone') AS zone") == [
        {"name": "nexus_assets", "zone": "UTC"}
    ]


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = Database(f"postgresql://nexus:secret-word@127.0.0.1:{port}/nexus", patience=0)
    for read in (database.rows, database.frame, database.run):
        with pytest.raises(DatabaseError) as caught:
            read("SELECT 1")  # pyright: ignore[reportArgumentType]
        assert f"127.0.0.1:{port}/nexus cannot be reached" in str(caught.value)
        assert "nexus up" in caught.value.next_step
        assert "secret-word" not in f"{caught.value} {caught.value.__cause__} {database!r}"


def test_a_wrong_password_and_a_missing_database_are_not_waited_for(database_url: str) -> None:
    parts = conninfo_to_dict(database_url)
    for changed, said in (({"password": "wrong-word"}, "password"), ({"dbname": "absent"}, "absent")):
        database = Database(make_conninfo(**{**parts, **changed}), patience=30)
        for read in (database.rows, database.frame):
            started = time.monotonic()
            with pytest.raises(DatabaseError, match=said) as caught:
                read("SELECT 1")
            assert time.monotonic() - started < 5
            assert "wrong-word" not in str(caught.value)


def test_a_url_that_cannot_be_read_is_refused_without_being_shown() -> None:
    for url in ("postgresql://nexus:secret-word@[::1/nexus", "postgresql+psycopg2://nexus:secret-word@host/nexus"):
        with pytest.raises(DatabaseError, match="postgresql://user:password@host:port/name") as caught:
            Database(url)
        assert "secret-word" not in str(caught.value)


def test_a_refused_statement_says_why(database: Database) -> None:
    for read in (database.rows, database.frame):
        with pytest.raises(DatabaseError, match="division by zero"):
            read("SELECT 1 / 0")
    assert database.rows("SELECT 1 AS one") == [{"one": 1}]


def test_an_exception_of_ours_passes_and_rolls_back(fresh_database: Database) -> None:
    with pytest.raises(ZeroDivisionError), fresh_database.transaction() as connection:  # noqa: PT012
        fresh_database.copy(connection, RAW_OHLC, raw_rows([1.0]))
        raise ZeroDivisionError
    assert fresh_database.rows("SELECT count(*) AS n FROM market.raw_ohlc") == [{"n": 0}]


def test_reads_survive_connections_that_the_server_closed(fresh_database: Database) -> None:
    assert fresh_database.frame("SELECT 1 AS one")["one"].tolist() == [1]
    killed = fresh_database.rows(
        "SELECT pg_terminate_backend(pid) AS done FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'nexus_assets'"
    )
    assert [row["done"] for row in killed] == [True]
    assert fresh_database.frame("SELECT 2 AS two")["two"].tolist() == [2]


def test_statements_share_a_connection_and_survive_one_that_the_server_closed(databases: DatabaseMaker) -> None:
    url = databases.migrated()
    database, other = Database(url), Database(url)
    mine = "SELECT pg_backend_pid() AS pid"
    (kept,) = database.rows(mine)
    assert database.run(lambda connection: connection.execute(mine).fetchone()) == (kept["pid"],)
    assert other.rows("SELECT pg_terminate_backend(%s) AS done", [kept["pid"]]) == [{"done": True}]
    (new,) = database.rows(mine)
    assert new != kept


def test_what_a_statement_leaves_of_a_failed_transaction_is_gone(fresh_database: Database) -> None:
    def fail(connection: psycopg.Connection) -> None:
        connection.execute("SET statement_timeout = '1234ms'")
        connection.execute("CREATE TEMPORARY TABLE left_behind ()")
        raise ZeroDivisionError

    timeout = "SELECT current_setting('statement_timeout') AS timeout"
    before = fresh_database.rows(timeout)
    with pytest.raises(ZeroDivisionError):
        fresh_database.run(fail)
    assert fresh_database.rows(timeout) == before
    assert fresh_database.rows("SELECT to_regclass('left_behind')::text AS name") == [{"name": None}]


def test_a_deadlock_is_tried_again(fresh_database: Database) -> None:
    barrier = threading.Barrier(2, timeout=20)
    tries: list[str] = []

    def work(names: tuple[str, str]) -> None:
        def lock_both(connection: psycopg.Connection) -> None:
            first = not tries.count(names[0])
            tries.append(names[0])
            # One call for each name, against the rule, so that two writers meet crosswise.
            fresh_database.lock(connection, names[0])
            if first:
                barrier.wait()
            fresh_database.lock(connection, names[1])

        fresh_database.run(lock_both)

    threads = [threading.Thread(target=work, args=(names,)) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(tries) == 3


def test_locks_are_taken_in_one_order_whatever_order_they_are_named_in(fresh_database: Database) -> None:
    done: list[int] = []

    def work(names: tuple[str, ...]) -> None:
        for _ in range(20):
            with fresh_database.transaction() as connection:
                fresh_database.lock(connection, *names)
        done.append(1)

    threads = [threading.Thread(target=work, args=(names,)) for names in (("a", "b", "c"), ("c", "b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(done) == 2


def test_an_error_that_stays_is_not_tried_again(database: Database) -> None:
    tries = []

    def work(connection: psycopg.Connection) -> None:
        tries.append(1)
        connection.execute("SELECT 1 / 0")

    with pytest.raises(DatabaseError, match="division"):
        database.run(work)
    assert len(tries) == 1


def test_threads_share_a_database(database: Database) -> None:
    results: list[int] = []

    def read() -> None:
        for n in range(10):
            results.append(int(database.frame("SELECT %s::bigint AS n", (n,))["n"].iloc[0]))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(results) == sorted(list(range(10)) * 8)


def test_idle_connections_are_closed_with_the_database(databases: DatabaseMaker) -> None:
    watched, watcher = Database(databases.migrated(), application_name="watched"), Database(databases.migrated())
    count = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'watched'"
    watched.frame("SELECT 1")
    assert watcher.rows(count) == [{"n": 1}]
    del watched
    for _ in range(50):
        if watcher.rows(count) == [{"n": 0}]:
            return
        time.sleep(0.05)
    pytest.fail("the connection is still open")


def test_a_write_outlives_a_kill_of_the_server(plain_postgres: ServiceState, plain_databases: DatabaseMaker) -> None:
    database = Database(plain_databases.migrated())
    database.frame("SELECT 1")
    pid = next(server.pid for server in status(plain_postgres.home) if server.name == "postgres")
    assert pid
    os.kill(pid, signal.SIGKILL)
    healer = threading.Timer(0.5, heal, [plain_postgres.home])
    healer.start()
    rows = indicator_rows(MONDAY, date(2024, 1, 9))
    assert database.run(lambda connection: database.copy(connection, INDICATOR_ROWS, rows)) == 24
    assert len(database.frame("SELECT * FROM features.indicators")) == 24
    healer.join()
