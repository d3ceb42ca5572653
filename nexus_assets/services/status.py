"""What `nexus status` says about each server."""

from dataclasses import dataclass
from pathlib import Path

from nexus_assets.services import accounts, processes, state
from nexus_assets.services.postgres import PostgresServer, uptime
from nexus_assets.services.redis_server import RedisServer
from nexus_assets.services.state import LOOPBACK


@dataclass(frozen=True)
class ServiceStatus:
    """One server, running or not.

    name: postgres or redis. kind: installed, debian, embedded, wheel, path or external (the user's own). edition:
    PostgreSQL, TimescaleDB Apache, TimescaleDB Community or Redis. address: host:port. pid, data_bytes and uptime
    (seconds) are None where they are not known.
    """

    name: str
    kind: str
    edition: str
    version: str
    address: str
    pid: int | None
    running: bool
    data_bytes: int | None
    uptime: float | None


def status(home: Path) -> list[ServiceStatus]:
    """Both servers, PostgreSQL first; empty before the first `ensure_up`. Starts nothing.

    Raises:
        ServiceError: the state folder belongs to another user.
    """
    home = home.resolve()
    saved = state.load(home)
    if saved is None:
        return []
    account, folder = accounts.find_account(), (home / "servers").resolve()
    found = []
    for name, record, make in (("postgres", saved.postgres, PostgresServer), ("redis", saved.redis, RedisServer)):
        if name in saved.external:
            found.append(_external(name, saved.external[name]))
        elif record is not None and account is not None:
            found.append(_own(name, make(record, folder, account)))  # type: ignore[arg-type]
    return found


def _own(name: str, server: PostgresServer | RedisServer) -> ServiceStatus:
    record, process = server.record, server.process()
    version, edition = record.version, "Redis"
    if isinstance(record, state.PostgresRecord):
        edition = record.edition
        version += f", TimescaleDB {record.timescaledb}" if record.timescaledb else ""
    return ServiceStatus(
        name=name,
        kind=record.kind,
        edition=edition,
        version=version,
        address=f"{LOOPBACK}:{record.port}",
        pid=process.pid if process else None,
        running=process is not None and server.is_ready(),
        data_bytes=processes.folder_bytes(server.data) if server.data.is_dir() else None,
        uptime=uptime(process) if process else None,
    )


def _external(name: str, address: str) -> ServiceStatus:
    host, _, port = address.rpartition(":")
    return ServiceStatus(
        name=name,
        kind="external",
        edition="unknown",
        version="unknown",
        address=address,
        pid=None,
        running=processes.answers(host.strip("[]"), int(port)),
        data_bytes=None,
        uptime=None,
    )
