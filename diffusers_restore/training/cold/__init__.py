"""Training the network of Cold Diffusion (arXiv:2208.09392)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .config import ColdConfig, DegradationConfig
    from .generating import fit_prior
    from .objective import ColdObjective
    from .training import make_scheduler, make_unet, train_cold

__all__ = [
    "ColdConfig",
    "ColdObjective",
    "DegradationConfig",
    "fit_prior",
    "make_scheduler",
    "make_unet",
    "train_cold",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ColdConfig": ".cold.config",
        "ColdObjective": ".cold.objective",
        "DegradationConfig": ".cold.config",
        "fit_prior": ".cold.generating",
        "make_scheduler": ".cold.training",
        "make_unet": ".cold.training",
        "train_cold": ".cold.training",
    },
)
