"""Moving the data from one PostgreSQL of ours to another, with pg_dump.

From plain PostgreSQL to TimescaleDB, between versions, or between two TimescaleDB of one version. Not from TimescaleDB
to plain PostgreSQL: pg_dump writes hypertables as the extension's own tables.
"""

import tempfile
from pathlib import Path

from nexus_assets.errors import ServiceError
from nexus_assets.services.installation import Progress
from nexus_assets.services.postgres import PostgresServer
from nexus_assets.services.state import DAGSTER, OWNER, PostgresRecord

_SECONDS = 6 * 3600.0


def refuse_impossible(old: PostgresRecord, new: PostgresRecord) -> None:
    """
    Raises:
        ServiceError: pg_dump cannot move data between these two.
    """
    if old.timescaledb is None or old.timescaledb == new.timescaledb:
        return
    to = f"TimescaleDB {new.timescaledb}" if new.timescaledb else "plain PostgreSQL"
    raise ServiceError(
        f"Data in TimescaleDB {old.timescaledb} cannot be moved to {to}: hypertables can only be restored by the same "
        f"version of the extension.",
        next_step="Stay with it, or copy out what you need, run `nexus down --purge`, then `nexus up` and load again.",
    )


def refuse_sessions(server: PostgresServer) -> None:
    """
    Raises:
        ServiceError: somebody is connected; what they write during the move would be lost.
    """
    import psycopg

    with psycopg.connect(server.admin_url("postgres"), connect_timeout=10) as admin:
        rows = admin.execute(
            "SELECT DISTINCT coalesce(nullif(application_name, ''), 'unnamed') || ' (pid ' || pid || ')'"
            " FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = ANY(%s) ORDER BY 1",
            [[OWNER, DAGSTER]],
        ).fetchall()
    if rows:
        raise ServiceError(
            f"The databases are in use by {', '.join(row[0] for row in rows)}.",
            next_step="Stop Dagster and every other program that uses them, then run `nexus up --switch` again.",
        )


def copy_databases(old: PostgresServer, new: PostgresServer, progress: Progress) -> None:
    """Dump both databases of a running server and restore them in another, each in one transaction.

    Raises:
        ServiceError: a program fails; the old server is as it was.
    """
    with tempfile.TemporaryDirectory(prefix=".dump-", dir=old.folder) as folder:
        old.account.give(Path(folder))
        for database in (OWNER, DAGSTER):
            progress(f"Moving the database {database}")
            dump = Path(folder) / f"{database}.sql"
            old.run_client("pg_dump", database, "--file", dump, timeout=_SECONDS)
            hypertables = database == OWNER and None not in (old.record.timescaledb, new.record.timescaledb)
            if hypertables:
                _execute(new, database, "-c", "SELECT timescaledb_pre_restore()")
            _execute(new, database, "-1", "-f", dump)
            if hypertables:
                _execute(new, database, "-c", "SELECT timescaledb_post_restore()")
            _execute(new, database, "-c", "ANALYZE")


def _execute(server: PostgresServer, database: str, *arguments: str | Path) -> None:
    server.run_client("psql", database, "-qX", "-v", "ON_ERROR_STOP=1", *arguments, timeout=_SECONDS)
