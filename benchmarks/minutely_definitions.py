"""The project's definitions, with the hourly update every minute: a benchmark cannot wait for hours."""

from nexus_assets.definitions import defs
from nexus_assets.schedules import hourly_update

hourly_update._cron_schedule = "* * * * *"

__all__ = ["defs"]
