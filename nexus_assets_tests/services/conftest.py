"""State folders of their own for the tests of the servers themselves; all have a space in their path."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from nexus_assets.services import ServiceState, down, ensure_up


@dataclass
class Place:
    """A project root with a state folder in it; what `ensure_up` said while it worked, and its notes, add up."""

    root: Path
    environment: Mapping[str, str]
    said: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.root / ".nexus"

    def up(self, **changes: object) -> ServiceState:
        arguments = {"database_url": None, "redis_url": None, "progress": self.said.append}
        state = ensure_up(self.home, self.root, **{**arguments, "environment": self.environment, **changes})  # type: ignore[arg-type]
        self.notes += state.notes
        return state


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    """Rows of one statement, committed; an empty list for a statement without rows."""
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(statement)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Place]]:
    """Makes places; their servers are stopped and removed after the test file."""
    numbers, made = itertools.count(1), []

    def make(postgres: str = "embedded", **environment: str) -> Place:
        root = tmp_path_factory.mktemp("with space") / f"project {next(numbers)}"
        root.mkdir()
        kept = {name: os.environ[name] for name in ("NEXUS_CACHE",) if name in os.environ}
        place = Place(root, {**kept, "NEXUS_POSTGRES": postgres, **environment})
        made.append(place)
        return place

    yield make
    for place in made:
        down(place.home, purge=True)
        assert not place.home.exists()


@pytest.fixture(scope="module")
def place(make_place: Callable[..., Place]) -> Place:
    """One place whose servers the tests of a file share; each test brings them up."""
    return make_place()
