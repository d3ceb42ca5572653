"""PostgreSQL and Redis as managed services offer them: by TLS, with a certificate that has to be verified.

PostgreSQL is the session's own server with a certificate of its own. The Redis in the wheel speaks no TLS, so a relay
in front of it does, as a managed service's proxy would."""

import ipaddress
import os
import shutil
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nexus_assets.database import Database
from nexus_assets.errors import DatabaseError, FeatureStoreError
from nexus_assets.redis_connection import RedisConnection
from nexus_assets.services import ServiceState
from nexus_assets_tests.conftest import DatabaseMaker, unavailable
from nexus_assets_tests.dagster_homes import dagster_home


@dataclass(frozen=True)
class Certificate:
    """A certificate for 127.0.0.1 that signs itself, and its key; PEM files."""

    certificate: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoded = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    made.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, *encoded))
    return made


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def encrypted_server(services: ServiceState, ours: Certificate) -> Iterator[None]:
    """The session's PostgreSQL offers TLS while the block runs; connections without it go on working."""
    assert services.admin_url
    with psycopg.connect(services.admin_url, autocommit=True) as admin:
        data = Path(str(admin.execute("SHOW data_directory").fetchone()[0]))  # pyright: ignore[reportOptionalSubscript]
        placed = {"ssl_cert_file": data / "test-certificate.pem", "ssl_key_file": data / "test-key.pem"}
        for source, target in zip((ours.certificate, ours.key), placed.values(), strict=True):
            shutil.copy(source, target)
            target.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(target, data.stat().st_uid, data.stat().st_gid)
        try:
            for setting, path in placed.items():
                admin.execute(f"ALTER SYSTEM SET {setting} = '{path}'".encode())
            admin.execute("ALTER SYSTEM SET ssl = on")
            admin.execute("SELECT pg_reload_conf()")
            deadline = time.monotonic() + 10
            while admin.execute("SHOW ssl").fetchone() != ("on",):
                if time.monotonic() > deadline:
                    unavailable("This PostgreSQL does not take up TLS; its log says why.")
                time.sleep(0.1)
            yield
        finally:
            for setting in ("ssl", *placed):
                admin.execute(f"ALTER SYSTEM RESET {setting}".encode())
            admin.execute("SELECT pg_reload_conf()")
            for path in placed.values():
                path.unlink()


def verifying(url: str, certificate: Certificate) -> str:
    return f"{url}?{urlencode({'sslmode': 'verify-full', 'sslrootcert': certificate.certificate})}"


@pytest.mark.usefixtures("encrypted_server")
def test_rows_are_read_and_written_over_a_verified_connection(databases: DatabaseMaker, ours: Certificate) -> None:
    database = Database(verifying(databases.migrated(), ours), patience=5)
    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert database.rows(query) == [{"ssl": True}]
    assert database.arrow(query)["ssl"].to_pylist() == [True]


@pytest.mark.usefixtures("encrypted_server")
def test_a_connection_that_must_be_encrypted_is(databases: DatabaseMaker) -> None:
    database = Database(f"{databases.empty()}?sslmode=require", patience=5)
    assert database.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [{"ssl": True}]


@pytest.mark.usefixtures("encrypted_server")
def test_a_server_with_another_certificate_is_refused(databases: DatabaseMaker, strangers: Certificate) -> None:
    database = Database(verifying(databases.empty(), strangers), patience=0)
    with pytest.raises(DatabaseError, match="certificate verify failed"):
        database.rows("SELECT 1")


@pytest.mark.usefixtures("encrypted_server")
def test_dagsters_own_storage_uses_a_verified_connection(
    databases: DatabaseMaker, ours: Certificate, strangers: Certificate, tmp_path: Path
) -> None:
    url = databases.empty(extension=False)
    with dagster_home(tmp_path, verifying(url, ours)) as home, home.instance() as instance:
        assert instance.get_runs() == []
        with instance.event_log_storage.index_connection() as connection:  # pyright: ignore[reportAttributeAccessIssue]
            in_use = connection.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").scalar()
        assert in_use is True


class _Relay(socketserver.BaseRequestHandler):
    """Passes bytes between a client that speaks TLS and a Redis that does not."""

    target: tuple[str, int]
    context: ssl.SSLContext

    def handle(self) -> None:
        try:
            client = self.context.wrap_socket(self.request, server_side=True)
        except (ssl.SSLError, ConnectionError):
            return
        with client, socket.create_connection(self.target) as server:
            threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
            self._pass(client, server)

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


class _RelayServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture(scope="module")
def encrypted_redis(services: ServiceState, ours: Certificate) -> Iterator[str]:
    """rediss:// URL of an empty database, without the parameters that say whom to trust."""
    parts = urlsplit(services.redis_url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.certificate, ours.key)
    handler = type("Relay", (_Relay,), {"target": (parts.hostname, parts.port), "context": context})
    with _RelayServer(("127.0.0.1", 0), handler) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield f"rediss://:{parts.password}@127.0.0.1:{relay.server_address[1]}/8"
        relay.shutdown()


def test_features_go_to_a_redis_whose_certificate_is_verified(
    encrypted_redis: str, ours: Certificate, strangers: Certificate
) -> None:
    trusting = RedisConnection(f"{encrypted_redis}?{urlencode({'ssl_ca_certs': ours.certificate})}")
    assert trusting.client.ping()
    with trusting.asking("ask"):
        trusting.client.set("tls", "1", ex=10)
    assert trusting.client.get("tls") == b"1"
    trusting.client.close()
    mistaken = RedisConnection(f"{encrypted_redis}?{urlencode({'ssl_ca_certs': strangers.certificate})}")
    with pytest.raises(FeatureStoreError), mistaken.asking("ask"):
        mistaken.client.ping()


def test_celery_asks_its_workers_through_an_encrypted_broker(encrypted_redis: str, ours: Certificate) -> None:
    pytest.importorskip("dagster_celery", reason="the extra `celery` is not installed")
    from nexus_assets.celery_runs import CeleryRuns

    trust = urlencode({"ssl_cert_reqs": "CERT_REQUIRED", "ssl_ca_certs": ours.certificate})
    url = f"{encrypted_redis}?{trust}"
    launcher = CeleryRuns(default_queue="dagster", broker=url, backend=url)
    assert launcher.celery.control.inspect(timeout=0.5).ping() is None
    assert launcher.celery.AsyncResult("nobody").state == "PENDING"
    launcher.celery.close()
