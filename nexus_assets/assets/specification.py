"""What every asset of this project declares alike: key, owners, kinds, partitions, columns."""

import warnings
from typing import Any

import dagster as dg

from nexus_assets.schemas import Table

# Two features of Dagster that are marked as beta and that this project needs; the version is pinned.
for _feature in ("Parameter `backfill_policy` of function `asset`", "Class `MultiToSingleDimensionPartitionMapping`"):
    warnings.filterwarnings("ignore", message=_feature, category=dg.BetaWarning)

OWNERS = ["team:market-data"]

WRITERS = "market_writers"
"""The pool of every run that writes to the market's tables; dagster.yaml says how many of them work at a time."""


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


def declared(table: Table, *, version: int, kinds: set[str] | None = None) -> dict[str, Any]:
    """Arguments of `@dg.asset` that follow from the table: key, group, owners, kinds, code version, columns."""
    return {
        "key": table.asset_key,
        "group_name": table.schema,
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
