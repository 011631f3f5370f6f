"""Training the generators of Pix2pix (arXiv:1611.07004)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .config import GeneratorConfig, Pix2PixConfig, TranslationConfig
    from .objective import Pix2PixObjective
    from .training import train_pix2pix

__all__ = ["GeneratorConfig", "Pix2PixConfig", "Pix2PixObjective", "TranslationConfig", "train_pix2pix"]

__getattr__ = lazy_names(
    __name__,
    {
        "GeneratorConfig": ".pix2pix.config",
        "Pix2PixConfig": ".pix2pix.config",
        "Pix2PixObjective": ".pix2pix.objective",
        "TranslationConfig": ".pix2pix.config",
        "train_pix2pix": ".pix2pix.training",
    },
)
