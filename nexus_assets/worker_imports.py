"""What a run worker imports: the fork server imports this module once, and nothing of it may start a thread or connect.

See warm_workers.py.
"""

import dagster._grpc.impl
import matplotlib.figure
import pandera.pandas
import psycopg

import nexus_assets.database
import nexus_assets.transforms.plots
import nexus_assets.transforms.triple_barrier
from nexus_assets.definitions import defs

__all__ = ["dagster", "matplotlib", "nexus_assets", "pandera", "psycopg"]

for _job in defs.get_repository_def().get_all_jobs():
    _job.asset_layer.asset_graph  # noqa: B018 (resolved here once instead of in every worker)
