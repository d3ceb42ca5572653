"""The feature store under test, and a plain client of the same Redis."""

from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff

from nexus_assets.feature_store import FeatureStore


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    """A plain client of the same Redis: what a stranger sees."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def features(redis_url: str) -> Iterator[FeatureStore]:
    store = FeatureStore(redis_url)
    yield store
    store.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more try at once, instead of waiting for a restart."""
    monkeypatch.setattr("nexus_assets.redis_connection._RETRY", (NoBackoff(), 1))
