"""Market data as a Dagster asset graph: raw prices, validated bars, indicators, labels, correlations.

Nothing is imported until it is asked for, so that `import nexus_assets` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_assets.pushing import push_bars, withdraw_bars
    from nexus_assets.training_request import TimeSplit
    from nexus_assets.training_sets import TrainingSet, training_set

__all__ = ["TimeSplit", "TrainingSet", "push_bars", "training_set", "withdraw_bars"]

_HOME = {
    "TimeSplit": "training_request",
    "TrainingSet": "training_sets",
    "push_bars": "pushing",
    "training_set": "training_sets",
    "withdraw_bars": "pushing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
