"""Market data as a Dagster asset graph: raw prices, validated bars, indicators, labels, correlations.

Nothing is imported until it is asked for, so that `import nexus_assets` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_assets.training_request import TimeSplit
    from nexus_assets.training_sets import TrainingSet, training_set

__all__ = ["TimeSplit", "TrainingSet", "training_set"]

_HOME = {"TimeSplit": "training_request", "TrainingSet": "training_sets", "training_set": "training_sets"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
