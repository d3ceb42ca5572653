"""Where everything meets: the assets, checks, jobs, schedules, sensors and resources of the code location."""

import dagster as dg

from nexus_assets import assets, checks, resources
from nexus_assets.catch_up import catch_up_sensor
from nexus_assets.correction_runs import correction_sensor, market_corrections
from nexus_assets.dagster_upkeep import dagster_upkeep
from nexus_assets.io_managers import timescale_io_manager
from nexus_assets.jobs import HISTORY_JOBS, JOBS
from nexus_assets.retention_runs import daily_retention, market_retention
from nexus_assets.schedules import SCHEDULES
from nexus_assets.sensors import feature_store_sensor
from nexus_assets.settings import settings
from nexus_assets.warm_workers import fork_run_workers

fork_run_workers()

defs = dg.Definitions(
    assets=dg.load_assets_from_package_module(assets),
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    jobs=[
        *JOBS,
        *(HISTORY_JOBS if settings().has_history else []),
        market_corrections,
        market_retention,
        dagster_upkeep,
    ],
    schedules=[*SCHEDULES, daily_retention],
    sensors=[feature_store_sensor, catch_up_sensor, correction_sensor],
    resources={
        "market_store": resources.market_store,
        "feature_store": resources.feature_store,
        "sources": resources.sources,
        "timescale_io_manager": timescale_io_manager,
    },
    # One process for a run: a process for each step costs seconds, and two runs use both cores.
    executor=dg.in_process_executor,
)
