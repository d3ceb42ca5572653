"""PostgreSQL: connections, transactions, bulk reads and bulk writes, locks, retries.

What belongs here: how SQL is run. Which SQL is run stands in market_store.py, deliveries.py, migrations.py and sql/.
No Dagster. A Database can be shared between threads: each call has a connection to itself, and leaves it to the next.
"""

import functools
import hashlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, LiteralString, Protocol, TypeVar, cast

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pandas as pd
import pgpq
import psycopg
import pyarrow
from psycopg import sql as psql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from nexus_assets.errors import DatabaseError
from nexus_assets.schemas import Table

T = TypeVar("T")

PATIENCE_SECONDS = 20.0
"""How long a restarting server is waited for."""

ATTEMPTS = 3
"""How often a piece of work is tried when the server breaks it off."""

_COPY_ROWS = 65_536
_MOST_IDLE = 4
_UNREACHABLE = (
    *("connection refused", "starting up", "shutting down", "recovery mode", "not yet accepting", "closed the conn"),
    *(
        "timeout expired",
        "timed out",
        "connection reset",
        "no route to host",
        "too many clients",
        "remaining connection slots",
    ),
)
_log = logging.getLogger(__name__)


class Database:
    """One PostgreSQL database.

    Args:
        url: libpq URL, `postgresql://user:password@host:port/name`. The password never appears in an error.
        patience: Seconds for which `run`, `frame` and `rows` wait for a server that cannot be reached.
        application_name: What pg_stat_activity shows.

    Raises:
        DatabaseError: the URL cannot be read.
    """

    def __init__(self, url: str, *, patience: float = PATIENCE_SECONDS, application_name: str = "nexus_assets") -> None:
        self._conninfo = _conninfo(url, application_name)
        self._patience = patience
        self._readers = _Idle(functools.partial(adbc.connect, self._conninfo, autocommit=True))
        self._writers = _Idle(functools.partial(_connect, self._conninfo))
        weakref.finalize(self, self._readers.close)
        weakref.finalize(self, self._writers.close)
        self.address = _address(self._conninfo)

    def __repr__(self) -> str:
        return f"Database({self.address})"

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """A connection in a transaction: committed at the end, rolled back by an exception. Not retried.

        Raises:
            DatabaseError: the server cannot be reached, refused a statement, or broke off.
        """
        with self.session() as connection, connection.transaction():
            yield connection

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection]:
        """A connection in autocommit mode, for what must not, or needs more than, one transaction. Not retried.

        Raises:
            DatabaseError: as for transaction.
        """
        with self._errors_named():
            connection = _connect(self._conninfo)
            try:
                yield connection
            finally:
                connection.close()

    def run(self, work: Callable[[psycopg.Connection], T]) -> T:
        """Run work(connection) in one transaction; again where the server broke it off. The one place of retries.

        Serialization failures, deadlocks and lost connections are tried ATTEMPTS times; a server that cannot be
        reached is waited for. The work must be repeatable: a connection lost during COMMIT leaves open whether
        the first attempt was committed.

        Raises:
            DatabaseError: it still fails, or failed for a reason that stays.
        """

        def attempt() -> T:
            with self._errors_named(), self._writers.borrowed() as connection, connection.transaction():
                return work(connection)

        return self._retrying(attempt)

    def rows(self, query: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a small query as dictionaries. Placeholders are `%s`.

        Raises:
            DatabaseError: as for run.
        """

        def read() -> list[dict[str, Any]]:
            with (
                self._errors_named(),
                self._writers.borrowed() as connection,
                connection.cursor(row_factory=dict_row) as cursor,
            ):
                return cursor.execute(_text(query), params or None).fetchall()

        return self._retrying(read)

    def arrow(self, query: str, params: Sequence[Any] = ()) -> pyarrow.Table:
        """The rows of a query as an Arrow table: timestamps in microseconds UTC, NULL as null. Placeholders are `%s`;
        values are written into the text as quoted literals, since only a query without parameters is read by COPY.

        Raises:
            DatabaseError: as for run.
        """
        text = _with_literals(query, params) if params else query

        def read() -> pyarrow.Table:
            with self._errors_named(), self._readers.borrowed() as connection, connection.cursor() as cursor:
                cursor.execute(text)
                return cursor.fetch_arrow_table()

        return self._retrying(read)

    def frame(self, query: str, params: Sequence[Any] = ()) -> pd.DataFrame:
        """The rows of a query as a frame, in the types of `schemas.Table.empty()`: `datetime64[us, UTC]`, missing
        floats NaN, dates as datetime.date. Placeholders are `%s`. A `numeric` column comes back as text: cast it.

        Raises:
            DatabaseError: as for run.
        """
        return self.arrow(query, params).to_pandas()

    def copy(self, connection: psycopg.Connection, table: Table, frame: pd.DataFrame, *, into: str = "") -> int:
        """Append a frame to a table by binary COPY.

        Args:
            connection: In a transaction.
            table: Columns and exact types. The caller has validated the frame against table.pandera.
            frame: Has the table's columns; others are ignored. NaN, None and NaT become NULL.
            into: Another relation of the same columns, such as a temporary table.

        Returns:
            The number of rows.

        Raises:
            DatabaseError: a value does not fit its column without loss, or a timestamp has no time zone.
        """
        return self.copy_arrow(connection, into or table.qualified, to_arrow(table.arrow, frame, table.qualified))

    def copy_arrow(self, connection: psycopg.Connection, into: str, rows: pyarrow.Table) -> int:
        """Append an Arrow table, whose types are exactly those of the relation's columns, by binary COPY."""
        if rows.num_rows == 0:
            return 0
        encoder = pgpq.ArrowToPostgresBinaryEncoder(rows.schema)
        target = psql.Identifier(*into.split("."))
        columns = psql.SQL(", ").join(map(psql.Identifier, rows.column_names))
        statement = psql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(target, columns)
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(encoder.write_header())
            for batch in rows.combine_chunks().to_batches(max_chunksize=_COPY_ROWS):
                copy.write(encoder.write_batch(batch))
            copy.write(encoder.finish())
        return rows.num_rows

    def lock(self, connection: psycopg.Connection, *names: str) -> None:
        """Hold a lock of each name until the transaction ends. Taken in one order by everybody, so that two writers
        wait for each other instead of deadlocking; call it once per transaction, with all names."""
        for key in sorted({lock_key(name) for name in names}):
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))

    def close(self) -> None:
        """Close the idle connections that calls left behind. The object can be used again."""
        self._readers.close()
        self._writers.close()

    def _retrying(self, attempt: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._patience
        broken, pause = 0, 0.1
        while True:
            try:
                return attempt()
            except DatabaseError as error:
                if is_unreachable(error):
                    if time.monotonic() + pause > deadline:
                        raise
                elif is_broken_off(error):
                    broken += 1
                    if broken >= ATTEMPTS:
                        raise
                    deadline = time.monotonic() + self._patience
                else:
                    raise
                _log.warning("%s Trying again in %.1f s.", error.fact, pause)
            time.sleep(pause)
            pause = min(pause * 2, 2.0)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, adbc_driver_manager.Error) as error:
            raise self._named(error) from error

    def _named(self, error: psycopg.Error | adbc_driver_manager.Error) -> DatabaseError:
        if isinstance(error, psycopg.Error) and error.diag.message_primary:
            words = ". ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
        else:
            # ADBC repeats the whole query after libpq's sentence.
            words = (
                " ".join(str(error).split()).split("ERROR: ")[-1].split(" LINE 1: ")[0].split(" Query was: ")[0].strip()
            )
        if _says_unreachable(words) or (isinstance(error, psycopg.OperationalError) and not error.sqlstate):
            return DatabaseError(
                f"PostgreSQL at {self.address} cannot be reached: {words}",
                next_step="Start it with `nexus up`, or correct NEXUS_DATABASE_URL; `nexus doctor` says more.",
            )
        step = "`nexus migrate` brings the schema to this version." if error.sqlstate in ("42P01", "42703") else ""
        return DatabaseError(f"PostgreSQL at {self.address} refused a statement: {words}", next_step=step)


