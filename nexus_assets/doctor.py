"""`nexus doctor`: the whole installation, checked in the order in which things fail, one line each with the remedy.

What belongs here: looking. Nothing is repaired, and what is written for a test is taken back.
"""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from nexus_assets import migrations
from nexus_assets.database import Database
from nexus_assets.errors import NexusError
from nexus_assets.instruments import instrument
from nexus_assets.planning import switched_off
from nexus_assets.providers.interface import Request
from nexus_assets.resources import open_feature_store, open_market_store, open_sources
from nexus_assets.schemas import ASSET_TABLES
from nexus_assets.settings import Settings, load_settings

Verdict = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, the verdict, the fact, and what to do about it (empty if nothing)."""

    name: str
    verdict: Verdict
    fact: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For --json."""
        return asdict(self)


Check = Callable[[Settings, Path], Finding]


def examine(root: Path, differing: Collection[str] = ()) -> Iterator[Finding]:
    """Every finding, in order. After a failure, what depends on it is skipped and says so.

    Args:
        differing: names of variables that `.env` and the shell disagree on; see settings.apply_dotenv.
    """
    yield _environment(root, differing)
    try:
        config = load_settings()
        config.check_partitions(datetime.now(UTC).date())
    except NexusError as error:
        yield Finding("settings", "failed", error.fact, error.next_step)
        return
    yield _settings(config)
    failed: set[str] = set()
    for name, needs, check in CHECKS:
        missing = sorted(needs & failed)
        if missing:
            yield Finding(name, "skipped", f"needs {', '.join(missing)}")
            failed.add(name)
            continue
        try:
            finding = check(config, root)
        except NexusError as error:
            finding = Finding(name, "failed", error.fact, error.next_step)
        if finding.verdict == "failed":
            failed.add(name)
        yield finding


def _environment(root: Path, differing: Collection[str]) -> Finding:
    path = root / ".env"
    if not path.is_file():
        return Finding("environment", "warning", "There is no .env.", "Run `nexus up`, which writes it.")
    if differing:
        return Finding(
            "environment",
            "warning",
            f".env and the shell differ in {', '.join(sorted(differing))}; .env wins.",
            "Unset them in the shell, or change .env.",
        )
    if path.stat().st_mode & 0o077:
        return Finding("environment", "warning", ".env can be read by other users.", f"chmod 600 '{path}'")
    return Finding("environment", "ok", ".env and the shell agree")


def _settings(config: Settings) -> Finding:
    today = datetime.now(UTC).date()
    sentences = switched_off(config, config.first_day, today)
    if sentences:
        return Finding("settings", "warning", " ".join(sentences.values()))
    partitions = len(config.symbols) * ((today - config.start_day).days + 1)
    by_month = f", and by month since {config.first_day}" if config.has_history else ""
    return Finding(
        "settings",
        "ok",
        f"{len(config.symbols)} symbols since {config.start_day}: {partitions:,} partitions an asset{by_month}",
    )


def _database(config: Settings, _root: Path) -> Finding:
    rows = open_market_store(config).database.rows("SELECT current_setting('server_version') AS version")
    return Finding("database", "ok", f"PostgreSQL {rows[0]['version']}")


def _edition(config: Settings, _root: Path) -> Finding:
    database = open_market_store(config).database
    with database.session() as connection:
        level = migrations.detect_level(connection)
    if level is migrations.Level.PLAIN:
        return Finding(
            "timescaledb",
            "warning",
            "This database has no TimescaleDB, so hypertables are off.",
            "Use a server with TimescaleDB (NEXUS_DATABASE_URL), or see docs/operations.md.",
        )
    version = database.rows("SELECT extversion AS version FROM pg_extension WHERE extname = 'timescaledb'")
    return Finding("timescaledb", "ok", f"TimescaleDB {version[0]['version']}, {level.value} edition")


def _schema(config: Settings, root: Path) -> Finding:
    database = open_market_store(config).database
    steps = migrations.plan(database, root)
    pending = [step.file for step in steps if step.pending and step.kind == "migration"]
    stored = migrations.schema_version(database)
    if pending:
        return Finding("schema", "failed", f"Version {stored}; {len(pending)} migrations are pending.", "nexus migrate")
    return Finding("schema", "ok", f"version {stored}")


def _hypertables(config: Settings, _root: Path) -> Finding:
    database = open_market_store(config).database
    with database.session() as connection:
        if migrations.detect_level(connection) is migrations.Level.PLAIN:
            return Finding("hypertables", "skipped", "needs timescaledb")
    rows = database.rows(
        "SELECT hypertable_schema || '.' || hypertable_name AS name FROM timescaledb_information.hypertables"
    )
    found = {row["name"] for row in rows}
    missing = [table.qualified for table in ASSET_TABLES if table.time_column and table.qualified not in found]
    if missing:
        return Finding("hypertables", "failed", f"Not hypertables: {', '.join(missing)}.", "nexus migrate")
    return Finding("hypertables", "ok", f"{len(found)} hypertables")


