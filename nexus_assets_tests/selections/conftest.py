"""One served market for all tests of this folder: starting Dagster takes longer than most of what they do."""

from collections.abc import Iterator

import pytest

from nexus_assets.services import ServiceState
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.selections.served_market import ServedMarket, served, undisturbed


@pytest.fixture(scope="package")
def market(
    databases: DatabaseMaker, services: ServiceState, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedMarket]:
    """The market under webserver, daemon and code server, empty at first."""
    right = undisturbed(databases.migrated(), services.redis_url)
    with served(tmp_path_factory.mktemp("selections"), databases, services) as place:
        place.right = right
        yield place