class _Connected(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Connected)


class _Idle(Generic[C]):
    """Idle connections in autocommit mode. A new one of ADBC takes 40 ms, most of it for the server's list of types;
    one of psycopg takes 4 ms, most of it for the password; a statement 0.06 ms."""

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._idle: list[C] = []
        self._lock = threading.Lock()

    @contextmanager
    def borrowed(self) -> Iterator[C]:
        """A connection. One that failed is closed with all idle ones: they share its server."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            self.close()
            raise
        with self._lock:
            keep = len(self._idle) < _MOST_IDLE
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    def close(self) -> None:
        """Close the idle ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _connect(conninfo: str) -> psycopg.Connection:
    # No prepared statements: a migration would break those of a connection that is kept.
    return psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)


def to_arrow(schema: pyarrow.Schema, frame: pd.DataFrame, place: str) -> pyarrow.Table:
    """The frame's columns in exactly the types of the schema; NaN, None and NaT become null.

    Exactness matters: binary COPY stores an integer sent to a double precision column as garbage, without an error.

    Raises:
        DatabaseError: a column is missing, a value does not fit without loss, or a timestamp has no time zone.
    """
    missing = [name for name in schema.names if name not in frame.columns]
    if missing:
        raise DatabaseError(f"Rows for {place} lack the columns {', '.join(missing)}.")
    for field in schema:
        naive = pyarrow.types.is_timestamp(field.type) and getattr(frame[field.name].dtype, "tz", None) is None
        if naive and frame[field.name].notna().any():
            raise DatabaseError(f"Rows for {place} have timestamps without a time zone in {field.name}.")
    try:
        return pyarrow.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError) as error:
        raise DatabaseError(f"Rows for {place} do not fit its columns: {error}") from error