def _retention(config: Settings, _root: Path) -> Finding:
    from nexus_assets import retention

    kept = {name: days for name, days in config.retentions.items() if days is not None}
    with open_market_store(config).database.session() as connection:
        fresh, outlived = retention.conflicts(connection, config, datetime.now(UTC).date())
    remedy = "Set it to as many days or unset it, or `nexus pins remove NAME`."
    if fresh:
        return Finding("retention", "failed", "; ".join(fresh), remedy)
    if outlived:
        return Finding("retention", "warning", f"{'; '.join(outlived)}; they are held back", remedy)
    fact = ", ".join(f"{name} {days} days" for name, days in kept.items())
    return Finding("retention", "ok", fact or "everything is kept for ever")


def _database_write(config: Settings, _root: Path) -> Finding:
    database = open_market_store(config).database
    token = os.urandom(8).hex()
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO nexus.slices VALUES ('nexus.doctor', %s, CURRENT_DATE, now(), now(), 0, true, 1)", (token,)
        )
    with database.transaction() as connection:
        row = connection.execute("DELETE FROM nexus.slices WHERE symbol = %s RETURNING table_name", (token,)).fetchone()
    if row != ("nexus.doctor",):
        return Finding("database write", "failed", f"Wrote {token!r} and read back {row!r}.", "See the server's log.")
    return Finding("database write", "ok", "written and read back")


def _redis(config: Settings, _root: Path) -> Finding:
    about = open_feature_store(config).check()
    policy = about["maxmemory_policy"]
    if policy.startswith("allkeys"):
        return Finding(
            "redis",
            "warning",
            f"Redis {about['version']} has maxmemory-policy {policy}, which may evict keys without expiry.",
            "CONFIG SET maxmemory-policy volatile-lru",
        )
    return Finding("redis", "ok", f"Redis {about['version']}, {about['keys']} keys; written and read back")


def _dagster(config: Settings, root: Path) -> Finding:
    url = config.dagster_url
    if url is None:
        return Finding("dagster storage", "failed", "NEXUS_DAGSTER_URL is not set.", "Run `nexus up`, or set it.")
    home = os.environ.get("DAGSTER_HOME")
    if not home or not (Path(home) / "dagster.yaml").is_file():
        return Finding(
            "dagster storage",
            "failed",
            f"DAGSTER_HOME is {home!r}, which holds no dagster.yaml.",
            f"Set DAGSTER_HOME to {root}, or run `nexus up`.",
        )
    plain = url.get_secret_value().replace("postgresql+psycopg2://", "postgresql://", 1)
    rows = Database(plain).rows("SELECT to_regclass('event_logs') IS NOT NULL AS there")
    if not rows[0]["there"]:
        return Finding("dagster storage", "warning", "The database is empty.", "The first start of Dagster fills it.")
    size = Database(plain).rows("SELECT pg_size_pretty(pg_database_size(current_database())) AS size")[0]["size"]
    return Finding("dagster storage", "ok", f"event log in PostgreSQL, {size}")


def _providers(config: Settings, _root: Path) -> Finding:
    sources = open_sources(config)
    served, unserved = sources.served(config.symbols, config.base_timeframe)
    if not served:
        return Finding(
            "providers", "failed", f"{sources.origin} names no source for any symbol.", "Declare one in sources.toml."
        )
    symbol = served[0]
    provider = sources.for_symbol(symbol, config.base_timeframe)[0]
    span = provider.available(symbol, config.base_timeframe)
    end = min(span[1], datetime.now(UTC)) if span else datetime.now(UTC)
    delivery = provider.fetch(Request(symbol, config.base_timeframe, end - timedelta(days=5), end))
    fact = f"{provider.name} delivered {delivery.delivered} rows of {symbol} up to {end:%Y-%m-%d}"
    if unserved:
        names = ", ".join(instrument(name).symbol for name in unserved)
        return Finding("providers", "warning", f"{fact}; no source serves {names}.", "Declare one in sources.toml.")
    return Finding("providers", "ok", f"{fact}; all {len(served)} symbols have a source")


CHECKS: tuple[tuple[str, frozenset[str], Check], ...] = (
    ("database", frozenset(), _database),
    ("timescaledb", frozenset({"database"}), _edition),
    ("schema", frozenset({"database"}), _schema),
    ("hypertables", frozenset({"database", "schema"}), _hypertables),
    ("retention", frozenset({"database", "schema"}), _retention),
    ("database write", frozenset({"database", "schema"}), _database_write),
    ("redis", frozenset(), _redis),
    ("dagster storage", frozenset(), _dagster),
    ("providers", frozenset(), _providers),
)
