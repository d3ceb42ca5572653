"""PostgreSQL (with TimescaleDB where it can be had) and Redis on loopback, for a machine without Docker.

State is kept in one folder (`home`, by default `.nexus`): addresses and passwords in `state.json`, data and programs
in `servers`. The servers live on after the process that started them, until `down`.
"""

from nexus_assets.services.dotenv_block import own_url, read_env_block, remove_env_block, write_env
from nexus_assets.services.lifecycle import down, ensure_up, heal
from nexus_assets.services.state import ServiceState
from nexus_assets.services.status import ServiceStatus, status
from nexus_assets.services.supervisor import Supervisor

__all__ = [
    "ServiceState",
    "ServiceStatus",
    "Supervisor",
    "down",
    "ensure_up",
    "heal",
    "own_url",
    "read_env_block",
    "remove_env_block",
    "status",
    "write_env",
]
