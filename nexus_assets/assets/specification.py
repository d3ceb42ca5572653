"""What every asset of this project declares alike: key, owners, kinds, partitions, columns; by day and by month."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from nexus_assets.partitions import DAYS, MONTHS, Grain, grains
from nexus_assets.pools import WRITERS
from nexus_assets.schemas import Table

# Two features of Dagster that are marked as beta and that this project needs; the version is pinned.
for _feature in ("Parameter `backfill_policy` of function `asset`", "Class `MultiToSingleDimensionPartitionMapping`"):
    warnings.filterwarnings("ignore", message=_feature, category=dg.BetaWarning)

OWNERS = ["team:market-data"]


def column_schema(table: Table) -> dg.TableSchema:
    """The table's columns as the UI shows them, with units."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.sql_type,
                description=column.comment,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in table.columns
        ]
    )


def declared(table: Table, *, version: int, kinds: set[str] | None = None, grain: Grain = DAYS) -> dict[str, Any]:
    """Arguments of `@dg.asset` that follow from the table: key, group, owners, kinds, code version, columns."""
    key = grain.asset_key(table)
    return {
        "key": key,
        "group_name": key[0],
        "owners": OWNERS,
        "kinds": {"timescaledb", *(kinds or {"pandas"})},
        "code_version": str(version),
        "metadata": {
            "dagster/column_schema": column_schema(table),
            "dagster/table_name": table.qualified,
            "primary_key": ", ".join(table.key),
        },
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "pool": WRITERS,
    }


def partitioned_asset(
    table: Table,
    *,
    version: int,
    description: str | None,
    reads: Sequence[Table] = (),
    checks: Sequence[dg.AssetCheckSpec] = (),
    kinds: set[str] | None = None,
    io_manager_key: str | None = None,
) -> Callable[[Callable[..., Any]], list[dg.AssetsDefinition]]:
    """A decorator that makes the table's asset by day and, where there is a history, the one by month, of one body.

    Args:
        reads: Tables whose partitions of the same days are read. What is read of days before them (warm-up, windows),
            of the history as well, is no edge: it is read from the tables by count.
        checks: Made in the same step, for the asset by day; they are declared for that by month as well.
    """

    def make(body: Callable[..., Any]) -> list[dg.AssetsDefinition]:
        return [
            dg.asset(
                **declared(table, version=version, kinds=kinds, grain=grain),
                partitions_def=grain.definition(by_symbol=_by_symbol(table)),
                deps=[_dependency(source, table, grain) for source in reads],
                check_specs=[_check_of(check, table, grain) for check in checks],
                io_manager_key=io_manager_key,
                description=description if grain is DAYS else f"{_BY_MONTH}\n\n{description}",
            )(body)
            for grain in grains()
        ]

    return make


_BY_MONTH = "The days from NEXUS_HISTORY_START to NEXUS_START_DAY, by month, in the same table."


def asset_keys(table: Table) -> list[dg.AssetKey]:
    """The keys of all assets that write a table."""
    return [dg.AssetKey(grain.asset_key(table)) for grain in grains()]


def _by_symbol(table: Table) -> bool:
    return "symbol" in table.column_names


def _dependency(source: Table, table: Table, grain: Grain) -> dg.AssetDep:
    mapping = None
    if _by_symbol(source) and not _by_symbol(table):
        mapping = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name=grain.dimension)
    return dg.AssetDep(grain.asset_key(source), partition_mapping=mapping)


def _check_of(check: dg.AssetCheckSpec, table: Table, grain: Grain) -> dg.AssetCheckSpec:
    if grain is not MONTHS:
        return check
    return check.replace_key(dg.AssetCheckKey(dg.AssetKey(grain.asset_key(table)), check.name))
