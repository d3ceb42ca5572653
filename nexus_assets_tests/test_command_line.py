"""`nexus` as a user runs it: against servers of the user's own, in a project root of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from nexus_assets_tests.conftest import ROOT, DatabaseMaker

SECRET = "a-password-nobody-may-see"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("sql", "dagster.yaml", "workspace.yaml", "sources.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def nexus(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "DAGSTER_"))}
    environment |= {"NEXUS_ROOT": str(root), "DAGSTER_HOME": str(root), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "nexus_assets", *arguments],
        env={**environment, **variables}, cwd=root, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.fixture
def servers(databases: DatabaseMaker, redis_url: str) -> dict[str, str]:
    dagster = databases.empty(extension=False).replace("postgresql://", "postgresql+psycopg2://", 1)
    return {"NEXUS_DATABASE_URL": databases.empty(), "NEXUS_DAGSTER_URL": dagster, "NEXUS_REDIS_URL": redis_url}


def test_every_wrong_setting_is_named_at_once_and_no_secret_is_printed(root: Path) -> None:
    answer = nexus(
        root, "migrate", NEXUS_SYMBOLS="EURUSD NONSENSE", NEXUS_DEMO_DAYS="many", NEXUS_START_DAY="yesterday",
        NEXUS_DATABASE_URL=f"postgresql://nexus:{SECRET}@127.0.0.1:1/nexus",
    )  # fmt: skip
    assert answer.returncode == 1
    for name in ("NEXUS_SYMBOLS", "NONSENSE", "NEXUS_DEMO_DAYS", "NEXUS_START_DAY", ".env.example"):
        assert name in answer.stderr
    assert SECRET not in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_unreachable_database_is_named_without_its_password(root: Path) -> None:
    answer = nexus(root, "doctor", "--json", NEXUS_DATABASE_URL=f"postgresql://nexus:{SECRET}@127.0.0.1:1/nexus")
    assert answer.returncode == 1
    findings = {finding["name"]: finding for finding in json.loads(answer.stdout)["findings"]}
    assert findings["database"]["verdict"] == "failed"
    assert "127.0.0.1:1" in findings["database"]["fact"]
    assert findings["schema"]["verdict"] == "skipped"
    assert findings["redis"]["remedy"]
    assert SECRET not in answer.stdout + answer.stderr


def test_migrate_plans_first_and_doctor_then_finds_everything_well(root: Path, servers: dict[str, str]) -> None:
    planned = nexus(root, "migrate", "--plan", **servers)
    assert planned.returncode == 0
    assert "pending   migration  0001_nexus.sql" in planned.stdout
    failed = nexus(root, "doctor", "--json", **servers)
    assert failed.returncode == 1
    assert nexus(root, "migrate", **servers).returncode == 0
    assert "pending" not in nexus(root, "migrate", "--plan", **servers).stdout
    answer = nexus(root, "doctor", "--json", **servers)
    assert answer.returncode == 0, answer.stdout
    assert {f["name"]: f["verdict"] for f in json.loads(answer.stdout)["findings"]} == {
        "environment": "warning",
        "settings": "ok",
        "database": "ok",
        "timescaledb": "ok",
        "schema": "ok",
        "hypertables": "ok",
        "database write": "ok",
        "redis": "ok",
        "dagster storage": "warning",
        "providers": "ok",
    }


def test_status_tells_the_size_of_every_table_of_ours_and_of_dagster(root: Path, servers: dict[str, str]) -> None:
    assert nexus(root, "up", **servers).returncode == 0
    with psycopg.connect(servers["NEXUS_DAGSTER_URL"].replace("+psycopg2", "")) as connection:
        connection.execute("CREATE TABLE event_logs AS SELECT generate_series(1, 1000000) AS id")
    told = json.loads(nexus(root, "status", "--json", **servers).stdout)
    assert [f"{item['schema']}.{item['table']}" for item in told["storage"]] == list(told["rows"])
    assert all(item["bytes"] > 0 for item in told["storage"])
    assert told["dagster_tables"][0]["table"] == "event_logs"
    assert told["problems"] == []
    printed = nexus(root, "status", **servers).stdout
    assert "market.gaps" in printed
    assert "37 MB" in printed
    assert "No columnstore: the server is" in printed or "Nothing is in the columnstore yet." in printed


@pytest.mark.end_to_end
def test_the_demo_loads_a_market_through_the_daemon_and_sums_it_up(root: Path, servers: dict[str, str]) -> None:
    settings = {"NEXUS_SYMBOLS": "EURUSD XAUUSD", "NEXUS_DEMO_DAYS": "4", "NEXUS_FEATURE_TIMEFRAMES": "1h"}
    answer = nexus(root, "demo", **servers, **settings, NEXUS_AUTOMATION="off")
    assert answer.returncode == 0, answer.stderr
    assert "features:EURUSD:latest" in answer.stdout
    assert '"rsi_14"' in answer.stdout
    assert "features.indicators" in answer.stdout
    assert "market/raw_ohlc: every_delivery_accounted_for" in " ".join(answer.stdout.split())
    assert oct((root / ".env").stat().st_mode & 0o777) == "0o600"

    nothing = nexus(root, "corrections", "plan", "--json", **servers, **settings)
    assert nothing.returncode == 0, nothing.stderr
    assert not any(table["rows"] for table in json.loads(nothing.stdout)["tables"].values())
    with psycopg.connect(servers["NEXUS_DATABASE_URL"]) as connection:
        bar = connection.execute(
            "SELECT ts, open, high, low, close * 1.000001 FROM market.bars "
            "WHERE symbol = 'EURUSD' AND timeframe = '1h' ORDER BY ts DESC OFFSET 30 LIMIT 1"
        ).fetchone()
    assert bar
    (root / "corrected.csv").write_text("ts,open,high,low,close\n" + ",".join(map(str, bar)) + "\n", encoding="utf-8")
    command = ("corrections", "push", "EURUSD", "corrected.csv", "--provider", "synthetic", "--json")
    pushed = nexus(root, *command, **servers, **settings)
    assert pushed.returncode == 0, pushed.stderr
    assert "1 bars are new or changed" in pushed.stderr
    done = json.loads(pushed.stdout)
    assert done["tables"]["market.bars"]["rows"] >= 1
    assert done["tables"]["features.indicators"]["changed"]
    gone = nexus(
        root, "corrections", "withdraw", "EURUSD", "2001-01-01T00:00:00Z", "--provider", "synthetic",
        **servers, **settings,
    )  # fmt: skip
    assert gone.returncode == 1
    assert "are not stored or were withdrawn before" in " ".join(gone.stderr.split())
