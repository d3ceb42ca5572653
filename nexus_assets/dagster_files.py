"""Where Dagster keeps its files: `<NEXUS_HOME>/dagster`, whatever folder a process was started in.

dagster.yaml can name a folder only as a fixed text or as an environment variable that must exist; a fixed relative
folder would follow the working folder of each process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._serdes import ConfigurableClassData

from nexus_assets.settings import Settings, project_root, settings


def dagster_files(configured: Settings | None = None) -> Path:
    """The folder of Dagster's files. It is not made here.

    Raises:
        SettingsError: the settings are wrong, or there is no project root.
    """
    return project_root() / (configured or settings()).home / "dagster"


class ArtifactStorage(LocalArtifactStorage):
    """LocalArtifactStorage whose base_dir lies in `dagster_files()`."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "ArtifactStorage":
        return cls(str(dagster_files() / config_value["base_dir"]), inst_data=inst_data)


class ComputeLogs(LocalComputeLogManager):
    """LocalComputeLogManager (what a step printed) whose base_dir lies in `dagster_files()`."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "ComputeLogs":
        where = {**config_value, "base_dir": str(dagster_files() / config_value["base_dir"])}
        return cls(inst_data=inst_data, **where)
