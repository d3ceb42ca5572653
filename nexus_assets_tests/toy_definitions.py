"""A small graph with the partitions of the real one and none of its work, for tests of what surrounds it."""

import time
from typing import Any

import dagster as dg

from nexus_assets.materializations import attach_metadata, record_written

SYMBOLS = ("AAA", "BBB", "CCC", "DDD")
DAYS = dg.DailyPartitionsDefinition(start_date="2024-01-01", timezone="UTC", end_offset=1)
PARTITIONS = dg.MultiPartitionsDefinition({"day": DAYS, "symbol": dg.StaticPartitionsDefinition(list(SYMBOLS))})


@dg.asset(
    key_prefix="toy",
    partitions_def=PARTITIONS,
    code_version="1",
    check_specs=[dg.AssetCheckSpec("every_partition_was_seen", asset=["toy", "raw"])],
)
def raw(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    keys = sorted(map(str, context.partition_keys))
    attach_metadata(context, {key: {"rows": position} for position, key in enumerate(keys)})
    attach_metadata(context, {keys[0]: {"note": "first"}})
    return dg.MaterializeResult(metadata={"keys": len(keys)}, check_results=[dg.AssetCheckResult(passed=True)])


@dg.asset(key_prefix="toy", partitions_def=PARTITIONS, code_version="1", deps=[raw])
def bars(context: dg.AssetExecutionContext) -> None:
    attach_metadata(context, {str(key): {"rows": 1} for key in context.partition_keys})


@dg.asset(key_prefix="toy", partitions_def=PARTITIONS, code_version="1")
def half_broken(context: dg.AssetExecutionContext) -> None:
    """Works for every symbol but DDD."""
    keys = [str(key) for key in context.partition_keys]
    record_written(context, {key: {"rows": 1} for key in keys if not key.endswith("DDD")})
    raise dg.Failure("DDD has no provider")


@dg.asset(key_prefix="toy", partitions_def=PARTITIONS)
def crashing(context: dg.AssetExecutionContext) -> None:
    raise ValueError("the price is negative")


@dg.asset(key_prefix="toy", partitions_def=PARTITIONS)
def slow(context: dg.AssetExecutionContext) -> None:
    """Takes a minute, unless it is the retry of a run that was killed."""
    time.sleep(0 if context.run.parent_run_id else 60)


@dg.asset(key_prefix="toy", partitions_def=PARTITIONS, pool="market_writers")
def writing(context: dg.AssetExecutionContext) -> None:
    """Takes as long as a small write."""
    time.sleep(2)


@dg.asset(key_prefix="toy", partitions_def=DAYS)
def daily() -> None:
    pass


def _job(name: str, *assets: dg.AssetsDefinition) -> Any:
    return dg.define_asset_job(name, selection=list(assets), executor_def=dg.in_process_executor)


defs = dg.Definitions(
    assets=[raw, bars, half_broken, crashing, slow, writing, daily],
    jobs=[
        _job("load", raw, bars),
        _job("half_broken_load", half_broken),
        _job("crashing_load", crashing),
        _job("slow_load", slow),
        _job("writing_load", writing),
        _job("daily_load", daily),
    ],
)
