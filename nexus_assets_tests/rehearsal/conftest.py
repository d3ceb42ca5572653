from collections.abc import Iterator

import pytest

from nexus_assets.rehearsal import Rehearsal
from nexus_assets_tests.rehearsal.market import rehearsal


@pytest.fixture
def server() -> Iterator[Rehearsal]:
    """The six servers with the hand-made market, without limits."""
    with rehearsal(
        limits=dict.fromkeys(("oanda", "eodhd", "yahoo", "alpha_vantage", "twelve_data", "polygon"), ())
    ) as on:
        yield on
