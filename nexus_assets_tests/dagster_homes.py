"""Folders that Dagster can be started in, over the toy graph and a database of their own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance

from nexus_assets.settings import Settings, load_settings, settings
from nexus_assets_tests.conftest import ROOT

TOY_MODULE = "nexus_assets_tests.toy_definitions"


@dataclass(frozen=True)
class DagsterHome:
    """A project root with the project's own dagster.yaml, and the settings that go with it."""

    root: Path
    settings: Settings

    @contextmanager
    def instance(self) -> Iterator[DagsterInstance]:
        with DagsterInstance.from_config(str(self.root)) as instance:
            yield instance


@contextmanager
def dagster_home(root: Path, postgres_url: str, *, event_log: tuple[str, str] | None = None) -> Iterator[DagsterHome]:
    """Make `root` a place where `dagster dev` works, and the environment of this process the one that goes with it.

    Args:
        postgres_url: libpq URL of an empty database.
        event_log: module and class of an event log storage instead of the project's.
    """
    config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    if event_log:
        config["event_log_storage"] |= {"module": event_log[0], "class": event_log[1]}
    (root / "dagster.yaml").write_text(yaml.safe_dump(config))
    module = {"module_name": TOY_MODULE, "location_name": "nexus_assets"}
    (root / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_module": module}]}))
    dagster_url = postgres_url.replace("postgresql://", "postgresql+psycopg2://", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(root))
        patch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
        patch.setenv("NEXUS_HOME", str(root / "home"))
        patch.setenv("NEXUS_DAGSTER_URL", dagster_url)
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        settings.cache_clear()
        try:
            yield DagsterHome(root, load_settings())
        finally:
            settings.cache_clear()
