"""Training: one loop for every method, the methods' additions to it, and the data.

Names are imported when they are first used, so that the options of the command line don't import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .config import DataConfig, LoopConfig, OptimizerConfig, UNetConfig
    from .data import TrainingData, open_data
    from .loop import train
    from .objectives import Objective
    from .prior.config import DDPMConfig, PriorConfig
    from .prior.objective import DDPMObjective
    from .prior.training import train_prior
    from .progress import Progress
    from .stopping import TrainingStopped

_HOMES = {
    "DDPMConfig": ".prior.config",
    "DDPMObjective": ".prior.objective",
    "DataConfig": ".config",
    "LoopConfig": ".config",
    "Objective": ".objectives",
    "OptimizerConfig": ".config",
    "PriorConfig": ".prior.config",
    "Progress": ".progress",
    "TrainingData": ".data",
    "TrainingStopped": ".stopping",
    "UNetConfig": ".config",
    "open_data": ".data",
    "train": ".loop",
    "train_prior": ".prior.training",
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
    "TrainingStopped",
    "UNetConfig",
    "open_data",
    "train",
    "train_prior",
]

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
