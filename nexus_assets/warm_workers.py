"""Run workers that begin at once: forked from a process that has imported everything already.

Dagster's code server starts the process of each run with multiprocessing's "spawn", which imports Dagster, pandas and
the definitions anew: 1.6 s of a core, and 0.9 s more when compiled kernels and fonts are first used. "forkserver" does
it once. Only the start differs: the code server watches, stops and replaces run workers as before, a code server that
is reloaded starts a new fork server, and what a run leaves in its process is gone with it.
"""

import functools
import logging
import multiprocessing
import sys

import dagster

from nexus_assets.event_log import TESTED_DAGSTER_VERSIONS
from nexus_assets.settings import settings

IMPORTED = "nexus_assets.worker_imports"


@functools.cache
def fork_run_workers() -> None:
    """Let the code server that this process is fork its run workers; in any other process nothing changes.

    Nothing changes either on a Dagster version whose code server was not looked at, where there is no fork server
    (Windows), and with NEXUS_WARM_WORKERS=off.
    """
    if sys.argv[1:3] != ["api", "grpc"] or not settings().warm_workers:
        return
    if (
        dagster.__version__ not in TESTED_DAGSTER_VERSIONS
        or "forkserver" not in multiprocessing.get_all_start_methods()
    ):
        logging.getLogger("dagster").info("Run workers import everything anew: see nexus_assets/warm_workers.py")
        return
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload([IMPORTED])
    # The code server keeps this context object from its own start, before it imports definitions.
    multiprocessing.get_context("spawn").Process = forking.Process  # pyright: ignore[reportAttributeAccessIssue]