def is_unreachable(error: DatabaseError) -> bool:
    """Whether the server could not be reached now and may be soon: refused, starting up, timed out."""
    return _says_unreachable(str(error.__cause__))


def is_broken_off(error: DatabaseError) -> bool:
    """Whether the same work may succeed at once: a serialization failure, a deadlock, a lost connection."""
    cause = error.__cause__
    if isinstance(cause, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected):
        return True
    if isinstance(cause, psycopg.errors.AdminShutdown | psycopg.errors.CrashShutdown):
        return True
    if isinstance(cause, psycopg.OperationalError):
        return cause.sqlstate is None and "connection" in str(cause) and "failed:" not in str(cause)
    return isinstance(cause, adbc_driver_manager.OperationalError)


def _says_unreachable(words: str) -> bool:
    return any(phrase in words.lower() for phrase in _UNREACHABLE)


def _conninfo(url: str, application_name: str) -> str:
    if url.startswith("postgresql+"):
        raise DatabaseError(
            f"The database URL starts with {url.split(':', 1)[0]}, which is SQLAlchemy's form.",
            next_step="Write NEXUS_DATABASE_URL as postgresql://user:password@host:port/name.",
        )
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's message quotes the URL, and with it the password.
        raise DatabaseError(
            "The database URL cannot be read.",
            next_step="Write NEXUS_DATABASE_URL as postgresql://user:password@host:port/name.",
        ) from None
    own = {"application_name": application_name, "connect_timeout": "10", "options": "-c timezone=UTC"}
    return make_conninfo(**{**own, **given})


def _address(conninfo: str) -> str:
    parts = conninfo_to_dict(conninfo)
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"


def lock_key(name: str) -> int:
    """The number under which PostgreSQL holds the lock of a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def _text(query: str) -> LiteralString:
    # psycopg's types ask for literals as a guard against values pasted into SQL; ours come from this package.
    return cast(LiteralString, query)


def _with_literals(query: str, params: Sequence[Any]) -> str:
    pieces = query.split("%s")
    if len(pieces) != len(params) + 1:
        raise DatabaseError(f"A query has {len(pieces) - 1} placeholders and {len(params)} values: {query}")
    literals = [psql.Literal(value).as_string(None) for value in params]
    return "".join(piece + literal for piece, literal in zip(pieces, [*literals, ""], strict=True))
