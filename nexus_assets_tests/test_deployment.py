"""docker-compose.yml, Dockerfile and .env.example. There is no Docker here: each app service's own command is started
natively with its own environment, and asked by its own health check."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus_assets.services.processes import free_port
from nexus_assets.settings import Settings, load_settings
from nexus_assets_tests.conftest import ROOT, DatabaseMaker

APP_SERVICES = ("migrate", "code", "webserver", "daemon")
PASSWORDS = ("POSTGRES_PASSWORD", "NEXUS_DB_PASSWORD", "DAGSTER_DB_PASSWORD", "REDIS_PASSWORD")
SETTINGS = {f"NEXUS_{name.upper()}" for name in Settings.model_fields}
HEALTHY_WITHIN_SECONDS = 90


class Refused(Exception):
    """What `docker compose` says of a variable that must be set."""


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Compose's own interpolation: ${NAME:?message}, ${NAME:-default}, ${NAME:+replacement}."""
    if isinstance(value, dict):
        return {key: interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def substitute(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        found = variables.get(name, "")
        if operator == ":?" and not found:
            raise Refused(f"{name}: {rest}")
        if operator == ":+":
            return rest if found else ""
        return found or (rest if operator == ":-" else "")

    return re.sub(r"\$\{(\w+)(?:(:[?\-+])([^}]*))?\}", substitute, value)


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture
def variables() -> dict[str, str]:
    return {name: f"{name.lower()}0" for name in PASSWORDS}


@pytest.mark.parametrize("missing", PASSWORDS)
def test_compose_refuses_to_start_without_a_password(variables: dict[str, str], missing: str) -> None:
    with pytest.raises(Refused, match=missing):
        interpolated(compose(), {**variables, missing: ""})


def test_images_are_pinned_and_the_example_names_every_password() -> None:
    images = [service["image"] for service in compose()["services"].values()]
    base = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for image in [*images, *base]:
        assert re.search(r":\d+\.\d+\.\d+", image), image
    example = (ROOT / "deploy" / "compose.env.example").read_text()
    assert all(f"{name}=" in example for name in PASSWORDS)


def test_only_the_webserver_is_published_and_only_on_loopback(variables: dict[str, str]) -> None:
    published = {n: s["ports"] for n, s in interpolated(compose(), variables)["services"].items() if "ports" in s}
    assert published == {"webserver": ["127.0.0.1:3000:3000"]}


def test_data_lie_on_named_volumes_and_every_server_has_a_health_check() -> None:
    services = compose()["services"]
    assert set(compose()["volumes"]) == {"database", "cache", "state"}
    assert all("healthcheck" in services[name] for name in services if name != "migrate")


def test_every_setting_reaches_the_containers_or_is_fixed_there(variables: dict[str, str]) -> None:
    # The published port is the host's, and sources.toml is mounted.
    elsewhere = {"NEXUS_WEBSERVER_PORT", "NEXUS_SOURCES"}
    chosen = dict.fromkeys(SETTINGS - elsewhere, "chosen")
    environment = interpolated(compose(), {**variables, **chosen, "NEXUS_FILES": "prices"})["services"]["code"][
        "environment"
    ]
    fixed = {"NEXUS_HOME", "NEXUS_DATABASE_URL", "NEXUS_DAGSTER_URL", "NEXUS_REDIS_URL", "NEXUS_FILES_ROOT"}
    assert {name for name in SETTINGS if name in environment} == SETTINGS - elsewhere
    assert {name for name in SETTINGS & environment.keys() if environment[name] != "chosen"} == fixed


def test_the_names_and_the_passwords_of_the_databases_agree(variables: dict[str, str]) -> None:
    services = interpolated(compose(), variables)["services"]
    made = services["timescaledb"]["environment"]
    script = (ROOT / "deploy" / "init-databases.sh").read_text()
    for name, scheme in (("nexus", "postgresql"), ("dagster", "postgresql+psycopg2")):
        password = made["NEXUS_DB_PASSWORD" if name == "nexus" else "DAGSTER_DB_PASSWORD"]
        url = services["code"]["environment"]["NEXUS_DATABASE_URL" if name == "nexus" else "NEXUS_DAGSTER_URL"]
        assert url == f"{scheme}://{name}:{password}@timescaledb:5432/{name}"
        assert f"CREATE ROLE {name} LOGIN" in script
        assert f"CREATE DATABASE {name} OWNER {name};" in script
    redis = services["redis"]
    assert redis["command"][-1] == redis["environment"]["REDISCLI_AUTH"] == variables["REDIS_PASSWORD"]


def test_every_setting_is_explained_in_the_example() -> None:
    explained = set(re.findall(r"^#(NEXUS_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    read_elsewhere = {"NEXUS_POSTGRES", "NEXUS_CACHE", "NEXUS_ROOT", "NEXUS_REAL_DATA"}
    assert explained == SETTINGS | read_elsewhere


def test_the_defaults_in_the_example_are_the_defaults() -> None:
    assignments = dict(re.findall(r"^#NEXUS_(\w+)='?([^'\n]*)'?$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    # These have no default that could be written down: an example stands there.
    examples = {"DATABASE_URL", "DAGSTER_URL", "REDIS_URL", "SYMBOLS", "FILES_ROOT", "SOURCES"}
    examples |= {"TRAIN_END", "VALIDATION_END"}
    written = {name.lower(): assignments[name] for name in {n[6:] for n in SETTINGS} - examples}
    assert load_settings(**written) == load_settings()


@contextmanager
def started(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_health(
    name: str, check: list[str], environment: Mapping[str, str], process: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + HEALTHY_WITHIN_SECONDS
    while True:
        answer = subprocess.run(check, env=dict(environment), cwd=ROOT, capture_output=True, text=True)
        if answer.returncode == 0:
            return
        assert process.poll() is None, f"{name} ended with {process.returncode}:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"{name} is not healthy: {answer.stdout}{answer.stderr}"
        time.sleep(1)


@pytest.mark.end_to_end
def test_each_service_starts_with_its_own_command_and_is_healthy(
    tmp_path: Path, variables: dict[str, str], databases: DatabaseMaker, redis_url: str
) -> None:
    services = interpolated(compose(), variables)["services"]
    market_url = databases.empty()
    dagster_url = databases.empty(extension=False).replace("postgresql://", "postgresql+psycopg2://", 1)
    ports = {"4000": str(free_port()), "3000": str(free_port())}
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    binaries = Path(sys.executable).parent
    with ExitStack() as stack:
        for name in APP_SERVICES:
            declared = services[name]["environment"]
            assert declared["NEXUS_DATABASE_URL"] == "postgresql://nexus:nexus_db_password0@timescaledb:5432/nexus"
            # Host names and folders of the containers become this machine's; everything else is the file's own.
            environment = {
                **{key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ},
                **declared,
                "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
                "NEXUS_DATABASE_URL": market_url,
                "NEXUS_DAGSTER_URL": dagster_url,
                "NEXUS_REDIS_URL": redis_url,
                "NEXUS_ROOT": str(ROOT),
                "NEXUS_HOME": str(tmp_path / "state"),
                "NEXUS_CODE_HOST": "127.0.0.1",
                "NEXUS_CODE_PORT": ports["4000"],
                "NEXUS_AUTOMATION": "off",
                "DAGSTER_HOME": str(tmp_path),
            }
            command = [(ports.get(part) or part).replace("0.0.0.0", "127.0.0.1") for part in services[name]["command"]]
            if name == "migrate":
                subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=120)
                continue
            kind, *check = services[name]["healthcheck"]["test"]
            assert kind == "CMD"
            check = [re.sub(r"\b(3000|4000)\b", lambda m: ports[m.group()], part) for part in check]
            log = tmp_path / f"{name}.log"
            process = stack.enter_context(started(command, environment, log))
            await_health(name, check, environment, process, log)
