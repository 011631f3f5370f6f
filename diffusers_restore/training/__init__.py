"""Training: one loop for every method, what a method adds to it, and the data.

Names are imported when they are first used, so that the options of the command line cost no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import DataConfig, DDPMConfig, LoopConfig, OptimizerConfig, PriorConfig, UNetConfig
    from .data import TrainingData, open_data
    from .loop import Progress, train
    from .objectives import DDPMObjective, Objective
    from .prior import train_prior

_HOMES = {
    "DDPMConfig": ".config",
    "DDPMObjective": ".objectives",
    "DataConfig": ".config",
    "LoopConfig": ".config",
    "Objective": ".objectives",
    "OptimizerConfig": ".config",
    "PriorConfig": ".config",
    "Progress": ".loop",
    "TrainingData": ".data",
    "UNetConfig": ".config",
    "open_data": ".data",
    "train": ".loop",
    "train_prior": ".prior",
}

__all__ = [
    "DDPMConfig",
    "DDPMObjective",
    "DataConfig",
    "LoopConfig",
    "Objective",
    "OptimizerConfig",
    "PriorConfig",
    "Progress",
    "TrainingData",
    "UNetConfig",
    "open_data",
    "train",
    "train_prior",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
