"""deploy/kubernetes/values.yaml. There is no cluster here. With DAGSTER_CHART (the folder of Dagster's Helm chart) and
the package helm-python-sdk, the chart is rendered; Dagster reads the dagster.yaml that comes out, and Kubernetes' own
Python models read every manifest."""

import importlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config

from nexus_assets.backfill import CODE_LOCATION
from nexus_assets_tests.conftest import ROOT
from nexus_assets_tests.test_deployment import SETTINGS


def values() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "kubernetes" / "values.yaml").read_text())


def extra(kind: str) -> dict[str, Any]:
    (manifest,) = (manifest for manifest in values()["extraManifests"] if manifest["kind"] == kind)
    return manifest


def test_the_storages_are_those_of_every_other_installation() -> None:
    everywhere = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    here = values()["additionalInstanceConfig"]
    assert here == {name: everywhere[name] for name in here}
    assert {"run_storage", "schedule_storage", "event_log_storage", "local_artifact_storage"} <= here.keys()


def test_as_many_runs_are_let_in_as_a_backfill_is_cut_into() -> None:
    queue = values()["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert str(queue["maxConcurrentRuns"]) == extra("ConfigMap")["data"]["NEXUS_PARALLEL_RUNS"]
    assert (
        queue["tagConcurrencyLimits"]
        == yaml.safe_load((ROOT / "dagster.yaml").read_text())["concurrency"]["runs"]["tag_concurrency_limits"]
    )


def test_the_settings_exist_and_no_secret_is_among_them() -> None:
    names = set(extra("ConfigMap")["data"])
    assert names <= SETTINGS | {"NEXUS_ROOT", "DAGSTER_EVENT_BATCH_SIZE"}
    assert not {name for name in names if name.endswith("_URL")}


def test_runs_find_the_code_location_under_its_name() -> None:
    (server,) = values()["dagsterWebserver"]["workspace"]["servers"]
    (deployment,) = values()["dagster-user-deployments"]["deployments"]
    assert server == {"host": deployment["name"], "port": deployment["port"], "name": CODE_LOCATION}


def loosened(node: Any) -> Any:
    """A schema without references to Kubernetes' own, which lie on the network; the models judge those parts."""
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key != "$ref" or not str(value).startswith("http")}
        return {key: loosened(value) for key, value in kept.items()}
    return [loosened(item) for item in node] if isinstance(node, list) else node


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if "DAGSTER_CHART" not in os.environ:
        pytest.skip("DAGSTER_CHART is not set: no copy of Dagster's Helm chart here")
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed, so no chart can be rendered")
    folder = tmp_path_factory.mktemp("chart") / "dagster"
    shutil.copytree(os.environ["DAGSTER_CHART"], folder)
    for schema in folder.rglob("values.schema.json"):
        schema.write_text(json.dumps(loosened(json.loads(schema.read_text()))))
    with helm.Chart.load(str(folder)) as opened:
        yield opened


@pytest.fixture(scope="module")
def manifests(chart: Any) -> list[dict[str, Any]]:
    """What the chart makes of our values."""
    rendered = chart.render(values(), name="nexus", namespace="market")
    texts = [text for name, text in rendered.items() if not name.endswith("NOTES.txt")]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


@pytest.fixture(scope="module")
def dagster_yaml(manifests: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """dagster.yaml of every pod, as Dagster itself reads and checks it."""
    (instance,) = (
        manifest["data"]["dagster.yaml"] for manifest in manifests if "dagster.yaml" in (manifest.get("data") or {})
    )
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text(instance)
    return dict(dagster_instance_config(str(home))[0])


def test_the_chart_accepts_the_values_and_refuses_a_wrong_one(chart: Any) -> None:
    chart.validate_schema(values())
    wrong = values()
    wrong["runLauncher"]["config"]["k8sRunLauncher"]["envSecret"] = []
    with pytest.raises(Exception, match="envSecret"):
        chart.validate_schema(wrong)


def test_dagster_reads_our_storages_from_the_rendered_chart(dagster_yaml: dict[str, Any]) -> None:
    everywhere = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    for name in ("run_storage", "schedule_storage", "event_log_storage", "local_artifact_storage", "compute_logs"):
        assert dagster_yaml[name] == everywhere[name]
    assert dagster_yaml["run_retries"] == everywhere["run_retries"]


def test_every_run_is_a_pod_with_our_image_settings_and_secrets(dagster_yaml: dict[str, Any]) -> None:
    launcher = dagster_yaml["run_launcher"]
    kind = getattr(importlib.import_module(launcher["module"]), launcher["class"])
    verdict = validate_config(kind.config_type(), launcher["config"])
    assert verdict.success, verdict.errors
    assert launcher["config"]["job_image"] == "registry.example.com/nexus_assets:0.1.0"
    assert launcher["config"]["env_config_maps"] == ["nexus-settings"]
    assert launcher["config"]["env_secrets"] == ["nexus-secrets"]


def test_kubernetes_models_read_every_manifest_without_losing_a_field(manifests: list[dict[str, Any]]) -> None:
    client = pytest.importorskip("kubernetes.client", reason="the extra `kubernetes` is not installed")
    models = {
        "ConfigMap": "V1ConfigMap", "Deployment": "V1Deployment", "Job": "V1Job", "Service": "V1Service",
        "ServiceAccount": "V1ServiceAccount", "Role": "V1Role", "RoleBinding": "V1RoleBinding",
        "PersistentVolumeClaim": "V1PersistentVolumeClaim",
    }  # fmt: skip
    api = client.ApiClient()
    assert {manifest["kind"] for manifest in manifests} == set(models)
    for manifest in manifests:
        answer = type("Answer", (), {"data": json.dumps(manifest)})
        understood = api.sanitize_for_serialization(api.deserialize(answer, models[manifest["kind"]]))
        assert without_empty(understood) == without_empty(manifest), manifest["metadata"]["name"]


def without_empty(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: kept for key, value in node.items() if (kept := without_empty(value)) not in ({}, [], None, "")}
    return [without_empty(item) for item in node] if isinstance(node, list) else node
