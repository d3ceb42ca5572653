"""The feature store under test, and a plain client of the same Redis."""

from collections.abc import Iterator

import pytest
import redis

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
