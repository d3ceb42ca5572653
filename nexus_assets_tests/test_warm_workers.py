"""The process of a run: forked from one that has imported everything, or made anew as Dagster does."""

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.queues import Queue
from typing import Any

import pytest

from nexus_assets_tests.conftest import ROOT

CODE_SERVER = """
import sys
sys.argv = {argv!r}
import dagster
dagster.__version__ = {version!r} or dagster.__version__
from nexus_assets.warm_workers import fork_run_workers
if __name__ == "__main__":
    fork_run_workers()
    # The tests' configuration removes settings from the environment, so only now.
    from nexus_assets_tests.test_warm_workers import start_as_the_code_server_does
    print(*start_as_the_code_server_does())
"""
GRPC = ["/dagster/__main__.py", "api", "grpc", "--lazy-load-user-code"]


def tell(answers: "Queue[Any]", stop: Any) -> None:
    """In the run's process: what it has imported before it was told what to do, and who its parent is."""
    with open(f"/proc/{os.getppid()}/cmdline") as parent:
        answers.put(("nexus_assets.definitions" in sys.modules, "forkserver" in parent.read()))
    stop.wait(30)


def start_as_the_code_server_does() -> tuple[bool, bool, int | None]:
    """Whether the definitions were imported, whether a fork server is the parent, and the exit code."""
    context = multiprocessing.get_context("spawn")
    answers, stop = context.Queue(), context.Event()
    process = context.Process(target=tell, args=[answers, stop])
    process.start()
    imported, forked = answers.get(timeout=60)
    assert process.is_alive()
    stop.set()
    process.join(30)
    return imported, forked, process.exitcode


def answer(argv: list[str], version: str = "", **variables: str) -> str:
    script = CODE_SERVER.format(argv=argv, version=version)
    environment = {**os.environ, "NEXUS_ROOT": str(ROOT), "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_run_s_process_has_imported_the_definitions_before_it_is_started() -> None:
    assert answer(GRPC) == "True True 0"


@pytest.mark.parametrize(
    ("argv", "version", "variables"),
    [
        (GRPC, "", {"NEXUS_WARM_WORKERS": "off"}),
        (GRPC, "1.99.0", {}),
        (["/dagster/__main__.py", "dev"], "", {}),
    ],
    ids=["switched off", "an untested Dagster", "not a code server"],
)
def test_elsewhere_a_run_s_process_is_dagster_s_own(argv: list[str], version: str, variables: dict[str, str]) -> None:
    assert answer(argv, version, **variables) == "False False 0"
