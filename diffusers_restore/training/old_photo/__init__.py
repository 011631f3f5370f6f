"""Training the networks of old photographs (arXiv:2004.09484)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .config import DetectorConfig
    from .detector import DetectorObjective, train_old_photo_detector

__all__ = ["DetectorConfig", "DetectorObjective", "train_old_photo_detector"]

__getattr__ = lazy_names(
    __name__,
    {
        "DetectorConfig": ".old_photo.config",
        "DetectorObjective": ".old_photo.detector",
        "train_old_photo_detector": ".old_photo.detector",
    },
)
