"""Training a DDPM prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .config import DDPMConfig, PriorConfig
    from .objective import DDPMObjective
    from .training import make_prior, train_prior

__all__ = [
    "DDPMConfig",
    "DDPMObjective",
    "PriorConfig",
    "make_prior",
    "train_prior",
]

__getattr__ = lazy_names(
    __name__,
    {
        "DDPMConfig": ".prior.config",
        "DDPMObjective": ".prior.objective",
        "PriorConfig": ".prior.config",
        "make_prior": ".prior.training",
        "train_prior": ".prior.training",
    },
)
