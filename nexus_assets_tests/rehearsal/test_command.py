"""`nexus providers rehearse` as a user runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from typer.testing import CliRunner

from nexus_assets.cli_providers import app
from nexus_assets.errors import SettingsError
from nexus_assets_tests.conftest import ROOT
from nexus_assets_tests.rehearsal.market import bars


@contextmanager
def running(root: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The command, and the variables that it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "DAGSTER_"))}
    environment |= {"NEXUS_ROOT": str(ROOT), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "nexus_assets", "providers", "rehearse", *options]
    process = subprocess.Popen(
        command, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        lines = [process.stdout.readline().strip() for _ in range(11)]
        yield process, dict(line.split("=", 1) for line in lines if line)
    finally:
        process.kill()
        process.communicate()


def test_the_command_serves_synthetic_prices_and_sums_up_at_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text('now = 2024-03-05T10:30:00Z\n[keys]\noanda = "mine"\n[[fault]]\nkind = "status"\ncalls = [2]\n')
    with running(tmp_path, "--script", str(script)) as (process, variables):
        url = f"{variables['NEXUS_OANDA_URL']}/v3/instruments/EUR_USD/candles?granularity=H1&count=2"
        assert variables["OANDA_API_KEY"] == "mine"
        header = {"Authorization": "Bearer mine"}
        answers = [requests.get(url, headers=header, timeout=30) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 500]
        assert answers[0].json()["candles"][1]["time"].startswith("2024-03-05T10:00")
        assert not answers[0].json()["candles"][1]["complete"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "1 x 200, 1 x 500" in errors
        assert "1 x status" in errors


def test_the_command_serves_a_folder_of_price_files(tmp_path: Path) -> None:
    bars("2024-03-04 00:00", 30).drop(columns="spread").to_csv(tmp_path / "EURUSD.csv", index=False)
    with running(tmp_path, "--prices", str(tmp_path), "--at", "2024-03-05T10:30") as (_, variables):
        url = f"{variables['NEXUS_YAHOO_URL']}/v8/finance/chart/EURUSD=X?interval=1h&range=5d"
        chart = requests.get(url, timeout=30).json()["chart"]["result"][0]
        # 30 hours, and nulls nowhere: the frame has no gap.
        assert len(chart["timestamp"]) == 30
        assert chart["indicators"]["quote"][0]["open"] == bars("2024-03-04 00:00", 30)["open"].tolist()


def test_a_folder_without_prices_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["rehearse", "--prices", str(tmp_path)])
    assert isinstance(result.exception, SettingsError)
    assert str(tmp_path) in result.exception.fact
    assert result.exception.next_step


def test_an_instant_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(app, ["rehearse", "--at", "noon"])
    assert result.exit_code == 2
    assert "noon" in result.output
