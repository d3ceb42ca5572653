"""A local server that plays the market-data APIs, with prices of one's own and faults by script."""

from nexus_assets.rehearsal.faults import Fault, Script, read_script
from nexus_assets.rehearsal.limits import RateLimit
from nexus_assets.rehearsal.prices import FrameBook, ProviderBook
from nexus_assets.rehearsal.server import Call, Rehearsal, Violation

__all__ = [
    "Call", "Fault", "FrameBook", "ProviderBook", "RateLimit", "Rehearsal", "Script", "Violation", "read_script",
]  # fmt: skip
